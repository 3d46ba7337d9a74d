"""Going through a commit log from file to file, over damage too: what stands where, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

import msgspec

from pymq.errors import ProtocolError
from pymq.protocol.message import (
    BLANK_MAGIC,
    MESSAGE_MAGIC,
    MESSAGE_MAGIC_V2,
    RECORD_FIXED_SIZE,
    MessageRecord,
    body_crc,
    decode_record,
)
from pymq.store.commitlog import BLANK_RECORD, looks_torn
from pymq.store.inspection.files import Range
from pymq.store.store_config import END_OF_FILE_MIN_BLANK

_CHUNK = 1 << 20
_MAGICS: Final = (MESSAGE_MAGIC.to_bytes(4, "big"), MESSAGE_MAGIC_V2.to_bytes(4, "big"))
_MAGIC_POSITION = 4
_SIZE = Struct(">i")
_NOTHING = bytes(END_OF_FILE_MIN_BLANK)


class Damage(msgspec.Struct, gc=False):
    """Bytes that are no sound record: from `offset` up to the next sound one, or to the end of the file."""

    offset: int
    end: int
    reason: str


class Blank(msgspec.Struct, gc=False):
    """The rest of a full file."""

    offset: int
    end: int


class End(msgspec.Struct, gc=False):
    """No sound record follows. `leftover`: how the bytes behind `offset` look if they are not all zero."""

    offset: int
    leftover: str


Found = MessageRecord | Blank | Damage | End


class LogReader:
    """Records by their physical offset. Reads by large pieces, of which it keeps one."""

    def __init__(self, log: Range) -> None:
        self._log = log
        self._chunk, self._chunk_offset = b"", 0

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, all of one file."""
        start = offset - self._chunk_offset
        if start < 0 or start + size > len(self._chunk):
            self._chunk, self._chunk_offset, start = self._log.read(offset, max(size, _CHUNK)), offset, 0
        return self._chunk[start : start + size]

    def examine(self, offset: int) -> MessageRecord | str:
        """The record at the physical `offset`, or what is wrong with what stands there.

        The checks are those of recovery (`CommitLog.sound_record`), body CRC included.
        """
        file = self._log.at(offset)
        if file is None:
            return "lies in no file of the commit log"
        head = self.bytes_at(offset, BLANK_RECORD.size)
        room = file.base + file.size - offset - END_OF_FILE_MIN_BLANK
        if room < RECORD_FIXED_SIZE or len(head) < BLANK_RECORD.size:
            return "too near to the end of the file for a record"
        size, magic = BLANK_RECORD.unpack(head)
        if magic not in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2):
            return f"no record begins here: magic is 0x{magic:08X}"
        if not RECORD_FIXED_SIZE <= size <= room:
            return f"impossible length {size:,}: {RECORD_FIXED_SIZE} to {room:,} were possible here"
        try:
            record = decode_record(self.bytes_at(offset, size))
        except ProtocolError as e:
            return str(e).replace("the message record at 0 ", "the record ")
        return _fault(record, offset) or record

    def next_sound(self, offset: int, limit: int) -> int | None:
        """The first physical offset from `offset` to `limit`, in one file, at which a sound record begins."""
        at = offset + _MAGIC_POSITION
        while at < limit:
            data = self._log.read(at, min(_CHUNK, limit - at))
            if len(data) < len(_MAGICS[0]):
                return None
            for found in sorted(_occurrences(data)):
                candidate = at + found - _MAGIC_POSITION
                if isinstance(self.examine(candidate), MessageRecord):
                    return candidate
            at += len(data) - len(_MAGICS[0]) + 1
        return None

    def is_zero(self, offset: int, limit: int) -> bool:
        """Whether nothing but zeros stands between two physical offsets of one file."""
        while offset < limit:
            data = self._log.read(offset, min(_CHUNK, limit - offset))
            if not data:
                break
            if data.count(0) != len(data):
                return False
            offset += len(data)
        return True


def _occurrences(data: bytes) -> Iterator[int]:
    for magic in _MAGICS:
        at = data.find(magic)
        while at >= 0:
            yield at
            at = data.find(magic, at + 1)


def _fault(record: MessageRecord, offset: int) -> str:
    """What recovery does not accept in a record that can be read."""
    crc = body_crc(record.body)
    if crc != record.body_crc:
        return f"its body has CRC {crc:08X}, the record says {record.body_crc & 0xFFFFFFFF:08X}"
    if record.physical_offset != offset:
        return f"the record says that it stands at {record.physical_offset:,}"
    if not record.topic or "\0" in record.topic:
        return f"its topic is {record.topic!r}"
    return "its properties were never written whole" if looks_torn(record.properties) else ""


def walk(log: Range, start: int, known_end: int, *, is_final: bool) -> Iterator[Found]:
    """Give what stands in the log from the physical offset `start` on, in order; `End` comes last.

    `known_end`: physical offset up to which messages are known to have been stored; 0: nothing is known.
    What does not read as a record before it is damage. Behind it, it is damage if a sound record follows,
    unless `is_final`: nothing was stored behind it. (Apache leaves old records behind the end when it cuts.)
    """
    reader = LogReader(log)
    offset = start
    while (file := log.at(offset)) is not None:
        file_end = file.base + file.size
        size, magic = BLANK_RECORD.unpack(reader.bytes_at(offset, BLANK_RECORD.size).ljust(8, b"\0"))
        if magic == BLANK_MAGIC and size == file_end - offset:
            yield Blank(offset, file_end)
            offset = _next_file(log, file_end)
            continue
        record = reader.examine(offset)
        if isinstance(record, MessageRecord):
            yield record
            offset += record.total_size
            continue
        is_end = is_final and offset >= known_end
        following = None if is_end else _following(log, reader, offset, file_end)
        if following is None and offset >= known_end:
            yield End(offset, "" if reader.is_zero(offset, file_end) else record)
            return
        end = file_end if following is None else min(following, file_end)
        yield Damage(offset, end, _reason(reader, offset, size, magic, file_end, record))
        offset = _next_file(log, file_end) if following is None else following
    yield End(offset, "")


def _reason(reader: LogReader, offset: int, size: int, magic: int, file_end: int, record: str) -> str:
    if magic == BLANK_MAGIC:
        return f"the file's blank end says {size:,} bytes, {file_end - offset:,} are left"
    if reader.bytes_at(offset, 8) == _NOTHING and reader.is_zero(offset, file_end):
        return "nothing but zeros up to the end of the file"
    return record


def _next_file(log: Range, base: int) -> int:
    """Where the first file that begins at `base` or later begins; behind the last one, `base`."""
    return next((file.base for file in log.files if file.base >= base), base)


def _following(log: Range, reader: LogReader, offset: int, file_end: int) -> int | None:
    """Where the next sound record behind `offset` begins: in this file, or as the first of a later one."""
    found = reader.next_sound(offset + 1, file_end)
    if found is not None:
        return found
    for file in log.files:
        if file.base >= file_end and isinstance(reader.examine(file.base), MessageRecord):
            return file.base
    return None


def first_sound_behind(log: Range, offset: int) -> int | None:
    """Where the first sound record begins from `offset` on: in its file, or as the first of a later one."""
    file = log.at(offset)
    if file is None:
        return None
    reader = LogReader(log)
    if isinstance(reader.examine(offset), MessageRecord):
        return offset
    return _following(log, reader, offset, file.base + file.size)
