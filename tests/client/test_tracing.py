"""Message trace: what a client tells of its sends and consumers, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from pymq.client import (
    Client,
    ClientClosed,
    Message,
    MessageInvalid,
    ReceivedMessage,
    RetryLater,
    SendFailed,
    TransactionState,
)
from pymq.clock import SystemClock
from pymq.errors import ConfigError, ResponseError
from pymq.protocol import properties as names
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.trace_data import (
    TRACE_TOPIC,
    ConsumeReturnType,
    EndTransaction,
    MessageType,
    Pub,
    SubAfter,
    SubBefore,
    TraceRecord,
    decode_trace,
)
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, tagged, until

SEND = RequestCode.SEND_MESSAGE_V2
QUICK = msgspec.structs.replace(FAST, trace_linger_s=0.02, close_timeout_s=20.0)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(topics=("orders", TRACE_TOPIC, "own-trace")) as cluster:
        yield cluster


def client(cluster: FakeCluster, **options: Any) -> Client:
    """A client that is traced; what it tells is all there when it is closed."""
    given: dict[str, Any] = {"settings": QUICK, "trace": True, "producer_group": "shop"} | options
    return Client(cluster.name_servers, **given)


def trace_messages(cluster: FakeCluster, topic: str = TRACE_TOPIC) -> list[MessageRecord]:
    """The trace messages that are stored."""
    return [
        decode_record(record)
        for broker in cluster.brokers
        for (name, _), log in broker.queues.items()
        if name == topic
        for record in log
    ]


def traced(cluster: FakeCluster, topic: str = TRACE_TOPIC) -> list[TraceRecord]:
    """All that was told so far, in the order of time where there is one."""
    records: list[TraceRecord] = []
    for message in trace_messages(cluster, topic):
        data = decode_trace(message.read_body())
        assert data.unreadable == 0
        records += data.records
    return sorted(records, key=lambda record: record.time_ms or 0)


# -- sending ------------------------------------------------------------------------------------------


async def test_a_send_is_told_with_what_was_sent_and_where(cluster: FakeCluster, broker: FakeBroker) -> None:
    async with client(cluster) as mq:
        sent = await mq.send("orders", "body", tags="t", keys=["k-1", "all"])
    [told] = traced(cluster)
    assert isinstance(told, Pub)
    assert abs(told.time_ms - SystemClock().now_ms()) < 60_000
    assert 0 <= told.cost_ms < 60_000
    assert msgspec.structs.replace(told, time_ms=0, cost_ms=0) == Pub(
        0, "DefaultRegion", "shop", "orders", sent.msg_id, "t", "k-1 all", broker.address, 4, 0,
        MessageType.NORMAL, sent.offset_msg_id, True,
    )  # fmt: skip
    [message] = trace_messages(cluster)
    assert message.read_properties()[names.KEYS] == f"{sent.msg_id} k-1 all"


async def test_each_message_of_a_batch_is_told_of(cluster: FakeCluster) -> None:
    async with client(cluster) as mq:
        sent = await mq.send_batch(
            "orders", [Message("a", keys="k"), Message("bcd", tags="t")], queue=queue(0)
        )
    assert {
        (r.msg_id, r.keys, r.tags, r.body_length, r.offset_msg_id)
        for r in traced(cluster)
        if isinstance(r, Pub)
    } == {
        (sent[0].msg_id, "k", None, 1, sent[0].offset_msg_id),
        (sent[1].msg_id, None, "t", 3, sent[1].offset_msg_id),
    }


async def test_attempts_that_fail_are_told_and_so_is_the_one_that_succeeds(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.refusals[SEND] = [ResponseError(ResponseCode.SYSTEM_ERROR, "no")]
    async with client(cluster) as mq:
        sent = await mq.send("orders", "body")
    told = [(r.msg_id, r.success, r.offset_msg_id) for r in traced(cluster) if isinstance(r, Pub)]
    assert sorted(told, key=lambda each: each[1]) == [
        (sent.msg_id, False, None),
        (sent.msg_id, True, sent.offset_msg_id),
    ]


async def test_a_send_that_fails_is_told_when_a_broker_can_be_reached_again(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.refusals[SEND] = [ResponseError(ResponseCode.MESSAGE_ILLEGAL, "no")]
    async with client(cluster) as mq:
        with pytest.raises(SendFailed):
            await mq.send("orders", "body", keys="k")
    [told] = traced(cluster)
    assert isinstance(told, Pub)
    assert (told.success, told.offset_msg_id, told.keys, told.store_host) == (
        False,
        None,
        "k",
        broker.address,
    )


async def test_a_message_that_is_stored_less_safely_is_no_success(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.status = ResponseCode.FLUSH_DISK_TIMEOUT
    async with client(cluster) as mq:
        sent = await mq.send("orders", "body")
    [told] = traced(cluster)
    assert isinstance(told, Pub)
    assert (told.success, told.offset_msg_id) == (False, sent.offset_msg_id)


async def test_a_delayed_message_is_told_as_one(cluster: FakeCluster) -> None:
    async with client(cluster) as mq:
        await mq.send("orders", "body", delay_level=3)
        await mq.send("orders", "body", delay=datetime.timedelta(milliseconds=1234))
    assert [r.msg_type for r in traced(cluster) if isinstance(r, Pub)] == [MessageType.DELAY] * 2


async def test_the_ends_of_transactions_are_told(cluster: FakeCluster, broker: FakeBroker) -> None:
    async def checker(message: ReceivedMessage) -> TransactionState:
        return TransactionState.COMMIT

    async with client(cluster, transaction_checker=checker) as mq:
        with contextlib.suppress(LookupError):
            async with mq.transaction("orders", "a", tags="t", keys="k-1") as rolled_back:
                raise LookupError
        async with mq.transaction("orders", "b", keys="k-2") as asked:
            await asked.unknown()
        await until(lambda: mq.client_id in broker.producers)
        broker.check(broker.producers[mq.client_id])
        await until(lambda: len([r for r in traced(cluster) if isinstance(r, EndTransaction)]) == 3)
    records = traced(cluster)
    halves = [r.msg_id for r in records if isinstance(r, Pub) and r.msg_type == MessageType.HALF]
    assert halves == [rolled_back.transaction_id, asked.transaction_id]
    ends = {(r.msg_id, r.state, r.from_check): r for r in records if isinstance(r, EndTransaction)}
    assert ends.keys() == {
        (rolled_back.transaction_id, "ROLLBACK_MESSAGE", False),
        (asked.transaction_id, "UNKNOW", False),
        (asked.transaction_id, "COMMIT_MESSAGE", True),
    }
    told = ends[rolled_back.transaction_id, "ROLLBACK_MESSAGE", False]
    assert msgspec.structs.replace(told, time_ms=0) == EndTransaction(
        0, "DefaultRegion", "shop", "orders", rolled_back.transaction_id, "t", "k-1", broker.address,
        MessageType.COMMIT, rolled_back.transaction_id, "ROLLBACK_MESSAGE", False,
    )  # fmt: skip


async def test_a_broker_may_forbid_it(cluster: FakeCluster, broker: FakeBroker) -> None:
    """Its answer says TRACE_ON=false (traceOn in its conf file)."""
    broker.trace_on = "false"
    async with client(cluster) as mq:
        assert (await mq.send("orders", "body")).trace_on is False
    assert traced(cluster) == []


async def test_oneway_sends_are_not_told(cluster: FakeCluster, broker: FakeBroker) -> None:
    """Nobody knows how they end; Apache's clients do the same."""
    async with client(cluster) as mq:
        await mq.send_oneway("orders", "body", queue=queue(0))
        await until(lambda: len(broker.queues["orders", 0]) == 1)
    assert traced(cluster) == []


