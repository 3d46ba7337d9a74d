"""Work that is done again and again, and at once when there is reason to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pymq.errors import PymqError

log = logging.getLogger("pymq.client")


class Repeating:
    """Runs `action` every `period_s` seconds in a task of its own, one run after the other.

    An error of a run is logged and ends that run only.
    """

    def __init__(self, name: str, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._period_s = period_s
        self._action = action
        self._wake = asyncio.Event()
        self._next_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self, first_s: float | None = None) -> None:
        """Begin; the first run comes after `first_s` seconds, or after one period."""
        loop = asyncio.get_running_loop()
        self._next_at = loop.time() + (self._period_s if first_s is None else first_s)
        self._task = loop.create_task(self._run(), name=f"pymq {self._name}")

    def soon(self, delay_s: float = 0.0) -> None:
        """Let the next run be no later than in `delay_s` seconds. If one is under way, another follows."""
        if self._task is not None:
            self._next_at = min(self._next_at, asyncio.get_running_loop().time() + delay_s)
            self._wake.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0)  # the loop must get its turn, however often this is due
            while (left_s := self._next_at - loop.time()) > 0:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._wake.wait()
            self._next_at = loop.time() + self._period_s
            try:
                await self._action()
            except PymqError as error:
                log.warning("%s: %s", self._name, error)
            except Exception:
                log.exception("%s failed", self._name)

    async def close(self) -> None:
        """End it; a run under way is cancelled."""
        task, self._task = self._task, None
        if task is not None:
            await end_tasks(task)


async def end_tasks(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
