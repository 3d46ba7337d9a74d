"""When the timer journal is written: every few seconds, and only what the log has on the disk by then.

A power cut may take what the log had not flushed, and with it the deliveries and the timed messages that the
journal would tell of. So what was gathered waits for the log to be on the disk up to where it ended then;
only then is it written, in the flushing thread, and the mark behind it.
"""

from __future__ import annotations

import asyncio
import logging

from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.store.messagestore import MessageStore
from pymq.store.timer_journal import TIMER_TOPIC, TimerJournal

log = logging.getLogger("pymq.broker.timers")

_MANY_BYTES = 1 << 20
"""So much is not gathered for longer than the log takes to flush."""


class TimerSaves:
    """Brings the journal to the disk. `rolled_number`: see `TimerMark`."""

    def __init__(self, store: MessageStore, journal: TimerJournal, disk: Disk) -> None:
        self.rolled_number = 0
        self._store = store
        self._journal = journal
        self._disk = disk
        self._saved: tuple[int, int, int] | None = None
        """What the mark says, or will say."""
        self._waits_for: int | None = None
        """Where the log has to be on the disk before the frozen part may be written."""
        self._is_writing = False
        self._has_failed = False
        self._settled: asyncio.Event | None = None
        store.flushed.on_change.append(self._flushed)

    def restart(self, rolled_number: int) -> None:
        """The journal has been read, or built anew."""
        self.rolled_number = rolled_number
        self._saved = None

    @property
    def _is_busy(self) -> bool:
        return self._waits_for is not None or self._is_writing or self._has_failed

    def gathered(self) -> None:
        """Something was added to the journal."""
        if self._journal.new_bytes > _MANY_BYTES and not self._is_busy:
            self.save_soon()

    def save_soon(self) -> None:
        """Have what is known now written once the log is on the disk up to here."""
        if self._has_failed and not self._is_writing:
            self._write()
        if self._is_busy:
            return
        store = self._store
        next_number, end = store.max_offset(TIMER_TOPIC, 0), store.commit_log_max_offset
        now = (next_number, end, self.rolled_number)
        if not next_number or (now == self._saved and not self._journal.is_changed):
            return
        self._journal.freeze(*now)
        self._saved = now
        self._waits_for = end
        self._flushed()
        if self._waits_for is not None:
            store.flush_now()

    def _flushed(self) -> None:
        if self._waits_for is not None and self._waits_for <= self._store.flushed.position:
            self._waits_for = None
            self._write()
        self._look_if_settled()

    def _write(self) -> None:
        self._is_writing = True
        self._disk.flush_soon(self._journal.write, self._written, urgent=False)

    def _written(self, error: StoreError | None) -> None:
        self._is_writing = False
        if error is None:
            self._journal.written()
        elif not self._has_failed:
            log.error("the timer journal was not written, it will be tried again: %s", error)
        self._has_failed = error is not None
        self._look_if_settled()

    def _look_if_settled(self) -> None:
        is_over = self._has_failed or self._store.flushed.failure is not None
        if self._settled is not None and not self._is_writing and (is_over or self._waits_for is None):
            self._settled.set()

    async def settle(self) -> None:
        """At the end: have all that is known now on the disk, unless that fails."""
        self._settled = asyncio.Event()
        for _ in range(2):  # behind what waits there may be more
            self.save_soon()
            self._look_if_settled()
            await self._settled.wait()
            self._settled.clear()
            if self._has_failed or self._store.flushed.failure is not None:
                break
