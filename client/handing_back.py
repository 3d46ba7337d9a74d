"""Handing messages back goes on when who waits for it is cancelled: no message may become nobody's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pymq.client.received import ReceivedMessage
from pymq.client.repeating import end_tasks

log = logging.getLogger("pymq.client.consumer")

GIVEN_BACK_MAX = 3
"""So often in a row the handling of a message may be given up half-way. Once more, and it has failed: else
one whose handling always takes longer than a time-out around `process` would come again for ever."""


class HandingBack:
    """The messages that are being handed back now, each by a task of its own."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, handing_back: Coroutine[Any, Any, None]) -> None:
        """Wait until it is done. Being cancelled ends the waiting only."""
        await asyncio.shield(self.start(handing_back))

    def start(self, handing_back: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin, without waiting."""
        task = asyncio.get_running_loop().create_task(handing_back, name="pymq hand back")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, within_s: float) -> None:
        """Let what is under way get to its end, for so many seconds."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=within_s)

    async def close(self) -> None:
        """Cancel what is left."""
        await end_tasks(*self._tasks)


def pause_s(given_back: int, longest_s: float) -> float:
    """How many seconds a message rests that was given up half-way for the `given_back`-th time, from 1 on.

    The first time none; then ever longer, so that one that nobody gets done does not take up everything.
    """
    return 0.0 if given_back < 2 else min(longest_s, 0.01 * 2.0 ** min(given_back - 2, 20))


def has_failed(message: ReceivedMessage) -> bool:
    """Whether a message has failed whose handling is given up half-way once more; then this is logged."""
    if message.given_back < GIVEN_BACK_MAX:
        return False
    times = message.given_back + 1
    log.warning("%s: its handling was cancelled %d times in a row, which counts as a failure", message, times)
    return True
