"""Open half messages are put again before retention takes their file of the log.

As `timer_rolls` does it for timed messages: a slice in each turn of the loop, and the file may go once their
new records are on the disk. Apache's broker loses what is open there.
"""

from __future__ import annotations

import logging

from pymq.broker.roll_turns import RollTurns
from pymq.broker.transactions.checks import Checks
from pymq.broker.transactions.open_halves import OpenHalves
from pymq.errors import StoreError
from pymq.store.messagestore import MessageStore

log = logging.getLogger("pymq.broker.transactions")

_SLICE = 64


class HalfRolls:
    """Keeps the log's oldest file from going before its open half messages are safe elsewhere."""

    def __init__(self, store: MessageStore, halves: OpenHalves, checks: Checks) -> None:
        self._store = store
        self._halves = halves
        self._checks = checks
        self._until = 0
        """Physical offset before which no open one may be left."""
        self._safe_at = 0
        """Where the log ended when the last of them was put again."""
        self._turns = RollTurns(self.roll, store.flush_now, "half messages", log)

    def may_go(self, end: int) -> bool:
        """Whether no open half message lies before the physical offset `end`. If not, that is seen to."""
        lowest = self._halves.lowest()
        if lowest is None or lowest.physical_offset >= end:
            return self._safe_at <= self._store.flushed.position
        self._until = max(self._until, end)
        self._turns.begin()
        return False

    def stop(self) -> None:
        """Put nothing again any more."""
        self._turns.stop()

    def roll(self) -> bool:
        """Put a slice again. True when none is left."""
        for _ in range(_SLICE):
            lowest = self._halves.lowest()
            if lowest is None or lowest.physical_offset >= self._until:
                self._safe_at = self._store.commit_log_max_offset
                return True
            try:
                with self._store.despite_full():
                    self._checks.put_again(lowest)
            except StoreError as error:
                self._turns.refuse(error)
                return False
            self._turns.is_refused = False
        return False
