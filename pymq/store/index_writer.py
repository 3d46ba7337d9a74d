"""One index file on the disk: entries are appended to it, and looked up in it (store.md §4)."""

from __future__ import annotations

import itertools
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from pymq.disk import Disk, Job, MappedBuffer, MappedFile
from pymq.errors import StoreError, StoreFull
from pymq.store.index_file import (
    INDEX_ENTRY_SIZE,
    INDEX_HEADER_SIZE,
    INDEX_SLOT_SIZE,
    IndexEntry,
    IndexHeader,
    chain,
    entry_position,
    index_file_size,
    slot_position,
)
from pymq.store.segments import PAGE

_RESERVE_AHEAD = 1 << 20
"""Room for entries is taken so far ahead, the next of it in the background when half of it is used."""
_PAGES_ONE_BY_ONE = 64
"""So many pages of slots are reserved when they are first touched; then all the others, in the background."""
_PLENTY = 10
"""All slots are reserved where the disk has so many times their room: the log may need it more."""
_SECONDS_MAX = 2**31 - 1

Soon = Callable[[Job], None]
"""Runs a job that reserves room in the background; a full disk is no news there."""


def _swapped(numbers: Iterable[int]) -> list[int]:
    """32-bit integers between the machine's byte order and the file's: as one reads the other's bytes."""
    values = array("i", numbers)
    if struct.pack("=i", 1) != struct.pack(">i", 1):
        values.byteswap()
    return values.tolist()


