"""Putting together what traced clients told of a message."""

from __future__ import annotations

import random

import msgspec
import pytest

from pymq.client import Client
from pymq.client.message_trace import MessageTrace, Told, TraceEvent, TraceResult, TraceStep, put_together
from pymq.errors import ResponseError, TransportError
from pymq.protocol import properties as names
from pymq.protocol.codes import RequestCode
from pymq.protocol.trace_data import (
    TRACE_TOPIC,
    ConsumeReturnType,
    EndTransaction,
    MessageType,
    Pub,
    Recall,
    SubAfter,
    SubBefore,
    TraceRecord,
    encode_trace,
)
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster

PUB = Pub(1000, "east", "shop", "orders", "ID", "t", "k all", "b:1", 4, 3, MessageType.NORMAL, "OFF", True)
HOST = "10.0.0.1"


def told(*records: TraceRecord, client: str = HOST, stored_ms: int = 5000) -> list[Told]:
    return [Told(record, client, stored_ms) for record in records]


def trace(*records: TraceRecord, key: str = "ID") -> MessageTrace:
    [found] = put_together(key, told(*records))
    return found


def before(request: str, time_ms: int, retries: int = 0, group: str = "g", msg_id: str = "ID") -> SubBefore:
    return SubBefore(time_ms, None, group, request, msg_id, retries, "k all")


def after(request: str, time_ms: int | None, code: int | None = 0, msg_id: str = "ID") -> SubAfter:
    group = None if time_ms is None else "g"
    return SubAfter(request, msg_id, 7, code == ConsumeReturnType.SUCCESS, "k all", code, time_ms, group)


def test_a_life_is_told_in_the_order_of_time() -> None:
    found = trace(
        after("r2", 1307), before("r2", 1300, retries=1), before("r1", 1010), after("r1", 1017, 4), PUB
    )
    assert (found.msg_id, found.topic, found.tags, found.keys) == ("ID", "orders", "t", ("k", "all"))
    assert found.steps == (
        TraceStep(
            TraceEvent.SEND, 1000, "shop", HOST, "b:1", 3, TraceResult.OK, message_type=0, offset_msg_id="OFF"
        ),
        TraceStep(TraceEvent.CONSUME, 1010, "g", HOST, None, 7, TraceResult.LATER, 1),
        TraceStep(TraceEvent.CONSUME, 1300, "g", HOST, None, 7, TraceResult.OK, 2),
    )  # fmt: skip


def test_attempts_to_send_are_told_by_what_became_of_them() -> None:
    failed = msgspec.structs.replace(PUB, success=False, offset_msg_id=None, time_ms=900)
    unsafe = msgspec.structs.replace(PUB, success=False, time_ms=950)
    results = [step.result for step in trace(PUB, failed, unsafe).steps]
    assert results == [TraceResult.FAILED, TraceResult.NOT_SAFE, TraceResult.OK]


def test_what_a_listener_answered_is_told() -> None:
    codes = [*ConsumeReturnType, 77, None]
    records = [r for i, code in enumerate(codes) for r in (before(f"r{i}", i), after(f"r{i}", i + 1, code))]
    assert [step.result for step in trace(*records).steps] == [
        TraceResult.OK,
        TraceResult.TIME_OUT,
        TraceResult.EXCEPTION,
        TraceResult.NO_RESULT,
        TraceResult.LATER,
        TraceResult.FAILED,
        TraceResult.FAILED,
    ]


def test_a_consume_without_end_and_one_without_begin() -> None:
    begun, ended = trace(before("r1", 1010), after("r2", 2017)).steps
    assert (begun.result, begun.took_ms, begun.attempt) == (None, None, 1)
    assert (ended.time_ms, ended.took_ms, ended.attempt, ended.result) == (2010, 7, None, TraceResult.OK)


def test_before_4_8_an_end_has_no_time_but_that_of_its_telling() -> None:
    assert [step.time_ms for step in trace(after("r", None)).steps] == [5000 - 7]
    assert [step.group for step in trace(before("r", 1010), after("r", None)).steps] == ["g"]


def test_transactions_and_cancelling_are_told() -> None:
    end = EndTransaction(1005, "east", "shop", "orders", "ID", "t", "k", "b:1", 2, "ID", "UNKNOW", False)
    checked = msgspec.structs.replace(end, time_ms=7000, state="COMMIT_MESSAGE", from_check=True)
    unheard = msgspec.structs.replace(end, time_ms=8000, state="LATER")
    recall = Recall(9000, "east", "shop", "orders", "ID", False)
    steps = trace(
        msgspec.structs.replace(PUB, msg_type=MessageType.HALF), end, checked, unheard, recall
    ).steps
    assert [(step.event, step.result, step.from_check) for step in steps] == [
        (TraceEvent.SEND, TraceResult.OK, None),
        (TraceEvent.END_TRANSACTION, TraceResult.UNKNOWN, False),
        (TraceEvent.END_TRANSACTION, TraceResult.COMMIT, True),
        (TraceEvent.END_TRANSACTION, None, False),
        (TraceEvent.CANCEL, TraceResult.FAILED, None),
    ]


def test_an_id_means_its_message_alone_and_a_key_all_that_have_it() -> None:
    other = msgspec.structs.replace(PUB, msg_id="OTHER", keys="ID all", time_ms=500)
    stranger = msgspec.structs.replace(PUB, msg_id="STRANGER", keys=None)
    records = told(PUB, other, stranger, before("r", 1010))
    assert [found.msg_id for found in put_together("ID", records)] == ["ID"]
    assert [found.msg_id for found in put_together("all", records)] == ["OTHER", "ID"]
    assert put_together("none", records) == []


