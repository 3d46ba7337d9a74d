"""The commit log in pieces for slaves: whole records, none across two files (store.md §9)."""

from __future__ import annotations

from collections.abc import Callable

from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.protocol.message import BLANK_MAGIC, MESSAGE_MAGIC, MESSAGE_MAGIC_V2
from pymq.store.commitlog import BLANK_RECORD, CommitLog

Fetched = Callable[[bytes, StoreError | None], None]
"""Gets the bytes, or why there are none, in the store's thread."""

_WHOLE_MAX = 2 << 20
"""A record over this goes in pieces: an Apache slave gives up on blocks that do not fit its 4 MiB."""
_MEMORY_PERCENT = 40
"""What lies further behind the log's end than this share of the memory may have to be read from the disk."""
_PIECES_MAX = 1000


class LogBlocks:
    """Gives the log from any boundary on. It belongs to the store's thread."""

    def __init__(self, commit_log: CommitLog, disk: Disk, segment_bytes: int) -> None:
        self._log = commit_log
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._memory_bytes = disk.memory_bytes() * _MEMORY_PERCENT // 100
        self._pieces: dict[int, int] = {}
        """Where a piece of a huge record ended → where the record ends."""

    @property
    def min_offset(self) -> int:
        """Physical offset of the log's first byte: a file begins there."""
        return self._log.min_offset

    @property
    def end(self) -> int:
        """Physical offset behind the last record."""
        return self._log.end

    def is_boundary(self, offset: int) -> bool:
        """Whether a slave may go on at the physical `offset`: between two records, or two pieces of one."""
        if not self._log.min_offset <= offset <= self._log.end:
            return False
        if offset == self._log.end or offset % self._segment_bytes == 0 or offset in self._pieces:
            return True
        if self._log.record_at(offset) is not None:
            return True
        head = self._log.read(offset, BLANK_RECORD.size)
        room = self._segment_bytes - offset % self._segment_bytes
        return head is not None and BLANK_RECORD.unpack(head) == (room, BLANK_MAGIC)

    def block(self, offset: int, size: int) -> bytes | None:
        """Whole records from a boundary on, up to `size` bytes; b"" at the end, None where it is for `fetch`.

        A record that is larger comes alone; of one over 2 MiB, a piece.
        """
        end = self._log.end
        if offset >= end:
            return b""
        if end - offset > self._memory_bytes and self._log.file_parts(((offset, 1, 0),)) is not None:
            return None
        data = self._read(offset, size)
        if offset + len(data) == end:
            return data  # a slave that keeps up: the log ends where a record does, which needs no walk there
        length = self._cut(offset, data, size)
        return data[:length] if length <= len(data) else self._read(offset, length)

    def fetch(self, offset: int, size: int, done: Fetched) -> None:
        """As `block`, read in a thread, and up to 2 MiB: what is that far behind comes in large pieces."""
        size = max(size, _WHOLE_MAX)
        parts = self._log.file_parts(((offset, min(size, self._file_rest(offset)), 0),))
        if parts is None:
            done(b"", StoreError(f"there is no log at {offset} any more"))
            return
        file, position, length = parts[0]
        found: list[bytes] = []

        def job() -> None:
            found.append(file.fetch(position, length))

        def ended(error: StoreError | None) -> None:
            data = found[0] if found else b""
            done(data[: self._cut(offset, data, size)] if data else b"", error)

        self._disk.fetch_soon(job, ended)

    def _file_rest(self, offset: int) -> int:
        return self._segment_bytes - offset % self._segment_bytes

    def _read(self, offset: int, size: int) -> bytes:
        size = min(size, self._file_rest(offset), self._log.end - offset)
        return self._log.read(offset, size) or b""

    def _cut(self, offset: int, data: bytes, size: int) -> int:
        """How many bytes from `offset` on, where `data` begins, make a block."""
        rest = self._file_rest(offset)
        record_end = self._pieces.get(offset)
        if record_end is not None:
            return self._piece(offset, record_end, size)
        at = 0
        while len(data) - at >= BLANK_RECORD.size:
            record_size, magic = BLANK_RECORD.unpack_from(data, at)
            if (
                magic not in (BLANK_MAGIC, MESSAGE_MAGIC, MESSAGE_MAGIC_V2)
                or not 0 < record_size <= rest - at
            ):
                record_size = rest - at  # what is no record goes as it is, up to the file's end
            if at + record_size > len(data):
                if at:
                    return at
                if record_size <= _WHOLE_MAX:
                    return int(record_size)
                return self._piece(offset, offset + record_size, size)
            at += record_size
        return at

    def _piece(self, offset: int, record_end: int, size: int) -> int:
        """The size of the next piece of a huge record, and remember where it ends."""
        end = min(offset + size, record_end)
        if end < record_end:
            if len(self._pieces) >= _PIECES_MAX:
                del self._pieces[next(iter(self._pieces))]
            self._pieces[end] = record_end
        return end - offset
