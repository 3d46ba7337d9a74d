"""Checking index files: each in itself, and all of them against the records of the log (store.md §4)."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from pymq.disk import Disk
from pymq.protocol.message import MessageRecord
from pymq.protocol.sysflags import TRANSACTION_MASK, TRANSACTION_ROLLBACK
from pymq.store.commitlog import FILLER_TOPIC
from pymq.store.index_file import (
    INDEX_ENTRY,
    INDEX_HEADER,
    INDEX_SLOT_SIZE,
    IndexEntry,
    IndexHeader,
    header_fault,
    keys_of,
)
from pymq.store.inspection.files import FoundFile, chunks
from pymq.store.inspection.index_geometry import Geometry, read_header
from pymq.store.inspection.problems import Problem, Progress, Report, Run
from pymq.store.key_hashes import key_hash

PART = "index"
_SECONDS_MAX = 2**31 - 1


def is_filler(record: MessageRecord) -> bool:
    """Whether recovery put this record over damaged bytes (`CommitLog.fill`)."""
    is_rolled_back = record.sys_flag & TRANSACTION_MASK == TRANSACTION_ROLLBACK
    return is_rolled_back and record.topic == FILLER_TOPIC.decode()


class Located(NamedTuple):
    """An entry and where it stands."""

    entry: IndexEntry
    number: int
    file: FoundFile
    position: int
    begin_timestamp: int


class IndexFiles:
    """All entries of the index files, in order; each file is checked in itself on the way."""

    def __init__(
        self, disk: Disk, files: list[FoundFile], geometry: Geometry, report: Report, progress: Progress
    ) -> None:
        self._disk = disk
        self._files = files
        self._geometry = geometry
        self._report = report
        self._progress = progress
        self.entries_count = 0

    def __iter__(self) -> Iterator[Located]:
        for file in self._files:
            header = self._sound_header(file)
            if header is not None:
                yield from self._entries(file, header)
            self._progress(file.size)

    def _sound_header(self, file: FoundFile) -> IndexHeader | None:
        if file.size != self._geometry.file_bytes:
            text = f"has {file.size:,} bytes, the other files have {self._geometry.file_bytes:,}"
            self._report(Problem(PART, file.path, -1, text))
            return None
        header = read_header(self._disk, file)
        fault = header_fault(header, *self._geometry) if header is not None else "has no header"
        if fault is not None:
            self._report(Problem(PART, file.path, 0, f"the header is impossible: {fault}"))
            return None
        return header

    def _entries(self, file: FoundFile, header: IndexHeader) -> Iterator[Located]:
        """The entries of a file. Its slots are built from them anew, and compared with those that it has."""
        slots = self._geometry.slots
        heads = array("i", bytes(slots * INDEX_SLOT_SIZE))
        size = INDEX_ENTRY.size
        start = self._geometry.entries_start + size
        end = start + (header.index_count - 1) * size
        number, first, last = 1, -1, -1
        rest = b""
        for _, data in chunks(self._disk, file, start, end):
            data = rest + data
            whole = len(data) - len(data) % size
            rest = data[whole:]
            for fields in INDEX_ENTRY.iter_unpack(data[:whole]):
                entry = IndexEntry(*fields)
                position = start + (number - 1) * size
                slot = entry.key_hash % slots
                self._check_entry(file, position, number, entry, heads[slot])
                heads[slot] = number
                if number == 1:
                    first = entry.phy_offset
                last = entry.phy_offset
                yield Located(entry, number, file, position, header.begin_timestamp)
                number += 1
        self.entries_count += number - 1
        if number > 1:
            self._compare(file, 16, "begins with", header.begin_phy_offset, first)
            self._compare(file, 24, "ends with", header.end_phy_offset, last)
        used = slots - heads.count(0)
        if header.hash_slot_count not in (used, number - 1):  # 4.3.2 counts each entry
            text = f"the header counts {header.hash_slot_count:,} used slots, there are {used:,}"
            self._report(Problem(PART, file.path, 32, text))
        self._check_slots(file, heads)

    def _check_entry(self, file: FoundFile, position: int, number: int, entry: IndexEntry, head: int) -> None:
        if entry.key_hash < 0 or entry.seconds < 0:
            text = f"entry {number:,} is impossible: hash {entry.key_hash}, {entry.seconds} s"
            self._report(Problem(PART, file.path, position, text, offset=entry.phy_offset))
        elif entry.previous != head:
            text = (
                f"entry {number:,} continues its slot's chain with {entry.previous:,},"
                f" the one before it there is {head:,}"
            )
            self._report(Problem(PART, file.path, position, text, offset=entry.phy_offset))

    def _compare(self, file: FoundFile, position: int, verb: str, said: int, found: int) -> None:
        if said != found:
            text = f"the header says that the file {verb} the message at {said:,}, its entry has {found:,}"
            self._report(Problem(PART, file.path, position, text))

    def _check_slots(self, file: FoundFile, heads: array[int]) -> None:
        if sys.byteorder == "little":
            heads.byteswap()
        wanted = memoryview(heads).cast("B")
        start = INDEX_HEADER.size
        for position, data in chunks(self._disk, file, start, start + len(wanted)):
            expected = wanted[position - start : position - start + len(data)]
            if expected == data:
                continue
            for at in range(0, len(data), INDEX_SLOT_SIZE):
                piece = slice(at, at + INDEX_SLOT_SIZE)
                if expected[piece] != data[piece]:
                    said, real = (
                        int.from_bytes(part[piece], "big", signed=True) for part in (data, expected)
                    )
                    slot = (position - start + at) // INDEX_SLOT_SIZE
                    text = f"slot {slot:,} begins with entry {said:,}, its newest entry is {real:,}"
                    self._report(Problem(PART, file.path, position + at, text))


class IndexMatch:
    """Compares the entries with the records of the log, both in the log's order, in one pass."""

    def __init__(self, files: IndexFiles, folder: str, log_start: int, report: Report) -> None:
        self._folder = folder
        self._entries = iter(files)
        self._log_start = log_start
        self._report = report
        self._strays = Run(report)
        self._missing = Run(report)
        self._last = -1
        self._ahead: Located | None = next(self._entries, None)
        self._next: Located | None = None
        self._advance()

    def _advance(self) -> None:
        """Go to the next entry that is in the order of the log; one that stands out of it is wrong."""
        while True:
            current, self._ahead = self._ahead, next(self._entries, None)
            self._next = current
            if current is None:
                return
            offset = current.entry.phy_offset
            ahead = self._ahead
            falls = (
                ahead is not None and ahead.entry.phy_offset < offset and ahead.entry.phy_offset >= self._last
            )
            if offset < self._last or falls:
                self._stray(current)
                continue
            self._last = offset
            return

    def match(self, record: MessageRecord) -> None:
        """The next record of the log: its entries come next."""
        offset = record.physical_offset
        if is_filler(record):
            self.pass_over(offset, offset + record.total_size)
            return
        self._skip_to(offset)
        found: set[int] = set()
        expected: set[int] = set()
        if record.sys_flag & TRANSACTION_MASK != TRANSACTION_ROLLBACK:
            expected = {key_hash(record.topic, key) for key in keys_of(record.properties)}
        while self._next is not None and self._next.entry.phy_offset == offset:
            self._check(self._next, record, expected)
            found.add(self._next.entry.key_hash)
            self._advance()
        if not expected <= found:
            self._missing.add(offset, PART, self._folder, -1, self._missing_text, is_next=True)
        elif expected:
            self._missing.end()

    def pass_over(self, start: int, end: int) -> None:
        """No message stands there, but some may have stood: recovery filled it and left their entries."""
        self._skip_to(start)
        while self._next is not None and self._next.entry.phy_offset < end:
            self._advance()

    @staticmethod
    def _missing_text(first: int, last: int, count: int) -> str:
        if count == 1:
            return f"a key of the message at {first:,} has no entry: it is not found by key"
        return f"{count:,} messages from {first:,} to {last:,} have keys without an entry: not found by key"

    def _check(self, found: Located, record: MessageRecord, expected: set[int]) -> None:
        entry, begin = found.entry, found.begin_timestamp
        fault = ""
        if entry.key_hash not in expected:
            fault = f"has hash {entry.key_hash}, which no key of the message at {entry.phy_offset:,} has"
        elif found.number > 1 and begin > 0:  # the first is counted from the end of the file before
            seconds = min(max(0, (record.store_timestamp - begin) // 1000), _SECONDS_MAX)
            if entry.seconds != seconds:
                fault = f"says {entry.seconds:,} s after the file's begin, its message has {seconds:,} s"
        if fault:
            text = f"entry {found.number:,} {fault}"
            self._report(Problem(PART, found.file.path, found.position, text, offset=entry.phy_offset))

    def _skip_to(self, offset: int) -> None:
        while self._next is not None and self._next.entry.phy_offset < offset:
            if self._next.entry.phy_offset >= self._log_start:
                self._stray(self._next)
            self._advance()

    def _stray(self, found: Located) -> None:
        offset, number = found.entry.phy_offset, found.number

        def text(first: int, last: int, count: int) -> str:
            if count == 1:
                return f"entry {first:,} points to {offset:,}, where no message of the log begins"
            return f"entries {first:,} to {last:,} point from {offset:,} on to where no message begins"

        self._strays.add(number, PART, found.file.path, found.position, text)

    def finish(self) -> None:
        """The log has ended: what is left points beyond it."""
        self._skip_to(2**63)
        if self._next is not None:
            self._stray(self._next)
        self._strays.end()
        self._missing.end()
