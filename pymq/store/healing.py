"""Mending queue units that contradict the commit log, when a reader meets them (store.md §3, §12).

Recovery looks at what is new; what was damaged long before is seen by who reads it. The records themselves
say which message they are: the log is searched between the unit's sound neighbours, in a thread, a slice at a
time, and the units are written anew. Where the log has no record for one, its message is lost (`lost_units`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from pymq.disk import Disk
from pymq.errors import StoreBroken, StoreError
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import CQ_STORE_UNIT, ConsumeQueue
from pymq.store.log_border import border_unit
from pymq.store.lost_units import settle
from pymq.store.queues import ConsumeQueues
from pymq.store.results import DispatchListener
from pymq.store.scan import LogScan
from pymq.store.unit_reads import stands_for_nothing
from pymq.store.unit_search import UnitSearch, surroundings

log = logging.getLogger("pymq.store")

_WAKE_MAX = 1000


class Healer:
    """Mends the units that readers complain of. One search at a time for each queue."""

    def __init__(
        self,
        disk: Disk,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        delay_levels_ms: list[int],
        dirty: Callable[[ConsumeQueue], None],
        on_broken: Callable[[StoreError], None],
        listeners: list[DispatchListener],
    ) -> None:
        """`dirty` is told of a queue before its units change; `listeners`, of what can be read again."""
        self._disk = disk
        self._log = commit_log
        self._queues = queues
        self._delay_levels_ms = delay_levels_ms
        self._dirty = dirty
        self._on_broken = on_broken
        self._listeners = listeners
        self._searches: dict[ConsumeQueue, UnitSearch] = {}
        self._told: dict[ConsumeQueue, str] = {}
        """What hindered the last search: said once."""
        self._lost: dict[ConsumeQueue, set[int]] = {}
        """Numbers with the unit of another message for which the log was searched, and has none."""
        self._empty: dict[ConsumeQueue, int] = {}
        """Queues without any message that a blank unit could point to, and their max offsets then."""
        self._stopped = False

    def is_busy(self, queue: ConsumeQueue, number: int) -> bool:
        """Whether this number's unit is being mended, so that a reader had better wait."""
        search = self._searches.get(queue)
        return search is not None and search.covers(number)

    def is_searching(self, queue: ConsumeQueue) -> bool:
        """Whether any of the queue's units are being mended."""
        return queue in self._searches

    def is_lost(self, queue: ConsumeQueue, number: int) -> bool:
        """Whether this number, which has the unit of another message, has been searched for in vain.

        What looks like a lost message's may be damage, too: a unit that was written to the wrong place.
        """
        return number in self._lost.get(queue, ())

    def heal(self, queue: ConsumeQueue, number: int) -> bool:
        """Begin to mend the unit of this number, and bad ones beside it, unless it is under way.

        Returns whether that is done already, as with a disk without threads.
        """
        if self._stopped or queue in self._searches:
            return False
        queue.raise_min_offset(self._log.min_offset)
        first, units = surroundings(queue, number)
        scan = LogScan(self._log.segments.apart(), check_crc=True)
        search = UnitSearch(queue, number, first, units, scan, self._log.end, self._delay_levels_ms)
        self._searches[queue] = search
        self._go_on(search)
        return search.has_mended

    def settle(self, queue: ConsumeQueue, number: int) -> None:
        """Let the blank unit of this number, and those beside it, point to a message: nothing is searched."""
        if self._stopped or queue in self._searches or self._empty.get(queue) == queue.max_offset:
            return
        self._dirty(queue)
        try:
            settled = settle(queue, number, self._log.min_offset, border_unit(self._log))
        except StoreBroken as e:
            self._on_broken(e)
        except StoreError as e:
            log.error("queue %s/%d: the blank unit %d stays: %s", queue.topic, queue.queue_id, number, e)
        else:
            if settled:
                self._empty.pop(queue, None)
                self._lost.setdefault(queue, set()).update(settled)
                self._tell_of_settled(queue, settled)
            else:
                self._empty[queue] = queue.max_offset

    def _tell_of_settled(self, queue: ConsumeQueue, settled: range) -> None:
        self._doubt(queue, settled[-1])
        unit = queue.unit(settled[0])
        now = "lead nowhere" if unit is not None and stands_for_nothing(unit) else "are its neighbour's"
        log.warning(
            "queue %s/%d: the blank units of %d lost messages, %d to %d, %s now",
            queue.topic, queue.queue_id, len(settled), settled[0], settled[-1], now,
        )  # fmt: skip

    def _doubt(self, queue: ConsumeQueue, number: int) -> None:
        """Whoever reads up to this number has to look at each unit."""
        queue.opened_offset = max(queue.opened_offset, number + 1)

    def stop(self) -> None:
        """Change nothing any more."""
        self._stopped = True

    def _go_on(self, search: UnitSearch) -> None:
        self._disk.fetch_soon(search.run, functools.partial(self._ran, search))

    def _ran(self, search: UnitSearch, error: StoreError | None) -> None:
        """A slice of the search is over."""
        queue = search.queue
        is_current = self._queues.table.get((queue.topic, queue.queue_id)) is queue
        if error is None and not search.is_over and is_current and not self._stopped:
            self._go_on(search)
            return
        del self._searches[queue]
        if self._stopped or not is_current:
            self._lost.pop(queue, None)
            return
        try:
            if error is not None:
                raise error
            self._mend(search)
        except StoreError as e:
            if self._told.get(queue) != str(e):
                self._told[queue] = str(e)
                log.error(
                    "queue %s/%d: the damaged unit %d cannot be mended: %s",
                    queue.topic, queue.queue_id, search.number, e,
                )  # fmt: skip
            if error is None and isinstance(e, StoreBroken):
                self._on_broken(e)
        else:
            self._told.pop(queue, None)

    def _mend(self, search: UnitSearch) -> None:
        queue = search.queue
        mended: list[int] = []
        lost: list[int] = []
        for number, unit in search.new_units():
            old = search.bad[number]
            is_as_good = stands_for_nothing(unit) and stands_for_nothing(old)
            if unit == old or is_as_good or queue.unit(number) != old:
                continue
            self._dirty(queue)
            search.has_mended = True
            queue.replace(number, *unit)
            (mended if number in search.found else lost).append(number)
        if lost:
            settle(queue, lost[0], self._log.min_offset, border_unit(self._log))
            self._doubt(queue, lost[-1])
        known = self._lost.setdefault(queue, set())
        if new := search.bad.keys() - search.found.keys() - known:
            known |= new
            search.has_mended = True  # the reader can go on
        name = f"{queue.topic}/{queue.queue_id}"
        if mended:
            log.warning(
                "queue %s: %d damaged units are mended by the commit log, of messages %d to %d",
                name, len(mended), mended[0], mended[-1],
            )  # fmt: skip
        if lost:
            log.error(
                "queue %s: the commit log has no messages for %d damaged units, of %d to %d: passed over",
                name, len(lost), lost[0], lost[-1],
            )  # fmt: skip
        self._wake(queue, min(search.bad, default=search.number))

    def _wake(self, queue: ConsumeQueue, first: int) -> None:
        """Tell who waits, whatever the tags wanted, that the queue can be read on from a number."""
        units = CQ_STORE_UNIT.iter_unpack(queue.read(first, _WAKE_MAX)) if self._listeners else ()
        for number, (_, _, tags_code) in enumerate(units, first):
            for listener in self._listeners:
                listener(queue.topic, queue.queue_id, number, tags_code)
