"""The queue of one topic and queue id: for each message, where it stands in the commit log (store.md §3)."""

from __future__ import annotations

import os.path
from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from pymq.disk import Disk, MappedFile
from pymq.store.reservation import Reservation
from pymq.store.segments import PAGE, Mappings, Segment, Segments

CQ_STORE_UNIT = Struct(">qiq")
"""commit-log offset (8), size of the record (4), tags code (8)."""
CQ_STORE_UNIT_SIZE: Final = 20
assert CQ_STORE_UNIT.size == CQ_STORE_UNIT_SIZE

BLANK_UNIT_SIZE: Final = 0x7FFFFFFF
"""The record size of a unit that fills the place of a message that is no more."""
_pack_unit_into = CQ_STORE_UNIT.pack_into
_RESERVE_MAX = 256 << 10
_RESERVE_IN_BACKGROUND = 64 << 10
"""A small queue reserves little, at once; one that has grown reserves more, in the background."""
_NO_SEGMENT = Segment(0, None)  # type: ignore[arg-type]


class QueueFiles(NamedTuple):
    """What all consume queues have in common."""

    folder: str
    file_bytes: int
    """A multiple of the unit's size."""
    record_base: int
    """Size of a record without born host, topic, body and properties."""
    disk: Disk
    mappings: Mappings
    reservation: Reservation


