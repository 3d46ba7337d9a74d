"""The main job: unmodified Java clients and pymq's own client read each other, through pymq's servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import pymq
from tests.interop.conftest import are_prompt, fresh, message
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import place, python_client, take, text, texts

QUEUES = 4
LARGE = "".join(f"{i} 消息;" for i in range(20_000))
IS_COMPRESSED = 1
"""In the system flag."""


@pytest.fixture(scope="module")
def producer(java: Driver, cluster: Cluster) -> Iterator[Started]:
    with java.start("start_producer", group="java-producer", namesrv=cluster.namesrv) as started:
        yield started


@pytest.fixture
async def python(cluster: Cluster) -> AsyncIterator[pymq.Client]:
    async with python_client(cluster) as client:
        yield client


@pytest.fixture
def topic(admin: Started, cluster: Cluster) -> str:
    name = fresh("java-python")
    admin.admin("create_topic", addr=cluster.broker.address, topic=name, queues=QUEUES)
    return name


async def java_consumer(java: Driver, cluster: Cluster, topic: str, **fields: Any) -> Started:
    settings = {"group": fresh("java-group"), "from": "FIRST_OFFSET", "topic": topic} | fields
    return await java.start_async("start_consumer", namesrv=cluster.namesrv, **settings)


def where(each: dict[str, Any]) -> tuple[str, int, int]:
    return each["broker"], each["queue_id"], each["queue_offset"]


async def test_python_gets_what_java_sends_in_any_mode(
    python: pymq.Client, producer: Started, topic: str, cluster: Cluster
) -> None:
    def full(i: int) -> dict[str, Any]:
        return message(topic, f"naïve 消息 {i} 🚀", tags="created", keys=f"k{i} order-{i}", flag=i,
                       properties={"customer": f"Łukasz {i}", "empty-ish": "0"})  # fmt: skip

    results = await producer.send_async(*map(full, range(4)))
    results += await producer.send_async(*map(full, range(4, 8)), mode="async")
    batch = await producer.send_async(*map(full, range(8, 11)), mode="batch")
    await producer.send_async(full(11), mode="oneway")
    [large] = await producer.send_async(message(topic, LARGE))

    async with python.consumer(fresh("python-group"), topic, start="first") as consumer:
        got = {text(each): each for each in await take(consumer, 13)}
    assert sorted(got) == sorted([*(full(i)["body"] for i in range(12)), LARGE])
    for i in range(12):
        each = got[full(i)["body"]]
        assert (each.topic, each.tags, each.keys) == (topic, "created", (f"k{i}", f"order-{i}"))
        assert each.properties.items() >= {"customer": f"Łukasz {i}", "empty-ish": "0"}.items()
        assert each.born_host.startswith("127.0.0.1:")
        assert each.store_host == cluster.broker.address
        assert (each.flag, each.reconsume_times) == (i, 0)
    for result, body in zip([*results, large], [*(full(i)["body"] for i in range(8)), LARGE], strict=True):
        each = got[body]
        assert (each.msg_id, each.offset_msg_id) == (result["msg_id"], result["offset_msg_id"])
        assert place(each) == where(result)
    in_batch = [got[full(i)["body"]] for i in range(8, 11)]
    assert batch["msg_id"].split(",") == [each.msg_id for each in in_batch]
    assert batch["offset_msg_id"].split(",") == [each.offset_msg_id for each in in_batch]
    stored = got[LARGE].record
    assert stored.sys_flag & IS_COMPRESSED
    assert len(stored.body) < len(LARGE) / 2
    assert got[LARGE].tags is None


async def test_java_gets_what_python_sends_in_any_mode(
    python: pymq.Client, java: Driver, topic: str, cluster: Cluster
) -> None:
    def full(i: int) -> pymq.Message:
        own = {"customer": f"Łukasz {i}", "empty-ish": "0"}
        return pymq.Message(f"naïve 消息 {i} 🚀", "created", [f"k{i}", f"order-{i}"], own, flag=i)

    results = [await python.send(topic, full(i)) for i in range(4)]
    results += await asyncio.gather(*(python.send_nowait(topic, full(i)) for i in range(4, 8)))
    results += await python.send_batch(topic, [full(i) for i in range(8, 11)])
    results.append(await python.send(topic, LARGE))
    await python.send_oneway(topic, full(11))
    assert {each.status for each in results} == {pymq.SendStatus.SEND_OK}

    async with await java_consumer(java, cluster, topic) as consumer:
        got = {each["body"]: each for each in await consumer.received_async(13)}
    bodies = [str(full(i).body) for i in range(12)]
    assert sorted(got) == sorted([*bodies, LARGE])
    for i, body in enumerate(bodies):
        each = got[body]
        assert (each["topic"], each["tags"], each["keys"]) == (topic, "created", f"k{i} order-{i}")
        assert each["properties"].items() >= {"customer": f"Łukasz {i}", "empty-ish": "0"}.items()
        assert each["born_host"].startswith("/127.0.0.1:")
        assert each["store_host"] == f"/{cluster.broker.address}"
        assert (each["flag"], each["reconsume_times"]) == (i, 0)
    for result, body in zip(results, [*bodies[:11], LARGE], strict=True):
        each = got[body]
        assert (each["msg_id"], each["offset_msg_id"]) == (result.msg_id, result.offset_msg_id)
        assert where(each) == place(result)
    assert got[LARGE]["sys_flag"] & IS_COMPRESSED
    assert got[LARGE]["store_size"] < len(LARGE) / 2
    assert got[LARGE]["tags"] is None


async def test_python_gets_only_the_tags_it_asked_for(
    python: pymq.Client, producer: Started, topic: str
) -> None:
    tags = ["a", "b", None, "Aa", "BB", "标签"]  # Aa and BB have the same hash
    sent = [message(topic, f"{tag} {i}", **({"tags": tag} if tag else {})) for i in range(3) for tag in tags]
    await producer.send_async(*sent)
    async with python.consumer(
        fresh("python-group"), topic, tags="a || BB || 标签", start="first"
    ) as consumer:
        assert texts(await take(consumer, 9)) == sorted(
            f"{tag} {i}" for i in range(3) for tag in ("a", "BB", "标签")
        )
        await producer.send_async(*(message(topic, f"no {i}", tags="b") for i in range(QUEUES)))
        await producer.send_async(message(topic, "yes", tags="a"))
        assert texts(await take(consumer, 1)) == ["yes"]


async def test_java_gets_only_the_tags_it_asked_for(
    python: pymq.Client, java: Driver, topic: str, cluster: Cluster
) -> None:
    for i in range(3):
        for tag in ["a", "b", None, "Aa", "BB", "标签"]:
            await python.send(topic, f"{tag} {i}", tags=tag)
    async with await java_consumer(java, cluster, topic, filter="a || BB || 标签") as consumer:
        await consumer.received_async(9)
        await python.send(topic, "no", tags="b")
        await python.send(topic, "yes", tags="a")
        got = sorted(each["body"] for each in await consumer.received_async(10))
    assert got == sorted([*(f"{tag} {i}" for i in range(3) for tag in ("a", "BB", "标签")), "yes"])


async def test_a_waiting_python_consumer_gets_what_java_sends_the_moment_it_arrives(
    python: pymq.Client, producer: Started, topic: str
) -> None:
    async with python.consumer(fresh("python-group"), topic, start="first") as consumer:
        await producer.send_async(
            *(message(topic, "warm up", broker="broker-a", queue_id=q) for q in range(QUEUES))
        )
        assert len(await take(consumer, QUEUES)) == QUEUES
        late: list[int] = []
        while not are_prompt(late):
            await asyncio.sleep(0.1)  # every queue's pull is held by the broker again
            sending = asyncio.ensure_future(producer.send_async(message(topic, f"now {len(late)}")))
            [got] = await take(consumer, 1)
            late.append(int(time.time() * 1000) - got.store_timestamp)
            await sending


async def test_a_waiting_java_consumer_gets_what_python_sends_the_moment_it_arrives(
    python: pymq.Client, java: Driver, topic: str, cluster: Cluster
) -> None:
    async with await java_consumer(java, cluster, topic) as consumer:
        for queue in await python.queues(topic):
            await python.send(topic, "warm up", queue=queue)
        assert len(await consumer.received_async(QUEUES)) == QUEUES
        late: list[int] = []
        while not are_prompt(late):
            await asyncio.sleep(0.1)
            await python.send(topic, f"now {len(late)}")
            got = (await consumer.received_async(QUEUES + len(late) + 1))[-1]
            late.append(int(got["properties"]["CONSUME_START_TIME"]) - got["store_ms"])


async def test_java_looks_up_what_python_sent(
    python: pymq.Client, java: Driver, topic: str, cluster: Cluster
) -> None:
    sent = await python.send(topic, "looked for", keys=["k"], tags="t")
    async with await java.start_async(
        "start_reader", group=fresh("reader"), namesrv=cluster.namesrv
    ) as reader:
        found = await reader.ask_async("view", offset_msg_id=sent.offset_msg_id)
    assert (found["body"], found["tags"], found["keys"]) == ("looked for", "t", "k")
    assert found["msg_id"] in (sent.msg_id, sent.offset_msg_id)
