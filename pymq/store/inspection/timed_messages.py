"""Timed messages that wait in a store's folder: a 4.x broker of Apache's would never deliver them.

What waits is in the timer journal; what was stored since it was written, or all where there is none, is told
by the records, as long as they are due later than the store's last known time.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator

import msgspec

from pymq.protocol import properties as names
from pymq.protocol.message import MessageRecord
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.log_walk import LogReader
from pymq.store.inspection.queue_units import Bounds, unit_at
from pymq.store.inspection.table_check import checkpoint_times
from pymq.store.timer_journal import MINUTE_MS, TIMER_TOPIC, TimerEntry, TimerJournal, timer_key

JOURNAL = "timerjournal"
"""The journal's folder within a store's."""


class TimedMessages(msgspec.Struct):
    """How many timed messages wait, and when they are due, ms since 1970."""

    count: int
    first_due: int
    last_due: int


def timed_messages(folder: StoreFolder, queue_bounds: Bounds) -> TimedMessages | None:
    """What waits, None when nothing does. Nothing is changed."""
    low, high = queue_bounds.get((TIMER_TOPIC, 0), (0, 0))
    if low >= high:
        return None
    entries = list(_entries(folder, low, high))
    cancelled = {_key(entry) for entry in entries if entry.is_cancel}
    due = [
        entry.deliver_ms
        for entry in entries
        if not entry.is_cancel and not (entry.key and _key(entry) in cancelled)
    ]
    return TimedMessages(len(due), min(due), max(due)) if due else None


def _key(entry: TimerEntry) -> tuple[int, int]:
    """What a message and its cancellation have in common."""
    return (entry.deliver_ms - 1) // MINUTE_MS, entry.key


def _entries(folder: StoreFolder, low: int, high: int) -> Iterator[TimerEntry]:
    journal = TimerJournal(os.path.join(folder.root, JOURNAL), folder.disk)
    mark = journal.load(tidy=False)
    stored = list(_stored(folder, max(low, mark.next_number) if mark else low, high))
    put_again = {number for _, number in stored}
    if mark is not None:
        for hour in journal.hours():
            for batch in journal.read(hour):
                yield from (entry for entry in batch if entry.number not in put_again)
    yield from (entry for entry, _ in stored if entry.number not in put_again)


def _stored(folder: StoreFolder, low: int, high: int) -> Iterator[tuple[TimerEntry, int]]:
    """What the records of the timer topic ask for, and the number of the one that each follows from."""
    times = checkpoint_times(folder)
    known_ms = times[0] if times else 0
    reader = LogReader(folder.commit_log)
    for number in range(low, high):
        record = reader.examine(unit_at(folder.queues[TIMER_TOPIC, 0], number).physical_offset)
        if not isinstance(record, MessageRecord) or record.queue_offset != number:
            continue
        table = record.read_properties()
        due = table.get(names.TIMER_OUT_MS, "")
        if not due.isdecimal() or int(due) <= known_ms:
            continue
        topic, cancelled = table.get(names.REAL_TOPIC, ""), table.get(names.TIMER_DEL_UNIQKEY)
        key = cancelled.removeprefix(f"{topic}+") if cancelled else table.get(names.UNIQ_KEY, "")
        before = table.get(names.PYMQ_TIMER_OFFSET, "")
        entry = TimerEntry(int(due), number, timer_key(topic, key) if key else 0, bool(cancelled))
        yield entry, int(before) if before.isdecimal() else -1
