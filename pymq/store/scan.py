"""Reading the commit log record by record and believing none unchecked (store.md §2, §5, §12).

What the format cannot show, so that no check finds it: only the body has a checksum. A changed bit in another
field goes unseen unless it breaks a length, the record's own place, or its place in the queue: in queue id,
flag, transaction and compression bits, times, hosts, reconsumeTimes, preparedTransactionOffset, topic and
properties. Of the properties, a part that never reached the disk is recognised by its zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from zlib import crc32

import msgspec

from pymq.protocol.message import (
    BLANK_MAGIC,
    MESSAGE_MAGIC,
    MESSAGE_MAGIC_V2,
    RECORD_FIXED_SIZE,
    RECORD_HEADS,
)
from pymq.protocol.properties import PROPERTIES_MAX_LENGTH
from pymq.protocol.sysflags import HOST_MASK
from pymq.store.commitlog import BLANK_RECORD, is_torn
from pymq.store.segments import Segment, Segments
from pymq.store.store_config import END_OF_FILE_MIN_BLANK

_CHUNK = 1 << 20
_ALL = 1 << 62
RECORD_MIN_SIZE = RECORD_FIXED_SIZE + 1
"""A topic has at least one byte."""
_HEADS = tuple(Struct(f">iIIi4xqqi8x{born}xq{store}x4x8xi") for store in (8, 20) for born in (8, 20))
"""Of `RECORD_HEADS` what counts here: size, magic, body CRC, queue id, queue offset, physical offset,
sysFlag, store timestamp, body length."""
assert [head.size for head in _HEADS] == [head.size for head in RECORD_HEADS]
_HEAD_MAX = max(head.size for head in _HEADS)
_MAGICS = tuple(magic.to_bytes(4, "big") for magic in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2))
_unpack_head = _HEADS[0].unpack_from
_AROUND_BODY_MAX = _HEAD_MAX + 2 + (1 << 16) + 2 + PROPERTIES_MAX_LENGTH
"""The most that a record can have besides its body."""


def _is_bad(text: bytes) -> bool:
    """Whether long properties are too long, or part of them never reached the disk."""
    return len(text) > PROPERTIES_MAX_LENGTH or is_torn(text)


class LogRecord(msgspec.Struct, gc=False):
    """What a record says of itself, without its body. Time in ms since 1970."""

    physical_offset: int
    total_size: int
    queue_id: int
    queue_offset: int
    sys_flag: int
    store_timestamp: int
    topic: str
    text: bytes
    """The encoded properties."""


class LogScan:
    """Walks through the log's files by large reads past the mappings: there may be nothing written yet."""

    def __init__(self, segments: Segments, *, check_crc: bool) -> None:
        self.end = 0
        """Physical offset behind the last sound record; behind a blank, the start of the next file."""
        self.count = 0
        """How many records were read."""
        self._segments = segments
        self._file_bytes = segments.segment_bytes
        self._check_crc = check_crc
        self._topics: dict[bytes, str] = {}
        self._chunk = b""
        self._view = memoryview(b"")
        self._chunk_offset = 0

    @property
    def start(self) -> int:
        """Physical offset of the log's first byte."""
        return self._segments.start

    def records(self, start: int) -> Iterator[LogRecord]:
        """Give the sound records from the physical offset `start` on, up to the first place without one.

        `end` is kept along with them.
        """
        for batch in self.batches(start):
            yield from batch

    def batches(self, start: int) -> Iterator[list[LogRecord]]:
        """As `records`, many at a time; `end` is then behind the last of them."""
        self.end = start
        while (segment := self._segments.at(self.end)) is not None:
            file_end = segment.base + self._file_bytes
            self._read_chunk(segment, self.end, _CHUNK)
            batch = self._parse(self.end, file_end, _ALL)
            if not batch:
                size = self._whole_size(self.end, file_end)
                if size > len(self._chunk):
                    self._read_chunk(segment, self.end, size)
                    batch = self._parse(self.end, file_end, 1)
            if batch:
                self.count += len(batch)
                self.end = batch[-1].physical_offset + batch[-1].total_size
                yield batch
            elif self._is_blank(self.end, file_end):
                self.end = file_end
            else:
                break
        self.forget()

    def records_in(self, data: bytes, offset: int) -> list[LogRecord]:
        """The records in `data`, bytes of one file from the physical `offset` on, while they are sound."""
        self._chunk, self._view, self._chunk_offset = data, memoryview(data), offset
        found = self._parse(offset, offset - offset % self._file_bytes + self._file_bytes, _ALL)
        self.forget()
        return found

    def record_at(self, offset: int) -> LogRecord | None:
        """The record at the physical `offset`, or None when no sound one begins there."""
        segment = self._segments.at(offset)
        if segment is None:
            return None
        file_end = segment.base + self._file_bytes
        if not self._chunk_offset <= offset <= self._chunk_offset + len(self._chunk) - _HEAD_MAX:
            self._read_chunk(segment, offset, 4096)
        size = self._whole_size(offset, file_end)
        if offset + size > self._chunk_offset + len(self._chunk):
            self._read_chunk(segment, offset, size)
        found = self._parse(offset, file_end, 1) if size else []
        return found[0] if found else None

    def is_blank(self, offset: int) -> bool:
        """Whether the rest of a file is marked as blank from the physical `offset` on."""
        segment = self._segments.at(offset)
        if segment is None:
            return False
        self._read_chunk(segment, offset, BLANK_RECORD.size)
        return self._is_blank(offset, segment.base + self._file_bytes)

    def peek(self, offset: int) -> LogRecord | None:
        """As `record_at`, beside a walk that is under way."""
        kept = self._chunk, self._view, self._chunk_offset
        record = self.record_at(offset)
        self._chunk, self._view, self._chunk_offset = kept
        return record

    def next_sound(self, offset: int, limit: int) -> int | None:
        """Where the first sound record behind `offset` and before `limit` begins; None without one."""
        while offset < limit and (segment := self._segments.at(offset)) is not None:
            file_end = segment.base + self._file_bytes
            for found in self._magic_places(segment, offset + 1, min(limit, file_end)):
                if self.record_at(found) is not None:
                    return found
            if file_end < limit and self.record_at(file_end) is not None:
                return file_end
            offset = file_end
        return None

    def _magic_places(self, segment: Segment, start: int, end: int) -> Iterator[int]:
        """Where, by its magic, a record may begin."""
        for at in range(start, end, _CHUNK):
            data = segment.file.read(at - segment.base, _CHUNK + 7)
            places = set()
            for magic in _MAGICS:
                place = data.find(magic, 4)
                while place >= 0:
                    places.add(at + place - 4)
                    place = data.find(magic, place + 1)
            yield from sorted(place for place in places if place < end)

    def forget(self) -> None:
        """Let go of what was read."""
        self._chunk, self._chunk_offset = b"", 0
        self._view = memoryview(b"")

    def _read_chunk(self, segment: Segment, offset: int, size: int) -> None:
        self._chunk = segment.file.read(offset - segment.base, size)
        self._view = memoryview(self._chunk)
        self._chunk_offset = offset

    def _whole_size(self, offset: int, file_end: int) -> int:
        """What the record at `offset` says is its size, checked before it is believed; 0 when that cannot be.

        Its head must be in the chunk.
        """
        try:
            fields = _unpack_head(self._chunk, offset - self._chunk_offset)
            if fields[6] & HOST_MASK:
                head = _HEADS[(fields[6] & HOST_MASK) >> 4]
                fields = head.unpack_from(self._chunk, offset - self._chunk_offset)
        except StructError:
            return 0
        size: int = fields[0]
        is_sane = (
            (fields[1] == MESSAGE_MAGIC or fields[1] == MESSAGE_MAGIC_V2)
            and fields[5] == offset
            and RECORD_MIN_SIZE <= size <= file_end - END_OF_FILE_MIN_BLANK - offset
            and 0 <= fields[8] < size <= fields[8] + _AROUND_BODY_MAX
        )
        return size if is_sane else 0

    def _is_blank(self, offset: int, file_end: int) -> bool:
        """Whether the end of the file is marked as blank here."""
        try:
            size, magic = BLANK_RECORD.unpack_from(self._chunk, offset - self._chunk_offset)
        except StructError:
            return False
        return bool(magic == BLANK_MAGIC and size == file_end - offset)

    def _parse(self, offset: int, file_end: int, count: int) -> list[LogRecord]:
        """Up to `count` records from `offset` on that are all in the chunk and stand every check.

        Beyond Apache's checks (store.md §5): each must know its own place, its topic must be one, and no part
        of its text may be missing from the disk. A NUL elsewhere in the properties is the application's own.
        """
        # A long log is read by this: written out, no calls but those that do the work.
        chunk, view, topics, check_crc = self._chunk, self._view, self._topics, self._check_crc
        found: list[LogRecord] = []
        chunk_offset = self._chunk_offset
        data_end = min(len(chunk), file_end - END_OF_FILE_MIN_BLANK - chunk_offset)
        end = offset - chunk_offset
        try:
            while len(found) < count:
                at = end
                size, magic, crc, queue_id, number, place, sys_flag, timestamp, length = _unpack_head(
                    chunk, at
                )
                body_start = at + 88
                if sys_flag & HOST_MASK:
                    head = _HEADS[(sys_flag & HOST_MASK) >> 4]
                    timestamp, length = head.unpack_from(chunk, at)[7:]
                    body_start = at + head.size
                end = at + size
                if place != at + chunk_offset or length < 0 or end > data_end:
                    break
                body_end = body_start + length
                topic_start = body_end + 1
                topic_length = chunk[body_end]
                if magic != MESSAGE_MAGIC:
                    if magic != MESSAGE_MAGIC_V2:
                        break
                    topic_length = topic_length << 8 | chunk[topic_start]
                    topic_start += 1
                text_start = topic_start + topic_length + 2
                if text_start + (chunk[text_start - 2] << 8 | chunk[text_start - 1]) != end:
                    break
                if check_crc and crc32(view[body_start:body_end]) & 0x7FFFFFFF != crc:
                    break
                name = chunk[topic_start : text_start - 2]
                topic = topics.get(name) or self._topic(name)
                text = chunk[text_start:end]
                if not topic or (text and not text[-1]) or (len(text) >= 512 and _is_bad(text)):
                    break
                found.append(LogRecord(place, size, queue_id, number, sys_flag, timestamp, topic, text))
        except (StructError, IndexError):
            pass
        return found

    def _topic(self, name: bytes) -> str:
        """A topic's name as text; empty when no topic can be called so."""
        topic = "" if b"\0" in name else str(name, "utf-8", "replace")
        self._topics[name] = topic
        return topic
