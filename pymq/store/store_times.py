"""Queues and time: when a message was stored, and which one was stored at a time (store.md §7)."""

from __future__ import annotations

from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import BLANK_UNIT_SIZE, ConsumeQueue
from pymq.store.lost_units import read_units

_READ_UNITS = 800
"""So many are read at a time where the first has no message."""


def store_time(log: CommitLog, queue: ConsumeQueue, offset: int) -> int:
    """When message number `offset` was stored, ms since 1970; -1 when it is not there."""
    if not queue.min_offset <= offset < queue.max_offset:
        return -1
    found = _first_with_time(log, queue, offset, offset + 1)
    return -1 if found is None else found[1]


def offset_by_time(log: CommitLog, queue: ConsumeQueue, timestamp: int) -> int:
    """The message stored at `timestamp` (ms); else its nearer neighbour, of two equally near the earlier.

    0 for an empty queue. Lost messages are passed over. Unlike Apache's, the
    answer does not depend on the files' times of change.
    """
    queue.raise_min_offset(log.min_offset)
    first, last = queue.min_offset, queue.max_offset
    if first >= last:
        return 0
    earlier: tuple[int, int] | None = None
    later: tuple[int, int] | None = None
    while first < last:
        middle = (first + last) // 2
        found = _first_with_time(log, queue, middle, last)
        if found is None:
            last = middle
        elif found[1] < timestamp:
            earlier, first = found, found[0] + 1
        else:
            later, last = found, middle
    if earlier is None or later is None:
        nearest = earlier or later
        return nearest[0] if nearest is not None else queue.min_offset
    return later[0] if later[1] - timestamp < timestamp - earlier[1] else earlier[0]


def _first_with_time(log: CommitLog, queue: ConsumeQueue, offset: int, end: int) -> tuple[int, int] | None:
    """Number and store time of the first message from number `offset` up to `end`; None without one."""
    count = 1  # hardly ever more are needed
    while offset < end:
        units = read_units(queue, log, offset, min(count, end - offset))
        if not units:
            offset, count = queue.next_file_offset(offset), 1
            continue
        for number, (physical, size, _) in enumerate(units, offset):
            time = log.store_timestamp(physical) if size != BLANK_UNIT_SIZE else -1
            if time >= 0:
                return number, time
        offset += len(units)
        count = _READ_UNITS
    return None
