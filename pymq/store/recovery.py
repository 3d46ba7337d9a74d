"""Opening a store: find the end of the log, and bring the queues to the same point (store.md §5, §12).

Up to a trusted offset, log and queues are on the disk and were in step: the checkpoint's mark says so, or,
where Apache wrote the folder, its times or a clean end. Behind it each record is checked, and every unit is
written anew, for the queues' pages may have reached the disk in any order. A stretch before it is looked at
in any case; what a check finds wrong there is mended. Where units are missing before it, all of the log is
read, and all queues are built again.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from pymq.clock import Clock
from pymq.store.checkpoint import Checkpoint, Mark
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import BLANK_UNIT_SIZE, ConsumeQueue
from pymq.store.leftovers import Leftovers
from pymq.store.log_border import border_unit
from pymq.store.lost_tails import LostTails
from pymq.store.queues import ConsumeQueues
from pymq.store.requeue import Requeuer, UnitsMissing
from pymq.store.scan import RECORD_MIN_SIZE, LogScan
from pymq.store.unit_reads import BORDER_TAGS_CODE, stands_for_nothing

log = logging.getLogger("pymq.store.recovery")

_CLEAN_FILES = 3
"""A contradiction after a clean stop of Apache: this many files are read again, as it does."""
_WINDOW = 4 << 20
"""Bytes before the trusted offset that are looked at in any case."""
_SEARCH_MAX = 64 << 20
"""So many bytes behind the end are searched for whole messages before they are cleared."""
_PROGRESS_S = 2.0
_MIB = 1 << 20


class Recovered(NamedTuple):
    """What recovery found."""

    newest_timestamp: int
    """Store time of the newest message, ms since 1970; 0 without one."""
    changed: bool
    """Something was read or written that no checkpoint knows of: it should be flushed, and a mark be set."""


class Recovery:
    """Brings a loaded log and its queues into step; afterwards the log can be written to."""

    def __init__(
        self,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        checkpoint: Checkpoint,
        clock: Clock,
        delay_levels_ms: list[int],
        leftovers: Leftovers,
        *,
        check_crc: bool,
    ) -> None:
        """`delay_levels_ms`: as `parse_delay_levels`; `check_crc`: checkCRCOnRecover."""
        self._log = commit_log
        self._queues = queues
        self._checkpoint = checkpoint
        self._clock = clock
        self._leftovers = leftovers
        self._scan = LogScan(commit_log.segments, check_crc=check_crc)
        self._requeuer = Requeuer(queues, self._scan, delay_levels_ms)
        self._newest_timestamp = 0
        self._durable = min(checkpoint.reach, commit_log.end)
        """Records before it were on the disk, so that none of them can be torn, only damaged."""
        self._tails = LostTails(self._scan, commit_log.end, self._durable)

    def run(self, *, clean: bool, lost_queues: int) -> Recovered:
        """Do all of it. `lost_queues`: so many had to be removed while they were loaded.

        StoreFull when there is no room for the queues' units, StoreBroken.
        """
        mark = self._checkpoint.mark
        is_new = self._log.is_empty and not self._queues.table
        units = sum(queue.max_offset for queue in self._queues)
        if self._log.is_empty and (units or self._checkpoint.reach):
            log.error(
                "the commit log has no file, though it went to %d at least and the queues knew of %d"
                " messages: they are lost", self._checkpoint.reach, units,
            )  # fmt: skip
        trusted = None if lost_queues else self._trusted_offset(clean)
        try:
            if trusted is None:
                self._rebuild(quiet=is_new)
            else:
                self._replay(self._window_start(trusted), trusted, fills_holes=False)
        except UnitsMissing as e:
            log.warning("%s", e)
            self._rebuild(quiet=False)
        end = self._scan.end
        for queue in self._queues:
            self._drop_units_behind(queue, end)
        self._requeuer.settle_later(self._tails.restore(max(end, self._durable)))
        reach = self._checkpoint.reach
        if end < reach and not self._log.is_empty:
            log.error("the commit log ends at %d, before what was on the disk: up to %d", end, reach)
        if not (clean and mark is not None and end == mark.offset):
            self._keep_what_is_behind(end)
        changed = self._log.cut(end) or mark is None or not end == mark.offset == reach
        ends = [(queue, queue.max_offset - 1) for queue in self._queues if queue.ends_blank]
        self._requeuer.settle_later(ends)  # by a queue's last unit Apache 4.9.4 goes
        self._requeuer.settle(border_unit(self._log))
        for queue in self._queues:
            queue.correct_min_offset(self._log.min_offset)
            queue.opened()
            changed |= queue.dirty
        if changed and not is_new:
            log.info(
                "the commit log ends at %d; %d messages were read, %d units added to the queues, %d mended",
                end, self._scan.count, self._requeuer.added, self._requeuer.mended,
            )  # fmt: skip
        return Recovered(self._newest(), changed)

    def _keep_what_is_behind(self, end: int) -> None:
        """Whole messages behind the log's end are going to be cleared with it: say so, and keep a copy.

        After a power cut they may be such as reached the disk before what stood in front of them, and were
        promised to nobody; but they may also have been, if it is the messages at the end that are damaged.
        """
        found = self._scan.next_sound(end, end + _SEARCH_MAX)
        if found is None:
            starts = (start for start in self._log.segment_starts() if start > end)
            found = next((start for start in starts if self._scan.record_at(start) is not None), None)
        if found is not None:
            log.error(
                "no message can be read at %d of the commit log, so it ends there; but messages stand behind,"
                " from %d on, %d bytes after it: they are cut off, %s",
                end, found, found - end, self._leftovers.keep(end),
            )  # fmt: skip

    def _drop_units_behind(self, queue: ConsumeQueue, end: int) -> None:
        """Believe no unit that reaches behind the physical offset `end`, nor copies of it."""
        number = queue.number_at(end)
        unit = queue.unit(number - 1)
        if unit is not None and unit[1] != BLANK_UNIT_SIZE and unit[0] + unit[1] > end:
            number = queue.number_at(unit[0])
        if number < queue.max_offset:
            self._tails.take(queue)
            queue.truncate(number)

    # -- where to begin

    def _trusted_offset(self, clean: bool) -> int | None:
        """Up to where log and queues are believed, with nothing in the queues behind it; None: nowhere."""
        if self._log.is_empty or self._checkpoint.is_damaged:
            return None
        mark = self._checkpoint.mark
        if mark is not None:
            if mark.offset < self._log.min_offset:
                # Nothing that it knew is in the log any more; the queues go on behind their last units.
                log.info("the commit log's oldest files have gone since the last mark")
                return None
            self._truncate_queues(mark.offset)
            are_right = all(self._requeuer.mend_last(queue, mark.offset) for queue in self._queues)
            if are_right and self._holds(mark):
                return min(mark.offset, self._log.end)
            log.warning("units of the consume queues are missing: all are built again")
            return None
        known_end = self._known_end() if clean else None
        trusted = self._restart_point(clean) if known_end is None else known_end
        self._truncate_queues(trusted)
        for queue in self._queues:
            if not self._requeuer.is_believable(queue):
                log.warning("queue %s/%d ends in a unit of no message", queue.topic, queue.queue_id)
                return None
        gap = self._first_gap(trusted)
        if gap is not None:
            log.warning("the consume queues do not know of all messages in %s", gap)
            return None
        return trusted

    def _first_gap(self, trusted: int) -> str | None:
        """The first file of the log, before the trusted offset, of which the queues do not know every byte.

        Without a mark nothing tells how many units there were. But records lie side by side, so their sizes
        must add up to what they fill of each file; this reads the queues and not the log.
        """
        filled: dict[int, int] = {}
        ends: dict[int, int] = {}
        files = self._log.segments
        for queue in self._queues:
            before = -1
            for units in queue.batches(queue.number_at(self._log.min_offset)):
                for physical, size, code in units:
                    is_of_message = size != BLANK_UNIT_SIZE and code != BORDER_TAGS_CODE
                    if is_of_message and physical != before:  # equal ones: of lost messages
                        before = physical
                        base = physical - physical % files.segment_bytes
                        filled[base] = filled.get(base, 0) + size
                        ends[base] = max(ends.get(base, 0), physical + size)
        for segment in files.files:
            end = ends.get(segment.base, segment.base)
            is_rest = self._scan.is_blank(end) or end >= trusted
            if segment.base < trusted and not (is_rest and filled.get(segment.base, 0) == end - segment.base):
                return segment.file.path
        return None

    def _holds(self, mark: Mark) -> bool:
        """Whether the queues hold as many units as they did at the mark."""
        units, queues, first_units = self._queues.size()
        if (units, queues) != (mark.units, mark.queues):
            return False
        if first_units == mark.first_units:
            return True
        # Old files have gone since: rightly, unless the first unit left may have others before it in the log.
        for queue in self._queues:
            unit = queue.unit(queue.first_number) if queue.first_number else None
            if unit is not None and not stands_for_nothing(unit) and unit[0] > self._log.min_offset:
                return False
        return True

    def _truncate_queues(self, physical_offset: int) -> None:
        for queue in self._queues:
            number = queue.number_at(physical_offset)
            if number < queue.max_offset:
                self._tails.take(queue)
                queue.truncate(number)

    def _known_end(self) -> int | None:
        """Where the newest record ends that a queue knows of; None when the log does not have that record."""
        physical, size = self._queues.last_unit()
        if size == 0 or physical < self._log.min_offset:
            return self._log.min_offset
        record = self._scan.record_at(physical)
        return physical + size if record is not None and record.total_size == size else None

    def _restart_point(self, clean: bool) -> int:
        """The start of the last file whose first message was on the disk by the checkpoint's times."""
        starts = self._log.segment_starts()
        if clean:
            return starts[max(0, len(starts) - _CLEAN_FILES)]
        for start in reversed(starts):
            record = self._scan.record_at(start)
            if record is not None and 0 < record.store_timestamp <= self._checkpoint.min_timestamp:
                return start
        return starts[0]

    def _window_start(self, trusted: int) -> int:
        """Where a record begins, up to `_WINDOW` before the trusted offset."""
        lowest = max(self._log.min_offset, trusted - _WINDOW)
        for start in self._log.segment_starts():
            if lowest <= start <= trusted:
                return start
        # Within a file only the queues tell where one begins: the one of the newest message knows best.
        found = trusted
        for queue in self._queues:
            unit = queue.last_unit()
            if unit is not None and unit[0] + unit[1] == trusted:
                first = queue.unit(queue.number_at(lowest))
                if first is not None and self._scan.record_at(first[0]) is not None:
                    found = min(found, first[0])
        return found

    # -- reading the log

    def _rebuild(self, *, quiet: bool) -> None:
        """Read all of the log, and build the queues by it. Units of messages that it has no more are kept."""
        start = self._log.min_offset
        if not quiet:
            log.info("reading the commit log from %d on, to build all consume queues again", start)
            self._checkpoint.forget()
            self._checkpoint.write_job()()  # an end on the way leads here again
        for queue in self._queues:
            self._tails.take(queue)
            number = queue.first_offset(lambda physical, size, _: size <= 0 or physical >= start)
            queue.truncate(number if number > queue.first_number else 0)  # 0: it may have begun earlier
        self._replay(start, start, fills_holes=True)

    def _replay(self, start: int, trusted: int, *, fills_holes: bool) -> None:
        """Walk from `start` to the log's end: compare units before `trusted`, write them from there on."""
        place, compare = self._requeuer.place, self._requeuer.compare
        progress = _Progress(self._clock, start, max(trusted, self._durable, self._log.tail.base))
        self._requeuer.expect(start, trusted)
        offset: int | None = start
        while offset is not None:
            for batch in self._scan.batches(offset):
                for record in batch:
                    if record.physical_offset < trusted:
                        compare(record)
                    else:
                        place(record, fills_holes=fills_holes)
                self._newest_timestamp = max(self._newest_timestamp, batch[-1].store_timestamp)
                progress.tell(self._scan.end, self._scan.count)
            offset = self._bridge(self._scan.end)
            if offset is not None and offset > trusted:
                fills_holes = True  # the units of the messages that are damaged: no others are missing
        self._requeuer.end_comparing()
        self._requeuer.end_placing()

    def _bridge(self, offset: int) -> int | None:
        """Where the log goes on behind damaged bytes at `offset`; None when it ends there.

        What was on the disk once is no torn end, and what lies behind is no less true: it is kept. Records
        without meaning take the place of the damaged ones, so that every walk gets past, Apache's too.
        """
        if offset >= self._durable:
            return None
        found = self._scan.next_sound(offset, self._durable)
        if found is None and self._scan.record_at(self._durable) is not None:
            found = self._durable
        parts = self._log.parts(offset, found) if found is not None else []
        if any(0 < end - start < RECORD_MIN_SIZE for start, end, is_rest in parts if not is_rest):
            return None
        for start, end, _ in parts:
            self._log.fill(start, end, self._newest_timestamp)
        if found is not None:
            lost = self._requeuer.lose(offset, found)
            log.error(
                "%d bytes at %d of the commit log are damaged: what they held is lost%s, the messages behind"
                " are kept", found - offset, offset, f" ({lost} messages of the queues)" if lost else "",
            )  # fmt: skip
        return found

    def _newest(self) -> int:
        """The newest store time; the checkpoint knows it better than a record, whose time has no checksum."""
        mark = self._checkpoint.mark
        newest = self._newest_timestamp
        if newest == 0 or (mark is not None and mark.offset == self._scan.end):
            newest = self._checkpoint.physic_timestamp
        ahead = newest - self._clock.now_ms()
        if ahead > 1000:
            log.warning(
                "the newest message was stored %.1f s after now: the clock was put back. Until then new"
                " messages get its time", ahead / 1000,
            )  # fmt: skip
        return newest


class _Progress:
    """Says every few seconds how far the reading is."""

    def __init__(self, clock: Clock, start: int, end: int) -> None:
        self._clock = clock
        self._start, self._end = start, end
        self._began = self._told = clock.monotonic()

    def tell(self, offset: int, count: int) -> None:
        now = self._clock.monotonic()
        if now - self._told < _PROGRESS_S:
            return
        self._told = now
        done = (offset - self._start) / _MIB
        log.info(
            "recovering: %d of %d MiB of the commit log, %d messages, %d MiB/s",
            done, max(done, (self._end - self._start) / _MIB), count, done / (now - self._began),
        )  # fmt: skip
