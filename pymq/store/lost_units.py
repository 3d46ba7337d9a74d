"""Units of messages that the commit log has lost (store.md §3).

A number of a queue is never given twice, so a lost message leaves its place behind, and a unit must stand
there. One that leads nowhere would stop an Apache 4.9.4 broker: it takes the largest offset + size of all
units for what it has dispatched, and a pull that comes across a size of 0x7FFFFFFF ends in an error. So the
unit is a copy of the one before it, or, at the beginning of a queue, of the one behind: Apache serves that
message once more, as it may do, and its offsets never decrease. A reader of ours passes over a copy: its
record has another number. But before the first one after a start does, the log is searched for the message
(`healing`): a unit may also have been written over by its neighbour's.

Where the queue has no message at all to point to, the unit lies across the border of two files of the log,
where no message can stand (`log_border`): Apache reads nothing there, and goes on with the next unit. A log
of one file has no border: there the unit is a blank one, which a later start settles, or `pymq store repair`.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from struct import Struct
from typing import Final

from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.unit_match import Unit, number_of
from pymq.store.unit_reads import BORDER_TAGS_CODE, stands_for_nothing

PRE_BLANK_UNIT: Final[Unit] = (0, BLANK_UNIT_SIZE, 0)
"""Apache's own for what was lost before the queue's beginning (store.md §3): it lies below the minimum."""
_LOST: Final[Unit] = (-1, BLANK_UNIT_SIZE, 0)
_PLACE: Final = Struct(">q12x")
"""Only a unit's physical offset."""
assert _PLACE.size == CQ_STORE_UNIT_SIZE
_LOOK: Final = 64
_NONE: Final = frozenset[int]()


class LostNumbers:
    """Tells, of units that are read in order, which numbers have the unit of another message.

    It looks at a few units at a time, and at records only where two units name the same place.
    """

    __slots__ = ("_end", "_first", "_log", "_lost", "_queue", "_units")

    def __init__(self, queue: ConsumeQueue, log: CommitLog, first: int, units: bytes) -> None:
        """`units`: as read from number `first` on."""
        self._queue = queue
        self._log = log
        self._first = self._end = first
        self._units = units
        self._lost: Set[int] = _NONE

    def __contains__(self, number: int) -> bool:
        if number >= self._end:
            start = (number - self._first) * CQ_STORE_UNIT_SIZE
            self._look(number, self._units[start : start + _LOOK * CQ_STORE_UNIT_SIZE])
        return number in self._lost

    def _look(self, first: int, units: bytes) -> None:
        end = self._end = first + len(units) // CQ_STORE_UNIT_SIZE
        before = self._queue.read(first - 1, 1)
        data = before + units + self._queue.read(end, 1)
        if len(set(_PLACE.iter_unpack(data))) * CQ_STORE_UNIT_SIZE == len(data):
            self._lost = _NONE
            return
        found = list(CQ_STORE_UNIT.iter_unpack(data))
        start = first - len(before) // CQ_STORE_UNIT_SIZE
        owners: dict[Unit, int | None] = {}
        self._lost = {n for n in range(first, end) if self._is_lost(n, found, n - start, owners)}

    def _is_lost(self, number: int, found: list[Unit], at: int, owners: dict[Unit, int | None]) -> bool:
        unit = found[at]
        if stands_for_nothing(unit) or unit not in (*found[max(0, at - 1) : at], *found[at + 1 : at + 2]):
            return False
        if unit not in owners:
            owners[unit] = _owner(self._queue, self._log, unit)
        owner = owners[unit]
        return owner not in (None, number) and found[at + (1 if owner > number else -1)] == unit


def _owner(queue: ConsumeQueue, log: CommitLog, unit: Unit) -> int | None:
    """The number of the message that a unit stands for, if the unit of that number is the same."""
    number = number_of(queue, unit[0], log.read(unit[0], unit[1]) or b"")
    return number if number is not None and queue.unit(number) == unit else None