def test_a_client_says_itself_who_it_is_where_its_version_does() -> None:
    pub = msgspec.structs.replace(PUB, client_host="10.9.9.9")
    begin = msgspec.structs.replace(before("r", 1010), client_host="10.8.8.8")
    assert [step.client for step in trace(pub, begin).steps] == ["10.9.9.9", "10.8.8.8"]


def test_a_message_whose_sending_was_not_traced() -> None:
    found = trace(before("r", 1010), after("r", 1017))
    assert (found.topic, found.tags, found.keys) == (None, None, ("k", "all"))


RECORDS: list[TraceRecord] = [
    PUB,
    msgspec.structs.replace(PUB, time_ms=900, success=False, offset_msg_id=None),
    before("r1", 1010), after("r1", 1017, 4), before("r2", 1300, 1), after("r2", 1307),
    before("r3", 1010, group="h"), after("r3", 1010),
    EndTransaction(1000, None, "shop", "orders", "ID", None, None, "b:1", 2, "ID", "COMMIT_MESSAGE", False),
]  # fmt: skip


def test_the_order_in_which_it_is_found_does_not_matter() -> None:
    shuffle = random.Random(7).shuffle
    in_order = sorted(map(repr, trace(*RECORDS).steps))
    for _ in range(50):
        records = list(RECORDS)
        shuffle(records)
        steps = trace(*records).steps
        assert sorted(map(repr, steps)) == in_order
        times = [step.time_ms for step in steps]
        assert times == sorted(times)
        begin = [TraceEvent.SEND, TraceEvent.SEND, TraceEvent.END_TRANSACTION]
        assert [step.event for step in steps][:3] == begin


def put(broker: FakeBroker, *records: TraceRecord, keys: str = "ID k all", topic: str = TRACE_TOPIC) -> None:
    broker.put(topic, 0, encode_trace(records).encode(), names.encode_properties({names.KEYS: keys}))


async def test_traces_are_found_on_all_brokers_and_those_that_are_silent_are_named() -> None:
    async with (
        FakeCluster(brokers=2, topics=(TRACE_TOPIC, "orders", "%DLQ%g")) as cluster,
        Client(cluster.name_servers, settings=FAST) as mq,
    ):
        first, second = cluster.brokers
        put(first, PUB)
        put(second, before("r", 1010), after("r", 1017, 4))
        put(second, before("r", 1010), after("r", 1017, 4))  # a trace message that was sent twice
        first.put("orders", 2, b"body", "UNIQ_KEY\x01ID")
        second.put("%DLQ%g", 0, b"body", "UNIQ_KEY\x01ID")
        [found] = await mq.traces("ID")
        assert [(step.event, step.group) for step in found.steps] == [
            (TraceEvent.DEAD_LETTER, "g"),  # stored at 0 of the broker's clock
            (TraceEvent.SEND, "shop"),
            (TraceEvent.CONSUME, "g"),
        ]
        assert [(copy.topic, copy.broker, copy.queue_id, copy.size) for copy in found.stored] == [
            ("orders", "broker-a", 2, 4),
            ("%DLQ%g", "broker-b", 0, 4),
        ]
        assert (found.silent, found.is_cut, found.unreadable) == ((), False, 0)

        second.refusals[RequestCode.QUERY_MESSAGE] = [ResponseError(1, "no")] * 9
        [found] = await mq.traces("ID")
        assert [step.event for step in found.steps] == [TraceEvent.SEND]
        assert found.silent == ("broker-b",)

        second.refusals.clear()
        second.silent.add(RequestCode.QUERY_MESSAGE)
        [found] = await mq.traces("ID", timeout=4.0)
        assert found.silent == ("broker-b",)

        await second.stop()
        assert (await mq.traces("ID"))[0].silent == ("broker-b",)
        await first.stop()
        with pytest.raises(TransportError):
            await mq.traces("ID")


async def test_of_many_messages_with_a_key_the_newest_are_told_of() -> None:
    pubs = [msgspec.structs.replace(PUB, msg_id=f"ID-{n}", time_ms=n, topic="orders") for n in range(70)]
    async with (
        FakeCluster(topics=(TRACE_TOPIC, "orders")) as cluster,
        Client(cluster.name_servers, settings=FAST) as mq,
    ):
        put(cluster.brokers[0], *pubs)
        found = await mq.traces("all")
        assert [each.msg_id for each in found] == [f"ID-{n}" for n in range(6, 70)]
        assert {each.is_cut for each in found} == {True}
        assert await mq.traces("none") == []


async def test_what_cannot_be_read_is_counted() -> None:
    async with (
        FakeCluster(topics=(TRACE_TOPIC, "orders")) as cluster,
        Client(cluster.name_servers, settings=FAST) as mq,
    ):
        [broker] = cluster.brokers
        put(broker, PUB)
        broker.put(TRACE_TOPIC, 0, b"no zlib", "KEYS\x01ID", sys_flag=1)
        broker.put(TRACE_TOPIC, 0, b"Pub\x01x\x02Future\x01\x02", "KEYS\x01ID")
        [found] = await mq.traces("ID")
        assert found.unreadable == 3
        assert len(found.steps) == 1