async def test_messages_of_the_trace_topic_are_not_traced(cluster: FakeCluster) -> None:
    async with client(cluster) as mq:
        await mq.send(TRACE_TOPIC, "my own", queue=queue(0, topic=TRACE_TOPIC))
        async with mq.consumer("g", TRACE_TOPIC, start="first") as consumer:
            (await consumer.receive()).ack()
    assert [message.read_body() for message in trace_messages(cluster)] == [b"my own"]


async def test_without_trace_nothing_is_told(cluster: FakeCluster, broker: FakeBroker) -> None:
    async with client(cluster, trace=False) as mq:
        await mq.send("orders", "body")
        async with mq.consumer("g", "orders", start="first") as consumer:
            (await consumer.receive()).ack()
    assert trace_messages(cluster) == []
    assert {p.group_name for beat in broker.heartbeats for p in beat.producer_data_set} == {"shop"}


# -- consuming ----------------------------------------------------------------------------------------


def ends(cluster: FakeCluster, topic: str = TRACE_TOPIC) -> list[tuple[bool, int | None]]:
    """Success and reason of everything that was handled; each must have one begin and one end."""
    records = traced(cluster, topic)
    begun = {r.request_id: r for r in records if isinstance(r, SubBefore)}
    ended = {r.request_id: r for r in records if isinstance(r, SubAfter)}
    assert begun.keys() == ended.keys()
    for request_id, before in begun.items():
        after = ended[request_id]
        assert (before.msg_id, before.keys, before.group) == (after.msg_id, after.keys, after.group)
        assert before.time_ms <= (after.time_ms or 0)
    return [(r.success, r.context_code) for r in ended.values()]


