"""Room on the disk, taken before it is written to, so that a full disk refuses a put and breaks nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

from pymq.clock import Clock
from pymq.disk import Disk, MappedFile
from pymq.errors import StoreBroken, StoreError, StoreFull

RETRY_SECONDS = 0.1
"""A full disk is asked again this long after it said so, and not for each put in between."""


class Reservation:
    """Reserves for the commit log and the consume queues alike."""

    def __init__(self, disk: Disk, clock: Clock, on_broken: Callable[[StoreError], None]) -> None:
        self._disk = disk
        self._clock = clock
        self._on_broken = on_broken
        self._full: StoreFull | None = None
        self._full_until = 0.0

    def ensure(self, file: MappedFile, end: int, ahead: int) -> None:
        """Reserve room up to `end`, and some `ahead` of it if possible. StoreFull, StoreBroken."""
        if file.reserved >= end:
            return
        self._refuse_while_full()
        try:
            try:
                file.reserve(min(file.size, end + ahead))
            except StoreFull:
                file.reserve(end)
        except StoreFull as e:
            self._remember(e)
            raise
        except StoreBroken as e:
            self._on_broken(e)
            raise

    def create(self, file: MappedFile, *, sync_folder: bool) -> None:
        """Make the file if it is not there. StoreFull, StoreBroken, StoreError."""
        self._refuse_while_full()
        try:
            file.create(sync_folder=sync_folder)
        except StoreFull as e:
            self._remember(e)
            raise
        except StoreBroken as e:
            self._on_broken(e)
            raise

    def soon(self, job: Callable[[], None], done: Callable[[], None]) -> None:
        """Run `job` in the reserving thread and call `done` whatever came of it, unless the disk broke.

        A full disk is no news here: the put that needs the room will find out.
        """
        self._disk.reserve_soon(job, functools.partial(self._ended, done))

    def _ended(self, done: Callable[[], None], error: StoreError | None) -> None:
        if isinstance(error, StoreBroken):
            self._on_broken(error)
        done()

    def _refuse_while_full(self) -> None:
        if self._full is not None:
            if self._clock.monotonic() < self._full_until:
                raise StoreFull(str(self._full))
            self._full = None

    def _remember(self, error: StoreFull) -> None:
        self._full = error
        self._full_until = self._clock.monotonic() + RETRY_SECONDS
