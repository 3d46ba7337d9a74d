"""Batches and compressed bodies: Java with Python, through pymq's and Apache's servers."""

from __future__ import annotations

import asyncio
import importlib.util
import zlib

import pytest

import pymq
from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver
from tests.interop.processes import Cluster
from tests.interop.python_client import python_client, take

COUNT = 40


@pytest.fixture(scope="module")
def java494(java_drivers: JavaDrivers) -> Driver:
    return java_drivers("4.9.4")


async def create(java: Driver, servers: Cluster, topic: str) -> None:
    async with await java.start_async("start_admin", namesrv=servers.namesrv) as admin:
        await admin.ask_async("admin", op="create_topic", addr=servers.broker.address, topic=topic, queues=1)


async def test_python_handles_java_s_batch_in_batches_and_gets_the_failed_ones_again(
    java494: Driver, java_json: Driver, servers: Cluster
) -> None:
    topic = fresh("batch")
    await create(java494, servers, topic)
    async with await java_json.start_async(
        "start_producer", group=fresh("java"), namesrv=servers.namesrv
    ) as producer:
        sent = await producer.send_async(
            *(message(topic, f"m{i:02}", keys=f"k{i}") for i in range(COUNT)), mode="batch"
        )
    ids = sent["msg_id"].split(",")
    assert len(set(ids)) == len(set(sent["offset_msg_id"].split(","))) == COUNT
    batches: list[list[pymq.ReceivedMessage]] = []
    again = asyncio.Event()

    async def handle(messages: list[pymq.ReceivedMessage]) -> object:
        batches.append(messages)
        if any(each.reconsume_times for each in messages):
            again.set()
        failed = [each for each in messages if each.body == b"m07" and not each.reconsume_times]
        return pymq.RetryLater("not yet", delay_level=1, messages=failed)

    async with python_client(servers) as client:
        consuming = asyncio.ensure_future(
            client.consume(fresh("python"), topic, handle, batch=16, concurrency=1, start="first")
        )
        await asyncio.wait_for(again.wait(), 120)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    got = [each for batch in batches for each in batch]
    assert max(map(len, batches)) == 16
    assert [each.msg_id for each in got] == [*ids, ids[7]]
    assert [each.body for each in got] == [*(f"m{i:02}".encode() for i in range(COUNT)), b"m07"]
    assert (got[-1].reconsume_times, got[-1].keys) == (1, ("k7",))


async def test_java_handles_python_s_batch_in_batches(
    java494: Driver, java_json: Driver, servers: Cluster
) -> None:
    topic = fresh("batch")
    await create(java494, servers, topic)
    async with python_client(servers) as client:
        sent = await client.send_batch(topic, [pymq.Message(f"m{i:02}", keys=f"k{i}") for i in range(COUNT)])
    async with await java_json.start_async(
        "start_consumer", namesrv=servers.namesrv, group=fresh("java"), topic=topic, batch=16,
        **{"from": "FIRST_OFFSET"},
    ) as consumer:  # fmt: skip
        got = sorted(await consumer.received_async(COUNT), key=lambda each: int(each["queue_offset"]))
    assert [each["body"] for each in got] == [f"m{i:02}" for i in range(COUNT)]
    assert [each["msg_id"] for each in got] == [each.msg_id for each in sent]
    assert [each["offset_msg_id"] for each in got] == [each.offset_msg_id for each in sent]
    assert [each["keys"] for each in got] == [f"k{i}" for i in range(COUNT)]


async def test_a_batch_over_the_limit_is_cut_and_one_message_over_it_is_refused(
    java494: Driver, servers: Cluster
) -> None:
    topic = fresh("batch")
    await create(java494, servers, topic)
    big = bytes(range(256)) * 4096  # 1 MiB
    async with python_client(servers) as client:
        sent = await client.send_batch(topic, [pymq.Message(big) for _ in range(9)], timeout=20)
        assert [each.queue_offset for each in sent] == list(range(9))
        with pytest.raises(pymq.MessageInvalid, match="4194304"):
            await client.send_batch(topic, [pymq.Message(b"x"), pymq.Message(big * 4 + b"x")])
        async with client.consumer(fresh("python"), topic, start="first") as consumer:
            assert {each.body for each in await take(consumer, 9)} == {big}


async def test_long_bodies_travel_compressed_as_java_does_it(
    java494: Driver, java_json: Driver, servers: Cluster
) -> None:
    topic = fresh("compressed")
    await create(java494, servers, topic)
    texts = ["x" * 4095, "y" * 4096, "".join(f"{i} 消息;" for i in range(20_000))]
    async with python_client(servers) as client:
        for each in texts:
            await client.send(topic, each)
        async with await java_json.start_async(
            "start_producer", group=fresh("java"), namesrv=servers.namesrv
        ) as producer:
            await producer.send_async(*(message(topic, each) for each in texts))
        async with client.consumer(fresh("python"), topic, start="first") as consumer:
            got = await take(consumer, 6)
    async with await java_json.start_async(
        "start_consumer", namesrv=servers.namesrv, group=fresh("java"), topic=topic,
        **{"from": "FIRST_OFFSET"},
    ) as reader:  # fmt: skip
        seen = sorted(await reader.received_async(6), key=lambda each: int(each["queue_offset"]))
    assert [each.body.decode() for each in got] == [each["body"] for each in seen] == texts * 2
    by_python, by_java = got[:3], got[3:]
    assert [each.record.sys_flag & 1 for each in by_python] == [0, 1, 1]
    for mine, theirs in zip(by_python, by_java, strict=True):
        assert mine.record.body == theirs.record.body, "the same bytes: zlib, level 5"
    assert zlib.decompress(by_python[2].record.body).decode() == texts[2]


@pytest.mark.parametrize(
    ("compression", "library", "bits"), [("LZ4", "lz4", 0x100), ("ZSTD", "zstandard", 0x200)]
)
async def test_the_other_ways_of_compressing_are_read_or_named(
    java494: Driver, cluster: Cluster, compression: str, library: str, bits: int
) -> None:
    topic = fresh("compressed")
    await create(java494, cluster, topic)
    long = "".join(f"{i} 消息;" for i in range(20_000))
    async with await java494.start_async(
        "start_producer", group=fresh("java"), namesrv=cluster.namesrv, compression=compression
    ) as producer:
        await producer.send_async(message(topic, long))
    async with (
        python_client(cluster) as client,
        client.consumer(fresh("python"), topic, start="first") as consumer,
    ):
        [got] = await take(consumer, 1)
    assert got.record.sys_flag & 0x701 == bits | 1
    if importlib.util.find_spec(library) is None:
        with pytest.raises(pymq.UnreadableBody, match=f"pip install {library}"):
            _ = got.body
    else:
        assert got.body.decode() == long
