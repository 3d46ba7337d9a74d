"""Requests, replies and namespaces: Java 4.9.4 with Python, through pymq's and Apache's servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import pymq
from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import python_client, take, text, texts

QUEUES = 4
LARGE = "".join(f"{i} 消息;" for i in range(20_000))
REQUEST_TIMEOUT = 10006
"""Java's ClientErrorCode.REQUEST_TIMEOUT_EXCEPTION."""
SPACE = "MQ_INST_1"


@pytest.fixture(scope="module")
def java494(java_drivers: JavaDrivers) -> Driver:
    return java_drivers("4.9.4")


@pytest.fixture
async def python(servers: Cluster) -> AsyncIterator[pymq.Client]:
    async with python_client(servers) as client:
        yield client


async def create(java: Driver, servers: Cluster, *topics: str) -> None:
    async with await java.start_async("start_admin", namesrv=servers.namesrv) as admin:
        for topic in topics:
            await admin.ask_async(
                "admin", op="create_topic", addr=servers.broker.address, topic=topic, queues=QUEUES
            )


async def java_client(java: Driver, servers: Cluster, kind: str, **fields: object) -> Started:
    settings = {"group": fresh("java"), "from": "FIRST_OFFSET"} | fields
    return await java.start_async(kind, namesrv=servers.namesrv, **settings)


@contextlib.asynccontextmanager
async def python_answers(servers: Cluster, topic: str, **fields: str) -> AsyncIterator[None]:
    """A Python consumer that answers every request with its body in capitals."""

    async def shout(message: pymq.ReceivedMessage) -> None:
        answer = pymq.Message(text(message).upper(), "answered", ["k1", "k2"], {"own": "1"}, flag=7)
        await message.reply(answer)

    async with python_client(servers, **fields) as client:
        consuming = asyncio.ensure_future(client.consume(fresh("python"), topic, shout, start="first"))
        try:
            yield
        finally:
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)


async def test_java_asks_and_python_answers(java494: Driver, servers: Cluster) -> None:
    topic = fresh("request")
    await create(java494, servers, topic)
    async with (
        python_answers(servers, topic),
        await java_client(java494, servers, "start_producer") as producer,
    ):
        for body in ("ping 消息", LARGE):
            reply = await producer.ask_async("request", **message(topic, body), timeout_ms=60_000)
            assert reply["body"] == body.upper()
            assert (reply["tags"], reply["keys"], reply["flag"]) == ("answered", "k1 k2", 7)
            assert reply["properties"]["own"] == "1"
            assert reply["properties"].keys() >= {"ARRIVE_TIME", "PUSH_REPLY_TIME", "CORRELATION_ID"}


async def test_python_asks_and_java_answers(java494: Driver, servers: Cluster, python: pymq.Client) -> None:
    topic = fresh("request")
    await create(java494, servers, topic)
    async with await java_client(java494, servers, "start_responder", topic=topic):
        for body in ("ping 消息", LARGE):
            reply = await python.request(topic, body, timeout=60)
            assert reply.body.decode() == body.upper()
            assert (reply.tags, reply.keys, reply.flag) == ("answered", ("k1", "k2"), 7)
            assert reply.properties["own"] == "1"
            assert reply.properties.keys() >= {"ARRIVE_TIME", "PUSH_REPLY_TIME", "CORRELATION_ID"}
            assert reply.born_host.startswith("127.0.0.1:")


async def test_python_asks_and_python_answers(java494: Driver, servers: Cluster, python: pymq.Client) -> None:
    topic = fresh("request")
    await create(java494, servers, topic)
    async with python_answers(servers, topic):
        replies = await asyncio.gather(*(python.request(topic, f"m{i}", timeout=60) for i in range(20)))
        assert [reply.body for reply in replies] == [f"M{i}".encode() for i in range(20)]


async def test_who_gets_no_reply_hears_of_it_in_time(
    java494: Driver, servers: Cluster, python: pymq.Client
) -> None:
    topic = fresh("request")
    await create(java494, servers, topic)
    with pytest.raises(pymq.RequestTimeout):
        await python.request(topic, "x", timeout=4)
    async with await java_client(java494, servers, "start_producer") as producer:
        with pytest.raises(DriverError) as error:
            await producer.ask_async("request", **message(topic, "x"), timeout_ms=4000)
    assert (error.value.kind, error.value.code) == ("RequestTimeoutException", REQUEST_TIMEOUT)


