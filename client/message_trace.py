"""The life of a message, put together from the trace records of all that had to do with it."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterable

import msgspec

from pymq.client.received import ReceivedMessage
from pymq.client.search import Search
from pymq.errors import PymqError
from pymq.protocol.message import UnreadableBody
from pymq.protocol.trace_data import (
    ConsumeReturnType,
    EndTransaction,
    MessageType,
    Pub,
    Recall,
    SubAfter,
    SubBefore,
    TraceRecord,
    decode_trace,
    trace_keys,
)

DEAD_LETTER_TOPIC_PREFIX = "%DLQ%"

TRACE_MESSAGES_MAX = 64
"""Brokers give no more for a key (maxMsgsNumBatch)."""

_MESSAGES_MAX = 64
"""So many messages are told of, that have a key in common: the newest."""


class TraceEvent(enum.StrEnum):
    """What happened to a message."""

    SEND = "send"
    END_TRANSACTION = "end transaction"
    CONSUME = "consume"
    DEAD_LETTER = "dead letter"
    CANCEL = "cancel"


class TraceResult(enum.StrEnum):
    """How that ended."""

    OK = "ok"
    NOT_SAFE = "not safe"
    """Stored, but the broker could not do all that it is to do for its safety."""
    FAILED = "failed"
    LATER = "later"
    """The consumer asked for the message to come again later."""
    EXCEPTION = "exception"
    TIME_OUT = "time-out"
    """It was handled for longer than the consume time-out, and is to come again."""
    NO_RESULT = "no result"
    """Java: the listener returned null; Python: its handling was given up half-way."""
    COMMIT = "commit"
    ROLLBACK = "rollback"
    UNKNOWN = "unknown"


class TraceStep(msgspec.Struct, frozen=True):
    """One thing that happened to a message.

    Attributes:
        event: what.
        time_ms: when it began, ms since 1970, by the clock of who tells it: the client; of a dead letter, the
            broker.
        group: the producer or consumer group.
        client: the address of who did it; None of a dead letter.
        broker: where: the broker's `host:port`, or of a dead letter its name; None when that is not told.
        took_ms: how long it took; of messages that Java handled together, the part of one. None when that is
            not known, or when it has not ended.
        result: how it ended; None when nothing is known of that.
        attempt: of a consume, which one of its group this was, from 1 on.
        message_type: of a send, a MessageType (or a later version's number).
        transaction_id, from_check: of the end of a transaction; whether the broker had asked.
        offset_msg_id: of a send, the broker's id of the message.
    """

    event: TraceEvent
    time_ms: int
    group: str | None
    client: str | None
    broker: str | None = None
    took_ms: int | None = None
    result: TraceResult | None = None
    attempt: int | None = None
    message_type: int | None = None
    transaction_id: str | None = None
    from_check: bool | None = None
    offset_msg_id: str | None = None


class StoredCopy(msgspec.Struct, frozen=True):
    """Where a message is stored.

    Attributes:
        topic, broker, queue_id, queue_offset: its place.
        offset_msg_id: the broker's id of it.
        store_timestamp: since when, ms since 1970 by the broker's clock.
        size: bytes of its body as it is stored.
    """

    topic: str
    broker: str
    queue_id: int
    queue_offset: int
    offset_msg_id: str
    store_timestamp: int
    size: int


class MessageTrace(msgspec.Struct, frozen=True):
    """What is known of a message.

    Attributes:
        msg_id: its id.
        topic: where it was sent to; None when its sending was not traced.
        tags, keys: its own.
        stored: where it is stored; empty when it is stored no more, or its topic is not known.
        steps: what happened to it, in the order of time. Clients' clocks may differ.
        unreadable: how many records, or trace messages as a whole, could not be read; they may be of others.
        is_cut: whether there may be more: the brokers gave as many trace messages as they give at most.
        silent: names of brokers that did not answer: what they have is missing here.
    """

    msg_id: str
    topic: str | None
    tags: str | None
    keys: tuple[str, ...]
    stored: tuple[StoredCopy, ...]
    steps: tuple[TraceStep, ...]
    unreadable: int = 0
    is_cut: bool = False
    silent: tuple[str, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """A trace record, and of the message that it came in: who sent it (the address), when it was stored."""

    record: TraceRecord
    client: str
    store_timestamp: int


class MessageTraces:
    """Finds the traces of messages."""

    def __init__(self, search: Search) -> None:
        self._search = search

    async def find(self, key: str, trace_topic: str, timeout_s: float) -> list[MessageTrace]:
        """What is known of the message with the id `key`; or else of those with the key, the oldest first.

        `trace_topic` as brokers call it. Raises as `Client.query`, but does without single brokers.
        """
        silent: set[str] = set()
        async with asyncio.timeout(timeout_s):
            found = await self._search.find_named(
                trace_topic, key, TRACE_MESSAGES_MAX, None, None, timeout_s, silent
            )
            told: dict[TraceRecord, Told] = {}  # what was stored twice is told once
            unreadable = 0
            for message in found:
                try:
                    data = decode_trace(message.body)
                except UnreadableBody:  # a compression that is none of ours
                    unreadable += 1
                    continue
                unreadable += data.unreadable
                client = message.born_host.rpartition(":")[0]
                for record in data.records:
                    told.setdefault(record, Told(record, client, message.store_timestamp))
            traces = put_together(key, told.values())
            is_cut = len(found) >= TRACE_MESSAGES_MAX or len(traces) > _MESSAGES_MAX
            completing = [self._complete(trace, timeout_s / 2, silent) for trace in traces[-_MESSAGES_MAX:]]
            completed = await asyncio.gather(*completing)
        common = {"unreadable": unreadable, "is_cut": is_cut, "silent": tuple(sorted(silent))}
        return [msgspec.structs.replace(each, **common) for each in completed]

    async def _complete(self, trace: MessageTrace, timeout_s: float, silent: set[str]) -> MessageTrace:
        """Add what brokers know of the message itself: where it is, and among whose dead letters."""
        failed = {
            step.group
            for step in trace.steps
            if step.event is TraceEvent.CONSUME and step.result is not TraceResult.OK
        }
        groups = sorted(filter(None, failed))
        topics = [DEAD_LETTER_TOPIC_PREFIX + group for group in groups] + list(filter(None, [trace.topic]))
        asking = [self._copies(topic, trace.msg_id, timeout_s, silent) for topic in topics]
        found = await asyncio.gather(*asking)
        dead = [
            TraceStep(TraceEvent.DEAD_LETTER, copy.store_timestamp, group, None, copy.queue.broker_name)
            for group, copies in zip(groups, found, strict=False)
            for copy in copies
        ]
        return msgspec.structs.replace(
            trace,
            stored=tuple(_stored(copy) for copies in reversed(found) for copy in copies),
            steps=tuple(sorted((*trace.steps, *dead), key=_when)),
        )

    async def _copies(
        self, topic: str, msg_id: str, timeout_s: float, silent: set[str]
    ) -> list[ReceivedMessage]:
        """The stored copies of a message in a topic; none when the topic, or a broker, is not there."""
        try:
            return await self._search.find(topic, msg_id, TRACE_MESSAGES_MAX, None, None, timeout_s, silent)
        except (PymqError, TimeoutError):
            return []


def put_together(key: str, told: Iterable[Told]) -> list[MessageTrace]:
    """The traces of the message with the id `key`, or else of those that have it among their keys."""
    by_id: dict[str, list[Told]] = {}
    for each in told:
        if key in trace_keys(each.record):
            by_id.setdefault(each.record.msg_id, []).append(each)
    if key in by_id:
        by_id = {key: by_id[key]}
    traces = [_trace(msg_id, parts) for msg_id, parts in by_id.items()]
    return sorted(traces, key=lambda trace: trace.steps[0].time_ms)


def _trace(msg_id: str, told: list[Told]) -> MessageTrace:
    begun: dict[str, tuple[SubBefore, str]] = {}
    ended: dict[str, tuple[SubAfter, Told]] = {}
    steps: list[TraceStep] = []
    for each in told:
        match each.record:
            case SubBefore() as record:
                begun[record.request_id] = (record, each.client)
            case SubAfter() as record:
                ended[record.request_id] = (record, each)
            case Pub() as record:
                steps.append(_sent(record, each.client))
            case EndTransaction() as record:
                steps.append(_transaction_ended(record, each.client))
            case Recall() as record:
                result = TraceResult.OK if record.success else TraceResult.FAILED
                steps.append(
                    TraceStep(TraceEvent.CANCEL, record.time_ms, record.group, each.client, result=result)
                )
    for request_id, (before, client) in begun.items():
        after, _ = ended.pop(request_id, (None, None))
        steps.append(_consumed(before, after, client))
    steps += [_consumed_without_begin(after, each) for after, each in ended.values()]
    about = [each.record for each in told if isinstance(each.record, Pub | EndTransaction)]
    keys = [each.record.keys for each in told if not isinstance(each.record, Recall)]
    return MessageTrace(
        msg_id,
        next(filter(None, [record.topic for record in about]), None),
        next(filter(None, [record.tags for record in about]), None),
        tuple(next(filter(None, keys), "").split()),
        (),
        tuple(sorted(steps, key=_when)),
    )


def _when(step: TraceStep) -> tuple[int, int]:
    """By time, and at the same time in the order that things must have."""
    return step.time_ms, list(TraceEvent).index(step.event)


def _sent(record: Pub, client: str) -> TraceStep:
    result = TraceResult.OK
    if not record.success:
        result = TraceResult.NOT_SAFE if record.offset_msg_id else TraceResult.FAILED
    kinds = set(MessageType)
    return TraceStep(
        TraceEvent.SEND,
        record.time_ms,
        record.group,
        record.client_host or client,
        record.store_host,
        record.cost_ms,
        result,
        message_type=MessageType(record.msg_type) if record.msg_type in kinds else record.msg_type,
        offset_msg_id=record.offset_msg_id,
    )


_STATES = {
    "COMMIT_MESSAGE": TraceResult.COMMIT,
    "ROLLBACK_MESSAGE": TraceResult.ROLLBACK,
    "UNKNOW": TraceResult.UNKNOWN,
}


def _transaction_ended(record: EndTransaction, client: str) -> TraceStep:
    return TraceStep(
        TraceEvent.END_TRANSACTION,
        record.time_ms,
        record.group,
        client,
        record.store_host,
        result=_STATES.get(record.state),
        transaction_id=record.transaction_id,
        from_check=record.from_check,
    )


def _consumed(before: SubBefore, after: SubAfter | None, client: str) -> TraceStep:
    return TraceStep(
        TraceEvent.CONSUME,
        before.time_ms,
        before.group,
        before.client_host or client,
        took_ms=None if after is None else after.cost_ms,
        result=None if after is None else _result(after),
        attempt=before.retry_times + 1,
    )


def _consumed_without_begin(after: SubAfter, told: Told) -> TraceStep:
    """A consume whose begin was lost. Before 4.8 its end has no time: it was before it was told."""
    ended_ms = told.store_timestamp if after.time_ms is None else after.time_ms
    began_ms = ended_ms - after.cost_ms
    return TraceStep(
        TraceEvent.CONSUME, began_ms, after.group, told.client, took_ms=after.cost_ms, result=_result(after)
    )


_FAILURES: dict[int | None, TraceResult] = {
    ConsumeReturnType.TIME_OUT: TraceResult.TIME_OUT,
    ConsumeReturnType.EXCEPTION: TraceResult.EXCEPTION,
    ConsumeReturnType.RETURNNULL: TraceResult.NO_RESULT,
    ConsumeReturnType.FAILED: TraceResult.LATER,
}


def _result(after: SubAfter) -> TraceResult:
    if after.success:
        return TraceResult.OK
    return _FAILURES.get(after.context_code, TraceResult.FAILED)


def _stored(copy: ReceivedMessage) -> StoredCopy:
    return StoredCopy(
        copy.queue.topic,
        copy.queue.broker_name,
        copy.queue.queue_id,
        copy.queue_offset,
        copy.offset_msg_id,
        copy.store_timestamp,
        len(copy.record.body),
    )
