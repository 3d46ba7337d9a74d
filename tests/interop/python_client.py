"""What tests do with pymq's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pymq
from pymq.client import Settings
from tests.interop.processes import Cluster

QUICK = Settings(commit_s=0.5, call_timeout_s=20.0)
"""Apache's numbers, but for commits, which some tests wait for, and for patience with a paused server."""


def python_client(cluster: Cluster, **fields: Any) -> pymq.Client:
    """A client of the cluster; enter it."""
    return pymq.Client(cluster.namesrv, settings=QUICK, **fields)


async def take(consumer: pymq.Consumer, count: int, seconds: float = 60.0) -> list[pymq.ReceivedMessage]:
    """Acknowledge messages as they come until there are `count`; those that came when time is over."""
    got: list[pymq.ReceivedMessage] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while len(got) < count and (left := end - loop.time()) > 0:
        for message in await consumer.fetch(max=count - len(got), wait=left):
            message.ack()
            got.append(message)
    return got


async def take_until_quiet(consumer: pymq.Consumer, seconds: float) -> list[pymq.ReceivedMessage]:
    """Acknowledge messages as they come until none comes for `seconds`."""
    got: list[pymq.ReceivedMessage] = []
    while messages := await consumer.fetch(wait=seconds):
        for message in messages:
            message.ack()
        got += messages
    return got


def text(message: pymq.ReceivedMessage) -> str:
    """Its body."""
    return message.body.decode()


def texts(messages: list[pymq.ReceivedMessage]) -> list[str]:
    """Their bodies, sorted."""
    return sorted(map(text, messages))


def place(of: pymq.SendResult | pymq.ReceivedMessage) -> tuple[str, int, int]:
    """Where a message is stored: broker name, queue id, queue offset."""
    return of.queue.broker_name, of.queue.queue_id, of.queue_offset


async def eventually(what: str, check: Callable[[], Awaitable[object]], seconds: float = 60.0) -> None:
    """Return once an async check holds; AssertionError naming `what` after `seconds`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not await check():
        assert loop.time() < end, f"{what}: not within {seconds:.0f} s"
        await asyncio.sleep(0.05)
