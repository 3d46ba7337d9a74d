"""The search of the commit log for what belongs into bad units of a queue (store.md §3, §12)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pymq.protocol.sysflags import has_queue_unit
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT, ConsumeQueue
from pymq.store.record_units import has_unit, record_tags_code
from pymq.store.scan import LogRecord, LogScan
from pymq.store.unit_match import Unit
from pymq.store.unit_reads import stands_for_nothing

_NEIGHBOURS = 4096
"""So many units on either side of the damaged one are looked at."""
_SLICE = 8 << 20
"""Bytes of the log that one job reads: other fetches wait for no more than that."""
_NOBODY = 1 << 64
"""No message has this number."""


def surroundings(queue: ConsumeQueue, number: int) -> tuple[int, list[Unit]]:
    """The units around a number, and which is the first; no stretch of equal ones is cut in two."""
    low, end = min(number, queue.min_offset), number + _NEIGHBOURS + 1
    first = max(low, number - _NEIGHBOURS)
    units = _units(queue, first, end)
    while units and first > low:
        before = _units(queue, max(low, first - _NEIGHBOURS), first)
        equal = len(before)
        while equal and before[equal - 1] == units[0]:
            equal -= 1
        first, units = first - len(before) + equal, before[equal:] + units
        if equal:
            break
    while units and (behind := _units(queue, first + len(units), first + len(units) + _NEIGHBOURS)):
        equal = sum(1 for _ in itertools.takewhile(units[-1].__eq__, behind))
        units += behind[:equal]
        if equal < len(behind):
            break
    return first, units


def _units(queue: ConsumeQueue, first: int, end: int) -> list[Unit]:
    """The units from a number up to another, or to the end of the queue."""
    units: list[Unit] = []
    while first + len(units) < end:
        data = queue.read(first + len(units), end - first - len(units))
        if not data:
            break
        units += CQ_STORE_UNIT.iter_unpack(data)
    return units


class UnitSearch:
    """Finds out, in a thread, which units are bad, and the records that belong into their places.

    It touches nothing of the store: it has a copy of the units, and handles of its own of the log's files.
    """

    def __init__(
        self,
        queue: ConsumeQueue,
        number: int,
        first: int,
        units: list[Unit],
        scan: LogScan,
        log_end: int,
        delay_levels_ms: list[int],
    ) -> None:
        self.queue = queue
        self.number = number
        self.is_over = self.has_mended = False
        """`has_mended`: the units are as they are to be, or known to be."""
        self.bad: dict[int, Unit] = {}
        """The bad units, by their numbers, in order."""
        self.found: dict[int, Unit] = {}
        """What belongs there."""
        self._before: Unit | None = None
        self._behind: Unit | None = None
        """The sound units around them."""
        self._copies: set[int] = set()
        """Bad ones that may well be those of lost messages."""
        self._owners: dict[Unit, int] = {}
        self._first, self._units = first, units
        self._scan = scan
        self._low, self._high = scan.start, log_end
        """What of the log is still to be searched."""
        self._delay_levels_ms = delay_levels_ms
        self._highest = -1
        self._number_behind = _NOBODY
        """The lowest number behind the bad ones."""
        self._is_begun = False

    def covers(self, number: int) -> bool:
        """Whether the unit may be among those that are to be mended."""
        return number == self.number or number in self.bad

    def run(self) -> None:
        """Do some of it; `is_over` says whether that was all. StoreError, StoreBroken."""
        if not self._is_begun:
            self._is_begun = True
            self._find_extent()
        end = min(self._high, self._low + _SLICE)
        while self._low < end:
            for batch in self._scan.batches(self._low):
                for record in batch:
                    if record.physical_offset < self._high:
                        self._take(record)
                if self._scan.end >= end:
                    break
            if self._scan.end >= end:
                self._low = self._scan.end
            else:
                self._pass_damaged(self._scan.end)
                sound = self._scan.next_sound(self._scan.end, self._high)
                self._low = self._high if sound is None else sound
        self._scan.forget()
        self.is_over = self._low >= self._high

    def _find_extent(self) -> None:
        """From the last sound unit before the number to the first one behind it.

        A lost message's, which is a copy, is as good as the one that it is copied from: on the side of that.
        """
        start, end = self.number, self.number + 1
        while start > self._first and not self._owner(start - 1) <= start - 1:
            start -= 1
        while end < self._first + len(self._units) and not end <= self._owner(end) < _NOBODY:
            end += 1
        if start > self._first:
            self._before = self._units[start - 1 - self._first]
            self._low = self._before[0] + self._before[1]
        if end < self._first + len(self._units):
            self._behind = self._units[end - self._first]
            self._high = self._behind[0]
            self._number_behind = end
        self.bad = {number: self._units[number - self._first] for number in range(start, end)}
        self._copies = {number for number in self.bad if self._owner(number) != _NOBODY}
        if self._before is None and len(self._copies) == len(self.bad):
            self._low = self._high  # what stands before them may be of a topic that was deleted

    def _owner(self, number: int) -> int:
        """The number of the message that this number's unit stands for; `_NOBODY` when it is not sound."""
        at = number - self._first
        unit = self._units[at]
        if unit not in self._owners:
            self._owners[unit] = self._message_of(unit)
        owner = self._owners[unit]
        if owner != number:
            towards = at + (1 if owner > number else -1)
            if not 0 <= owner - self._first < len(self._units) or not 0 <= towards < len(self._units):
                return _NOBODY
            if not self._units[owner - self._first] == unit == self._units[towards]:
                return _NOBODY
        return owner

    def _message_of(self, unit: Unit) -> int:
        record = None if stands_for_nothing(unit) else self._scan.record_at(unit[0])
        if record is None or not self._is_of_queue(record) or not has_unit(record, unit):
            return _NOBODY
        return record.queue_offset

    def _is_of_queue(self, record: LogRecord) -> bool:
        return (record.topic, record.queue_id) == (self.queue.topic, self.queue.queue_id)

    def new_units(self) -> Iterator[tuple[int, Unit]]:
        """The bad numbers in order, and the units that they are to have.

        That of a lost message is the one before it, where there is none the one behind, else a blank one. A
        copy stays what it is, unless a message was found that it may stand on the wrong side of.
        """
        following = self.found[min(self.found)] if self.found else self._behind
        unit = self._before or following or (self._scan.start, BLANK_UNIT_SIZE, 0)
        for number, old in self.bad.items():
            unit = self.found.get(number, unit)
            yield number, old if number in self._copies and not self.found else unit

    def _take(self, record: LogRecord) -> None:
        number = record.queue_offset
        if not self._is_of_queue(record) or not has_queue_unit(record.sys_flag):
            return
        if number <= self._highest or number >= self._number_behind:
            self.found.clear()  # the topic was deleted and made anew in between, or was later
        self._highest = number
        if number in self.bad:
            tags_code = record_tags_code(record, self._delay_levels_ms)
            self.found[number] = record.physical_offset, record.total_size, tags_code

    def _pass_damaged(self, place: int) -> None:
        """No sound record stands at a place: if a unit names it, its message did, and was none before it."""
        for number, unit in self.bad.items():
            if unit[0] == place:
                self.found = {before: found for before, found in self.found.items() if before < number}
