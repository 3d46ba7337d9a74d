"""A SYNC_MASTER is killed under load: its slave, promoted, has every message that was acknowledged."""

from __future__ import annotations

import asyncio
import datetime
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pymq
from pymq.client.settings import Settings
from tests.interop.processes import Node, kill_what_runs
from tests.interop.pymq_servers import pymq_broker, pymq_name_server

pytestmark = pytest.mark.once

SEGMENT = 1 << 20
ACKNOWLEDGED = 3_000
STANDING = 2_000
DELAY_S = 4


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Ends servers of a test that failed."""
    yield
    kill_what_runs()


def start(folder: Path, names: Node, role: str, broker_id: int) -> Node:
    """A broker called a."""
    settings: dict[str, Any] = {
        "brokerRole": role,
        "brokerId": broker_id,
        "slaveTimeout": 20_000,
        "mappedFileSizeCommitLog": SEGMENT,
        "maxMessageSize": 1 << 16,
        "messageDelayLevel": f"1s {DELAY_S}s",
    }
    return pymq_broker(folder, [names], "a", **settings)


def log_bytes(folder: Path) -> bytes:
    """A commit log as it lies on the disk, without the room behind it."""
    files = sorted((folder / "store" / "commitlog").iterdir())
    return b"".join(file.read_bytes() for file in files).rstrip(b"\0")


async def until_a_slave_has_joined(mq: pymq.Client) -> None:
    """Send until the master waits for a slave."""
    async with asyncio.timeout(120):
        while (await mq.send("other", "joined?", timeout=30)).status != pymq.SendStatus.SEND_OK:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def load_until_killed(mq: pymq.Client, master: Node, slave: Node) -> set[bytes]:
    """Send with many in flight and kill both in the midst of it; gives the bodies that were acknowledged.

    The slave stands still for the last moments, so that the master has what the slave does not.
    """
    acknowledged: set[bytes] = set()

    def settled(sent: asyncio.Future[pymq.SendResult], body: bytes) -> None:
        is_answered = not sent.cancelled() and sent.exception() is None
        if is_answered and sent.result().status == pymq.SendStatus.SEND_OK:
            acknowledged.add(body)

    standing_since = 0
    for number in range(200_000):
        body = b"%d" % number
        try:
            sent = mq.send_nowait("orders", body, timeout=2)
        except pymq.BufferFull:
            await asyncio.sleep(0.001)
        else:
            sent.add_done_callback(lambda done, body=body: settled(done, body))  # type: ignore[misc]
        if number % 50 == 0:
            await asyncio.sleep(0.001)
        if len(acknowledged) >= ACKNOWLEDGED and not standing_since:
            slave.server.pause()
            standing_since = number
        if standing_since and number - standing_since > STANDING:
            break
    master.kill()
    slave.kill()
    await asyncio.sleep(2.1)  # what is still under way gets no answer any more
    return acknowledged


async def test_no_acknowledged_message_is_missing_on_the_promoted_slave(tmp_path: Path) -> None:
    names = pymq_name_server(tmp_path / "names")
    master = start(tmp_path / "master", names, "SYNC_MASTER", 0)
    slave = start(tmp_path / "slave", names, "SLAVE", 1)
    namesrv = names.address
    async with pymq.Client(namesrv, settings=Settings(send_retries=0, call_timeout_s=20.0)) as mq:
        await until_a_slave_has_joined(mq)
        await mq.send("later", "delayed, delivered", delay_level=1, timeout=30)
        await asyncio.sleep(1.5)
        acknowledged_later = {b"delayed, delivered"}
        for body, options in (
            (b"delayed", {"delay_level": 2}),
            (b"timed", {"delay": datetime.timedelta(seconds=DELAY_S, milliseconds=321)}),
        ):
            result = await mq.send("later", body, timeout=30, **options)
            assert result.status == pymq.SendStatus.SEND_OK
            acknowledged_later.add(body)
        acknowledged = await load_until_killed(mq, master, slave)
    mine, theirs = log_bytes(tmp_path / "master"), log_bytes(tmp_path / "slave")
    assert mine[: len(theirs)] == theirs, "a slave writes nothing of its own"
    assert len(theirs) < len(mine), "the master had more: else this shows nothing"

    start(tmp_path / "slave", names, "ASYNC_MASTER", 0)
    found: Counter[bytes] = Counter()
    async with pymq.Client(namesrv) as mq:
        async with mq.consumer("audit", "orders", start="first") as consumer:
            while acknowledged - set(found):
                messages = await consumer.fetch(max=1000, wait=60)
                assert messages, f"{len(acknowledged - set(found))} of {len(acknowledged)} are lost"
                for message in messages:
                    found[message.body] += 1
                    message.ack()
        later: Counter[bytes] = Counter()
        async with mq.consumer("audit", "later", start="first") as consumer, asyncio.timeout(120):
            while set(later) != acknowledged_later:
                for message in await consumer.fetch(wait=1):
                    later[message.body] += 1
                    message.ack()
    assert len(acknowledged) >= ACKNOWLEDGED
    assert max(found.values()) == 1
    assert max(later.values()) == 1, f"what was delivered comes again: {later}"
