"""Which timed messages wait, found when a broker starts: the log is the record of what was delivered.

Each delivery, and each message put again, names the timed message that it follows from. The journal says up
to where in the log it knows them, and is written only when the log is on the disk up to there; from there on
the log itself is read. So after a kill nothing is delivered twice or left out, and after a power cut only
that is delivered again whose delivery did not reach the disk.

Without a journal, or with one that does not fit, all is found from the log: the timed messages from the timer
topic's queue, and what follows from them from the first of them on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pymq.broker.searched_queue import SearchedQueue
from pymq.broker.timed import Timed, follows, read_timed
from pymq.store.messagestore import MessageStore
from pymq.store.timer_journal import TIMER_TOPIC, TimerJournal

log = logging.getLogger("pymq.broker.timers")

_SPILL_BYTES = 8 << 20
"""So much of a journal that is built anew is kept in memory at most."""


def recover(store: MessageStore, journal: TimerJournal, *, anew: bool = False) -> int:
    """Let the journal hold what waits. With `anew` it is not believed. StoreError.

    Returns a number: all timed messages before it were put again, or wait no more.
    """
    low, end = store.min_offset(TIMER_TOPIC, 0), store.max_offset(TIMER_TOPIC, 0)
    mark = None if anew else journal.load()
    if mark is not None and (mark.next_number > end or mark.log_offset > store.commit_log_max_offset):
        log.warning("the timer journal knows more than the log holds: it is not believed")
        mark = None
    if mark is None:
        journal.clear()
        first, start, rolled = low, _begin(store, low), low
        if low < end:
            log.warning("the timer journal is built from %d timed messages in the log", end - low)
    else:
        first, start, rolled = max(low, mark.next_number), mark.log_offset, max(low, mark.rolled_number)
    if first == end and not journal.hours():
        return rolled
    waiting = SearchedQueue(store, TIMER_TOPIC, low, end, read_timed)
    settled = bytearray(end - low)
    """By number: whether something follows from it that the journal does not know."""
    for message, is_again in _followed(store, waiting, max(start, store.commit_log_min_offset), low):
        settled[message.number - low] = 1
        if message.number < first:
            journal.remove(message.deliver_ms, message.number)
        if is_again:
            rolled = max(rolled, message.number + 1)
    count = 0
    for number in range(first, end):
        if settled[number - low]:
            continue
        found = waiting.read(number)
        if found is None:
            log.error("timed message %d is gone or damaged; left out", number)
            continue
        journal.add(found.entry)
        count += 1
        if journal.new_bytes > _SPILL_BYTES and mark is None:
            journal.spill()
    if count or any(settled):
        log.info("%d timed messages taken from the log, %d had been delivered", count, sum(settled))
    return rolled


def _begin(store: MessageStore, number: int) -> int:
    """Where the first timed message is, before everything that may follow from one."""
    for physical_offset, _, _ in store.units(TIMER_TOPIC, 0, number, 1):
        if read_timed(store.record_at(physical_offset)) is not None:
            return physical_offset
    return store.commit_log_min_offset


def _followed(
    store: MessageStore, waiting: SearchedQueue[Timed], start: int, low: int
) -> Iterator[tuple[Timed, bool]]:
    """The timed messages from which a record behind `start` follows, and whether it is the message again."""
    for data in store.records_from(start):
        copy = follows(data)
        if copy is None or copy[0] < low:
            continue
        number, record = copy
        message = waiting.read(number)
        if message is not None and message.is_followed_by(record):
            yield message, message.is_put_again_as(record)
