"""An event loop that gets no turn, for stories whose time tests decide."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


def in_a_loop(story: object) -> None:
    """Run a test's sync story where timers can be set; none of them rings."""

    async def run() -> None:
        assert callable(story)
        story()

    asyncio.run(run())


def at_once(work: Coroutine[object, None, object]) -> None:
    """Run work that has nothing to wait for. AssertionError when it waits all the same."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError(f"{work} waits")
