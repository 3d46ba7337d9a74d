"""A position that only grows, and those who wait for it: "flushed up to", "acknowledged up to"."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from pymq.clock import Clock

Waiter = Callable[[bool], None]
"""Called once: True when the position was reached, False when it was not in time."""


class Watermark:
    """A growing position with waiters and deadlines. Not thread-safe: it belongs to its owner's thread."""

    def __init__(self, clock: Clock, position: int = 0) -> None:
        self._clock = clock
        self._position = position
        self._by_position: list[tuple[int, int]] = []
        self._by_deadline: list[tuple[float, int]] = []
        self._waiters: dict[int, Waiter] = {}
        self._numbers = itertools.count()

    @property
    def position(self) -> int:
        """The highest position reached so far."""
        return self._position

    def reached(self, position: int, done: Waiter, within_ms: float) -> int:
        """Call `done` when `position` is reached: at once when it is already, with False after `within_ms`.

        Returns a number for `forget`. Deadlines pass in `expire`, not by themselves.
        """
        number = next(self._numbers)
        if position <= self._position:
            done(True)
            return number
        self._waiters[number] = done
        heapq.heappush(self._by_position, (position, number))
        heapq.heappush(self._by_deadline, (self._clock.monotonic() + within_ms / 1000, number))
        return number

    def forget(self, number: int) -> None:
        """Nobody waits any more under this number; it is not called. Unknown numbers are fine."""
        self._waiters.pop(number, None)

    def advance(self, position: int) -> None:
        """The position is reached; a lower one than before changes nothing."""
        if position <= self._position:
            return
        self._position = position
        waiting = self._by_position
        while waiting and waiting[0][0] <= position:
            self._call(heapq.heappop(waiting)[1], True)
        if not self._waiters:
            self._by_position.clear()
            self._by_deadline.clear()

    def expire(self) -> None:
        """Tell those whose time is over."""
        now = self._clock.monotonic()
        waiting = self._by_deadline
        while waiting and waiting[0][0] <= now:
            self._call(heapq.heappop(waiting)[1], False)

    def abandon(self) -> None:
        """Tell all who wait that the position will not be reached."""
        self._by_position.clear()
        self._by_deadline.clear()
        for number in list(self._waiters):
            self._call(number, False)

    def next_deadline(self) -> float | None:
        """When the next waiter's time is over, on the clock's monotonic scale; None when nobody waits."""
        waiting = self._by_deadline
        while waiting and waiting[0][1] not in self._waiters:
            heapq.heappop(waiting)
        return waiting[0][0] if waiting else None

    def _call(self, number: int, reached: bool) -> None:
        done = self._waiters.pop(number, None)
        if done is not None:
            done(reached)
