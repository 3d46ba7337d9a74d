"""When what was written goes to the disk: by intervals, or as soon as somebody waits for it (store.md §6)."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pymq.clock import Clock
from pymq.disk import Disk, Done, Job, MappedFile
from pymq.errors import StoreError
from pymq.store.checkpoint import Checkpoint, Mark
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.queues import ConsumeQueues
from pymq.store.segments import PAGE
from pymq.store.store_config import StoreConfig
from pymq.store.watermark import Watermark

log = logging.getLogger("pymq.store.flush")

_QUEUES_PER_JOB = 32
"""So that an urgent flush of the commit log never waits for more than these."""
_REACH_S = 1.0
"""The checkpoint hears no more often how far the log is flushed."""
_JOBS_AT_A_TIME = 2
"""So that thousands of queues hold up the owner for no longer than a few do."""


class _Round(NamedTuple):
    """A thorough flush: what holds once all is on the disk that was written before it."""

    timestamp: int
    """The newest store time, ms."""
    mark: Mark
    folders: tuple[str, ...]
    """Queues in them were deleted: they are to be synced before the mark counts."""
    asked: list[Done]
    """Who waits for the mark."""

    def after(self, earlier: _Round | None) -> _Round:
        """This one, in place of an earlier one whose mark was never written."""
        if earlier is None:
            return self
        folders = (*earlier.folders, *self.folders)
        return self._replace(folders=folders, asked=[*earlier.asked, *self.asked])


class FlushSchedule:
    """Flushes the commit log and the dirty consume queues in the disk's flushing thread.

    At most one flush of the log runs; who asks meanwhile shares the next one (group commit).
    """

    def __init__(
        self,
        config: StoreConfig,
        disk: Disk,
        clock: Clock,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        checkpoint: Checkpoint,
        on_broken: Callable[[StoreError], None],
    ) -> None:
        self.flushed = Watermark()
        """Physical offset up to which the log is on the disk."""
        self.dirty: list[ConsumeQueue] = []
        """Queues with units that are not flushed; each once, marked `dirty`."""
        self._config = config
        self._disk = disk
        self._clock = clock
        self._log = commit_log
        self._queues = queues
        self._checkpoint = checkpoint
        self._on_broken = on_broken
        self._log_running = self._log_again = False
        self._queue_jobs = 0
        self._due: deque[ConsumeQueue] = deque()
        """Queues whose jobs are not under way yet; marked `dirty`."""
        self._syncing: list[MappedFile] = []
        """Queue files that the jobs under way sync."""
        self._asked: list[Done] = []
        """Who waits for a mark that a round yet to begin writes."""
        self._is_mark_wanted = self._is_handing_out = False
        self._folders: dict[str, None] = {}
        """Where queues were deleted that such a round is not to count."""
        self._failed: StoreError | None = None
        """What a job in the flushing thread met: its report may come too late for `finish`."""
        self._thorough: _Round | None = None
        """The one whose queue jobs are under way."""
        self._reached: _Round | None = None
        """The one whose queue jobs are done, while the log is still to be flushed as far."""
        self._stopped = self._broken = False
        now = clock.monotonic()
        self._log_due, self._log_thorough_due = now, now
        self._queues_due, self._queues_thorough_due = now, now
        self._reach_due = now

    def start(self, flushed: int) -> None:
        """From now on `tick` flushes; all before the physical offset `flushed` is on the disk."""
        self.flushed.advance(flushed)
        now = self._clock.monotonic()
        self._queues.count_all()
        self._log_due = now + self._config.flush_interval_commit_log / 1000
        self._log_thorough_due = now + self._config.flush_commit_log_thorough_interval / 1000
        self._queues_due = now + self._config.flush_interval_consume_queue / 1000
        self._queues_thorough_due = now + self._config.flush_consume_queue_thorough_interval / 1000

    def tick(self) -> float:
        """Start what is due. Returns the seconds until there is something to do again."""
        now = self._clock.monotonic()
        if now >= self._log_due:
            self._log_due = now + self._config.flush_interval_commit_log / 1000
            thorough = now >= self._log_thorough_due
            if thorough:
                self._log_thorough_due = now + self._config.flush_commit_log_thorough_interval / 1000
            # With SYNC_FLUSH what nobody waits for is soon on the disk all the same, as Apache has it.
            if self._is_log_due(thorough or self._config.sync_flush):
                self.flush_log()
        if now >= self._queues_due:
            self._queues_due = now + self._config.flush_interval_consume_queue / 1000
            thorough = now >= self._queues_thorough_due
            if self._queue_jobs == 0:
                if thorough:
                    interval = self._config.flush_consume_queue_thorough_interval / 1000
                    self._queues_thorough_due = now + interval
                self._flush_queues(thorough)
        if now >= self._reach_due:
            self._reach_due = now + _REACH_S
            self._write_reach()
        return max(0.0, min(self._log_due, self._queues_due, self._reach_due) - now)

    def _is_log_due(self, thorough: bool) -> bool:
        """Whether enough of the log is dirty: all counts, or the configured pages, or the end of a file."""
        flushed, end = self.flushed.position, self._log.end
        if thorough or flushed < self._log.tail.base:
            return end > flushed
        pages = end // PAGE - flushed // PAGE
        return end > flushed and pages >= self._config.flush_commit_log_least_pages

    def mark_dirty(self, queue: ConsumeQueue) -> None:
        """Units of the queue are about to be written: they are to be flushed."""
        if not queue.dirty:
            queue.dirty = True
            self.dirty.append(queue)

    def written(self, *_: object) -> None:
        """A message was put, and puts wake the flush (flushCommitLogTimed=false): flush if enough waits."""
        if not self._log_running and self._is_log_due(thorough=False):
            self.flush_log()

    def flush_log(self) -> None:
        """Flush the log now, or once more when the flush that runs is over: who waits shares that one."""
        if self._log_running:
            self._log_again = True
        elif not (self._stopped or self._broken):
            self._start_log()

    def _start_log(self) -> None:
        self._log_running, self._log_again = True, False
        end = self._log.end
        done = functools.partial(self._log_flushed, end, self._log.last_store_timestamp)
        self._submit(self._log.flush_job(self.flushed.position), done, urgent=True)

    def _submit(self, job: Job, done: Done, *, urgent: bool) -> None:
        """Run `job` in the flushing thread."""

        def run() -> None:
            try:
                job()
            except StoreError as e:
                self._failed = e
                raise

        self._disk.flush_soon(run, done, urgent=urgent)

    def _log_flushed(self, end: int, timestamp: int, error: StoreError | None) -> None:
        self._log_running = False
        if self._stopped:
            return
        if error is not None:
            self._on_broken(error)
            return
        self._log.flushed(end)
        self._checkpoint.physic_timestamp = timestamp
        if self._log_again and self._log.end > end:
            self._start_log()  # before the answers go out, so that disk and loop work at the same time
        self.flushed.advance(end)
        self._write_checkpoint()

    def _flush_queues(self, thorough: bool) -> None:
        """Flush the queues that have enough new units; after a thorough flush the checkpoint moves on."""
        least = 1 if thorough else self._config.flush_consume_queue_least_pages * PAGE // CQ_STORE_UNIT_SIZE
        left: list[ConsumeQueue] = []
        for queue in self.dirty:
            (self._due if queue.max_offset - queue.flushed_offset >= least else left).append(queue)
        self.dirty = left
        if thorough:
            mark = self._mark((*self._due, *left))
            newest = self._log.last_store_timestamp
            self._thorough = _Round(newest, mark, tuple(self._folders), self._asked)
            self._asked, self._is_mark_wanted = [], False
            self._folders.clear()
            if self._log.end > self.flushed.position:
                self.flush_log()
        self._hand_out()

    def _hand_out(self) -> None:
        """Let some more of the queues that are due be flushed; when none are left, that was the round."""
        self._is_handing_out = True
        while self._due and self._queue_jobs < _JOBS_AT_A_TIME and not self._broken:
            queues = [self._due.popleft() for _ in range(min(_QUEUES_PER_JOB, len(self._due)))]
            for queue in queues:
                self._queues.census.count_units(queue)
            files = _take_unflushed(queues)
            self._syncing += files
            self._queue_jobs += 1
            self._submit(functools.partial(self._sync, files), self._queues_flushed, urgent=False)
        self._is_handing_out = False
        if self._queue_jobs == 0 and not self._broken:
            self._syncing.clear()
            if self._thorough is not None:
                self._reached, self._thorough = self._thorough.after(self._reached), None
            self._write_checkpoint()
            if self._is_mark_wanted:
                self._flush_queues(thorough=True)

    def _sync(self, files: list[MappedFile]) -> None:
        for file in files:
            if self._stopped:
                return  # `finish` syncs all that is left at once
            file.sync()

    def _queues_flushed(self, error: StoreError | None) -> None:
        self._queue_jobs -= 1
        if self._stopped:
            return
        if error is not None:
            self._on_broken(error)
        elif not self._is_handing_out:
            self._hand_out()

    def mark_soon(self, folder: str, done: Done | None = None) -> None:
        """Queues in `folder` were deleted: write a mark that does not count them.

        `done` is told when that is on the disk.

        With an older one the next start takes those queues for lost, and builds all of them again.
        """
        for outdated in (self._thorough, self._reached):
            if outdated is not None:
                self._asked += outdated.asked
                self._folders.update(dict.fromkeys(outdated.folders))
        self._folders[folder] = None
        self._thorough = self._reached = None
        if done is not None:
            self._asked.append(done)
        self._is_mark_wanted = True
        if self._queue_jobs == 0 and not (self._stopped or self._broken):
            self._flush_queues(thorough=True)

    def _mark(self, changed: Iterable[ConsumeQueue]) -> Mark:
        """How far log and queues are now, true once they are flushed. `changed`: since their last count."""
        config, census = self._config, self._queues.census
        for queue in changed:
            census.count_units(queue)
        return Mark(
            self._log.end,
            census.units,
            census.queues,
            census.first_units,
            config.commit_log_segment_bytes,
            config.consume_queue_file_bytes,
        )

    def _write_checkpoint(self) -> None:
        """Write what the last thorough flush of the queues reached, once the log is flushed as far."""
        if self._reached is None or self._broken:
            return
        reached = self._reached
        if self.flushed.position < reached.mark.offset:
            return
        self._reached = None
        done = functools.partial(self._checkpoint_written, reached.asked)
        if reached.mark == self._checkpoint.mark:
            done(None)
            return
        self._checkpoint.logics_timestamp, self._checkpoint.mark = reached.timestamp, reached.mark
        self._checkpoint.reach = self.flushed.position
        job = self._checkpoint.write_job()
        if reached.folders:
            job = functools.partial(self._sync_folders_before, reached.folders, job)
        self._disk.flush_soon(job, done, urgent=False)

    def _sync_folders_before(self, folders: Iterable[str], job: Job) -> None:
        for folder in folders:
            self._disk.sync_folder(folder)
        job()

    def _checkpoint_written(self, asked: list[Done], error: StoreError | None) -> None:
        if error is not None:
            self._checkpoint.mark = None  # what the file says is not known
            log.error("the checkpoint was not written, the next one will be: %s", error)
        for done in asked:
            done(error)

    def _write_reach(self) -> None:
        """Tell the next start, between two marks, how far the log is on the disk: damage before is no end."""
        if self._checkpoint.reach < self.flushed.position and not (self._stopped or self._broken):
            self._checkpoint.reach = self.flushed.position
            self._disk.flush_soon(self._checkpoint.reach_job(), self._reach_written, urgent=False)

    def _reach_written(self, error: StoreError | None) -> None:
        if error is not None:
            self._reach_due = float("inf")  # the next start has the mark; to complain each second is no help
            log.warning("how far the log is on the disk was not written, it is left out: %s", error)

    def checkpoint_now(self) -> None:
        """Flush all and write the checkpoint, in this thread; no background job may run. StoreBroken."""
        end = self._log.end
        self._log.flush_job(self.flushed.position)()
        dirty = _take_unflushed(queue for queue in self._queues if queue.dirty)
        self._disk.sync_many(dict.fromkeys(self._syncing + dirty))
        self._checkpoint.physic_timestamp = self._checkpoint.logics_timestamp = self._log.last_store_timestamp
        self._queues.count_all()
        self._checkpoint.mark, self._checkpoint.reach = self._mark(()), end
        rounds = [each for each in (self._thorough, self._reached) if each is not None]
        for folder in dict.fromkeys((*self._folders, *(path for each in rounds for path in each.folders))):
            self._disk.sync_folder(folder)
        self._checkpoint.write_job()()
        self.dirty.clear()
        self._due.clear()
        self.flushed.advance(end)
        self._tell_asked(None)

    def fail(self, error: StoreError) -> None:
        """The disk broke: nothing more becomes durable, those who wait are told."""
        self._broken = True
        self.flushed.fail(error)
        self._tell_asked(error)

    def _tell_asked(self, error: StoreError | None) -> None:
        """Nobody waits for a mark any more."""
        rounds = [each for each in (self._thorough, self._reached) if each is not None]
        self._thorough = self._reached = None
        asked, self._asked = [*self._asked, *(done for each in rounds for done in each.asked)], []
        for done in asked:
            done(error)

    def stop(self) -> None:
        """Start nothing more, and let the flushing of queues that is under way end early."""
        self._stopped = True

    def finish(self) -> None:
        """Flush all in this thread and write the checkpoint. After `stop`; no background job runs any more.

        StoreBroken when that fails, or a background job did. When the disk is known to be broken, nothing is
        written.
        """
        if self._broken:
            return
        if self._failed is not None:
            raise self._failed
        self.checkpoint_now()


def _take_unflushed(queues: Iterable[ConsumeQueue]) -> list[MappedFile]:
    return [file for queue in queues for file in queue.take_unflushed()]