def read_units(queue: ConsumeQueue, log: CommitLog, offset: int, count: int) -> list[Unit]:
    """Up to `count` units from number `offset` on; -1, BLANK_UNIT_SIZE and 0 for each lost message."""
    data = queue.read(offset, count)
    units = CQ_STORE_UNIT.iter_unpack(data)
    if offset >= queue.opened_offset:
        return list(units)
    lost = LostNumbers(queue, log, offset, data)
    return [
        _LOST if stands_for_nothing(unit) or number in lost else unit
        for number, unit in enumerate(units, offset)
    ]


def is_copy(queue: ConsumeQueue, number: int, unit: Unit, owner: int) -> bool:
    """Whether a number's unit is a copy of that of another message of the queue, whose number is `owner`."""
    towards = number + (1 if owner > number else -1)
    return owner != number and queue.unit(owner) == unit == queue.unit(towards)


def filler(queue: ConsumeQueue, following: Unit, log_start: int) -> Unit:
    """What is to stand for lost messages between the end of a queue and the unit that follows.

    `log_start`: physical offset of the log's first byte.
    """
    last = queue.last_unit()
    if last is not None:
        return last
    return PRE_BLANK_UNIT if log_start > 0 else following


def settle(queue: ConsumeQueue, number: int, log_start: int, border: Unit | None) -> range:
    """Let the blank units at and around a number be copies of a neighbour; where there is none, `border`.

    Returns whose units are others now. `log_start`: as for `filler`; a blank unit from before it stays where
    messages follow. `border`: as `border_unit`. StoreFull, StoreBroken, StoreError.
    """
    lowest = 0 if _are_blank_to_the_end(queue, number) else log_start
    if not _is_blank(queue, number, lowest):
        return range(0)
    start, end = number, number + 1
    while _is_blank(queue, start - 1, lowest):
        start -= 1
    while _is_blank(queue, end, lowest):
        end += 1
    around = start - 1, end
    found = [_neighbour(queue, n) for n in around] + [_at_border(queue, n) for n in around]
    if end == queue.max_offset:
        found.append(border)
    unit = next((unit for unit in found if unit is not None), None)
    if unit is None:
        return range(0)
    for lost in range(start, end):
        queue.replace(lost, *unit)
    return range(start, end)


def settle_each(blanks: Iterable[tuple[ConsumeQueue, int]], log_start: int, border: Unit | None) -> int:
    """`settle` many, those of a queue in order; says how many units are others now."""
    in_vain: set[tuple[ConsumeQueue, int]] = set()
    count = 0
    for queue, number in blanks:
        settled = range(0)
        if (queue, number - 1) not in in_vain:  # else of the same stretch, which is looked at once
            settled = settle(queue, number, log_start, border)
            count += len(settled)
        if not settled and _is_blank(queue, number, log_start):
            in_vain.add((queue, number))
    return count


def settle_all(queue: ConsumeQueue, log_start: int, border: Unit | None) -> int:
    """`settle` all of a queue, which is read for that; says how many units are others now."""
    number = queue.first_number
    blanks: list[tuple[ConsumeQueue, int]] = []
    for units in queue.batches(number):
        for physical, size, _ in units:
            if size == BLANK_UNIT_SIZE and physical >= log_start:
                blanks.append((queue, number))
            number += 1
    return settle_each(blanks, log_start, border)


def _is_blank(queue: ConsumeQueue, number: int, log_start: int) -> bool:
    """Whether a blank unit stands there, above the queue's minimum."""
    unit = queue.unit(number)
    return unit is not None and unit[1] == BLANK_UNIT_SIZE and unit[0] >= log_start


def _are_blank_to_the_end(queue: ConsumeQueue, number: int) -> bool:
    """Whether no message follows: then even Apache's pre-blank units hinder an Apache 4.9.4 broker."""
    return queue.ends_blank and all(_is_blank(queue, n, 0) for n in range(number, queue.max_offset))


def _at_border(queue: ConsumeQueue, number: int) -> Unit | None:
    unit = queue.unit(number)
    return unit if unit is not None and unit[2] == BORDER_TAGS_CODE else None


def _neighbour(queue: ConsumeQueue, number: int) -> Unit | None:
    unit = queue.unit(number)
    return None if unit is None or stands_for_nothing(unit) or unit[1] <= 0 or unit[0] < 0 else unit
