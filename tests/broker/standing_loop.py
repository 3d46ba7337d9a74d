"""An event loop that gets no turn, for stories whose time tests decide."""

from __future__ import annotations

import asyncio


def in_a_loop(story: object) -> None:
    """Run a test's sync story where timers can be set; none of them rings."""

    async def run() -> None:
        assert callable(story)
        story()

    asyncio.run(run())
