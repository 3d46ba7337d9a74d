"""What clients write of a message's life into the trace topic (semantics.md §8.2).

A trace message's body is text: records ended by `\\x02`, fields joined by `\\x01`, what is absent as `null`.
Versions differ in how many fields a record has. Here it is written as 4.9.4 does, and read as all from 4.4 to
5.3 do. Source: TraceDataEncoder.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

TRACE_TOPIC = "RMQ_SYS_TRACE_TOPIC"
"""Where traces go unless a client says otherwise."""

FIELD_SEPARATOR = "\x01"
RECORD_END = "\x02"

_ABSENT = "null"


class MessageType(enum.IntEnum):
    """What kind of message was sent. Numbers from later versions are kept as they are."""

    NORMAL = 0
    HALF = 1
    COMMIT = 2
    DELAY = 3
    ORDER = 4


class ConsumeReturnType(enum.IntEnum):
    """How a listener took a message (contextCode)."""

    SUCCESS = 0
    TIME_OUT = 1
    """It took longer than consumeTimeout."""
    EXCEPTION = 2
    RETURNNULL = 3
    """It gave no answer."""
    FAILED = 4
    """It asked for the message to come again later."""


class Pub(msgspec.Struct, frozen=True):
    """A message was sent.

    Attributes:
        time_ms: when that began, ms since 1970 by the client's clock.
        region: the broker's regionId, None when it told none.
        group: the producer group, without namespace.
        topic: the topic, without namespace.
        msg_id: the message's UNIQ_KEY.
        tags: its tag.
        keys: its keys, blanks between them.
        store_host: the broker's `host:port`.
        body_length: bytes of the body as it went out, so perhaps compressed.
        cost_ms: how long that took.
        msg_type: a MessageType, or a later version's number.
        offset_msg_id: the broker's id of it; None in records of 13 fields, and when it was not stored.
        success: whether it was stored as safely as asked for.
        client_host: who sent it, in records of 15 fields (4.8) only.
    """

    time_ms: int
    region: str | None
    group: str | None
    topic: str | None
    msg_id: str
    tags: str | None
    keys: str | None
    store_host: str | None
    body_length: int
    cost_ms: int
    msg_type: int
    offset_msg_id: str | None
    success: bool
    client_host: str | None = None


class SubBefore(msgspec.Struct, frozen=True):
    """A consumer begins to handle a message.

    Attributes:
        time_ms: when, ms since 1970 by the client's clock.
        region: as the message says, which brokers write into it from 5.0 on.
        group: the consumer group, without namespace.
        request_id: joins this record to the SubAfter.
        msg_id: the message's UNIQ_KEY.
        retry_times: how often the group has failed with it before.
        keys: its keys, blanks between them.
        client_host: who handles it, in records of 9 fields (4.8) only.
    """

    time_ms: int
    region: str | None
    group: str | None
    request_id: str
    msg_id: str
    retry_times: int
    keys: str | None
    client_host: str | None = None


class SubAfter(msgspec.Struct, frozen=True):
    """A consumer has handled a message.

    Attributes:
        request_id: as in its SubBefore.
        msg_id: the message's UNIQ_KEY.
        cost_ms: how long that took; of a batch, the time of all divided by their number.
        success: whether it was acknowledged.
        keys: its keys, blanks between them.
        context_code: a ConsumeReturnType; None in records of 6 fields.
        time_ms: when it ended; None in records of 7 fields or fewer (before 4.8), as is the group.
        group: the consumer group.
    """

    request_id: str
    msg_id: str
    cost_ms: int
    success: bool
    keys: str | None
    context_code: int | None
    time_ms: int | None
    group: str | None


class EndTransaction(msgspec.Struct, frozen=True):
    """A producer said how a transaction ends (since 4.9).

    Attributes:
        time_ms, region, group, topic, msg_id, tags, keys, store_host: as in Pub.
        msg_type: MessageType.COMMIT, whatever the state.
        transaction_id: the transaction's id.
        state: COMMIT_MESSAGE, ROLLBACK_MESSAGE or UNKNOW.
        from_check: whether the broker had asked.
    """

    time_ms: int
    region: str | None
    group: str | None
    topic: str | None
    msg_id: str
    tags: str | None
    keys: str | None
    store_host: str | None
    msg_type: int
    transaction_id: str | None
    state: str
    from_check: bool


class Recall(msgspec.Struct, frozen=True):
    """A producer cancelled a timed message (since 5.3).

    Attributes:
        time_ms, region, group, topic, msg_id: as in Pub.
        success: whether the broker did it.
    """

    time_ms: int
    region: str | None
    group: str | None
    topic: str | None
    msg_id: str
    success: bool


TraceRecord = Pub | SubBefore | SubAfter | EndTransaction | Recall


class TraceData(msgspec.Struct, frozen=True):
    """What a trace message says: its records, and how many in it are none that can be read here."""

    records: list[TraceRecord]
    unreadable: int


def encode_trace(records: Iterable[TraceRecord]) -> str:
    """Write records as 4.9.4 does. None and empty texts become `null`: Java cannot read an empty last field.

    The caller sees to it that no text holds `\\x01` or `\\x02`; no message property can.
    """
    return "".join([_encode(record) for record in records])


def _encode(r: TraceRecord) -> str:
    """One record. Written out by kind: this is done for every message that is traced."""
    match r:
        case Pub():
            return (
                f"Pub\x01{r.time_ms}\x01{r.region or _ABSENT}\x01{r.group or _ABSENT}\x01{r.topic or _ABSENT}"
                f"\x01{r.msg_id}\x01{r.tags or _ABSENT}\x01{r.keys or _ABSENT}\x01{r.store_host or _ABSENT}"
                f"\x01{r.body_length}\x01{r.cost_ms}\x01{int(r.msg_type)}\x01{r.offset_msg_id or _ABSENT}"
                f"\x01{_word(r.success)}\x02"
            )
        case SubBefore():
            return (
                f"SubBefore\x01{r.time_ms}\x01{r.region or _ABSENT}\x01{r.group or _ABSENT}\x01{r.request_id}"
                f"\x01{r.msg_id}\x01{r.retry_times}\x01{r.keys or _ABSENT}\x02"
            )
        case SubAfter():
            reason = "" if r.context_code is None else f"\x01{int(r.context_code)}"
            when = "" if r.time_ms is None else f"\x01{r.time_ms}\x01{r.group or _ABSENT}"
            return (
                f"SubAfter\x01{r.request_id}\x01{r.msg_id}\x01{r.cost_ms}\x01{_word(r.success)}"
                f"\x01{r.keys or _ABSENT}{reason}{when if reason else ''}\x02"
            )
        case EndTransaction():
            return (
                f"EndTransaction\x01{r.time_ms}\x01{r.region or _ABSENT}\x01{r.group or _ABSENT}"
                f"\x01{r.topic or _ABSENT}\x01{r.msg_id}\x01{r.tags or _ABSENT}\x01{r.keys or _ABSENT}"
                f"\x01{r.store_host or _ABSENT}\x01{int(r.msg_type)}\x01{r.transaction_id or _ABSENT}"
                f"\x01{r.state}\x01{_word(r.from_check)}\x02"
            )
        case Recall():
            return (
                f"Recall\x01{r.time_ms}\x01{r.region or _ABSENT}\x01{r.group or _ABSENT}"
                f"\x01{r.topic or _ABSENT}\x01{r.msg_id}\x01{_word(r.success)}\x02"
            )


def _word(value: bool) -> str:
    return "true" if value else "false"


def decode_trace(body: bytes) -> TraceData:
    """Read a trace message's body. Raises nothing: records that are damaged, or of a kind unknown here, are
    counted."""
    records: list[TraceRecord] = []
    unreadable = 0
    for text in body.decode(errors="replace").split(RECORD_END):
        if not text:
            continue
        try:
            records.append(_decode(text.split(FIELD_SEPARATOR)))
        except (ValueError, IndexError):
            unreadable += 1
    return TraceData(records, unreadable)


def _decode(f: list[str]) -> TraceRecord:
    """Read a record's fields. ValueError or IndexError when they are not what its kind has."""
    match f[0]:
        case "Pub":
            place = 12 if len(f) == 13 else 13
            return Pub(
                int(f[1]), _text(f[2]), _text(f[3]), _text(f[4]), f[5], _text(f[6]), _text(f[7]), _text(f[8]),
                int(f[9]), int(f[10]), int(f[11]),
                offset_msg_id=None if len(f) == 13 else _text(f[12]),
                success=_bool(f[place]),
                client_host=_text(f[14]) if len(f) > 14 else None,
            )  # fmt: skip
        case "SubBefore":
            host = _text(f[8]) if len(f) > 8 else None
            return SubBefore(int(f[1]), _text(f[2]), _text(f[3]), f[4], f[5], int(f[6]), _text(f[7]), host)
        case "SubAfter":
            return SubAfter(
                f[1], f[2], int(f[3]), _bool(f[4]), _text(f[5]),
                context_code=int(f[6]) if len(f) > 6 else None,
                time_ms=int(f[7]) if len(f) > 8 else None,
                group=_text(f[8]) if len(f) > 8 else None,
            )  # fmt: skip
        case "EndTransaction":
            return EndTransaction(
                int(f[1]), _text(f[2]), _text(f[3]), _text(f[4]), f[5], _text(f[6]), _text(f[7]), _text(f[8]),
                int(f[9]), _text(f[10]), f[11], _bool(f[12]),
            )  # fmt: skip
        case "Recall":
            return Recall(int(f[1]), _text(f[2]), _text(f[3]), _text(f[4]), f[5], _bool(f[6]))
        case kind:
            raise ValueError(f"no kind of trace record: {kind}")


def _text(field: str) -> str | None:
    return None if field in ("", _ABSENT) else field


def _bool(field: str) -> bool:
    """As Java's Boolean.parseBoolean."""
    return field.lower() == "true"


def trace_keys(record: TraceRecord) -> list[str]:
    """What the record is to be found by: the message's id, and its keys."""
    keys = None if isinstance(record, Recall) else record.keys
    return [*record.msg_id.split(), *(keys or "").split()]
