"""Two thousand topics of four queues on one broker: little memory, few open files, and all lasts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterable
from pathlib import Path

import pytest

from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest, DeleteTopicInBrokerRequest
from pymq.protocol.headers.messaging import GetMaxOffsetRequest, OffsetResponse
from pymq.protocol.headers.naming import GetRouteInfoRequest
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.integration.conftest import Standalone, start_standalone

pytestmark = pytest.mark.once

TOPICS, QUEUES = 2_000, 4
_CONF = "mappedFileSizeConsumeQueue=6000000\n"
_AT_ONCE = 64
_OTHER_FILES = 64
"""What a broker has open besides the files of queues."""


def _name(number: int) -> str:
    return f"many-{number:05d}"


async def _all(calls: Iterable[Awaitable[object]]) -> None:
    """Wait for all, a few under way at a time."""
    some: list[Awaitable[object]] = []
    for call in calls:
        some.append(call)
        if len(some) == _AT_ONCE:
            await asyncio.gather(*some)
            some.clear()
    await asyncio.gather(*some)


async def _fill(pool: Pool, broker: str, body: bytes) -> None:
    await _all(
        send(pool, broker, _name(number), body, queue_id=queue_id, default_topic_queue_nums=QUEUES)
        for number in range(TOPICS)
        for queue_id in range(QUEUES)
    )


async def _serves(pool: Pool, running: Standalone, bodies: list[bytes]) -> None:
    """Each queue has as many messages, those of some are read, and the name server knows the topics."""

    async def check(number: int, queue_id: int) -> None:
        header = GetMaxOffsetRequest(topic=_name(number), queue_id=queue_id)
        answer = (await pool.call(running.broker, header)).read(OffsetResponse)
        assert answer.offset == len(bodies), (number, queue_id)
        if number % 20 == 0:
            reply = await pull(pool, running.broker, _name(number), queue_id=queue_id)
            assert [record.body for record in records(reply)] == bodies
            await pool.call(running.namesrv, GetRouteInfoRequest(topic=_name(number)))

    await _all(check(number, queue_id) for number in range(TOPICS) for queue_id in range(QUEUES))


def _mapped_queues(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("/consumequeue/")


def _queue_file_sizes(folder: Path) -> set[int]:
    return {path.stat().st_size for path in folder.glob("data/**/consumequeue/many-*/*/*")}


def _is_bounded(running: Standalone) -> None:
    pid = running.process.pid
    assert _mapped_queues(pid) <= 512, "as many as may be mapped at a time"
    assert len(os.listdir(f"/proc/{pid}/fd")) <= 512 + _OTHER_FILES
    assert running.anonymous_mib < 100


async def test_many_topics_are_served_after_every_end_in_little_memory(tmp_path: Path) -> None:
    running = start_standalone(tmp_path, _CONF)
    pool = Pool(SystemNetwork(), {})
    try:
        await _fill(pool, running.broker, b"first")
        _is_bounded(running)
        await _fill(pool, running.broker, b"second")
        await _serves(pool, running, [b"first", b"second"])
        _is_bounded(running)
        assert _queue_file_sizes(tmp_path) == {6_000_000}
        running.process.kill()
        running.process.wait()
        running = start_standalone(tmp_path, _CONF)
        await _serves(pool, running, [b"first", b"second"])
        _is_bounded(running)
        running.process.terminate()
        assert running.process.wait(timeout=180) == 0
        running = start_standalone(tmp_path, _CONF)
        await _serves(pool, running, [b"first", b"second"])
        await _change_some(pool, running)
        running.process.terminate()
        assert running.process.wait(timeout=180) == 0
    finally:
        running.process.kill()
        running.process.wait()
        await pool.close()
    assert "Traceback" not in running.log.read_text()


async def _change_some(pool: Pool, running: Standalone) -> None:
    """A topic among many can be made by request and deleted like one among few."""
    for number in range(20):
        created = CreateTopicRequest(topic=f"new-{number}", read_queue_nums=4, write_queue_nums=4, perm=6)
        await pool.call(running.broker, created)
        await pool.call(running.namesrv, GetRouteInfoRequest(topic=f"new-{number}"))
    for number in range(20):
        await pool.call(running.broker, DeleteTopicInBrokerRequest(topic=_name(number)))
        header = GetMaxOffsetRequest(topic=_name(number), queue_id=0)
        assert (await pool.call(running.broker, header)).read(OffsetResponse).offset == 0
