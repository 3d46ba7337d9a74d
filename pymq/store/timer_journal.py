"""The timer journal: which timed messages still wait, in a file for each hour of delivery (design.md §5).

A timed message is a record of `rmq_sys_wheel_timer`; the journal is derived from those records, so it is
never more than a short cut: without it, or where it is damaged, it is built again from the log.

A file is called as the number of its hour since 1970 and is a stream of msgpack values, only ever appended
to: `[number, deliver ms, key]` for a message that waits, with a fourth element for one that cancels another,
and a bare number for one that waits no more. `number` is the record's queue offset. `mark.json` says up to
where queue and log are in the files, and how long and of which CRC each file was then: what lies behind that
was written by somebody who died before he could say so, and is derived once more.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

import msgpack
import msgspec

from pymq.disk import Disk
from pymq.errors import StoreCorrupt

TIMER_TOPIC = "rmq_sys_wheel_timer"
"""Where timed messages wait, all in queue 0, as in Apache's 5.x brokers."""
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
BATCH = 1000
"""So many values of a file are read at once; then others have their turn."""
_MARK = "mark.json"
_CHUNK = 1 << 16
_pack = msgpack.Packer(use_bin_type=True).pack


class TimerEntry(NamedTuple):
    """A timed message that waits."""

    deliver_ms: int
    """When it is due, ms since 1970."""
    number: int
    """Its queue offset in the timer topic."""
    key: int
    """`timer_key` of the message, or of the one that it cancels; 0 for none."""
    is_cancel: bool


class TimerMark(msgspec.Struct, rename="camel"):
    """Up to where the journal holds what the store says."""

    next_number: int
    """All timed messages before this one are in the files."""
    log_offset: int
    """And all deliveries that lie before this physical offset of the log."""
    rolled_number: int
    """All before this one have been put again, or wait no more."""
    files: dict[int, tuple[int, int]]
    """Hour → bytes of its file and their CRC-32."""


