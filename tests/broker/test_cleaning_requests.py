"""Old messages go from a running broker, readers land on what is left, admins tidy up (store.md §6, §7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from pymq.broker.app import Broker
from pymq.broker.arrivals import Arrivals
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.processors.cleaning_requests import CleaningProcessor
from pymq.broker.topics import TopicTable
from pymq.clock import SystemClock
from pymq.disk import DiskUsage
from pymq.errors import ResponseError
from pymq.protocol.bodies.topic_config import TopicConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import Command
from pymq.protocol.headers.administration import (
    CleanExpiredConsumeQueueRequest,
    CleanUnusedTopicRequest,
    DeleteExpiredCommitLogRequest,
)
from pymq.protocol.headers.messaging import GetMaxOffsetRequest, GetMinOffsetRequest, OffsetResponse
from pymq.protocol.properties import KEYS, TAGS
from pymq.system_disk import SystemDisk
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Request
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records, send
from tests.broker.conftest import StartBroker
from tests.sim import SimClock
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk

MIB = 1 << 20
SETTINGS = {
    "file_reserved_time": 1,
    "clean_resource_interval": 50,
    "delete_commit_log_files_interval": 0,
    "flush_interval_commit_log": 20,
    "mapped_file_size_consume_queue": 200,
}


def log_files(folder: Path) -> list[Path]:
    """The commit log's files, without the one that is made ahead."""
    used = []
    for path in sorted((folder / "store" / "commitlog").iterdir()):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # just now deleted
            if file.read(4) != bytes(4):
                used.append(path)
    return used


def let_expire(path: Path) -> None:
    """Two hours ago this file was changed the last time."""
    long_ago = path.stat().st_mtime - 7200
    os.utime(path, (long_ago, long_ago))


