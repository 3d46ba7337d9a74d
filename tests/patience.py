"""Default time-outs that no pause of the machine reaches, for tests with real servers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from pymq.client import Client, Settings
from pymq.transport.pool import Pool

PATIENCE_S = 60.0


def _let_wait(patch: pytest.MonkeyPatch, method: Any, name: str) -> None:
    patch.setitem(method.__kwdefaults__, name, PATIENCE_S)


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Calls and sends that name no time-out wait for a minute, not for three seconds: servers may pause."""
    with pytest.MonkeyPatch.context() as patch:
        _let_wait(patch, Pool.call, "timeout_s")
        for method in (
            Client.send,
            Client.send_nowait,
            Client.send_oneway,
            Client.send_batch,
            Client.transaction,
            Client.cancel,
            Client.query,
            Client.traces,
        ):
            _let_wait(patch, method, "timeout")
        patch.setattr("pymq.client.client.Settings", functools.partial(Settings, call_timeout_s=20.0))
        yield