class ConsumeQueue:
    """Appends and reads units. `position` and `tail.limit` serve the writer as in the commit log."""

    __slots__ = (
        "_common",
        "_file_bytes",
        "_reserving",
        "_segments",
        "dirty",
        "flushed_offset",
        "max_offset",
        "min_offset",
        "position",
        "queue_id",
        "record_base",
        "tail",
        "topic",
        "topic_field",
    )

    def __init__(self, topic: str, queue_id: int, common: QueueFiles) -> None:
        self.topic = topic
        name = topic.encode()
        self.topic_field = bytes((len(name),)) + name
        """The topic as a record holds it, its length in front."""
        self.record_base = common.record_base + len(name)
        """Size of a record of this topic without born host, body and properties."""
        self.queue_id = queue_id
        self.max_offset = 0
        """Number of the next message."""
        self.min_offset = 0
        """Number of the first message that the commit log still holds."""
        self.position = 0
        """Where the next unit goes in the tail."""
        self.tail = _NO_SEGMENT
        self.dirty = False
        self.flushed_offset = 0
        """Units before this number are on the disk, or on their way there."""
        self._common = common
        self._file_bytes = common.file_bytes
        self._reserving = False
        folder = os.path.join(common.folder, topic, str(queue_id))
        self._segments = Segments(folder, common.file_bytes, common.disk, common.mappings)

    # -- writing

    def make_room(self, count: int) -> None:
        """See to it that `count` units can be appended. StoreFull, StoreBroken, StoreError."""
        start = self.max_offset * CQ_STORE_UNIT_SIZE
        end = start + count * CQ_STORE_UNIT_SIZE
        base = start - start % self._file_bytes
        while base < end:
            segment = self._segments.at(base) or self._new_segment(base)
            used = max(0, start - base)
            ahead = min(_RESERVE_MAX, max(PAGE, used)) if used or base == 0 else _RESERVE_MAX
            self._common.reservation.ensure(segment.file, min(end - base, self._file_bytes), ahead)
            base += self._file_bytes
        self._enter_tail()
        self._look_ahead(count)

    def _new_segment(self, base: int) -> Segment:
        self._common.disk.make_folder(self._segments.folder)
        file = self._segments.file_at(base)
        self._common.reservation.create(file, sync_folder=False)
        return self._segments.append(file, base)

    def _enter_tail(self) -> None:
        """Point to where the next unit goes, and map it."""
        start = self.max_offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is None:
            self.tail, self.position = _NO_SEGMENT, 0
            return
        self.tail, self.position = segment, start - segment.base
        self._common.mappings.map(segment)

    def _look_ahead(self, count: int) -> None:
        """Set how far the writer need not ask again; a queue that has grown reserves in the background."""
        file = self.tail.file
        limit = min(file.reserved // CQ_STORE_UNIT_SIZE * CQ_STORE_UNIT_SIZE, self._file_bytes)
        ahead = min(_RESERVE_MAX, self.position)
        if ahead >= _RESERVE_IN_BACKGROUND and file.reserved < self._file_bytes:
            end = self.position + count * CQ_STORE_UNIT_SIZE
            due = file.reserved - ahead // 2
            if end < due:
                limit = due // CQ_STORE_UNIT_SIZE * CQ_STORE_UNIT_SIZE
            elif not self._reserving:
                self._reserving = True
                until = min(file.reserved + ahead, self._file_bytes)
                self._common.reservation.soon(lambda: file.reserve(until), self._reserved)
        self.tail.limit = limit

    def _reserved(self) -> None:
        self._reserving = False

    def append(self, physical_offset: int, size: int, tags_code: int) -> None:
        """Add a unit; `make_room` came before."""
        position = self.position
        if position == self._file_bytes:
            self._enter_tail()
            position = self.position
        _pack_unit_into(self.tail.buffer, position, physical_offset, size, tags_code)  # type: ignore[arg-type]
        self.position = position + CQ_STORE_UNIT_SIZE
        self.max_offset += 1

    # -- reading

    def read(self, offset: int, count: int) -> bytes:
        """Copy up to `count` units from number `offset` on; fewer at the end of the file or the queue."""
        start = offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is None:
            return b""
        segment.recently_used = True
        buffer = segment.buffer if segment.buffer is not None else self._common.mappings.map(segment)
        start -= segment.base
        end = min(start + min(count, self.max_offset - offset) * CQ_STORE_UNIT_SIZE, self._file_bytes)
        return buffer[start:end] if end > start else b""

    def unit(self, offset: int) -> tuple[int, int, int] | None:
        """Physical offset, size and tags code of message number `offset`; None when there is none."""
        data = self.read(offset, 1)
        return CQ_STORE_UNIT.unpack(data) if data else None

    def next_file_offset(self, offset: int) -> int:
        """The number of the first unit of the file after the one that would hold `offset`."""
        units = self._file_bytes // CQ_STORE_UNIT_SIZE
        return (offset // units + 1) * units

    def first_offset(self, holds: Callable[[int, int, int], bool]) -> int:
        """The first number whose unit satisfies `holds`, given that all after it do too; else max_offset."""
        low, high = self._segments.start // CQ_STORE_UNIT_SIZE, self.max_offset
        # Doubling steps first: the usual queue is short, or answers at its first unit.
        step = 1
        while low < high:
            middle = (low + high) // 2
            probe = min(low + step - 1, middle) if step else middle
            if holds(*self._unit_on_file(probe)):
                high, step = probe, 0
            else:
                low, step = probe + 1, 2 * step
        return low

    def _unit_on_file(self, offset: int) -> tuple[int, int, int]:
        """A unit, read past the mapping: it may lie where nothing was written."""
        start = offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        data = b"" if segment is None else segment.file.read(start - segment.base, CQ_STORE_UNIT_SIZE)
        return CQ_STORE_UNIT.unpack(data.ljust(CQ_STORE_UNIT_SIZE, b"\0"))

    def last_unit(self) -> tuple[int, int, int] | None:
        """The newest unit that stands for a message, or None."""
        unit = self._unit_on_file(self.max_offset - 1) if self.max_offset else None
        return None if unit is None or unit[1] == BLANK_UNIT_SIZE else unit

    # -- opening, recovery, closing

    def load(self) -> None:
        """Find the files and where the units end. StoreCorrupt as `Segments.load`."""
        self._segments.load()
        self.max_offset = self._segments.end // CQ_STORE_UNIT_SIZE
        self._set_end(self.first_offset(lambda physical, size, _: size <= 0 or physical < 0))
        self.flushed_offset = self.max_offset

    def _set_end(self, max_offset: int) -> None:
        """The data ends before this number. What is behind is not reserved yet, even if it exists."""
        self.max_offset = max_offset
        self.flushed_offset = min(self.flushed_offset, max_offset)
        start = max_offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is not None:
            segment.file.reserved = start - segment.base
            self.tail, self.position = segment, start - segment.base
            segment.limit = -1
        else:
            self.tail, self.position = _NO_SEGMENT, 0

    def correct_min_offset(self, log_min_offset: int) -> None:
        """Set the minimum to the first message that the commit log still holds (store.md §3)."""
        self.min_offset = self.first_offset(lambda physical, _, __: physical >= log_min_offset)

    def truncate(self, max_offset: int) -> None:
        """Forget the units from this number on, and clear them on the disk."""
        self.dirty |= max_offset < self.max_offset
        first = self._segments.start // CQ_STORE_UNIT_SIZE
        if max_offset < first:
            self._segments.remove_from(0)
            max_offset = 0
        else:
            self._segments.clear_from(max_offset * CQ_STORE_UNIT_SIZE)
        self._set_end(max_offset)
        self.min_offset = min(self.min_offset, max_offset)

    def skip_to(self, offset: int) -> None:
        """Fill up to number `offset` with blank units: the messages before it are gone (store.md §3)."""
        if not self._segments.files:
            units = self._file_bytes // CQ_STORE_UNIT_SIZE
            self.max_offset = self.flushed_offset = offset // units * units
        last = self.unit(self.max_offset - 1) if self.max_offset else None
        physical = last[0] if last else 0
        while self.max_offset < offset:
            self.make_room(1)
            self.append(physical, BLANK_UNIT_SIZE, 0)

    def take_unflushed(self) -> list[MappedFile]:
        """The files with what was appended since the last call: the caller syncs them."""
        start = self.flushed_offset * CQ_STORE_UNIT_SIZE
        self.flushed_offset = self.max_offset
        self.dirty = False
        return [s.file for s in self._segments.files if s.base + self._file_bytes > start]

    def close(self) -> None:
        """Unmap all."""
        self._segments.close()

    def remove(self) -> None:
        """Delete the queue's files and folder."""
        self._segments.close()
        self.max_offset = self.min_offset = 0
        self._segments.files.clear()
        self._set_end(0)
        self._common.disk.remove_folder(self._segments.folder)