async def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that has to become so."""
    async with asyncio.timeout(60):
        while True:
            if true():
                return
            await asyncio.sleep(0.01)


async def fill(pool: Pool, broker: Broker, folder: Path) -> list[Path]:
    """Ten messages of topic `old`, then of `orders` until three files are full; gives the files."""
    for number in range(10):
        await send(pool, broker.address, "old", b"%d" % number)
    while len(log_files(folder)) < 4:
        await send(pool, broker.address, "orders", bytes(60_000))
    return log_files(folder)


async def bound(
    pool: Pool, broker: Broker, header: type[GetMinOffsetRequest] | type[GetMaxOffsetRequest], topic: str
) -> int:
    """The minimum or maximum of queue 0 of a topic."""
    return (await pool.call(broker.address, header(topic, 0))).read(OffsetResponse).offset


async def test_expired_messages_go_when_an_admin_asks_and_readers_land_on_the_first_that_is_left(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    broker = await start_broker(**SETTINGS, delete_when=f"{(broker_hour() + 12) % 24}")
    files = await fill(pool, broker, tmp_path)
    for path in files[:2]:
        let_expire(path)
    await pool.call(broker.address, DeleteExpiredCommitLogRequest())
    await wait_until(lambda: not files[1].exists())
    assert [path for path in files if path.exists()] == files[2:], "the others are too young"

    first = await bound(pool, broker, GetMinOffsetRequest, "orders")
    assert first > 10
    reply = await pull(pool, broker.address, "orders", offset=3)
    assert (reply.code, bounds(reply).next_begin_offset) == (ResponseCode.PULL_OFFSET_MOVED, first)
    reply = await pull(pool, broker.address, "orders", offset=first)
    assert records(reply)[0].queue_offset == first
    queue_files = sorted((tmp_path / "store/consumequeue/orders/0").iterdir())
    await wait_until(lambda: int(sorted(p.name for p in queue_files[0].parent.iterdir())[0]) > 0)

    (event,) = records(await pull(pool, broker.address, "OFFSET_MOVED_EVENT"))
    assert json.loads(event.body) == {
        "consumerGroup": "consumers",
        "messageQueue": {"brokerName": "broker-a", "queueId": 0, "topic": "orders"},
        "offsetNew": first,
        "offsetRequest": 3,
    }
    properties = event.read_properties()
    assert (properties[KEYS], properties[TAGS]) == ("consumers", "consumers")


async def test_a_reader_that_keeps_asking_for_what_is_not_there_leaves_one_event(
    broker: Broker, pool: Pool
) -> None:
    await send(pool, broker.address, "orders", b"x")
    for _ in range(5):
        reply = await pull(pool, broker.address, "orders", offset=7)
        assert (reply.code, bounds(reply).next_begin_offset) == (ResponseCode.PULL_OFFSET_MOVED, 1)
    assert len(records(await pull(pool, broker.address, "OFFSET_MOVED_EVENT"))) == 1


async def test_queues_that_are_all_expired_go_when_an_admin_asks(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    broker = await start_broker(**SETTINGS)
    files = await fill(pool, broker, tmp_path)
    await pool.call(broker.address, CleanExpiredConsumeQueueRequest())
    assert await bound(pool, broker, GetMaxOffsetRequest, "old") == 10, "it has messages"
    let_expire(files[0])
    await pool.call(broker.address, DeleteExpiredCommitLogRequest())
    await wait_until(lambda: not files[0].exists())
    assert await bound(pool, broker, GetMinOffsetRequest, "old") == 10
    assert (tmp_path / "store/consumequeue/old/0").exists()

    await pool.call(broker.address, CleanExpiredConsumeQueueRequest())
    assert not (tmp_path / "store/consumequeue/old/0").exists()
    assert await bound(pool, broker, GetMaxOffsetRequest, "orders") > 10
    sent = await send(pool, broker.address, "old", b"new")
    assert sent.queue_offset == 0
    assert [r.body for r in records(await pull(pool, broker.address, "old"))] == [b"new"]


async def test_cleaning_unused_topics_leaves_those_that_exist(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x")
    await pool.call(broker.address, CleanUnusedTopicRequest())
    assert [r.body for r in records(await pull(pool, broker.address, "orders"))] == [b"x"]


async def test_cleaning_unused_topics_deletes_queues_that_no_topic_has() -> None:
    clock = SimClock()
    store = open_store(SimDisk(), "/s", clock)
    topics = TopicTable(BrokerConfig(), clock)
    topics.put(TopicConfig("orders"))
    for topic in ("orders", "unused", "SCHEDULE_TOPIC_XXXX"):
        put(store, topic)
    cleaning = CleaningProcessor(topics, store, Arrivals())
    request = Request(Connection({}), Command(316), CleanUnusedTopicRequest())
    assert (await cleaning.clean_unused_topics(request)).code == ResponseCode.SUCCESS
    assert sorted(topic for topic, _ in store.queues()) == ["SCHEDULE_TOPIC_XXXX", "orders"]


async def test_messages_that_memory_may_hold_no_more_are_read_from_the_disk_and_come_back_whole(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    broker = await start_broker(**SETTINGS, access_message_in_memory_max_ratio=0)
    bodies = [b"%d" % number * 3_000 for number in range(300)]
    for body in bodies:
        await send(pool, broker.address, "orders", body)
    assert len(log_files(tmp_path)) > 2
    found: list[bytes] = []
    while len(found) < len(bodies):
        replies = await asyncio.gather(
            *(pull(pool, broker.address, "orders", offset=len(found)) for _ in range(5))
        )
        parts = [[record.body for record in records(reply)] for reply in replies]
        assert parts == parts[:1] * 5
        assert 1 <= len(parts[0]) <= 8
        found += parts[0]
    assert found == bodies


async def test_a_cold_file_that_is_deleted_while_it_is_read_ends_in_where_the_queue_begins(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    broker = await start_broker(**SETTINGS, access_message_in_memory_max_ratio=0)
    files = await fill(pool, broker, tmp_path)
    for path in files[:3]:
        let_expire(path)
    asking = [pull(pool, broker.address, "orders", offset=2, timeout_s=10) for _ in range(50)]
    await pool.call(broker.address, DeleteExpiredCommitLogRequest())
    codes = {reply.code for reply in await asyncio.gather(*asking)}
    await wait_until(lambda: not files[2].exists())
    codes.add((await pull(pool, broker.address, "orders", offset=2)).code)
    assert ResponseCode.PULL_OFFSET_MOVED in codes
    assert codes <= {ResponseCode.SUCCESS, ResponseCode.PULL_OFFSET_MOVED}


class Partition(SystemDisk):
    """Ten MiB that hold nothing but the commit log's files, each counted whole."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def usage(self, path: str) -> DiskUsage:
        used = min(10 * MIB, len(log_files(self._folder)) * MIB)
        return DiskUsage(10 * MIB, used, 10 * MIB - used)


async def test_a_full_disk_lets_the_oldest_messages_go_and_sends_go_on(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    disk = Partition(tmp_path)
    broker = await start_broker(disk=disk, **SETTINGS, disk_min_free_bytes=3 * MIB)
    sent, refusal = 0, ""
    while not refusal:
        try:
            await send(pool, broker.address, "orders", bytes(60_000))
            sent += 1
        except ResponseError as error:
            refusal = error.remark
    assert "too full" in refusal
    assert len(log_files(tmp_path)) >= 8
    await pool.call(broker.address, DeleteExpiredCommitLogRequest())
    await wait_until(lambda: len(log_files(tmp_path)) == 4)
    await asyncio.sleep(0.2)
    assert len(log_files(tmp_path)) == 4, "no more than was needed"
    assert (await send(pool, broker.address, "orders", b"again")).queue_offset == sent


def broker_hour() -> int:
    """The hour that the broker's clock shows."""
    clock = SystemClock()
    return clock.local_time(clock.now_ms()).hour
