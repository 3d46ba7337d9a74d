"""A batch on its way into the log: records whose place is not known yet (store.md §2).

The records are made first, as many at a time as the owner likes. Then all are put at once, and only their
places and the time are filled in. So a batch of very many messages stops its owner for no long time, and yet
it is in the log whole or not at all.
"""

from __future__ import annotations

import sys
from array import array
from collections import deque
from collections.abc import Iterator
from itertools import accumulate, count, repeat
from struct import Struct
from struct import error as StructError
from typing import Final
from zlib import crc32

import msgspec

from pymq.errors import MessageIllegal
from pymq.protocol.message import (
    MESSAGE_MAGIC,
    PROPERTIES_LENGTH,
    QUEUE_OFFSET_POSITION,
    RECORD_FIXED_SIZE,
    batch_parts,
)
from pymq.protocol.properties import PROPERTIES_MAX_LENGTH, PROPERTY_SEPARATOR, TAGS, get_property
from pymq.protocol.tag_filter import tags_code
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.limits import check_limits

SLICE: Final = 2048
"""So many records are made in one go: some milliseconds."""

_SEPARATOR: Final = PROPERTY_SEPARATOR.encode()
_TAGS: Final = TAGS.encode()
_pack_length = PROPERTIES_LENGTH.pack


class Batch:
    """Messages for one queue, as records. `add` makes them, `MessageStore.put_batch` puts them, once.

    Attributes:
        sizes: of each record, bytes.
        tags_codes: of each message.
        properties: of each, encoded.
    """

    def __init__(
        self,
        topic: str,
        queue_id: int,
        *,
        max_body: int,
        sys_flag: int,
        born_timestamp: int,
        born_host: bytes,
        store_host: bytes,
        reconsume_times: int,
    ) -> None:
        """`sys_flag`: with the bits of the hosts, without a transaction's. MessageIllegal."""
        self.topic = topic
        self.queue_id = queue_id
        self.sys_flag = sys_flag
        self.sizes: list[int] = []
        self.tags_codes: list[int] = []
        self.properties: list[bytes] = []
        name = topic.encode()
        self._topic_field = bytes((len(name),)) + name
        self._fixed_size = RECORD_FIXED_SIZE - 16 + len(born_host) + len(store_host) + len(name)
        self._max_body = max_body
        self._slices: list[bytes] = []
        # Fields in the order of RECORD_HEADS; those that `placed` fills in are left out here.
        self._front = Struct(f">iIIii{16 + 12 + len(born_host) + 8}x{len(store_host) + 12}si")
        self._place = Struct(f">qq{12 + len(born_host)}sq")
        try:
            self._origin = Struct(">iq").pack(sys_flag, born_timestamp) + born_host
            self._behind_time = store_host + Struct(">iq").pack(reconsume_times, 0)
        except StructError as e:
            raise MessageIllegal(f"a field of the batch does not fit the record: {e}") from None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return sum(self.sizes)

    def add(self, block: bytes, shared: str = "") -> Iterator[None]:
        """Make the records of a batch block, a slice for each step. MessageIllegal: throw the batch away.

        `shared`: property text that each message gets behind its own.
        """
        try:
            more = shared.encode()
        except UnicodeEncodeError:
            raise MessageIllegal("the properties hold half a UTF-16 pair") from None
        sizes, tags, texts = self.sizes, self.tags_codes, self.properties
        parts: list[bytes] = []
        pack_front, behind_time = self._front.pack, self._behind_time
        queue_id, topic, fixed, max_body = self.queue_id, self._topic_field, self._fixed_size, self._max_body
        for number, (flag, body, text) in enumerate(batch_parts(block), 1):
            if not text.isascii():
                text = str(text, "utf-8", "replace").encode()
            if more:
                text = (text if not text or text[-1:] == _SEPARATOR else text + _SEPARATOR) + more
            body_length, text_length = len(body), len(text)
            if body_length > max_body or text_length > PROPERTIES_MAX_LENGTH or b"\0" in text:
                check_limits(body, text.decode(), text, max_body)
            size = fixed + body_length + text_length
            parts += (
                pack_front(
                    size, MESSAGE_MAGIC, crc32(body) & 0x7FFFFFFF, queue_id, flag, behind_time, body_length
                ),
                body,
                topic,
                _pack_length(text_length),
                text,
            )
            sizes.append(size)
            tags.append(tags_code(get_property(text.decode(), TAGS)) if _TAGS in text else 0)
            texts.append(text)
            if number % SLICE == 0:
                self._slices.append(b"".join(parts))
                parts.clear()
                yield
        self._slices.append(b"".join(parts))

    def placed(self, physical_offset: int, queue_offset: int, timestamp: int) -> tuple[bytearray, list[int]]:
        """All records for this place, its first queue offset and store time; and where each begins."""
        records = bytearray().join(self._slices)
        self._slices.clear()
        starts = list(accumulate(self.sizes[:-1], initial=physical_offset))
        positions = [start - physical_offset + QUEUE_OFFSET_POSITION for start in starts]
        fields = (
            repeat(records),
            positions,
            count(queue_offset),
            starts,
            repeat(self._origin),
            repeat(timestamp),
        )
        deque(map(self._place.pack_into, *fields), maxlen=0)  # a loop without a step of the interpreter
        return records, starts

    def units(self, starts: list[int]) -> bytearray:
        """The queue units of the records that begin at these physical offsets (CQ_STORE_UNIT)."""
        units = bytearray(CQ_STORE_UNIT_SIZE * len(starts))
        position = 0
        for column in (array("q", starts), array("i", self.sizes), array("q", self.tags_codes)):
            if sys.byteorder == "little":
                column.byteswap()
            data, width = column.tobytes(), column.itemsize
            for byte in range(width):  # a column's bytes side by side: no call for each unit
                units[position + byte :: CQ_STORE_UNIT_SIZE] = data[byte::width]
            position += width
        return units


class BatchResult(msgspec.Struct, gc=False):
    """Where the messages of a batch were stored."""

    physical_offsets: list[int]
    end_offset: int
    """Physical offset behind the last record: once `MessageStore.flushed` reached it, all are on the disk."""
    queue_offset: int
    """The first one's; those of the others follow it."""
    store_timestamp: int
    store_host_hex: str

    @property
    def offset_msg_ids(self) -> str:
        """The broker's ids of the messages, joined by commas."""
        offsets = array("q", self.physical_offsets)
        if sys.byteorder == "little":
            offsets.byteswap()
        numbers = offsets.tobytes().hex(",", offsets.itemsize).upper()
        return self.store_host_hex + numbers.replace(",", "," + self.store_host_hex)
