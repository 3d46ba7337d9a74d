"""A half message: a transactional one as it waits in RMQ_SYS_TRANS_HALF_TOPIC, queue 0 (semantics.md §6.1).

Each time it is checked back it is put again at the queue's end, with new offsets. Its copies name the queue
offset that it had at first. Apache writes that name only into some of them; by what else stays the same they
are known, too.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pymq.errors import MessageIllegal, ProtocolError
from pymq.protocol import properties as names
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.properties import decode_properties, encode_properties, get_property
from pymq.protocol.sysflags import COMPRESSED, COMPRESSION_MASK
from pymq.store.messagestore import PutResult
from pymq.store.transaction_topics import HALF_TOPIC

COPY_MARKS: Final = (names.TRAN_PREPARED_QUEUE_OFFSET.encode(), names.TRANSACTION_CHECK_TIMES.encode())
"""One of them stands in each record of a half message that was put again."""
_QUEUE_ID = re.compile(r"\d{1,10}", re.ASCII)
_LONG = re.compile(r"\d{1,18}", re.ASCII)
_ADDED_LATER = 160
"""Bytes kept free in the property text for what its copies and a delay add."""

Identity = tuple[str, int, bytes, str]
"""What the copies of a half message have in common: UNIQ_KEY, born time, born host, producer group."""


class Half(msgspec.Struct, gc=False):
    """A record of the half topic, and what its properties say."""

    record: MessageRecord
    topic: str
    """Where the message goes when it is committed."""
    queue_id: int
    group: str
    """Of its producers: any of them may be asked."""
    unique_key: str
    first: int | None
    """Number that the half message had at first, where a copy tells it."""
    checks: int
    """How often producers were asked before this copy was made, and for it."""
    immunity_ms: int | None
    """No check before it is so old; None: as the broker is configured."""

    @property
    def number(self) -> int:
        """Its offset in the half queue."""
        return self.record.queue_offset

    @property
    def is_copy(self) -> bool:
        """Whether it was put again."""
        return self.checks > 0 or self.first is not None

    @property
    def identity(self) -> Identity:
        """What all copies have in common."""
        return identity_of(self.record)

    def again(self, checks: int, first: int | None) -> str:
        """Property text of the next copy. `first`: None where it is not known."""
        table = self.record.read_properties()
        if checks or names.TRANSACTION_CHECK_TIMES in table:
            table[names.TRANSACTION_CHECK_TIMES] = str(checks)
        if first is not None:
            table[names.TRAN_PREPARED_QUEUE_OFFSET] = str(first)
        return encode_properties(table)

    def is_committed_as(self, record: MessageRecord) -> bool:
        """Whether `record`, which names this one, is the message that was delivered."""
        return self.identity == identity_of(record)


def identity_of(record: MessageRecord) -> Identity:
    """What the copies of a half message, and what it is delivered or discarded as, have in common."""
    return (
        get_property(record.properties, names.UNIQ_KEY) or "",
        record.born_timestamp,
        record.born_host,
        get_property(record.properties, names.PGROUP) or "",
    )


class OpenHalf(msgspec.Struct, gc=False):
    """What is kept in memory of a half message whose transaction is open."""

    number: int
    """Of its newest copy."""
    first: int
    """Number it had at first, as far as is known."""
    physical_offset: int
    born_ms: int
    """By the producer's clock, but not later than it was stored."""
    stored_ms: int
    """When the oldest copy was stored that is known."""
    checks: int
    immunity_ms: int | None
    group: str


def open_half(half: Half) -> OpenHalf:
    """A half message that was read, as it is kept in memory."""
    record = half.record
    return OpenHalf(
        number=half.number,
        first=half.number if half.first is None else half.first,
        physical_offset=record.physical_offset,
        born_ms=min(record.born_timestamp, record.store_timestamp),
        stored_ms=record.store_timestamp,
        checks=half.checks,
        immunity_ms=half.immunity_ms,
        group=half.group,
    )


def new_open_half(result: PutResult, born_timestamp: int, properties: str) -> OpenHalf:
    """A half message that has just been stored."""
    return OpenHalf(
        number=result.queue_offset,
        first=result.queue_offset,
        physical_offset=result.physical_offset,
        born_ms=min(born_timestamp, result.store_timestamp),
        stored_ms=result.store_timestamp,
        checks=0,
        immunity_ms=_immunity_ms(properties),
        group=get_property(properties, names.PGROUP) or "",
    )


def half_properties(properties: str, topic: str, queue_id: int) -> str:
    """Property text of a half message: all that the message had, and where it goes. It keeps WAIT.

    MessageIllegal when its copies would become too long.
    """
    table = decode_properties(properties)
    for name in (names.TRANSACTION_CHECK_TIMES, names.TRAN_PREPARED_QUEUE_OFFSET):
        table.pop(name, None)  # the broker's to say; a message that is sent on may bring them along
    table[names.REAL_TOPIC] = topic
    table[names.REAL_QID] = str(queue_id)
    text = encode_properties(table)
    limit = names.PROPERTIES_MAX_LENGTH - _ADDED_LATER
    if len(text) * 3 > limit and len(text.encode("utf-8", "surrogatepass")) > limit:
        raise MessageIllegal(f"the properties of a transactional message may take {limit} bytes")
    return text


def read_half(data: bytes | None, number: int | None = None, topic: str = HALF_TOPIC) -> Half | None:
    """A record of the half topic, or of the one of discarded ones, with this number if one is given.

    None when it is gone, damaged or another's, or tells no destination.
    """
    if data is None:
        return None
    try:
        record = decode_record(data, check_crc=True)  # its copies have checksums of their own
    except ProtocolError:
        return None
    if record.topic != topic or number not in (None, record.queue_offset):
        return None
    table = record.read_properties()
    real_topic, queue_id = table.get(names.REAL_TOPIC), table.get(names.REAL_QID, "")
    if not real_topic or real_topic == HALF_TOPIC or not _QUEUE_ID.fullmatch(queue_id):
        return None
    if _is_wrongly_compressed(record):
        record.sys_flag &= ~COMPRESSED
    first = table.get(names.TRAN_PREPARED_QUEUE_OFFSET, "")
    checks = table.get(names.TRANSACTION_CHECK_TIMES, "")
    return Half(
        record,
        real_topic,
        int(queue_id),
        table.get(names.PGROUP, ""),
        table.get(names.UNIQ_KEY, ""),
        int(first) if _LONG.fullmatch(first) else None,
        int(checks) if _LONG.fullmatch(checks) else 0,
        _immunity_ms(record.properties),
    )


def _is_wrongly_compressed(record: MessageRecord) -> bool:
    """Whether the body is not what the flag says: 4.3.2 puts half messages again with their bodies unpacked.

    Committed as such a copy stands there, no consumer could read it.
    """
    if not record.sys_flag & COMPRESSED or record.sys_flag & COMPRESSION_MASK or len(record.body) < 2:
        return False
    return record.body[0] & 0xF != 8 or int.from_bytes(record.body[:2], "big") % 31 != 0  # RFC 1950, 2.2


def _immunity_ms(properties: str) -> int | None:
    text = get_property(properties, names.CHECK_IMMUNITY_TIME_IN_SECONDS)
    return int(text) * 1000 if text and _LONG.fullmatch(text) else None
