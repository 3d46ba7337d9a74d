"""The queue of one topic and queue id: for each message, where it stands in the commit log (store.md §3)."""

from __future__ import annotations

import os.path
from typing import NamedTuple

from pymq.disk import Disk, MappedFile
from pymq.protocol.message import RECORD_FIXED_SIZE
from pymq.store.reservation import Reservation
from pymq.store.segments import PAGE, Mappings, Segment, Segments
from pymq.store.unit_reads import (
    BLANK_UNIT_SIZE,
    CQ_STORE_UNIT,
    CQ_STORE_UNIT_SIZE,
    UnitReads,
    stands_for_nothing,
)

__all__ = ["BLANK_UNIT_SIZE", "CQ_STORE_UNIT", "CQ_STORE_UNIT_SIZE", "ConsumeQueue", "QueueFiles"]

_pack_unit_into = CQ_STORE_UNIT.pack_into
_RESERVE_MAX = 256 << 10
_RESERVE_IN_BACKGROUND = 64 << 10
"""A small queue reserves little, at once; one that has grown reserves more, in the background."""
_LOOK_BACK = 8
"""So many units before the minimum are looked at: a damaged one may have misled the search for it."""
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


class ConsumeQueue(UnitReads):
    """Appends and reads units. `position` and `tail.limit` serve the writer as in the commit log."""

    __slots__ = (
        "_common",
        "_reserving",
        "counted_first",
        "counted_units",
        "dirty",
        "flushed_offset",
        "min_offset",
        "opened_offset",
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
        self.min_offset = 0
        """Number of the first message that the commit log still holds."""
        self.opened_offset = 0
        """Units before this number were there when the store was opened: readers check them."""
        self.position = 0
        """Where the next unit goes in the tail."""
        self.tail = _NO_SEGMENT
        self.counted_units = self.counted_first = 0
        """What `Census` counted of this queue last."""
        self.dirty = False
        self.flushed_offset = 0
        """Units before this number are on the disk, or on their way there."""
        self._common = common
        self._reserving = False
        folder = os.path.join(common.folder, topic, str(queue_id))
        super().__init__(Segments(folder, common.file_bytes, common.disk, common.mappings))

    @property
    def folder(self) -> str:
        """Where the queue's files lie."""
        return self._segments.folder

    @property
    def first_number(self) -> int:
        """The number with which the first file begins."""
        files = self._segments.files
        return files[0].base // CQ_STORE_UNIT_SIZE if files else 0

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
        self._enter_tail(must_map=count > 1)
        self._look_ahead(count)

    def _new_segment(self, base: int) -> Segment:
        self._common.disk.make_folder(self._segments.folder)
        file = self._segments.file_at(base)
        self._common.reservation.create(file, sync_folder=False)
        return self._segments.append(file, base)

    def _enter_tail(self, *, must_map: bool) -> None:
        """Point to where the next unit goes, and map it; or, if it may be, open it for this unit alone."""
        start = self.max_offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is None:
            self.tail, self.position = _NO_SEGMENT, 0
            return
        self.tail, self.position = segment, start - segment.base
        mappings = self._common.mappings
        if must_map:
            mappings.map(segment)
        elif mappings.map_if_busy(segment) is None:
            mappings.open_writer(segment)

    def _look_ahead(self, count: int) -> None:
        """Set how far the writer need not ask again; a queue that has grown reserves in the background.

        Without a mapping it must ask each time.
        """
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
        self.tail.limit = limit if self.tail.buffer is not None else -1

    def _reserved(self) -> None:
        self._reserving = False

    def append(self, physical_offset: int, size: int, tags_code: int) -> None:
        """Add a unit; `make_room` came before."""
        position = self.position
        if position == self._file_bytes:
            self._enter_tail(must_map=True)
            position = self.position
        tail = self.tail
        buffer, tail.recently_used = tail.buffer, True
        if buffer is not None:
            _pack_unit_into(buffer, position, physical_offset, size, tags_code)
        else:
            self._common.mappings.write(position, CQ_STORE_UNIT.pack(physical_offset, size, tags_code))
        self.position = position + CQ_STORE_UNIT_SIZE
        self.max_offset += 1

    def extend(self, units: bytes | bytearray) -> None:
        """Add units, packed; `make_room` came before."""
        done = 0
        while done < len(units):
            if self.position == self._file_bytes:
                self._enter_tail(must_map=True)
            tail, position = self.tail, self.position
            part = units[done : done + self._file_bytes - position]
            tail.recently_used = True
            if tail.buffer is not None:
                tail.buffer[position : position + len(part)] = part
            else:
                self._common.mappings.write(position, bytes(part))
            self.position = position + len(part)
            self.max_offset += len(part) // CQ_STORE_UNIT_SIZE
            done += len(part)

    # -- reading

    def read(self, offset: int, count: int) -> bytes:
        """Copy up to `count` units from number `offset` on; fewer at the end of the file or the queue."""
        start = offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is None:
            return b""
        segment.recently_used = True
        start -= segment.base
        end = min(start + min(count, self.max_offset - offset) * CQ_STORE_UNIT_SIZE, self._file_bytes)
        if end <= start:
            return b""
        buffer = segment.buffer
        if buffer is None:
            if self._known:
                return self._read_file(segment, start, end - start)
            buffer = self._common.mappings.map_if_busy(segment)
        return buffer[start:end] if buffer is not None else segment.file.read(start, end - start)

    def unit(self, offset: int) -> tuple[int, int, int] | None:
        """Physical offset, size and tags code of message number `offset`; None when there is none."""
        data = self.read(offset, 1)
        return CQ_STORE_UNIT.unpack(data) if data else None

    def next_file_offset(self, offset: int) -> int:
        """The number of the first unit of the file after the one that would hold `offset`."""
        units = self._file_bytes // CQ_STORE_UNIT_SIZE
        return (offset // units + 1) * units

    # -- opening, recovery, closing

    def load(self, written_bytes: int) -> None:
        """Find the files and where the units end. Parameter and StoreCorrupt as `Segments.load`."""
        self._segments.load(written_bytes, "mappedFileSizeConsumeQueue")
        self.max_offset = self._segments.end // CQ_STORE_UNIT_SIZE
        end, known = self._find_end()
        self._set_end(end)
        self.flushed_offset, self._known = end, known

    def opened(self) -> None:
        """The store is open: readers check the units that are there now."""
        self.opened_offset = self.max_offset
        self._known = b""

    def _set_end(self, max_offset: int) -> None:
        """The data ends before this number. What is behind is not reserved yet, even if it exists."""
        self._newest, self._known = None, b""
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
        if log_min_offset == 0:
            self.min_offset = self.first_number
        else:
            found = self.first_offset(lambda physical, _, __: physical >= log_min_offset)
            start = max(self.first_number, found - _LOOK_BACK)
            for number, (physical, _, _) in enumerate(self._units_on_file(start, found), start):
                if physical >= log_min_offset:
                    found = number
                    break
            # Units that are not there look like old ones: what they were is for the healing to find out.
            while found > self.first_number and self._looks_damaged(found - 1):
                found -= 1
            self.min_offset = found

    def _looks_damaged(self, number: int) -> bool:
        """Whether a unit of an old message cannot be one: without a size, or before the one before it."""
        start = max(self.first_number, number - 1)
        *before, unit = self._units_on_file(start, number + 1)
        if unit[1] <= 0:
            return True
        if stands_for_nothing(unit) or unit[:2] == (0, RECORD_FIXED_SIZE + 1):
            return False  # of messages that are lost with the log's beginning (`lost_units`)
        return any(
            other != unit and not stands_for_nothing(other) and unit[0] < other[0] + other[1]
            for other in before
        )

    def raise_min_offset(self, log_min_offset: int) -> None:
        """As `correct_min_offset` after the log's minimum rose; costs little when nothing changes here."""
        if self.min_offset < self.max_offset and self._unit_on_file(self.min_offset)[0] < log_min_offset:
            self.correct_min_offset(log_min_offset)

    def forget_before(self, log_min_offset: int) -> list[str]:
        """Raise the minimum, and have the files no more that lie before it; never the last (store.md §6).

        Returns their paths, for the caller to delete in this order.
        """
        self.raise_min_offset(log_min_offset)
        start = self.min_offset * CQ_STORE_UNIT_SIZE
        return self._segments.forget_before(start - start % self._file_bytes)

    def replace(self, offset: int, physical_offset: int, size: int, tags_code: int) -> None:
        """Write the unit of a number below `max_offset` anew. StoreFull, StoreBroken."""
        start = offset * CQ_STORE_UNIT_SIZE
        segment = self._segments.at(start)
        if segment is None:
            return
        position = start - segment.base
        segment.file.reserve_range(position - position % PAGE, position + CQ_STORE_UNIT_SIZE)
        _pack_unit_into(self._segments.buffer(segment), position, physical_offset, size, tags_code)
        self.flushed_offset = min(self.flushed_offset, offset)
        self.dirty = True
        self._newest, self._known = None, b""

    def truncate(self, max_offset: int) -> None:
        """Forget the units from this number on, and clear them: on the disk when they are flushed."""
        if max_offset >= self.max_offset:
            return
        self.dirty = True
        first = self._segments.start // CQ_STORE_UNIT_SIZE
        if max_offset < first:
            self._segments.remove_from(0, sync=False)
            max_offset = 0
        else:
            self._segments.clear_from(max_offset * CQ_STORE_UNIT_SIZE, sync=False)
        self._set_end(max_offset)
        self.min_offset = min(self.min_offset, max_offset)

    def skip_to(self, offset: int, unit: tuple[int, int, int]) -> None:
        """Fill up to number `offset` with this unit: the messages before it are lost (`lost_units`)."""
        if not self._segments.files:
            units = self._file_bytes // CQ_STORE_UNIT_SIZE
            self.max_offset = self.flushed_offset = offset // units * units
        while self.max_offset < offset:
            self.make_room(1)
            self.append(*unit)

    def take_unflushed(self) -> list[MappedFile]:
        """The files with what was appended since the last call: the caller syncs them."""
        start = self.flushed_offset * CQ_STORE_UNIT_SIZE
        self.flushed_offset = self.max_offset
        self.dirty = False
        return [s.file for s in self._segments.files if s.base + self._file_bytes > start]

    def close(self) -> None:
        """Unmap all."""
        self._segments.close()

    def leave(self) -> None:
        """Have nothing any more; the files are the caller's to delete."""
        self._segments.close()
        self.max_offset = self.min_offset = 0
        self._segments.files.clear()
        self._set_end(0)

    def remove(self) -> None:
        """Delete the queue's files and folder."""
        self.leave()
        self._common.disk.remove_folder(self._segments.folder)
