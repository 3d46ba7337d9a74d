"""Where a new group begins: what it passes over, and what is still in memory (semantics.md §7, §12.5)."""

from __future__ import annotations

import asyncio
import datetime
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import pymq
from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerConfig
from pymq.client import Settings
from pymq.client.start_offset import Start
from pymq.clock import SystemClock
from pymq.namesrv.app import NameServer
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest, DeleteExpiredCommitLogRequest
from pymq.protocol.headers.messaging import GetMinOffsetRequest, OffsetResponse
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.test_cleaning_requests import SETTINGS, let_expire, log_files, wait_until

QUICK = Settings(commit_s=0.05, compress_from_bytes=1 << 20)
STARTS: list[Start] = ["first", "last", datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)]

_numbers = itertools.count(1)

Started = tuple[pymq.Client, str]
Start_ = Callable[..., Awaitable[Started]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start_]:
    """Starts name server and broker here, with topic orders of one queue; gives a client, and the broker."""
    clock, disk, network = SystemClock(), SystemDisk(), SystemNetwork()
    async with AsyncExitStack() as running:

        async def started(**settings: Any) -> Started:
            names = NamesrvConfig(
                listen_port=0, bind_address="127.0.0.1", kv_config_path=str(tmp_path / "kvConfig.json")
            )
            server = NameServer(names, clock=clock, disk=disk, network=network)
            await running.enter_async_context(server)
            config = BrokerConfig(
                **{
                    "broker_name": "broker-a",
                    "namesrv_addr": server.address,
                    "listen_port": 0,
                    "bind_address": "127.0.0.1",
                    "store_path_root_dir": str(tmp_path / "store"),
                    "mapped_file_size_commit_log": 1 << 20,
                    "max_message_size": 1 << 16,
                    "disk_min_free_bytes": 1,
                    **settings,
                }
            )
            broker = Broker(config, clock=clock, disk=SystemDisk(), network=network)
            await running.enter_async_context(broker)
            pool = Pool(network, {})
            running.push_async_callback(pool.close)
            await pool.call(broker.address, CreateTopicRequest("orders", 1, 1, 6))
            client = pymq.Client(server.address, settings=QUICK)
            return await running.enter_async_context(client), broker.address

        yield started


async def begins(mq: pymq.Client, start: Start) -> list[int]:
    """The offsets that a new group gets before that of one message more, which is sent then."""
    got: list[int] = []
    async with mq.consumer(f"g-{next(_numbers)}", "orders", start=start) as consumer, asyncio.timeout(90):
        while not any(queue.topic == "orders" for queue in consumer.queues()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        later = (await mq.send("orders", "later")).queue_offset
        while later not in got:
            for message in await consumer.fetch():
                message.ack()
                got.append(message.queue_offset)
    assert got[-1] == later
    return got[:-1]


@pytest.mark.parametrize("start_at", STARTS, ids=["first", "last", "time"])
async def test_a_young_topic_is_read_from_its_beginning_whatever_the_group_asks_for(
    start: Start_, start_at: Start
) -> None:
    mq, _ = await start()
    for _ in range(3):
        await mq.send("orders", "x")
    assert await begins(mq, start_at) == [0, 1, 2]


async def test_what_memory_no_longer_holds_is_passed_over(start: Start_) -> None:
    mq, _ = await start(access_message_in_memory_max_ratio=0)
    for _ in range(2):
        await mq.send("orders", "x")
    await asyncio.sleep(0.02)
    sent = [await mq.send("orders", "x") for _ in range(2)]
    [third] = await mq.query("orders", sent[0].msg_id)
    assert await begins(mq, "last") == []
    assert await begins(mq, datetime.datetime.fromtimestamp(third.store_timestamp / 1000)) == [2, 3, 4]
    assert await begins(mq, "first") == [0, 1, 2, 3, 4, 5]


async def test_when_the_first_messages_are_gone_the_last_is_the_last(start: Start_, tmp_path: Path) -> None:
    mq, address = await start(**SETTINGS)
    while len(log_files(tmp_path)) < 3:
        await mq.send("orders", bytes(60_000))
    first, *_ = log_files(tmp_path)
    let_expire(first)
    pool = Pool(SystemNetwork(), {})
    await pool.call(address, DeleteExpiredCommitLogRequest())
    await wait_until(lambda: not first.exists())
    low = (await pool.call(address, GetMinOffsetRequest("orders", 0))).read(OffsetResponse).offset
    await pool.close()
    assert low > 0
    assert await begins(mq, "last") == []
    end = (await mq.send("orders", "x")).queue_offset
    assert await begins(mq, "first") == list(range(low, end + 1))
    since_1970 = await begins(mq, datetime.datetime.fromtimestamp(0.001, datetime.UTC))
    assert since_1970[:2] == [low, low + 1]
