"""The log in which all messages of a broker stand one after the other (store.md §2)."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

from pymq.disk import Disk, Job, MappedBuffer, MappedFile
from pymq.errors import MessageIllegal
from pymq.protocol import sysflags
from pymq.protocol.message import (
    BLANK_MAGIC,
    MESSAGE_MAGIC,
    MESSAGE_MAGIC_V2,
    PHYSICAL_OFFSET_POSITION,
    RECORD_FIXED_SIZE,
    SYS_FLAG_POSITION,
    encode_record,
)
from pymq.store.reservation import Reservation
from pymq.store.results import FilePart
from pymq.store.segments import PAGE, Mappings, Segment, Segments
from pymq.store.store_config import END_OF_FILE_MIN_BLANK, StoreConfig

BLANK_RECORD = Struct(">iI")
"""Size of the rest of the file (4), blank magic (4); the bytes behind it count for nothing."""
FILLER_TOPIC = b"-"
"""The topic in a record that stands where damaged ones stood: as short as the shortest record's."""
_INT = Struct(">i")
_LONG = Struct(">q")
_place_of, _PLACE = _LONG.unpack_from, PHYSICAL_OFFSET_POSITION
_READAHEAD_MAX = 8 << 20
"""More than the kernel reads ahead at a time."""
_SECTOR_OF_ZEROS = b"\0" * 512
_STORE_TIMESTAMP_POSITIONS = (56, 68)
"""By whether the born host is v6."""


def looks_torn(properties: str) -> bool:
    """Whether part of this property text never reached the disk: zeros at the end, or a sector of them."""
    return properties.endswith("\0") or _SECTOR_OF_ZEROS.decode() in properties


def is_torn(text: bytes) -> bool:
    """`looks_torn` of encoded properties."""
    return text.endswith(b"\0") or _SECTOR_OF_ZEROS in text


def encode_filler(offset: int, body: bytes, timestamp: int) -> bytes:
    """A record without meaning for the physical `offset`: it is of a kind that belongs into no queue."""
    host = bytes(8)
    return encode_record(
        FILLER_TOPIC, body, b"", 0, 0, offset, 0,
        sysflags.TRANSACTION_ROLLBACK, timestamp, host, timestamp, host,
    )  # fmt: skip


def _no_segment() -> Segment:
    """Stands for the last segment while there is none: nothing can be written to it."""
    return Segment(0, None)  # type: ignore[arg-type]


