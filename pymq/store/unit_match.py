"""Whether a unit of a queue and a record of the commit log belong together (store.md §2, §3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as StructError
from zlib import crc32

from pymq.protocol.message import MESSAGE_MAGIC, MESSAGE_MAGIC_V2, RECORD_HEADS
from pymq.protocol.sysflags import HOST_MASK
from pymq.store.consumequeue import ConsumeQueue
from pymq.store.scan import RECORD_MIN_SIZE

Unit = tuple[int, int, int]
"""Physical offset, size and tags code."""

_HEAD = Struct(">iIIi4xqqi44xi")
"""Of a record with IPv4 hosts: size, magic, body CRC, queue id, queue offset, physical offset, sysFlag, body
length."""
_unpack_head = _HEAD.unpack_from
_unpack_short = Struct(">H").unpack_from
_BODY_START = _HEAD.size
assert RECORD_HEADS[0].size == _BODY_START


def stands_for(queue: ConsumeQueue, number: int, physical: int, data: bytes) -> bool:
    """Whether `data` is one whole record, the one of this number of the queue, from this physical offset.

    Its body must have the record's checksum, and its parts its size.
    """
    if len(data) < RECORD_MIN_SIZE:
        return False
    size, magic, crc, queue_id, queue_offset, place, sys_flag, length = _unpack_head(data)
    if (size, queue_id, queue_offset, place) != (len(data), queue.queue_id, number, physical):
        return False
    start = _BODY_START
    if sys_flag & HOST_MASK:
        start = RECORD_HEADS[(sys_flag & HOST_MASK) >> 4].size
        if size < start:
            return False
        length = int.from_bytes(data[start - 4 : start], "big", signed=True)
    if length < 0:
        return False
    topic_field = queue.topic_field
    if magic == MESSAGE_MAGIC_V2:
        topic_field = b"\0" + topic_field  # its length takes two bytes there
    text_start = start + length + len(topic_field) + 2
    return (
        magic in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2)
        and text_start <= size
        and data.startswith(topic_field, start + length)
        and text_start + (data[text_start - 2] << 8 | data[text_start - 1]) == size
        and crc32(data[start : start + length]) & 0x7FFFFFFF == crc
    )


def all_stand(
    queue: ConsumeQueue, numbers: Iterable[int], units: Iterable[Unit], records: Sequence[bytes]
) -> bool:
    """Whether each of the records is the one of its number and unit."""
    # Written out, with `stands_for` for what is rare: consumers that catch up come here for each message.
    queue_id, topic_field = queue.queue_id, queue.topic_field
    behind_body = _BODY_START + len(topic_field)
    for number, (physical, _, _), data in zip(numbers, units, records, strict=True):
        try:
            size, magic, crc, record_queue_id, queue_offset, place, _, length = _unpack_head(data)
            text_length = _unpack_short(data, behind_body + length)[0]
        except StructError:
            text_length = -1
        if (
            text_length < 0
            or queue_offset != number
            or place != physical
            or size != len(data)
            or behind_body + length + 2 + text_length != size
            or magic != MESSAGE_MAGIC
            or record_queue_id != queue_id
            or not data.startswith(topic_field, _BODY_START + length)
            or length < 0
            or crc32(data[_BODY_START : _BODY_START + length]) & 0x7FFFFFFF != crc
        ) and not stands_for(queue, number, physical, data):
            return False
    return True


def number_of(queue: ConsumeQueue, physical: int, data: bytes) -> int | None:
    """The number that a record from this physical offset has in the queue; None when it is none of it."""
    if len(data) < RECORD_MIN_SIZE:
        return None
    number: int = _unpack_head(data)[4]
    return number if stands_for(queue, number, physical, data) else None
