"""Namespaces: what brokers see, and what the user is told (semantics.md §12.11)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pymq.client import Client, Message, MessageQueue
from pymq.client.namespace import NO_NAMESPACE, Namespace
from pymq.errors import ConfigError, ResponseError
from pymq.protocol.headers.groups import UnregisterClientRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    PullMessageRequest,
    SendBatchMessageRequest,
    SendMessageRequestV2,
)
from pymq.protocol.message import decode_record
from pymq.protocol.properties import decode_properties
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until

SPACE = "MQ_INST_1"


@pytest.mark.parametrize(
    ("plain", "wrapped"),
    [
        ("orders", "N%orders"),
        ("%RETRY%group", "%RETRY%N%group"),
        ("%DLQ%group", "%DLQ%N%group"),
        ("a|b_c-9", "N%a|b_c-9"),
        ("X%orders", "N%X%orders"),
        ("TBW102", "TBW102"),
        ("SCHEDULE_TOPIC_XXXX", "SCHEDULE_TOPIC_XXXX"),
        ("BenchmarkTest", "BenchmarkTest"),
        ("RMQ_SYS_TRACE_TOPIC", "RMQ_SYS_TRACE_TOPIC"),
        ("rmq_sys_wheel_timer", "rmq_sys_wheel_timer"),
        ("CID_RMQ_SYS_TRANS", "CID_RMQ_SYS_TRANS"),
        ("", ""),
    ],
)
def test_names_are_wrapped_as_java_does_it(plain: str, wrapped: str) -> None:
    """As NamespaceUtil.wrapNamespace and withoutNamespace(resource, namespace)."""
    space = Namespace("N")
    assert space.wrap(plain) == wrapped
    assert space.wrap(wrapped) == wrapped
    assert space.unwrap(wrapped) == plain
    assert NO_NAMESPACE.wrap(plain) == NO_NAMESPACE.unwrap(plain) == plain


@pytest.mark.parametrize("name", ["Other%orders", "%RETRY%Other%group", "orders", "Norders", "NN%orders"])
def test_what_is_in_no_or_another_namespace_stays_as_it_is(name: str) -> None:
    assert Namespace("N").unwrap(name) == name


@pytest.mark.parametrize("name", ["a%b", "a b", "ü", "a|b", "x" * 101, "a\n"])
def test_a_namespace_that_could_not_be_told_from_what_follows_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="namespace="):
        Client("127.0.0.1:9876", namespace=name)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(topics=(f"{SPACE}%orders", f"%RETRY%{SPACE}%g")) as cluster:
        yield cluster


@pytest.fixture
async def mq(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.name_servers, settings=FAST, namespace=SPACE, producer_group="p") as client:
        yield client


async def test_in_every_way_of_sending_brokers_see_the_namespace_and_users_do_not(
    broker: FakeBroker, mq: Client
) -> None:
    queues = await mq.queues("orders")
    assert {queue.topic for queue in queues} == {"orders"}
    results = [await mq.send("orders", "a"), await mq.send("orders", "b", queue=queues[1])]
    results.append(await mq.send_nowait("orders", "c"))
    await mq.send_oneway("orders", "d", queue=MessageQueue(f"{SPACE}%orders", "broker-a", 0))
    results += await mq.send_batch("orders", [Message("e"), Message("f")], queue=queues[2])
    results.append(await mq.send(f"{SPACE}%orders", "g"))
    assert {result.queue.topic for result in results} == {"orders"}
    await until(lambda: len(broker.requests(SendMessageRequestV2)) == 5)
    for header in broker.requests(SendMessageRequestV2) + broker.requests(SendBatchMessageRequest):
        assert (header.topic, header.producer_group) == (f"{SPACE}%orders", f"{SPACE}%p")
    for queue_id in range(4):
        for record in broker.queues[f"{SPACE}%orders", queue_id]:
            assert decode_record(record).read_properties()["INSTANCE_ID"] == SPACE
    await until(lambda: any(beat.producer_data_set for beat in broker.heartbeats))
    [producer] = next(beat.producer_data_set for beat in broker.heartbeats if beat.producer_data_set)
    assert producer.group_name == f"{SPACE}%p"


async def test_a_consumer_s_names_are_wrapped_and_its_messages_are_told_without(
    broker: FakeBroker, mq: Client
) -> None:
    broker.put(f"{SPACE}%orders", 0, b"x", "TAGS\x01t")
    retried = f"RETRY_TOPIC\x01{SPACE}%orders"
    broker.put(f"%RETRY%{SPACE}%g", 0, b"again", retried, reconsume_times=1)
    async with mq.consumer("g", "orders", tags="t", start="first") as consumer:
        got = {message.body: message for message in [await consumer.receive(), await consumer.receive()]}
        assert {message.topic for message in got.values()} == {"orders"}
        assert got[b"x"].queue == MessageQueue("orders", "broker-a", 0)
        assert got[b"x"].source == MessageQueue(f"{SPACE}%orders", "broker-a", 0)
        assert got[b"again"].queue.topic == "%RETRY%g"
        assert {queue.topic for queue in consumer.queues()} == {"orders", "%RETRY%g"}
        got[b"x"].ack()
        await got[b"again"].retry()
        # what it hands back goes to the group as brokers know it
        [back] = broker.requests(ConsumerSendMsgBackRequest)
        assert (back.group, back.origin_topic) == (f"{SPACE}%g", f"{SPACE}%orders")
        [data] = next(beat.consumer_data_set for beat in broker.heartbeats if beat.consumer_data_set)
        assert data.group_name == f"{SPACE}%g"
        topics = {subscription.topic for subscription in data.subscription_data_set}
        assert topics == {f"{SPACE}%orders", f"%RETRY%{SPACE}%g"}
        assert {pull.consumer_group for pull in broker.requests(PullMessageRequest)} == {f"{SPACE}%g"}
        await until(lambda: broker.offsets.get((f"{SPACE}%g", f"{SPACE}%orders", 0)) == 1)
    assert f"{SPACE}%g" in {header.consumer_group for header in broker.requests(UnregisterClientRequest)}


async def test_a_message_that_no_broker_takes_back_keeps_its_topic(broker: FakeBroker, mq: Client) -> None:
    """It is sent to the retry topic anew, where RETRY_TOPIC has to be the name that brokers know."""
    broker.refusals[ConsumerSendMsgBackRequest.code] = [ResponseError(1, "no")]
    broker.put(f"{SPACE}%orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await consumer.receive()
        await message.retry()
        [anew] = broker.requests(SendMessageRequestV2)
        assert anew.topic == f"%RETRY%{SPACE}%g"
        assert decode_properties(anew.properties or "")["RETRY_TOPIC"] == f"{SPACE}%orders"
        async with asyncio.timeout(30):
            again = await consumer.receive()
        assert (again.topic, again.body) == ("orders", b"x")
