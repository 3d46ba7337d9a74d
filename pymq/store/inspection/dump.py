"""`pymq store dump`: the messages of a store, straight from the commit log."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pymq.protocol.message import MessageRecord
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.log_walk import Damage, End, LogReader, walk
from pymq.store.inspection.problems import Problem, Report
from pymq.store.inspection.queue_units import bounds, unit_at


class Wanted(msgspec.Struct, frozen=True):
    """Which messages to give. None: all."""

    topic: str | None = None
    queue_id: int | None = None
    from_offset: int | None = None
    """Physical offset to begin at; the first record that begins there or behind."""
    from_queue_offset: int | None = None
    """Number in the queue to begin at; goes with `topic` and `queue_id`."""
    limit: int | None = None


def dump(folder: StoreFolder, wanted: Wanted, report: Report) -> Iterator[MessageRecord]:
    """Give the wanted messages in the order of the log; damage on the way is reported and passed over."""
    log = folder.commit_log
    left = wanted.limit
    begin = _begin(folder, wanted)
    for found in walk(log, begin, 0, is_final=False):
        if isinstance(found, MessageRecord):
            if left == 0:
                return
            if _matches(found, wanted):
                left = None if left is None else left - 1
                yield found
        elif isinstance(found, Damage):
            text = f"{found.end - found.offset:,} bytes are no message: {found.reason}"
            report(Problem("commitlog", *log.place(found.offset), text, offset=found.offset))
        elif isinstance(found, End) and found.leftover:
            text = f"the log ends at {found.offset:,}: {found.leftover}"
            report(Problem("commitlog", *log.place(found.offset), text, offset=found.offset, is_note=True))


def _matches(record: MessageRecord, wanted: Wanted) -> bool:
    return (
        (wanted.topic is None or record.topic == wanted.topic)
        and (wanted.queue_id is None or record.queue_id == wanted.queue_id)
        and (wanted.from_queue_offset is None or record.queue_offset >= wanted.from_queue_offset)
    )


def _begin(folder: StoreFolder, wanted: Wanted) -> int:
    """The physical offset to begin at: that of a record, so that the walk need not search."""
    log = folder.commit_log
    begin = max(log.start, wanted.from_offset or 0, _begin_of_queue(folder, wanted))
    file = log.at(begin)
    if file is None or begin == log.start:
        return begin
    reader = LogReader(log)
    if isinstance(reader.examine(begin), MessageRecord):
        return begin
    found = reader.next_sound(begin, file.base + file.size)
    return file.base + file.size if found is None else found


def _begin_of_queue(folder: StoreFolder, wanted: Wanted) -> int:
    """Where the queue's first wanted message stands: the queue is the short way, where there is one."""
    if wanted.topic is None or wanted.queue_id is None or wanted.from_queue_offset is None:
        return 0
    queue = folder.queues.get((wanted.topic, wanted.queue_id))
    if queue is None:
        return 0
    low, high = bounds(queue, folder.commit_log.start)
    number = max(low, wanted.from_queue_offset)
    if number >= high or queue.at(number * CQ_STORE_UNIT_SIZE) is None:
        return 0
    unit = unit_at(queue, number)
    return 0 if unit.is_blank else unit.physical_offset
