"""Message trace, written by Java and read by Python, and the reverse, on pymq's servers and on Apache's."""

from __future__ import annotations

from typing import Any

import pytest

import pymq
from pymq.client import MessageTrace, TraceEvent, TraceResult
from pymq.protocol.trace_data import (
    TRACE_TOPIC,
    EndTransaction,
    MessageType,
    Pub,
    SubAfter,
    SubBefore,
    TraceRecord,
    decode_trace,
)
from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client

JAVA_TYPES = {
    MessageType.NORMAL: "Normal_Msg",
    MessageType.HALF: "Trans_Msg_Half",
    MessageType.COMMIT: "Trans_msg_Commit",
    MessageType.DELAY: "Delay_Msg",
}
SEND, CONSUME, END = TraceEvent.SEND, TraceEvent.CONSUME, TraceEvent.END_TRANSACTION


@pytest.fixture(scope="module")
def java(java_drivers: JavaDrivers) -> Driver:
    return java_drivers("4.9.4")


async def trace_of(mq: pymq.Client, key: str, steps: int) -> MessageTrace:
    """The trace of the one message with an id or key, once it has so many steps that have ended."""
    found: list[MessageTrace] = []

    async def has_come() -> bool:
        try:
            found[:] = await mq.traces(key)
        except pymq.RouteNotFound:
            return False
        ended = [step for step in found[0].steps if step.result is not None] if len(found) == 1 else []
        return len(ended) >= steps

    await eventually(f"{steps} steps of {key} are traced", has_come, 90)
    return found[0]


def told(trace: MessageTrace) -> list[tuple[Any, ...]]:
    """What happened: event, group, attempt and result of each step, by group and time."""
    steps = [(step.event, step.group, step.attempt, step.result) for step in trace.steps]
    return sorted(steps, key=lambda step: (step[0] is not SEND, step[1] or ""))


async def test_python_reads_what_java_traced(java: Driver, servers: Cluster) -> None:
    topic, group, key = fresh("traced"), fresh("tracing"), fresh("key")
    common = {"namesrv": servers.namesrv, "trace": True}
    consuming = {"topic": topic, "group": group, "from": "FIRST_OFFSET", "later_until": 1, "later_level": 1}
    async with (
        python_client(servers) as mq,
        await java.start_async("start_producer", group="shop", **common) as producer,
    ):
        [sent] = await producer.send_async(message(topic, "body", tags="t", keys=f"{key} all"))
        async with await java.start_async("start_consumer", **consuming, **common) as consumer:
            await consumer.received_async(2)
            trace = await trace_of(mq, sent["msg_id"], 3)
        assert told(trace) == [
            (SEND, "shop", None, TraceResult.OK),
            (CONSUME, group, 1, TraceResult.LATER),
            (CONSUME, group, 2, TraceResult.OK),
        ]
        assert (trace.topic, trace.tags, trace.keys) == (topic, "t", (key, "all"))
        assert trace.unreadable == 0
        assert trace.steps[0].offset_msg_id == sent["offset_msg_id"]
        assert trace.steps[0].broker == servers.broker.address
        [copy] = trace.stored
        assert (copy.topic, copy.size, copy.offset_msg_id) == (topic, 4, sent["offset_msg_id"])
        assert (await mq.traces(key))[0].msg_id == sent["msg_id"]


async def test_java_reads_what_python_traced(java: Driver, servers: Cluster) -> None:
    topic, good, bad, key = fresh("traced"), fresh("good"), fresh("bad"), fresh("key")
    async with python_client(servers, producer_group="shop", trace=True) as mq:
        sent = await mq.send(topic, "body", tags="t", keys=[key, "键"])
        await mq.send(topic, "later", delay_level=1)
        async with (
            mq.consumer(good, topic, start="first") as consumer,
            mq.consumer(bad, topic, start="first") as failing,
        ):
            await take_one(consumer, sent.msg_id)
            async with (await take_one(failing, sent.msg_id, ack=False)).process():
                raise pymq.RetryLater(delay_level=-1)
        trace = await trace_of(mq, sent.msg_id, 3)
        assert set(told(trace)) == {
            (SEND, "shop", None, TraceResult.OK),
            (CONSUME, bad, 1, TraceResult.LATER),
            (TraceEvent.DEAD_LETTER, bad, None, None),
            (CONSUME, good, 1, TraceResult.OK),
        }
        await assert_java_reads(java, mq, sent.msg_id, {Pub, SubBefore, SubAfter})
    printed = await java.ask_async(
        "mqadmin",
        command="message.QueryMsgTraceByIdSubCommand",
        args=["-i", sent.msg_id],
        namesrv=servers.namesrv,
    )
    rows = {(*line.split()[:3], line.split()[-1]) for line in printed.splitlines() if line}
    assert ("Pub", "shop", "127.0.0.1", "success") in rows
    assert ("Sub", good, "127.0.0.1", "success") in rows
    assert ("Sub", bad, "127.0.0.1", "failed") in rows