class CommitLog:
    """Appends to and reads from the log. `position` and `tail.limit` serve the writer (`MessageStore.put`):

    when `position + size <= tail.limit` a record may be written at `position`, else `make_room` comes first.
    """

    def __init__(self, config: StoreConfig, disk: Disk, reservation: Reservation) -> None:
        self.tail = _no_segment()
        self.position = 0
        """Where the next record begins in the tail."""
        self.last_store_timestamp = 0
        """Store time of the newest record, ms since 1970."""
        self._segment_bytes = config.commit_log_segment_bytes
        self._ahead = min(config.reserve_ahead_bytes, max(PAGE, self._segment_bytes // 4))
        self._is_flushed_often = config.sync_flush
        self._disk = disk
        self._reservation = reservation
        self._mappings = Mappings(config.mapped_commit_log_segments)
        self._segments = Segments(config.commit_log_folder, self._segment_bytes, disk, self._mappings)
        self._reserving: MappedFile | None = None
        """The file in which room is being reserved, or that is being made, in the background."""
        self._upcoming: MappedFile | None = None
        self._released = 0

    # -- bounds

    @property
    def min_offset(self) -> int:
        """Physical offset of the first byte kept."""
        return self._segments.start

    @property
    def end(self) -> int:
        """Physical offset behind the last record (Apache's max offset)."""
        return self.tail.base + self.position

    @property
    def is_empty(self) -> bool:
        """Whether there is no file at all."""
        return not self._segments.files

    @property
    def record_max_size(self) -> int:
        """The largest record that a file can hold."""
        return self._segment_bytes - END_OF_FILE_MIN_BLANK

    def segment_starts(self) -> list[int]:
        """Physical offsets at which the files begin."""
        return [segment.base for segment in self._segments.files]

    # -- writing

    def make_room(self, size: int) -> None:
        """See to it that `size` bytes can be written at `position`, in the next file if they do not fit.

        Nothing is written unless there is room for all of it. MessageIllegal for more than a file can hold,
        StoreFull, StoreBroken.
        """
        if size > self.record_max_size:
            raise MessageIllegal(f"{size} bytes do not fit into a commit-log file of {self._segment_bytes}")
        if not self._segments.files or self.position + size + END_OF_FILE_MIN_BLANK > self._segment_bytes:
            self._roll(size)
        else:
            self._reservation.ensure(self.tail.file, self.position + size, self._ahead)
        self._look_ahead(size)

    def begin_file(self) -> None:
        """Close the last file before it is full, and go on in a new one. StoreFull, StoreBroken."""
        self._roll(PAGE)
        self._look_ahead(PAGE)

    def begin_at(self, offset: int) -> None:
        """Let the first file of an empty log begin at the physical `offset`."""
        assert self.is_empty
        self.tail.base = offset

    def append_raw(self, data: bytes) -> None:
        """Append bytes of the master's log as they are, all for one file: whole records.

        Nothing is written unless there is room for all of it. StoreFull, StoreBroken.
        """
        if not self._segments.files or self.position == self._segment_bytes:
            self._roll(len(data))
        else:
            self._reservation.ensure(self.tail.file, self.position + len(data), self._ahead)
        self._look_ahead(len(data))
        position = self.position
        self._segments.buffer(self.tail)[position : position + len(data)] = data
        self.position = position + len(data)

    def end_file(self, blank: bytes) -> None:
        """Close the last file with a blank record, and open no other yet. StoreFull, StoreBroken.

        `blank`: the record's bytes as the master has them; zeros at their end may be left out.
        """
        self.append_raw(blank)
        self.position = self._segment_bytes

    def _roll(self, size: int) -> None:
        """Close the last file with a blank record and go on in the next."""
        base = self._segments.end if self._segments.files else self.tail.base
        file = self._upcoming or self._segments.file_at(base)
        self._reservation.create(file, sync_folder=True)
        self._upcoming = file
        self._reservation.ensure(file, size, self._ahead)
        file.hold()
        file.map(readahead=False)
        if self._segments.files:
            self._write_blank()
            self._leave(self.tail)
        self._upcoming = None
        self._enter(self._segments.append(file, base), 0)

    def _leave(self, segment: Segment) -> None:
        """Only read `segment` from now on."""
        segment.pinned = False
        segment.limit = -1
        segment.is_complete = True
        segment.file.map(readahead=True)

    def _write_blank(self) -> None:
        if self.position == self._segment_bytes:
            return
        self._reservation.ensure(self.tail.file, self.position + END_OF_FILE_MIN_BLANK, 0)
        buffer = self._segments.buffer(self.tail)
        BLANK_RECORD.pack_into(buffer, self.position, self._segment_bytes - self.position, BLANK_MAGIC)

    def _enter(self, segment: Segment, position: int) -> None:
        """Write to `segment` from now on."""
        self.tail = segment
        self.position = position
        segment.pinned = True
        segment.limit = -1
        segment.file.hold()
        self._segments.buffer(segment)

    def _look_ahead(self, size: int) -> None:
        """Start to reserve what comes next in good time, and set how far the writer need not ask again."""
        file, end = self.tail.file, self.position + size
        limit = min(file.reserved, self.record_max_size)
        if file.reserved < self._segment_bytes:
            due = file.reserved - self._ahead // 2
        elif self._upcoming is None:
            due = self._segment_bytes - self._ahead
        else:
            due = self._segment_bytes
        if end < due:
            limit = min(limit, due)
        elif self._reserving is None:
            self._reserve_soon(file)
        # Reading ahead makes writing cheaper, but only far from where the room ends (`MappedFile.map`). It
        # makes large folios, which are flushed whole: megabytes for each record where senders wait for that.
        guard = (
            self._segment_bytes if file.reserved == self._segment_bytes else file.reserved - _READAHEAD_MAX
        )
        if self._is_flushed_often:
            guard = -1
        if end <= guard:
            limit = min(limit, guard)
        file.map(readahead=end <= guard)
        self.tail.limit = limit

    def _reserve_soon(self, file: MappedFile) -> None:
        if file.reserved < self._segment_bytes:
            target, until = file, min(file.reserved + self._ahead, self._segment_bytes)

            def job() -> None:
                target.reserve(until)
        elif self._upcoming is None:
            target = self._upcoming = self._segments.file_at(self.tail.base + self._segment_bytes)

            def job() -> None:
                target.create(sync_folder=True)
                target.reserve(self._ahead)
        else:
            return
        self._reserving = target
        self._reservation.soon(job, self._reserved)

    def _reserved(self) -> None:
        self._reserving = None

    # -- reading

    def read(self, offset: int, size: int) -> bytes | None:
        """Copy `size` bytes, all in one file, at the physical `offset`. None when they are not all there."""
        segment = self._segments.at(offset)
        if segment is None or offset + size > self.end:
            return None
        segment.recently_used = True
        buffer = segment.buffer if segment.buffer is not None else self._mappings.map(segment)
        position = offset - segment.base
        return buffer[position : position + size]

    def read_runs(self, runs: Iterable[tuple[int, int, int]]) -> list[bytes] | None:
        """Copy one slice for each (physical offset, size, anything), each within one file.

        None when one of them is not (all) there, or no record begins where it should.
        """
        slices: list[bytes] = []
        base, limit = 0, -1
        buffer: MappedBuffer | None = None
        for offset, size, _ in runs:
            start = offset - base
            if buffer is None or start < 0 or start + size > limit:
                segment = self._segments.at(offset)
                if segment is None:
                    return None
                buffer = self._segments.buffer(segment)
                base, start = segment.base, offset - segment.base
                limit = self.position if segment is self.tail else self._segment_bytes
                if start + size > limit:
                    return None
            if start + RECORD_FIXED_SIZE > limit or _place_of(buffer, start + _PLACE)[0] != offset:
                return None
            slices.append(buffer[start : start + size])
        return slices

    def file_parts(self, runs: Iterable[tuple[int, int, int]]) -> list[FilePart] | None:
        """Where each (physical offset, size, anything) stands in its file, to be read past the mappings.

        None when one is not there, or in the file that is still written to.
        """
        parts: list[FilePart] = []
        for offset, size, _ in runs:
            segment = self._segments.at(offset)
            if segment is None or segment is self.tail or offset - segment.base + size > self._segment_bytes:
                return None
            parts.append((segment.file, offset - segment.base, size))
        return parts

    def record_at(self, offset: int) -> bytes | None:
        """The record that begins at the physical `offset`, or None when none begins there."""
        head = self.read(offset, RECORD_FIXED_SIZE)
        if head is None or len(head) < RECORD_FIXED_SIZE:
            return None
        size, magic = BLANK_RECORD.unpack_from(head, 0)
        is_message = magic in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2) and size >= RECORD_FIXED_SIZE
        if not is_message or _LONG.unpack_from(head, PHYSICAL_OFFSET_POSITION)[0] != offset:
            return None
        return self.read(offset, size)

    def store_timestamp(self, offset: int) -> int:
        """When the record at the physical `offset` was stored, ms since 1970; -1 when there is none."""
        head = self.read(offset, 76)
        if head is None or len(head) < 76 or _LONG.unpack_from(head, PHYSICAL_OFFSET_POSITION)[0] != offset:
            return -1
        sys_flag = _INT.unpack_from(head, SYS_FLAG_POSITION)[0]
        is_v6 = bool(sys_flag & sysflags.BORN_HOST_V6)
        timestamp: int = _LONG.unpack_from(head, _STORE_TIMESTAMP_POSITIONS[is_v6])[0]
        return timestamp

    # -- opening, recovery, closing

    def load(self, written_bytes: int) -> None:
        """Find the files. Until `cut`, all of their bytes count as there.

        `written_bytes`: the size that the files are known to have been made with, 0 when that is unknown.
        StoreCorrupt as `Segments.load`.
        """
        self._segments.load(written_bytes, "mappedFileSizeCommitLog")
        if self._segments.files:
            self.tail = self._segments.files[-1]
            self.position = self._segment_bytes
            self._released = self._segments.start

    @property
    def segments(self) -> Segments:
        """The files, for who reads them past the mappings (`scan`)."""
        return self._segments

    def parts(self, start: int, end: int) -> list[tuple[int, int, bool]]:
        """A range by files: start, end, and whether it is the rest of a file."""
        found = []
        while start < end:
            file_end = start - start % self._segment_bytes + self._segment_bytes
            found.append((start, min(end, file_end), end >= file_end))
            start = file_end
        return found

    def fill(self, start: int, end: int, timestamp: int) -> None:
        """Before `cut`: put a record without meaning over damaged bytes, all in one file.

        It keeps as its body what it can of the damaged bytes. When `end` is the file's end the rest of the
        file becomes blank.
        """
        segment = self._segments.at(start)
        assert segment is not None
        file_end = segment.base + self._segment_bytes
        buffer = self._segments.buffer(segment)
        position = start - segment.base
        segment.file.reserve_range(position - position % PAGE, end - segment.base)
        if end == file_end:
            BLANK_RECORD.pack_into(buffer, position, end - start, BLANK_MAGIC)
        else:
            size = end - start - RECORD_FIXED_SIZE - len(FILLER_TOPIC)
            record = encode_filler(start, buffer[position : position + size], timestamp)
            buffer[position : position + len(record)] = record
        segment.file.sync()

    def cut(self, end: int) -> bool:
        """End the log at the physical offset `end`: what stands behind is cleared, writing goes on there.

        That is on the disk when this returns, and so nothing of it can come back behind what is written next.
        Returns whether there was anything. StoreFull when that needs room, StoreBroken.
        """
        changed = self._segments.clear_from(end, sync=True)
        if not self._segments.files:
            self.tail, self.position = _no_segment(), 0
            self.tail.base = end
            return changed
        for segment in self._segments.files[:-1]:
            segment.is_complete = True
        segment = self._segments.files[-1]
        segment.file.reserved = end - segment.base
        segment.file.sync()  # even its size may not be on the disk if its maker was killed
        self._enter(segment, end - segment.base)
        return changed

    def flush_job(self, start: int) -> Job:
        """A job that brings what was written from the physical offset `start` on to the disk."""
        files = [
            segment.file
            for segment in self._segments.files
            if segment.base + self._segment_bytes > start and segment.base < self.end
        ]

        def job() -> None:
            for file in files:
                file.sync()

        return job

    def flushed(self, end: int) -> None:
        """All before the physical offset `end` is on the disk: files that are complete need no descriptor."""
        while self._released + self._segment_bytes <= end and self._released < self.tail.base:
            segment = self._segments.at(self._released)
            if segment is not None:
                segment.file.release()
            self._released += self._segment_bytes

    def removable(self, flushed: int) -> MappedFile | None:
        """The oldest file, if it can go: it is not the last, and nothing is due or under way for it.

        `flushed`: the physical offset up to which the log is on the disk.
        """
        files = self._segments.files
        if len(files) < 2 or files[0].base + self._segment_bytes > flushed:
            return None
        if files[0].file is self._reserving:
            return None  # a job that comes late would make it again
        return files[0].file

    def forget_oldest(self) -> list[str]:
        """Nothing of the oldest file can be read any more. The caller deletes what has the path given."""
        return self._segments.forget_before(self._segments.start + 1)

    def remove_upcoming(self) -> None:
        """Remove the file that was made ahead and not used, as Apache does at a clean stop. StoreError."""
        upcoming, self._upcoming = self._upcoming, None
        if upcoming is not None:
            upcoming.unmap()
            upcoming.release()
            self._disk.remove_file(upcoming.path)

    def close(self) -> None:
        """Unmap all and close what is open."""
        self._segments.close()
