"""Deletes what need not be kept any more, by the rules of `retention` (store.md §6).

First a file of the commit log goes, in a thread, since that can take long; when it is gone, the index and the
consume queues follow, a few queues in each tick. Who reads meanwhile is told the right bounds: the log's own
minimum moves before its file is deleted.
"""

from __future__ import annotations

import functools
import logging
import os.path
from collections.abc import Callable, Sequence

from pymq.clock import Clock
from pymq.disk import Disk, HeldFolder
from pymq.errors import StoreBroken, StoreError
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import ConsumeQueue
from pymq.store.queues import ConsumeQueues
from pymq.store.retention import FILES_PER_RUN, FIRST_RUN_S, MANUAL_RUNS, DiskLevel, RetentionRules
from pymq.store.watermark import Watermark

log = logging.getLogger("pymq.store.cleaning")

_QUEUES_PER_TICK = 200
"""So that a store of many queues holds up nobody."""


class Cleaner:
    """Deletes the commit log's files one by one; never the last, nor one that is not all flushed."""

    def __init__(
        self,
        rules: RetentionRules,
        folders: Sequence[str],
        disk: Disk,
        clock: Clock,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        flushed: Watermark,
        on_broken: Callable[[StoreError], None],
    ) -> None:
        """`folders`: where room is needed, as the commit log's; `flushed`: how far the log is on the disk."""
        self.on_deleted: list[Callable[[int], None]] = []
        """Called with the log's new minimum when a file of it is gone from the disk."""
        self.may_delete: list[Callable[[int], bool]] = []
        """Asked whether all before a physical offset may be deleted; who says no is asked again later."""
        self._rules = rules
        self._folders = folders
        self._disk = disk
        self._clock = clock
        self._log = commit_log
        self._queues = queues
        self._flushed = flushed
        self._on_broken = on_broken
        self._asked = 0
        self._left = 0
        """How many files this run may still delete."""
        self._is_deleting = False
        self._hanging: list[str] = []
        """The oldest file, which could not be deleted: no later one may go before it."""
        self._unswept: list[ConsumeQueue] = []
        """Queues that may still have files, or a minimum, from before the log's minimum."""
        self._sweeping: ConsumeQueue | None = None
        """The one whose files are being deleted."""
        self._undeleted: dict[ConsumeQueue, list[str]] = {}
        """Files of queues that could not be deleted."""
        self._run_due = self._delete_due = self._sweep_due = 0.0
        self._stopped = True

    def start(self) -> None:
        """From now on `tick` deletes; the first run comes after a minute, as Apache's."""
        self._stopped = False
        self._run_due = self._clock.monotonic() + FIRST_RUN_S

    def stop(self) -> None:
        """Begin nothing more. A deletion that is under way goes on: `Disk.drain` waits for it."""
        self._stopped = True
        self._left = 0
        self._unswept.clear()

    def run_soon(self) -> None:
        """Let a run now and the next ones delete what is expired, whatever the hour (an admin asks)."""
        self._asked = MANUAL_RUNS
        self._run_due = self._clock.monotonic()

    def tick(self) -> float:
        """Do what is due. Returns the seconds until there is something to do again."""
        if self._stopped:
            return FIRST_RUN_S
        now = self._clock.monotonic()
        if now >= self._run_due:
            self._run_due = now + self._rules.clean_resource_interval / 1000
            self._begin_run()
        if self._may_delete and now >= self._delete_due:
            self._delete_next()
        if self._may_sweep and now >= self._sweep_due:
            self._sweep()
        due = self._run_due
        if self._may_delete:
            due = min(due, self._delete_due)
        if self._may_sweep:
            due = min(due, self._sweep_due)
        return max(0.0, due - now)

    # -- the commit log

    @property
    def _may_delete(self) -> bool:
        return self._left > 0 and not self._is_deleting

    @property
    def _may_sweep(self) -> bool:
        return bool(self._unswept) and self._sweeping is None

    def _begin_run(self) -> None:
        asked = self._asked > 0
        self._asked -= asked
        hour = self._clock.local_time(self._clock.now_ms()).hour
        if self._rules.runs(hour, self._level(), asked):
            self._left = FILES_PER_RUN
        else:
            self._left = int(bool(self._hanging))

    def _level(self) -> DiskLevel:
        try:
            return self._rules.level(map(self._disk.usage, self._folders))
        except StoreError:
            return DiskLevel.ROOMY  # who judges the disk for the sends tells of it

    def _delete_next(self) -> None:
        paths = self._hanging or self._take_oldest()
        if not paths:
            self._left = 0
            return
        self._left -= 1
        self._is_deleting = True
        self._disk.delete_soon(
            functools.partial(self._delete, paths), functools.partial(self._deleted, paths)
        )

    def _take_oldest(self) -> list[str]:
        """The path of the log's oldest file, out of the readers' sight already; none if it may not go."""
        file = self._log.removable(self._flushed.position)
        if file is None:
            return []
        if not self._disk.exists(file.path):
            log.warning("%s has been deleted by somebody else", file.path)
            return self._log.forget_oldest()
        is_expired = self._rules.is_expired(self._disk.modified_ms(file.path), self._clock.now_ms())
        if not is_expired and not self._rules.is_forced(self._level()):
            return []
        if not all(may_delete(self._log.min_offset + file.size) for may_delete in self.may_delete):
            return []
        if is_expired:
            log.info("deleting %s: fileReservedTime is over", file.path)
        else:
            log.warning("deleting %s before its time: the disk is too full", file.path)
        return self._log.forget_oldest()

    def _delete(self, paths: list[str]) -> None:
        """In the deleting thread: delete one after the other, and take from the list what is gone.

        The folder is synced each time, since no later file may be gone without the one before it.
        """
        while paths:
            self._disk.remove_file(paths[0])
            self._disk.sync_folder(os.path.dirname(paths[0]))
            del paths[0]

    def _deleted(self, paths: list[str], error: StoreError | None) -> None:
        self._is_deleting = False
        now = self._clock.monotonic()
        if error is not None:
            self._report(error)
            self._hanging = paths
            self._delete_due = now + self._rules.redelete_hanged_file_interval / 1000
            self._left += 1
            return
        self._hanging = []
        self._delete_due = now + self._rules.delete_commit_log_files_interval / 1000
        if self._stopped:
            return
        self._unswept = list(self._queues)
        for told in self.on_deleted:
            told(self._log.min_offset)

    def _report(self, error: StoreError) -> None:
        if isinstance(error, StoreBroken):
            self._on_broken(error)
        else:
            log.error("a file was not deleted, it will be tried again: %s", error)

    # -- the consume queues

    def refresh(self, queue: ConsumeQueue) -> None:
        """See to it that the queue's minimum is what the log holds now."""
        if self._unswept or self._is_deleting or self._hanging:
            queue.raise_min_offset(self._log.min_offset)

    def _is_there(self, queue: ConsumeQueue) -> bool:
        """Whether it was not deleted meanwhile; another queue may have its folder then."""
        return self._queues.table.get((queue.topic, queue.queue_id)) is queue

    def _sweep(self) -> None:
        """Move the minimum of some queues; delete the files of one that lie before it, never the last."""
        for _ in range(min(_QUEUES_PER_TICK, len(self._unswept))):
            queue = self._unswept.pop()
            if not self._is_there(queue):
                continue
            paths = self._undeleted.pop(queue, []) + queue.forget_before(self._log.min_offset)
            if paths:
                self._queues.census.count(queue)
                self._delete_of(queue, paths)
                return

    def _delete_of(self, queue: ConsumeQueue, paths: list[str]) -> None:
        """Delete files of a queue in the deleting thread.

        They are found by the folder as it is now: the thread may find another queue's at its path.
        """
        self._sweeping = queue
        done = functools.partial(self._swept, queue, paths)
        try:
            folder = self._disk.hold_folder(queue.folder)
        except StoreError as e:
            done(e)
        else:
            self._disk.delete_soon(functools.partial(self._delete_in, folder, paths), done)

    def _delete_in(self, folder: HeldFolder, paths: list[str]) -> None:
        """In the deleting thread: as `_delete`, and let the folder go."""
        try:
            while paths:
                folder.remove(os.path.basename(paths[0]))
                folder.sync()
                del paths[0]
        finally:
            folder.release()

    def _swept(self, queue: ConsumeQueue, paths: list[str], error: StoreError | None) -> None:
        self._sweeping = None
        pause_s = self._rules.delete_consume_queue_files_interval / 1000
        self._sweep_due = self._clock.monotonic() + pause_s
        if error is not None:
            self._report(error)
            if self._is_there(queue):
                self._undeleted[queue] = paths  # before any later file of the queue, the next time