async def take_one(consumer: pymq.Consumer, msg_id: str, ack: bool = True) -> pymq.ReceivedMessage:
    """The message with this id; what else comes is acknowledged."""
    while True:
        received = await consumer.receive()
        if received.msg_id != msg_id or ack:
            received.ack()
        if received.msg_id == msg_id:
            return received


async def assert_java_reads(java: Driver, mq: pymq.Client, key: str, kinds: set[type]) -> None:
    """Java's decoder finds in each trace message with this key just what Python's finds."""
    seen = set()
    for found in await mq.query(TRACE_TOPIC, key):
        data = decode_trace(found.body)
        assert data.unreadable == 0
        read = await java.ask_async("decode_trace", text=found.body.decode())
        for record, by_java in zip(data.records, read, strict=True):
            wanted = as_java_reads(record)
            assert {name: by_java[name] for name in wanted} == wanted
        seen |= {type(record) for record in data.records}
    assert seen >= kinds


def as_java_reads(record: TraceRecord) -> dict[str, str]:
    """What Java's getters give for a record."""
    fields: dict[str, object] = {"TraceType": type(record).__name__, "MsgId": record.msg_id}
    match record:
        case Pub() | EndTransaction():
            fields |= {"Topic": record.topic, "Tags": record.tags, "StoreHost": record.store_host}
            fields |= {"RegionId": record.region, "MsgType": JAVA_TYPES[MessageType(record.msg_type)]}
    match record:
        case Pub():
            fields |= {"BodyLength": record.body_length, "CostTime": record.cost_ms}
            fields |= {"OffsetMsgId": record.offset_msg_id, "Success": record.success}
        case SubBefore():
            fields |= {"RegionId": record.region, "RetryTimes": record.retry_times}
            fields |= {"RequestId": record.request_id}
        case SubAfter():
            fields |= {"CostTime": record.cost_ms, "Success": record.success, "RequestId": record.request_id}
            fields |= {"ContextCode": record.context_code}
        case EndTransaction():
            fields |= {"TransactionId": record.transaction_id, "TransactionState": record.state}
            fields |= {"FromTransactionCheck": record.from_check}
    if not hasattr(record, "keys"):
        raise AssertionError(f"4.9.4 has no record {record}")
    fields |= {"Keys": record.keys, "TimeStamp": record.time_ms, "GroupName": record.group}
    return {name: _java_text(value) for name, value in fields.items()}


def _java_text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


async def test_ends_of_transactions_are_read_by_both(java: Driver, servers: Cluster) -> None:
    topic, key = fresh("traced"), fresh("key")
    common = {"namesrv": servers.namesrv, "trace": True}
    async with (
        python_client(servers, producer_group=fresh("deals"), trace=True) as mq,
        await java.start_async("start_transactions", group="java-deals", **common) as producer,
    ):
        asked = [message(topic, "body", keys=key, local=word) for word in ("COMMIT", "ROLLBACK")]
        sent = await producer.ask_async("send_in_transaction", messages=asked)
        for each, result in zip(sent, (TraceResult.COMMIT, TraceResult.ROLLBACK), strict=True):
            trace = await trace_of(mq, each["msg_id"], 2)
            assert told(trace) == [
                (SEND, "java-deals", None, TraceResult.OK),
                (END, "java-deals", None, result),
            ]
            assert trace.steps[0].message_type == MessageType.HALF
            assert trace.steps[1].from_check is False
        async with mq.transaction(topic, "body", keys=key) as committed:
            pass
        with pytest.raises(LookupError):
            async with mq.transaction(topic, "body", keys=key) as rolled_back:
                raise LookupError
        for each, result in ((committed, TraceResult.COMMIT), (rolled_back, TraceResult.ROLLBACK)):
            trace = await trace_of(mq, each.transaction_id, 2)
            assert [step.result for step in trace.steps] == [TraceResult.OK, result]
            assert trace.steps[1].transaction_id == each.transaction_id
            await assert_java_reads(java, mq, each.transaction_id, {Pub, EndTransaction})
