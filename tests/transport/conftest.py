"""Everything here runs on the standard event loop and on uvloop, over real TCP on 127.0.0.1."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import uvloop

from tests.transport.peers import Peers


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops that tests run on."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    """Servers, pools and raw sockets that end with the test."""
    async with AsyncExitStack() as running:
        yield Peers(running)
