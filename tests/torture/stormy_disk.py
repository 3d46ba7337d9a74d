"""A simulated disk whose threads run their jobs, and tell of them, when a storm lets them."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable

from pymq.disk import DiskUsage, Done, Job
from pymq.errors import StoreError
from tests.store.sim_disk import SimDisk

_DRAINED = ("flush", "reserve", "delete")


class StormyDisk(SimDisk):
    """Each thread does its own jobs in order, urgent ones first; between the threads there is no order."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        super().__init__(capacity)
        self.used_percent = 10
        """What `usage` says."""
        self.is_in_job = False
        """A thread is at work, and the owner does not wait for it."""
        self._urgent: deque[tuple[Job, Done]] = deque()
        self._waiting: dict[str, deque[tuple[Job, Done]]] = {
            thread: deque() for thread in (*_DRAINED, "fetch")
        }
        self._delivered: deque[Callable[[], None]] = deque()

    def run_one_job(self, luck: random.Random) -> None:
        """Let one thread do its next job, if there is one. Its end is not told yet."""
        busy = [thread for thread in self._waiting if self._has_work(thread)]
        if busy:
            self.is_in_job = True
            try:
                self._run_next(luck.choice(busy))
            finally:
                self.is_in_job = False

    def _has_work(self, thread: str) -> bool:
        return bool(self._waiting[thread]) or (thread == "flush" and bool(self._urgent))

    def _run_next(self, thread: str) -> None:
        jobs = self._urgent if thread == "flush" and self._urgent else self._waiting[thread]
        job, done = jobs.popleft()
        error: StoreError | None = None
        try:
            job()
        except StoreError as e:
            error = e
        self._delivered.append(functools.partial(done, error))

    def deliver(self, count: int = 1) -> None:
        """Tell the owner of so many jobs that ended."""
        while self._delivered and count:
            self._delivered.popleft()()
            count -= 1

    def write_back(self, luck: random.Random) -> None:
        """Bring some of what is not synced to the disk, as the system does when it likes."""
        for path in sorted(self.contents):
            if luck.random() < 0.3:
                self.contents[path].write_back(luck)

    # -- Disk

    def stop(self) -> None:
        self.drain()

    def drain(self) -> None:
        for thread in _DRAINED:
            while self._has_work(thread):
                self._run_next(thread)

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        (self._urgent if urgent else self._waiting["flush"]).append((job, done))

    def reserve_soon(self, job: Job, done: Done) -> None:
        self._waiting["reserve"].append((job, done))

    def delete_soon(self, job: Job, done: Done) -> None:
        self._waiting["delete"].append((job, done))

    def fetch_soon(self, job: Job, done: Done) -> None:
        self._waiting["fetch"].append((job, done))

    def usage(self, path: str) -> DiskUsage:
        used = self.capacity * self.used_percent // 100
        return DiskUsage(self.capacity, used, self.capacity - used)
