"""Messages to one queue set out in the order in which they were sent.

What comes before one is written (its route, a connection, compressing) may take one longer than the next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary


class Turn:
    """Of one message. Entered when those before it are on their way, or at the `deadline` in any case."""

    def __init__(self, lock: asyncio.Lock, deadline: float, *, is_first: bool) -> None:
        """`is_first`: nobody is before it."""
        self._lock: asyncio.Lock | None = lock
        self._deadline = deadline
        self._is_first = is_first
        self._is_held = False

    async def __aenter__(self) -> Self:
        assert self._lock is not None
        if self._is_first:
            self._is_held = await self._lock.acquire()
            return self
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                self._is_held = await self._lock.acquire()
        return self

    def over(self) -> None:
        """It is written, or its first attempt has failed: let the next one go."""
        lock, self._lock = self._lock, None
        if lock is not None and self._is_held:
            lock.release()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over()


class Turns:
    """The turns of all queues. A lock lives as long as a message waits for it or has it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def next(self, lane: Hashable, deadline: float) -> Turn:
        """The turn behind all those of the same lane. It has to be entered at once."""
        lock = self._locks.get(lane)
        is_first = lock is None
        if lock is None:
            lock = self._locks[lane] = asyncio.Lock()
        return Turn(lock, deadline, is_first=is_first)
