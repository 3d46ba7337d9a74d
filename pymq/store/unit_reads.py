"""A queue's units, read past any mapping: where they end and where one is (store.md §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final

from pymq.store.segments import PAGE, Segment, Segments

CQ_STORE_UNIT = Struct(">qiq")
"""commit-log offset (8), size of the record (4), tags code (8)."""
CQ_STORE_UNIT_SIZE: Final = 20
assert CQ_STORE_UNIT.size == CQ_STORE_UNIT_SIZE

BLANK_UNIT_SIZE: Final = 0x7FFFFFFF
"""The record size of a unit that stands for nothing, where no other can (`lost_units`)."""
BORDER_TAGS_CODE: Final = int.from_bytes(b"pymqlost")
"""In a unit that stands for nothing and lies across the border of two files of the log (`log_border`). More
than 32 bits: no message has this tags code, nor is it a time of delivery."""
_unpack_unit_from = CQ_STORE_UNIT.unpack_from
_PAGE_BYTES = PAGE // CQ_STORE_UNIT_SIZE * CQ_STORE_UNIT_SIZE
_READ_UNITS = 50_000
_KNOWN_MAX = 25
"""Units of a queue that are kept in memory while the store is opened, which looks at them again and again."""


def stands_for_nothing(unit: tuple[int, int, int]) -> bool:
    """Whether a unit, blank or at a border, only fills the place of a message that is lost."""
    return unit[1] == BLANK_UNIT_SIZE or unit[2] == BORDER_TAGS_CODE


class UnitReads:
    """What a queue reads from its files: there may be nothing written yet, or not even a file.

    While the store is opened, which looks at each queue again and again, the units of a short one are kept.
    """

    __slots__ = ("_file_bytes", "_known", "_known_start", "_newest", "_segments", "max_offset")

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._file_bytes = segments.segment_bytes
        self.max_offset = 0
        """Number of the next message."""
        self._newest: tuple[int, tuple[int, int, int]] | None = None
        self._known, self._known_start = b"", 0
        """Units that are known, and where in the queue they begin, in bytes."""

    def first_offset(self, holds: Callable[[int, int, int], bool]) -> int:
        """The first number whose unit satisfies `holds`, given that all after it do too; else max_offset.

        A single damaged unit does not lead it astray: where the units beside the place found disagree, three
        in a row vote in place of each. When that leaves two places, it is the lower one.
        """
        found = self._search(holds)
        low = self._segments.start // CQ_STORE_UNIT_SIZE
        start = max(low, found - 2)
        votes = [holds(*unit) for unit in self._units_on_file(start, min(found + 2, self.max_offset))]
        if not (any(votes[: found - start]) or not all(votes[found - start :])):
            return found
        found = self._search(holds, voting=True)
        while found > low and holds(*self._unit_on_file(found - 1)):
            found -= 1
        return found

    def _search(self, holds: Callable[[int, int, int], bool], *, voting: bool = False) -> int:
        low, high = self._segments.start // CQ_STORE_UNIT_SIZE, self.max_offset
        # Doubling steps first: the usual queue is short, or answers at its first unit. A page at a time is
        # read past the mapping: there may be nothing written yet.
        step = 1
        page, page_start = b"", 0
        while low < high:
            middle = (low + high) // 2
            probe = min(low + step - 1, middle) if step else middle
            position = probe * CQ_STORE_UNIT_SIZE - page_start
            if not 0 <= position < len(page):
                page, page_start, position = self._page_from(probe), probe * CQ_STORE_UNIT_SIZE, 0
            if self._vote(holds, probe) if voting else holds(*_unpack_unit_from(page, position)):
                high, step = probe, 0
            else:
                low, step = probe + 1, 2 * step
        return low

    def _vote(self, holds: Callable[[int, int, int], bool], number: int) -> bool:
        """Whether two of three units around a number satisfy `holds`; it does not before the first one."""
        start = self._segments.start // CQ_STORE_UNIT_SIZE
        end = min(number + 2, self.max_offset)
        votes = [holds(*unit) for unit in self._units_on_file(max(start, number - 1), end)]
        return sum(votes) + (end < number + 2) >= 2

    def batches(self, offset: int) -> Iterator[Iterator[tuple[int, int, int]]]:
        """All units from a number on, read past the mapping, many at a time."""
        while offset < self.max_offset:
            start = offset * CQ_STORE_UNIT_SIZE
            segment = self._segments.at(start)
            if segment is None:
                return
            end = min(self.max_offset * CQ_STORE_UNIT_SIZE, segment.base + self._file_bytes)
            size = min(end - start, _READ_UNITS * CQ_STORE_UNIT_SIZE)
            yield CQ_STORE_UNIT.iter_unpack(self._read_file(segment, start - segment.base, size))
            offset += size // CQ_STORE_UNIT_SIZE

    def number_at(self, physical_offset: int) -> int:
        """The first number whose unit is of a record at or behind the physical offset; else max_offset."""
        if not self.max_offset or self._newest_unit()[0] < physical_offset:
            return self.max_offset
        return self.first_offset(lambda physical, _, __: physical >= physical_offset)

    def _unit_on_file(self, offset: int) -> tuple[int, int, int]:
        """A unit, read past the mapping: it may lie where nothing was written."""
        return _unpack_unit_from(self._page_from(offset))

    def _units_on_file(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The units from one number up to another, read past the mapping; zeros where there is no file."""
        units: list[tuple[int, int, int]] = []
        while (first := start + len(units)) < end:
            units += CQ_STORE_UNIT.iter_unpack(self._page_from(first)[: (end - first) * CQ_STORE_UNIT_SIZE])
        return units

    def _page_from(self, offset: int) -> bytes:
        """A page of whole units, at least one, from a number on; zeros where there is no file."""
        start = offset * CQ_STORE_UNIT_SIZE
        if 0 <= start - self._known_start < len(self._known):
            return self._known[start - self._known_start :]
        segment = self._segments.at(start)
        data = b"" if segment is None else segment.file.read(start - segment.base, _PAGE_BYTES)
        return data or bytes(CQ_STORE_UNIT_SIZE)

    def _read_file(self, segment: Segment, position: int, size: int) -> bytes:
        """Read past the mapping, unless it is known."""
        start = segment.base + position - self._known_start
        if start >= 0 and start + size <= len(self._known):
            return self._known[start : start + size]
        return segment.file.read(position, size)

    def last_unit(self) -> tuple[int, int, int] | None:
        """The newest unit that stands for a message, or None."""
        unit = self._newest_unit() if self.max_offset else None
        return None if unit is None or stands_for_nothing(unit) else unit

    @property
    def ends_blank(self) -> bool:
        """Whether the last unit is a blank one."""
        return self.max_offset > 0 and self._newest_unit()[1] == BLANK_UNIT_SIZE

    def _newest_unit(self) -> tuple[int, int, int]:
        """The unit before `max_offset`, read from the file once: opening a store asks often."""
        if self._newest is None or self._newest[0] != self.max_offset:
            self._newest = self.max_offset, self._unit_on_file(self.max_offset - 1)
        return self._newest[1]

    def _find_end(self) -> tuple[int, bytes]:
        """Of the files as they are: the number behind the last unit, and all units if there are only few."""
        start = self._segments.start
        first = start // CQ_STORE_UNIT_SIZE
        self._known = page = self._page_from(first)
        self._known_start = start
        end = self.first_offset(lambda physical, size, _: size <= 0 or physical < 0)
        return end, page[: (end - first) * CQ_STORE_UNIT_SIZE] if end - first <= _KNOWN_MAX else b""