async def test_a_reply_to_a_client_that_is_gone_fails(
    java494: Driver, servers: Cluster, python: pymq.Client
) -> None:
    topic = fresh("request")
    await create(java494, servers, topic)
    async with python_client(servers) as asker:
        with pytest.raises(pymq.RequestTimeout):
            await asker.request(topic, "x", timeout=4)
    async with python.consumer(fresh("late"), topic, start="first") as consumer:
        [late] = await take(consumer, 1)
        with pytest.raises(pymq.SendFailed, match="not found"):
            await late.reply("too late")


async def test_java_and_python_in_one_namespace_meet_and_others_see_their_prefix(
    java494: Driver, servers: Cluster, python: pymq.Client
) -> None:
    topic, group = fresh("space"), fresh("space-group")
    await create(java494, servers, f"{SPACE}%{topic}")
    async with (
        python_client(servers, namespace=SPACE) as inside,
        await java_client(java494, servers, "start_producer", namespace=SPACE) as producer,
        await java_client(java494, servers, "start_consumer", namespace=SPACE, topic=topic) as consumer,
    ):
        sent = await inside.send(topic, "from python")
        batch = await inside.send_batch(topic, [pymq.Message(f"batch {i}") for i in range(2)])
        [by_java] = await producer.send_async(message(topic, "from java"))
        assert {each.queue.topic for each in (sent, *batch)} == {topic} == {by_java["topic"]}
        expected = ["batch 0", "batch 1", "from java", "from python"]

        got = await consumer.received_async(4)
        assert sorted(each["body"] for each in got) == expected
        assert {each["topic"] for each in got} == {topic}
        assert {each["properties"]["INSTANCE_ID"] for each in got} == {SPACE}

        async with inside.consumer(group, topic, start="first") as mine:
            messages = await take(mine, 4)
            assert texts(messages) == expected
            assert {each.topic for each in messages} == {each.queue.topic for each in messages} == {topic}
            assert {each.properties["INSTANCE_ID"] for each in messages} == {SPACE}
            assert topic in {queue.topic for queue in mine.queues()}
        assert [each.topic for each in await inside.query(topic, sent.msg_id)] == [topic]
        assert {queue.topic for queue in await inside.queues(topic)} == {topic}

    async with python.consumer(fresh("outside"), f"{SPACE}%{topic}", start="first") as outside:
        seen = await take(outside, 4)
        assert texts(seen) == expected
        assert {each.topic for each in seen} == {f"{SPACE}%{topic}"}


async def test_a_message_of_a_namespace_is_retried_in_it(java494: Driver, servers: Cluster) -> None:
    topic, group = fresh("space"), fresh("space-group")
    await create(java494, servers, f"{SPACE}%{topic}")
    async with (
        python_client(servers, namespace=SPACE) as inside,
        inside.consumer(group, topic, start="first") as consumer,
    ):
        await inside.send(topic, "hard")
        [first] = await consumer.fetch(wait=60)
        await first.retry(delay_level=1)
        [again] = await consumer.fetch(wait=60)
        assert (again.topic, again.reconsume_times, again.msg_id) == (topic, 1, first.msg_id)
        assert again.queue.topic == f"%RETRY%{group}"
        assert again.source.topic == f"%RETRY%{SPACE}%{group}"
        again.ack()


async def test_requests_are_answered_within_a_namespace(java494: Driver, servers: Cluster) -> None:
    topic = fresh("space")
    await create(java494, servers, f"{SPACE}%{topic}")
    async with (
        python_client(servers, namespace=SPACE) as inside,
        await java_client(java494, servers, "start_responder", namespace=SPACE, topic=topic),
    ):
        assert (await inside.request(topic, "ping", timeout=60)).body == b"PING"
    async with (
        python_client(servers, namespace=SPACE) as inside,
        python_answers(servers, topic, namespace=SPACE),
        await java_client(java494, servers, "start_producer", namespace=SPACE) as producer,
    ):
        assert (await inside.request(topic, "ping", timeout=60)).body == b"PING"
        reply = await producer.ask_async("request", **message(topic, "ping"), timeout_ms=60_000)
        assert reply["body"] == "PING"
