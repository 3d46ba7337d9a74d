"""pymq's client with Apache's own name server and broker, of two versions."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

import pymq
from pymq.client.start_offset import Start
from tests.interop.conftest import ApacheClusters, JavaDrivers, are_prompt, fresh
from tests.interop.drivers import DriverError, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import (
    eventually,
    place,
    python_client,
    take,
    take_until_quiet,
    text,
    texts,
)

QUEUES = 4
TOPIC_NOT_EXIST = 17
LARGE = "".join(f"{i} 消息;" for i in range(20_000))


@pytest.fixture(scope="module")
def apache(java_version: str, apache_clusters: ApacheClusters) -> Cluster:
    return apache_clusters(java_version)


@pytest.fixture(scope="module")
def apache_admin(apache: Cluster, java_version: str, java_drivers: JavaDrivers) -> Iterator[Started]:
    with java_drivers("4.9.4").start("start_admin", namesrv=apache.namesrv) as started:
        yield started


@pytest.fixture
async def client(apache: Cluster) -> AsyncIterator[pymq.Client]:
    async with python_client(apache) as started:
        yield started


@pytest.fixture
def topic(apache_admin: Started, apache: Cluster) -> str:
    name = fresh("python")
    apache_admin.admin("create_topic", addr=apache.broker.address, topic=name, queues=QUEUES)
    return name


async def test_what_was_sent_in_any_mode_arrives_as_it_was_sent(
    client: pymq.Client, apache: Cluster, topic: str
) -> None:
    def full(i: int) -> pymq.Message:
        own = {"customer": f"Łukasz {i}", "empty-ish": "0"}
        return pymq.Message(f"naïve 消息 {i} 🚀", "created", [f"k{i}", f"order-{i}"], own, flag=i)

    results = [await client.send(topic, full(i)) for i in range(4)]
    results += await asyncio.gather(*(client.send_nowait(topic, full(i)) for i in range(4, 8)))
    batch = await client.send_batch(topic, [full(i) for i in range(8, 11)])
    results += batch
    results.append(await client.send(topic, LARGE))
    await client.send_oneway(topic, full(11))
    assert {each.status for each in results} == {pymq.SendStatus.SEND_OK}
    first = batch[0].queue_offset
    assert [place(each)[1:] for each in batch] == [(batch[0].queue.queue_id, first + i) for i in range(3)]

    async with client.consumer(fresh("group"), topic, start="first") as consumer:
        got = {text(each): each for each in await take(consumer, 13)}
    bodies = [str(full(i).body) for i in range(12)]
    assert sorted(got) == sorted([*bodies, LARGE])
    for i, body in enumerate(bodies):
        each = got[body]
        assert (each.topic, each.tags, each.keys) == (topic, "created", (f"k{i}", f"order-{i}"))
        assert each.properties.items() >= {"customer": f"Łukasz {i}", "empty-ish": "0"}.items()
        assert each.born_host.startswith("127.0.0.1:")
        assert each.store_host == apache.broker.address
        assert (each.flag, each.reconsume_times) == (i, 0)
    for result, body in zip(results, [*bodies[:11], LARGE], strict=True):
        assert (got[body].msg_id, got[body].offset_msg_id) == (result.msg_id, result.offset_msg_id)
        assert place(got[body]) == place(result)
    assert len(got[LARGE].record.body) < len(LARGE) / 2


async def test_the_first_message_makes_its_topic_and_a_waiting_consumer_finds_it(client: pymq.Client) -> None:
    topic = fresh("made-by-send")
    async with client.consumer(fresh("group"), topic, start="first") as consumer:
        sent = await client.send(topic, "first")
        [got] = await take(consumer, 1)
    assert (text(got), got.msg_id, place(got)) == ("first", sent.msg_id, place(sent))


async def test_a_consumer_gets_only_the_tags_it_asked_for(client: pymq.Client, topic: str) -> None:
    for i in range(3):
        for tag in ["a", "b", None, "Aa", "BB", "标签"]:  # Aa and BB have the same hash
            await client.send(topic, f"{tag} {i}", tags=tag)
    async with client.consumer(fresh("group"), topic, tags="a || BB || 标签", start="first") as consumer:
        got = texts(await take(consumer, 9))
        for i in range(QUEUES):
            await client.send(topic, f"no {i}", tags="b")
        await client.send(topic, "yes", tags="a")
        assert texts(await take(consumer, 1)) == ["yes"]
    assert got == sorted(f"{tag} {i}" for i in range(3) for tag in ("a", "BB", "标签"))


async def test_a_waiting_consumer_gets_a_message_the_moment_it_arrives(
    client: pymq.Client, topic: str
) -> None:
    async with client.consumer(fresh("group"), topic, start="first") as consumer:
        for queue in await client.queues(topic):
            await client.send(topic, "warm up", queue=queue)
        assert len(await take(consumer, QUEUES)) == QUEUES
        late: list[int] = []
        while not are_prompt(late):
            await asyncio.sleep(0.1)  # every queue's pull is held by the broker again
            sending = asyncio.ensure_future(client.send(topic, f"now {len(late)}"))
            [got] = await take(consumer, 1)
            late.append(int(time.time() * 1000) - got.store_timestamp)
            await sending


async def test_a_group_goes_on_where_it_stopped(apache: Cluster, topic: str) -> None:
    group = fresh("resumed")
    async with python_client(apache) as client:
        for i in range(8):
            await client.send(topic, f"early {i}")
        async with client.consumer(group, topic, start="first") as consumer:
            assert len(await take(consumer, 8)) == 8
    async with python_client(apache) as client:
        for i in range(8):
            await client.send(topic, f"later {i}")
        async with client.consumer(group, topic, start="first") as consumer:
            assert texts(await take(consumer, 8)) == [f"later {i}" for i in range(8)]
            assert await consumer.fetch(wait=0.2) == []


async def test_what_is_not_acknowledged_comes_again_to_the_next_consumer(
    client: pymq.Client, topic: str
) -> None:
    group = fresh("forgetful")
    [queue, *_] = await client.queues(topic)
    for i in range(6):
        await client.send(topic, f"m{i}", queue=queue)
    async with client.consumer(group, topic, start="first") as consumer:
        got: list[pymq.ReceivedMessage] = []
        while len(got) < 6:
            got += await consumer.fetch()
        for each in got:
            if text(each) != "m2":
                each.ack()
    async with client.consumer(group, topic, start="first") as consumer:
        assert texts(await take(consumer, 4)) == ["m2", "m3", "m4", "m5"]


async def test_members_of_a_group_share_the_queues_and_hand_them_over(apache: Cluster, topic: str) -> None:
    group = fresh("shared")
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(python_client(apache)) for _ in range(2)]
        stays = await stack.enter_async_context(one.consumer(group, topic, start="first"))
        async with other.consumer(group, topic, start="first") as goes:

            async def halves() -> bool:
                mine, others = ({q for q in c.queues() if q.topic == topic} for c in (stays, goes))
                return len(mine) == len(others) == QUEUES // 2 and not mine & others

            await eventually("each of two members has half of the queues", halves)
            for i in range(20):
                await one.send(topic, f"to one {i}")
            got: tuple[list[pymq.ReceivedMessage], ...] = [], []

            async def all_came() -> bool:
                for consumer, messages in zip((stays, goes), got, strict=True):
                    messages += await take_until_quiet(consumer, 0.3)
                return len(got[0]) + len(got[1]) >= 20

            await eventually("all came", all_came)
            assert all(got)
            assert texts([*got[0], *got[1]]) == sorted(f"to one {i}" for i in range(20))

        async def all_queues() -> bool:
            return len([q for q in stays.queues() if q.topic == topic]) == QUEUES

        await eventually("the one that stays takes all queues", all_queues)
        for i in range(8):
            await one.send(topic, f"later {i}")
        assert texts(await take(stays, 8)) == [f"later {i}" for i in range(8)]


async def test_every_broadcast_consumer_gets_every_message_and_goes_on_where_it_stopped(
    apache: Cluster, topic: str, tmp_path: Path
) -> None:
    group = fresh("broadcast")

    def member(name: str) -> pymq.Client:
        return python_client(apache, instance_name=f"{group}-{name}", offsets_folder=str(tmp_path))

    async with (
        member("one") as one,
        member("other") as other,
        one.consumer(group, topic, broadcast=True, start="first") as mine,
        other.consumer(group, topic, broadcast=True, start="first") as others,
    ):
        for i in range(8):
            await one.send(topic, f"to all {i}")
        for consumer in (mine, others):
            assert texts(await take(consumer, 8)) == [f"to all {i}" for i in range(8)]
    async with member("one") as one:
        await one.send(topic, "later")
        async with one.consumer(group, topic, broadcast=True, start="first") as mine:
            assert texts(await take(mine, 1)) == ["later"]
            assert await mine.fetch(wait=0.2) == []


@pytest.mark.parametrize(
    "start",
    ["first", "last", datetime.datetime.now() + datetime.timedelta(hours=1)],
    ids=["first", "last", "time"],
)
async def test_a_new_group_gets_all_of_a_young_topic_wherever_it_asks_to_start(
    client: pymq.Client, topic: str, start: Start
) -> None:
    """Apache's rule: all is still in the broker's memory."""
    for i in range(8):
        await client.send(topic, f"before {i}")
    async with client.consumer(fresh("group"), topic, start=start) as consumer:
        assert texts(await take(consumer, 8)) == [f"before {i}" for i in range(8)]


async def test_a_message_whose_handling_fails_comes_again_until_it_succeeds(
    client: pymq.Client, topic: str
) -> None:
    group, seen = fresh("retried"), list[pymq.ReceivedMessage]()
    succeeded = asyncio.Event()

    async def handle(message: pymq.ReceivedMessage) -> None:
        seen.append(message)
        if text(message) == "hard" and message.reconsume_times < 2:
            raise RuntimeError("not yet")
        if len(seen) == 4:
            succeeded.set()

    consuming = asyncio.ensure_future(client.consume(group, topic, handle, start="first"))
    try:
        hard = await client.send(topic, "hard", tags="t", properties={"own": "kept"})
        await client.send(topic, "easy")
        await asyncio.wait_for(succeeded.wait(), 120)
    finally:
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
    again = [each for each in seen if text(each) == "hard"]
    assert [each.reconsume_times for each in again] == [0, 1, 2]
    for each in again:
        assert (each.topic, each.msg_id, each.tags) == (topic, hard.msg_id, "t")
        assert each.properties["own"] == "kept"


async def test_a_message_that_fails_too_often_goes_to_the_dead_letters(
    client: pymq.Client, apache_admin: Started, topic: str
) -> None:
    group = fresh("failing")
    async with client.consumer(group, topic, start="first", max_retries=1) as consumer:
        await client.send(topic, "hopeless")
        for times in range(2):
            [got] = await consumer.fetch(wait=60)
            assert got.reconsume_times == times
            await got.retry()

        async def dead() -> bool:
            stats = partial(apache_admin.admin, "topic_stats", topic=f"%DLQ%{group}")
            try:
                rows = await asyncio.to_thread(stats)
            except DriverError as error:
                if error.code != TOPIC_NOT_EXIST:
                    raise
                return False  # the name server has not heard of it yet
            return [row["max"] - row["min"] for row in rows] == [1]

        await eventually("it is among the dead letters", dead)
        assert await consumer.fetch(wait=2) == []


async def test_a_refusal_says_which_broker_said_what(
    client: pymq.Client, apache: Cluster, topic: str
) -> None:
    [queue, *_] = await client.queues(topic)
    with pytest.raises(pymq.SendFailed, match=apache.broker.address):
        await client.send(topic, "x", queue=pymq.MessageQueue(topic, queue.broker_name, 77))
    with pytest.raises(pymq.MessageInvalid):
        await client.send(topic, b"")