class IndexFile:
    """A file of the index, for one thread. `write` comes before `append`, `leave` after the last one."""

    def __init__(self, disk: Disk, path: str, slot_num: int, index_num: int) -> None:
        self.path = path
        self.header = IndexHeader()
        self.unsynced = False
        """Whether it holds entries that may not be on the disk."""
        self._disk = disk
        self._slot_num = slot_num
        self._index_num = index_num
        self._file: MappedFile = disk.file(path, index_file_size(slot_num, index_num))
        self._buffer: MappedBuffer | None = None
        self._slots: memoryview[int] | None = None
        self._entries_reserved = 0
        self._page_reserved = bytearray()
        """For each page of slots whether it is reserved."""
        self._pages_touched = 0
        self._all_pages_reserved = False
        self._looks_ahead = True
        """Whether more room than is needed is asked for; not again where the disk had none."""
        self._reserving = False

    @property
    def room(self) -> int:
        """How many entries can still be added."""
        return max(0, self._index_num - self.header.index_count)

    # -- writing

    def create(self, previous: IndexHeader | None) -> None:
        """Make the file, to follow the one with the header `previous`. StoreFull, StoreBroken, StoreError."""
        if previous is not None:
            self.header.begin_phy_offset = self.header.end_phy_offset = previous.end_phy_offset
            self.header.begin_timestamp = self.header.end_timestamp = previous.end_timestamp
        self._file.create(sync_folder=False)
        self._file.reserve_range(0, INDEX_HEADER_SIZE)
        self.write()
        assert self._buffer is not None
        self._buffer[:INDEX_HEADER_SIZE] = self.header.encode()
        self.unsynced = True

    def load(self) -> None:
        """Read the header of a file that is there. StoreError, StoreCorrupt."""
        self.header = IndexHeader.decode(self._file.read(0, INDEX_HEADER_SIZE))

    def write(self) -> None:
        """Map the file, to add entries from now on. StoreError. What it has room for is not known yet."""
        if self._buffer is not None:
            return
        self._file.hold()
        buffer = self._file.map(readahead=False)
        with memoryview(buffer) as whole:
            self._slots = whole[INDEX_HEADER_SIZE : slot_position(self._slot_num)].cast("i")
        self._buffer = buffer
        self._page_reserved = bytearray(slot_position(self._slot_num) // PAGE + 1)
        self._entries_reserved = 0

    def append(
        self, hashes: Sequence[int], offsets: Sequence[int], timestamps: Sequence[int], soon: Soon
    ) -> None:
        """Add an entry for each key hash, with its message's physical offset and store time (ms).

        Not more than there is `room` for, and at least one, in the order of the log. StoreFull, StoreBroken,
        StoreError: nothing was written.
        """
        count, number = len(hashes), self.header.index_count
        slot_num = self._slot_num
        touched = [code % slot_num for code in hashes]
        self._reserve(touched, number + count, soon)
        buffer, slots = self._buffer, self._slots
        assert buffer is not None
        assert slots is not None
        # A slot is taken over into the entry as it stands in the file; numbers are turned round in one go.
        raw_previous = []
        for slot, raw_number in zip(touched, _swapped(range(number, number + count)), strict=True):
            raw_previous.append(slots[slot])
            slots[slot] = raw_number
        previous = _swapped(raw_previous)
        if min(previous) < 0 or max(previous) >= number + count:  # never left by a sound writer
            previous = [each if 0 < each < number + n else 0 for n, each in enumerate(previous)]
        header = self.header
        if number == 1:
            header.begin_timestamp, header.begin_phy_offset = timestamps[0], offsets[0]
        rows = zip(hashes, offsets, self._seconds(timestamps), previous, strict=True)
        start = entry_position(number, slot_num)
        buffer[start : start + INDEX_ENTRY_SIZE * count] = struct.pack(
            ">" + "iqii" * count, *itertools.chain.from_iterable(rows)
        )
        header.hash_slot_count += previous.count(0)
        header.index_count = number + count
        header.end_phy_offset, header.end_timestamp = offsets[-1], timestamps[-1]
        buffer[:INDEX_HEADER_SIZE] = header.encode()
        self.unsynced = True

    def _seconds(self, timestamps: Sequence[int]) -> Iterable[int]:
        """The entries' times as the file counts them, from its first entry on."""
        begin = self.header.begin_timestamp
        if begin <= 0:
            return itertools.repeat(0, len(timestamps))
        first, last = (timestamps[0] - begin) // 1000, (timestamps[-1] - begin) // 1000
        if first == last and 0 <= first <= _SECONDS_MAX:
            return itertools.repeat(first, len(timestamps))
        return [min(max((timestamp - begin) // 1000, 0), _SECONDS_MAX) for timestamp in timestamps]

    # -- room

    def _reserve(self, touched: Sequence[int], end_number: int, soon: Soon) -> None:
        """Take room for the slots and for the entries before `end_number`. StoreFull, StoreBroken."""
        if not self._all_pages_reserved:
            self._reserve_slots(touched, soon)
        end = entry_position(end_number, self._slot_num)
        if end > self._entries_reserved:
            if not self._entries_reserved:
                self._entries_reserved = entry_position(self.header.index_count, self._slot_num)
            self._reserve_until(end)
        elif end + _RESERVE_AHEAD // 2 > self._entries_reserved and self._has_grown:
            until = self._entries_reserved + _RESERVE_AHEAD
            self._soon(lambda: self._reserve_until(until), soon)

    @property
    def _has_grown(self) -> bool:
        """Whether the file is no longer one of the many that stay small."""
        return self._pages_touched > _PAGES_ONE_BY_ONE

    def _reserve_until(self, end: int) -> None:
        end = min(-(-end // PAGE) * PAGE, self._file.size)
        if end > self._entries_reserved:
            self._file.reserve_range(self._entries_reserved, end)
            self._entries_reserved = end

    def _reserve_slots(self, touched: Sequence[int], soon: Soon) -> None:
        reserved = self._page_reserved
        for page in {slot_position(slot) // PAGE for slot in touched}:
            if not reserved[page]:
                self._file.reserve_range(page * PAGE, (page + 1) * PAGE)
                reserved[page] = 1
                self._pages_touched += 1
        if self._has_grown:
            self._soon(self._reserve_all_slots, soon)

    def _reserve_all_slots(self) -> None:
        end = slot_position(self._slot_num)
        if self._disk.usage(self.path).free < _PLENTY * end:
            raise StoreFull(f"{self.path} does not take {end} bytes of a disk that is nearly full")
        self._file.reserve_range(0, end)
        self._all_pages_reserved = True

    def _soon(self, job: Job, soon: Soon) -> None:
        """Run `job` in the background, unless one runs, or one has found the disk full."""
        if self._reserving or not self._looks_ahead:
            return
        self._reserving = True

        def run() -> None:
            try:
                job()
            except StoreError:
                self._looks_ahead = False
                raise
            finally:
                self._reserving = False

        soon(run)

    # -- looking up, leaving

    def chain(self, key_hash: int) -> Iterator[IndexEntry]:
        """The entries of a key hash's slot, newest first. StoreCorrupt as `index_file.chain`, StoreError."""
        return chain(self._file.read, self.header, self._slot_num, key_hash % self._slot_num)

    def newest(self, key_hash: int) -> int:
        """The number of the newest entry in the slot of a key hash. StoreError."""
        data = self._file.read(slot_position(key_hash % self._slot_num), INDEX_SLOT_SIZE)
        return int.from_bytes(data, "big", signed=True)

    def entry(self, number: int) -> IndexEntry:
        """Entry `number`, from 1 to index_count − 1. StoreError."""
        data = self._file.read(entry_position(number, self._slot_num), INDEX_ENTRY_SIZE)
        return IndexEntry(*struct.unpack(">iqii", data.ljust(INDEX_ENTRY_SIZE, b"\0")))

    def sync(self) -> None:
        """Bring all that was written to the disk, in any thread. StoreBroken."""
        self._file.sync()

    def leave(self) -> None:
        """Unmap the file and close what is open."""
        if self._slots is not None:
            self._slots.release()
            self._slots = None
        self._buffer = None
        self._file.unmap()
        self._file.release()
