"""Timed messages are put again before retention takes their file of the log.

Who deletes the log's oldest file asks first. When messages wait in it, they are put again at the log's end, a
slice in each turn of the loop; the file may go once these records are on the disk. That also works while the
disk counts as full, since room comes of it. When there is no room at all, the file stays: nothing that was
acknowledged is lost, and a line in the log says what holds it.
"""

from __future__ import annotations

import logging

from pymq.broker.mended_units import BeingMended
from pymq.broker.roll_turns import RollTurns
from pymq.broker.timer_saves import TimerSaves
from pymq.broker.timers import Timers
from pymq.clock import Clock
from pymq.errors import StoreError
from pymq.store.messagestore import MessageStore
from pymq.store.timer_journal import TIMER_TOPIC

log = logging.getLogger("pymq.broker.timers")

_SLICE = 64


class TimerRolls:
    """Keeps the log's oldest file from going before its timed messages are safe elsewhere."""

    def __init__(self, store: MessageStore, timers: Timers, saves: TimerSaves, clock: Clock) -> None:
        self._store = store
        self._timers = timers
        self._saves = saves
        self._clock = clock
        self._until = 0
        """Physical offset before which no timed message may be left."""
        self._rolled = 0
        """Physical offset before which no timed message is needed, once the log is flushed up to `_safe_at`.

        What was delivered or put again from there lies before that.
        """
        self._safe_at = 0
        self._turns = RollTurns(self.roll, self._all_rolled, "timed messages", log)

    def may_go(self, end: int) -> bool:
        """Whether no message waits in the log before the physical offset `end`. If not, that is seen to."""
        if self._first_offset() >= end:
            return True
        self._until = max(self._until, end)
        if self._rolled < end:
            self._turns.begin()
        return self._rolled >= end and self._safe_at <= self._store.flushed.position

    def _first_offset(self) -> int:
        """Where the first timed message is, or the end of the log; 0 when that is to be found out."""
        number = self._store.min_offset(TIMER_TOPIC, 0)
        if number >= self._store.max_offset(TIMER_TOPIC, 0):
            return self._store.commit_log_max_offset
        try:
            message = self._timers.waiting_at(number)
        except (BeingMended, StoreError):
            return 0
        return message.record.physical_offset if message is not None else 0

    def stop(self) -> None:
        """Put nothing again any more."""
        self._turns.stop()

    def _all_rolled(self) -> None:
        self._rolled = self._until
        self._safe_at = self._store.commit_log_max_offset
        self._store.flush_now()

    def roll(self) -> bool:
        """Put a slice again. True when none is left."""
        now_ms = max(self._clock.now_ms(), self._store.newest_log_time)
        number = max(self._saves.rolled_number, self._store.min_offset(TIMER_TOPIC, 0))
        for _ in self._store.units(TIMER_TOPIC, 0, number, _SLICE):
            try:
                message = self._timers.waiting_at(number)
            except BeingMended:
                self._turns.is_refused = True
                return False
            if message is not None and message.record.physical_offset >= self._until:
                return True
            if self._timers.is_behind(now_ms):
                self._turns.is_refused = (
                    True  # what was due before now is still to be delivered from its record
                )
                return False
            if message is not None and message.needed_until_ms > now_ms:
                try:
                    self._timers.put_again(message)
                except StoreError as error:
                    self._turns.refuse(error)
                    return False
            self._turns.is_refused = False
            number += 1
            self._saves.rolled_number = number
        return number >= self._store.max_offset(TIMER_TOPIC, 0)
