"""What retention waits for is done in slices, one a turn of the loop; what fails is tried again later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pymq.errors import StoreError

RETRY_S = 1.0
"""So long after a slice that was refused the next one is tried."""


class RollTurns:
    """Runs `roll`, which puts a slice of messages again, until it says that none is left.

    Attributes:
        is_refused: whether the last slice had to stop; `roll` sets it.
    """

    def __init__(
        self, roll: Callable[[], bool], on_done: Callable[[], None], what: str, log: logging.Logger
    ) -> None:
        """`what`: the messages' kind, for the log. `on_done` is called when `roll` gave True."""
        self.is_refused = False
        self._roll = roll
        self._on_done = on_done
        self._what = what
        self._log = log
        self._ring: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Do the first slice now, unless one is to come anyway."""
        if self._ring is None:
            self._turn()

    def stop(self) -> None:
        """Put nothing again any more."""
        if self._ring is not None:
            self._ring.cancel()

    def refuse(self, error: StoreError) -> None:
        """The store did not take a message: say so once, until one is taken."""
        if not self.is_refused:
            self._log.error(
                "the log's oldest file stays, since %s in it cannot be put again: %s", self._what, error
            )
        self.is_refused = True

    def _turn(self) -> None:
        self._ring = None
        try:
            is_done = self._roll()
        except Exception:
            self._log.exception("putting %s again failed; their file of the log stays for now", self._what)
            return
        if is_done:
            self._on_done()
        else:
            pause_s = RETRY_S if self.is_refused else 0.0
            self._ring = asyncio.get_running_loop().call_later(pause_s, self._turn)