async def test_a_message_that_is_handled_is_told_at_its_begin_and_its_end(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    properties = tagged("t", KEYS="k-1 all", UNIQ_KEY="ID", MSG_REGION="east")
    broker.put("orders", 0, b"x", properties, reconsume_times=2)
    async with (
        client(cluster) as mq,
        mq.consumer("billing", "orders", start="first") as consumer,
        (await consumer.receive()).process(),
    ):
        await asyncio.sleep(0.02)
    before, after = traced(cluster)
    assert isinstance(before, SubBefore)
    assert isinstance(after, SubAfter)
    assert (before.region, before.group, before.msg_id, before.retry_times, before.keys) == (
        "east", "billing", "ID", 2, "k-1 all",
    )  # fmt: skip
    assert (after.group, after.msg_id, after.keys) == ("billing", "ID", "k-1 all")
    assert 15 <= after.cost_ms < 60_000
    assert ends(cluster) == [(True, ConsumeReturnType.SUCCESS)]


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_how_the_handling_ends_is_told(cluster: FakeCluster, broker: FakeBroker, order: Any) -> None:
    for queue_id in range(3):
        broker.put("orders", queue_id, str(queue_id).encode())
    async with client(cluster) as mq, mq.consumer("g", "orders", start="first", order=order) as consumer:
        for _ in range(3):
            async with (message := await consumer.receive()).process():
                match message.body:
                    case b"0":
                        raise RetryLater
                    case b"1":
                        raise ValueError("no")
        for message in await consumer.fetch(wait=0):
            message.ack()
    assert set(ends(cluster)) >= {
        (False, ConsumeReturnType.FAILED),
        (False, ConsumeReturnType.EXCEPTION),
        (True, ConsumeReturnType.SUCCESS),
    }


async def test_what_takes_longer_than_the_consume_time_out_is_told_as_that(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.put("orders", 0, b"x")
    async with (
        client(cluster) as mq,
        mq.consumer("g", "orders", start="first", consume_timeout=0.05) as consumer,
    ):
        message = await consumer.receive()
        await until(lambda: message.is_settled)
    assert ends(cluster) == [(False, ConsumeReturnType.TIME_OUT)]


async def test_a_handling_that_is_cancelled_is_told_as_given_back(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.put("orders", 0, b"x")
    async with client(cluster) as mq, mq.consumer("g", "orders", start="first") as consumer:

        async def handle(message: ReceivedMessage) -> None:
            async with message.process():
                await asyncio.sleep(60)

        task = asyncio.ensure_future(handle(await consumer.receive()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert ends(cluster) == [(False, ConsumeReturnType.RETURNNULL)]


async def test_a_handling_without_end_is_told_at_its_begin(cluster: FakeCluster, broker: FakeBroker) -> None:
    broker.put("orders", 0, b"x")
    async with client(cluster) as mq, mq.consumer("g", "orders", start="first") as consumer:
        await consumer.receive()
    assert [type(record) for record in traced(cluster)] == [SubBefore]


async def test_a_message_that_says_no_to_it_is_not_traced(cluster: FakeCluster, broker: FakeBroker) -> None:
    broker.put("orders", 0, b"x", "TRACE_ON\x01false")
    async with client(cluster) as mq, mq.consumer("g", "orders", start="first") as consumer:
        (await consumer.receive()).ack()
    assert traced(cluster) == []


async def test_plain_functions_that_settle_in_their_thread_are_traced(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    for index in range(8):
        broker.put("orders", index % 4, b"x")
    done: list[str] = []

    def handle(messages: list[ReceivedMessage]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        for message in messages:
            message.ack()
        done.extend(message.msg_id for message in messages)

    async with client(cluster) as mq:
        task = asyncio.ensure_future(mq.consume("g", "orders", handle, batch=4, start="first"))
        await until(lambda: len(done) == 8)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert ends(cluster) == [(True, ConsumeReturnType.SUCCESS)] * 8


async def test_a_consumer_is_traced_by_itself_and_to_a_topic_of_its_own(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    async with client(cluster, trace=False) as mq:
        await mq.send("orders", "body")
        async with mq.consumer("g", "orders", start="first", trace="own-trace") as consumer:
            (await consumer.receive()).ack()
        async with mq.consumer("untraced", "orders", start="first") as consumer:
            (await consumer.receive()).ack()
    assert ends(cluster, "own-trace") == [(True, ConsumeReturnType.SUCCESS)]
    assert trace_messages(cluster) == []


async def test_a_consumer_of_a_traced_client_may_be_left_out(cluster: FakeCluster) -> None:
    async with client(cluster, trace="own-trace") as mq:
        await mq.send("orders", "body")
        async with mq.consumer("g", "orders", start="first", trace=False) as consumer:
            (await consumer.receive()).ack()
    assert [type(record) for record in traced(cluster, "own-trace")] == [Pub]


async def test_names_are_told_without_the_namespace_and_the_trace_topic_is_in_none() -> None:
    async with FakeCluster(topics=("N%orders", "own-trace")) as cluster:
        async with client(cluster, namespace="N", trace="own-trace") as mq:
            await mq.send("orders", "body")
            async with mq.consumer("g", "orders", start="first") as consumer:
                (await consumer.receive()).ack()
        records = traced(cluster, "own-trace")
        assert {(r.topic, r.group) for r in records if isinstance(r, Pub)} == {("orders", "shop")}
        assert {r.group for r in records if isinstance(r, SubBefore | SubAfter)} == {"g"}


# -- on the way ---------------------------------------------------------------------------------------


async def test_many_records_go_in_few_messages(cluster: FakeCluster) -> None:
    async with client(cluster, settings=msgspec.structs.replace(QUICK, trace_linger_s=60.0)) as mq:
        sent = [await mq.send("orders", "x", keys=f"k-{index}") for index in range(100)]
        assert trace_messages(cluster) == []
    [message] = trace_messages(cluster)
    keys = message.read_properties()[names.KEYS].split()
    assert set(keys) == {s.msg_id for s in sent} | {f"k-{index}" for index in range(100)}
    assert len(traced(cluster)) == 100


async def test_a_record_does_not_wait_for_long(cluster: FakeCluster) -> None:
    async with client(cluster) as mq:
        await mq.send("orders", "x")
        await until(lambda: len(traced(cluster)) == 1)
        await mq.send("orders", "x")
        await until(lambda: len(traced(cluster)) == 2)


async def test_a_full_message_goes_at_once_and_none_is_too_long(cluster: FakeCluster) -> None:
    settings = msgspec.structs.replace(QUICK, trace_linger_s=60.0, trace_message_bytes=2000)
    async with client(cluster, settings=settings) as mq:
        for index in range(100):
            await mq.send("orders", "x", keys=f"键-{index}")
        await until(lambda: len(trace_messages(cluster)) >= 3)
    sizes = [len(message.read_body()) for message in trace_messages(cluster)]
    assert max(sizes) <= 2000
    assert len(sizes) < 50
    assert len(traced(cluster)) == 100


async def test_many_keys_make_more_messages_and_too_many_are_left_out(cluster: FakeCluster) -> None:
    """A message's properties have a limit; its id stays what it is found by."""
    long = " ".join(f"{index:07}" for index in range(1500))  # 12 kB
    most = " ".join(f"{index:07}" for index in range(4000))  # 32 kB
    async with client(cluster, settings=msgspec.structs.replace(QUICK, trace_linger_s=60.0)) as mq:
        sent = [await mq.send("orders", "x", keys=keys) for keys in (long, long + " x", long + " y", most)]
    assert [r.msg_id for r in traced(cluster)] == [s.msg_id for s in sent]
    found = [message.read_properties()[names.KEYS].split() for message in trace_messages(cluster)]
    assert len(found) == 3
    assert all(any(s.msg_id in keys for keys in found) for s in sent)
    assert max(len(" ".join(keys)) for keys in found) <= 30_000


async def test_sends_do_not_wait_for_the_trace_and_what_is_lost_is_said_once(
    cluster: FakeCluster, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    settings = msgspec.structs.replace(QUICK, trace_records=5, trace_timeout_s=60.0, close_timeout_s=0.2)
    async with client(cluster, settings=settings) as mq:
        await mq.send("orders", "x")
        broker.deaf_to = TRACE_TOPIC
        for _ in range(20):
            await mq.send("orders", "x")
    lost = [r.getMessage() for r in caplog.records if r.name == "pymq.client.trace"]
    assert lost[0].endswith("lost: 5 were waiting to be sent already")
    assert len(lost) == 2  # when it began, and the rest at the end
    counts = [int(line.removeprefix("message trace: ").split()[0]) for line in lost]
    assert sum(counts) == 21 - len(traced(cluster))
    assert all(record.levelno == logging.WARNING for record in caplog.records if "dropped" in record.message)


async def test_a_trace_that_is_refused_says_why(
    cluster: FakeCluster, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(cluster) as mq:
        await mq.send("orders", "x")
        broker.refusals[SEND] = [ResponseError(ResponseCode.TOPIC_NOT_EXIST, "no topic")] * 9
    [line] = [r.getMessage() for r in caplog.records if r.name == "pymq.client.trace"]
    assert line.startswith(f"message trace: 1 record is lost: sending to topic '{TRACE_TOPIC}' failed")
    assert line.endswith("A broker makes the trace topic with traceTopicEnable=true in its conf file")


async def test_closing_sends_what_is_left_and_what_comes_later_harms_nobody(cluster: FakeCluster) -> None:
    async with client(cluster, settings=msgspec.structs.replace(QUICK, trace_linger_s=60.0)) as mq:
        await mq.send("orders", "x")
        consumer = mq.consumer("g", "orders", start="first")
        await consumer.start()
        message = await consumer.receive()
    message.ack()
    with pytest.raises(ClientClosed):
        await mq.send("orders", "x")
    assert [type(record) for record in traced(cluster)] == [Pub, SubBefore]


async def test_traces_are_sent_by_a_group_of_their_own(cluster: FakeCluster, broker: FakeBroker) -> None:
    async with client(cluster, producer_group="g" * 255) as mq:
        await mq.send("orders", "x")
        await until(lambda: len(traced(cluster)) == 1)
    groups = {p.group_name for beat in broker.heartbeats for p in beat.producer_data_set}
    [own] = groups - {"g" * 255}
    assert own.startswith("_INNER_TRACE_PRODUCER-ggg")
    assert len(own) == 255


@pytest.mark.parametrize("trace", [1, None, b"t"])
def test_an_option_that_is_none_is_refused(trace: Any) -> None:
    with pytest.raises(ConfigError, match="trace="):
        Client("127.0.0.1:9876", trace=trace)


@pytest.mark.parametrize("trace", ["", "no topic", "x" * 200])
async def test_a_trace_topic_that_cannot_be_is_refused(trace: str) -> None:
    with pytest.raises(MessageInvalid, match="topic"):
        Client("127.0.0.1:9876", trace=trace)
    with pytest.raises(MessageInvalid, match="topic"):
        Client("127.0.0.1:9876").consumer("g", "orders", trace=trace)