def timer_key(topic: str, unique_key: str) -> int:
    """63 bits by which a message and its cancellation find each other; both are compared in full then."""
    digest = blake2b(f"{topic}+{unique_key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1


def hour_of(deliver_ms: int) -> int:
    """The hour of a delivery. A full hour is the end of the one before, as seconds are in Apache's wheel."""
    return (deliver_ms - 1) // HOUR_MS


class _Save(NamedTuple):
    """What one run of `write` brings to the disk."""

    parts: dict[int, tuple[int, bytes]]
    """Hour → where in its file, and what."""
    mark: TimerMark
    dropped: set[int]


class TimerJournal:
    """Belongs to its owner's thread, but for `write`."""

    def __init__(self, folder: str, disk: Disk) -> None:
        self._folder = folder
        self._disk = disk
        self._files: dict[int, tuple[int, int]] = {}
        self._new: dict[int, bytearray] = {}
        """Hour → what is not given to `write` yet."""
        self._dropped: set[int] = set()
        self._save: _Save | None = None
        self.new_bytes = 0
        """How much `add` and `remove` have gathered."""

    @property
    def is_changed(self) -> bool:
        """Whether there is something to write."""
        return bool(self.new_bytes or self._dropped)

    # -- at the start

    def load(self, *, tidy: bool = True) -> TimerMark | None:
        """Read the mark and check the files; None when something is missing or damaged.

        With `tidy`, files that the mark does not know are deleted.
        """
        text = self._disk.read_bytes(self._path(_MARK))
        if text is None:
            return None
        try:
            mark = msgspec.json.decode(text, type=TimerMark)
            self._files = mark.files
            for hour in mark.files:
                self._read(hour)
        except (msgspec.DecodeError, StoreCorrupt):
            return None
        known = {str(hour) for hour in mark.files}
        for name in self._disk.list_folder(self._folder) if tidy else ():
            if name.isdecimal() and name not in known:
                self._disk.remove_file(self._path(name))
        return mark

    def clear(self) -> None:
        """Forget all, on the disk, too. StoreError."""
        self._files, self._new, self._dropped = {}, {}, set()
        self.new_bytes = 0
        self._disk.drain()  # a `write` may be under way
        self._save = None
        self._disk.remove_folder(self._folder)

    def _make_folder(self) -> None:
        if not self._disk.exists(self._folder):
            self._disk.make_folder(self._folder, sync=True)

    def spill(self) -> None:
        """Bring to the disk now what has been gathered, without a mark: while it is built anew."""
        self._make_folder()
        for hour, data in self._new.items():
            size, crc = self._files.get(hour, (0, 0))
            self._disk.append(self._path(str(hour)), bytes(data), size)
            self._files[hour] = size + len(data), crc32(data, crc)
        self._new.clear()
        self.new_bytes = 0

    # -- entries

    def add(self, entry: TimerEntry) -> None:
        """A message waits."""
        value = (entry.number, entry.deliver_ms, entry.key)
        self._append(hour_of(entry.deliver_ms), _pack((*value, 1) if entry.is_cancel else value))

    def remove(self, deliver_ms: int, number: int) -> None:
        """A message that was added waits no more."""
        self._append(hour_of(deliver_ms), _pack(number))

    def _append(self, hour: int, data: bytes) -> None:
        gathered = self._new.get(hour)
        if gathered is None:
            self._new[hour] = bytearray(data)
        else:
            gathered += data
        self.new_bytes += len(data)

    def hours(self) -> list[int]:
        """The hours that have entries, in order."""
        parts = self._save.parts if self._save else {}
        return sorted({*self._files, *parts, *self._new})

    def next_hour(self, hour: int) -> int | None:
        """The first hour behind this one that has entries."""
        parts = self._save.parts if self._save else {}
        found = [
            min((at for at in hours if at > hour), default=None) for hours in (self._files, parts, self._new)
        ]
        return min((at for at in found if at is not None), default=None)

    def read(self, hour: int) -> Iterator[list[TimerEntry]]:
        """What waits in an hour, as of the call, in batches; some are empty, as others may want a turn.

        StoreCorrupt, at once, when the file is not what was written.
        """
        data = bytearray(self._read(hour))
        if self._save is not None and hour in self._save.parts:
            data += self._save.parts[hour][1]
        data += self._new.get(hour, b"")
        return _waiting(bytes(data))

    def _read(self, hour: int) -> bytes:
        size, crc = self._files.get(hour, (0, 0))
        if not size:
            return b""
        path = self._path(str(hour))
        data = (self._disk.read_bytes(path) or b"")[:size]
        if len(data) != size or crc32(data) != crc:
            raise StoreCorrupt(f"{path} is not what was written to it")
        return data

    def drop(self, hour: int) -> None:
        """Nothing waits in an hour any more: its file goes with the next `write`."""
        self._dropped.add(hour)
        self._files.pop(hour, None)
        self.new_bytes -= len(self._new.pop(hour, b""))

    # -- writing

    def freeze(self, next_number: int, log_offset: int, rolled_number: int) -> None:
        """Let the next `write` bring all there is now to the disk, and this mark. Before it: `written`.

        The log has to be on the disk up to `log_offset` by then.
        """
        assert self._save is None
        files = dict(self._files)
        parts = {}
        for hour, data in self._new.items():
            size, crc = files.get(hour, (0, 0))
            parts[hour] = size, bytes(data)
            files[hour] = size + len(data), crc32(data, crc)
        mark = TimerMark(next_number, log_offset, rolled_number, files)
        self._save = _Save(parts, mark, self._dropped - files.keys())
        self._new, self._dropped, self.new_bytes = {}, set(), 0

    def write(self) -> None:
        """In a thread: write what is frozen, if anything is. May be tried again after an error.

        StoreError.
        """
        save = self._save
        if save is None:
            return
        self._make_folder()
        for hour, (position, data) in save.parts.items():
            self._disk.append(self._path(str(hour)), data, position)
        self._disk.write_atomically(self._path(_MARK), msgspec.json.encode(save.mark).decode())
        for hour in save.dropped:
            self._disk.remove_file(self._path(str(hour)))

    def written(self) -> None:
        """`write` has done it."""
        save, self._save = self._save, None
        if save is not None:
            kept = save.parts.keys() - self._dropped
            self._files.update({hour: save.mark.files[hour] for hour in kept})

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)


def _waiting(data: bytes) -> Iterator[list[TimerEntry]]:
    """The entries of a file that were not removed later; empty batches while it is found out which."""
    gone: set[int] = set()
    for values in _values(data):
        gone.update(value for value in values if isinstance(value, int))
        yield []
    for values in _values(data):
        yield [
            TimerEntry(value[1], value[0], value[2], len(value) > 3)
            for value in values
            if not isinstance(value, int) and value[0] not in gone
        ]


def _values(data: bytes) -> Iterator[list[int | list[int]]]:
    """The values of a file, some at a time."""
    unpacker = msgpack.Unpacker(use_list=True)
    values: list[int | list[int]] = []
    for start in range(0, len(data), _CHUNK):
        unpacker.feed(data[start : start + _CHUNK])
        for value in unpacker:
            values.append(value)
            if len(values) == BATCH:
                yield values
                values = []
    yield values
