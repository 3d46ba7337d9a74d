"""When what was written goes to the disk: by intervals, or as soon as somebody waits for it (store.md §6)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable

from pymq.clock import Clock
from pymq.disk import Disk, Done, Job, MappedFile
from pymq.errors import StoreError
from pymq.store.checkpoint import Checkpoint
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.segments import PAGE
from pymq.store.store_config import StoreConfig
from pymq.store.watermark import Watermark

log = logging.getLogger("pymq.store.flush")

_QUEUES_PER_JOB = 32
"""So that an urgent flush of the commit log never waits for more than these."""


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
        checkpoint: Checkpoint,
        on_broken: Callable[[StoreError], None],
    ) -> None:
        self.flushed = Watermark(clock)
        """Physical offset up to which the log is on the disk."""
        self.dirty: list[ConsumeQueue] = []
        """Queues with units that are not flushed; each once, marked `dirty`."""
        self._config = config
        self._disk = disk
        self._clock = clock
        self._log = commit_log
        self._checkpoint = checkpoint
        self._on_broken = on_broken
        self._log_running = self._log_again = False
        self._queue_jobs = 0
        self._syncing: list[MappedFile] = []
        """Queue files that the jobs under way sync."""
        self._failed: StoreError | None = None
        """What a job in the flushing thread met: its report may come too late for `finish`."""
        self._thorough_timestamp: int | None = None
        self._stopped = self._broken = False
        now = clock.monotonic()
        self._log_due, self._log_thorough_due = now, now
        self._queues_due, self._queues_thorough_due = now, now

    def start(self, flushed: int) -> None:
        """From now on `tick` flushes; all before the physical offset `flushed` is on the disk."""
        self.flushed.advance(flushed)
        now = self._clock.monotonic()
        self._log_due = now + self._config.flush_interval_commit_log / 1000
        self._log_thorough_due = now + self._config.flush_commit_log_thorough_interval / 1000
        self._queues_due = now + self._config.flush_interval_consume_queue / 1000
        self._queues_thorough_due = now + self._config.flush_consume_queue_thorough_interval / 1000

    def tick(self) -> float:
        """Start what is due. Returns the seconds until there is something to do again."""
        now = self._clock.monotonic()
        if now >= self._log_due:
            self._log_due = now + self._config.flush_interval_commit_log / 1000
            least = self._config.flush_commit_log_least_pages * PAGE
            if now >= self._log_thorough_due:
                self._log_thorough_due = now + self._config.flush_commit_log_thorough_interval / 1000
                least = 1
            if self._log.end - self.flushed.position >= least:
                self.flush_log()
        if now >= self._queues_due:
            self._queues_due = now + self._config.flush_interval_consume_queue / 1000
            thorough = now >= self._queues_thorough_due
            if self._queue_jobs == 0:
                if thorough:
                    interval = self._config.flush_consume_queue_thorough_interval / 1000
                    self._queues_thorough_due = now + interval
                self._flush_queues(thorough)
        self.flushed.expire()
        next_due = min(self._log_due, self._queues_due)
        deadline = self.flushed.next_deadline()
        return max(0.0, (next_due if deadline is None else min(next_due, deadline)) - now)

    def flush_log(self) -> None:
        """Flush the log now, or once more when the flush that runs is over."""
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
            self._start_log()
        self.flushed.advance(end)

    def _flush_queues(self, thorough: bool) -> None:
        """Flush the queues that have enough new units; after a thorough flush the checkpoint moves on."""
        least = 1 if thorough else self._config.flush_consume_queue_least_pages * PAGE // CQ_STORE_UNIT_SIZE
        due: list[ConsumeQueue] = []
        left: list[ConsumeQueue] = []
        for queue in self.dirty:
            (due if queue.max_offset - queue.flushed_offset >= least else left).append(queue)
        self.dirty = left
        self._thorough_timestamp = self._log.last_store_timestamp if thorough else None
        self._queue_jobs = 1
        for start in range(0, len(due), _QUEUES_PER_JOB):
            self._queue_jobs += 1
            files = _take_unflushed(due[start : start + _QUEUES_PER_JOB])
            self._syncing += files
            self._submit(functools.partial(self._sync, files), self._queues_flushed, urgent=False)
        self._queues_flushed(None)

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
        elif self._queue_jobs == 0:
            self._syncing.clear()
            if self._thorough_timestamp is not None:
                self._write_checkpoint(self._thorough_timestamp)

    def _write_checkpoint(self, logics_timestamp: int) -> None:
        if self._broken or logics_timestamp == self._checkpoint.logics_timestamp:
            return
        self._checkpoint.logics_timestamp = logics_timestamp
        self._disk.flush_soon(self._checkpoint.write_job(), self._checkpoint_written, urgent=False)

    def _checkpoint_written(self, error: StoreError | None) -> None:
        if error is not None:
            log.error("the checkpoint was not written, the next one will be: %s", error)

    def flush_dirty(self, queues: Iterable[ConsumeQueue]) -> None:
        """Flush those of these queues that are dirty, in this thread. StoreBroken."""
        self._disk.sync_many(_take_unflushed(queue for queue in queues if queue.dirty))

    def fail(self) -> None:
        """The disk broke: nothing more becomes durable, those who wait are told."""
        self._broken = True
        self.flushed.abandon()

    def stop(self) -> None:
        """Start nothing more, and let the flushing of queues that is under way end early."""
        self._stopped = True

    def finish(self, queues: Iterable[ConsumeQueue]) -> None:
        """Flush all in this thread and write the checkpoint. After `stop`; no background job runs any more.

        StoreBroken when that fails, or a background job did. When the disk is known to be broken, nothing is
        written.
        """
        if self._broken:
            return
        if self._failed is not None:
            raise self._failed
        end = self._log.end
        self._log.flush_job(self.flushed.position)()
        dirty = _take_unflushed(queue for queue in queues if queue.dirty)
        self._disk.sync_many(dict.fromkeys(self._syncing + dirty))
        self._checkpoint.physic_timestamp = self._checkpoint.logics_timestamp = self._log.last_store_timestamp
        self._checkpoint.write_job()()
        self.dirty.clear()
        self.flushed.advance(end)


def _take_unflushed(queues: Iterable[ConsumeQueue]) -> list[MappedFile]:
    return [file for queue in queues for file in queue.take_unflushed()]
