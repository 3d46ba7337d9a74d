"""Python's garbage collector in programs that keep many objects for as long as they run."""

from __future__ import annotations

import gc
from typing import Literal

from pymq.clock import Clock

PAUSE_S = 0.02
"""A full collection that takes longer is the last one to look at what it leaves."""


class _Pauses:
    """Listens to the collector (`gc.callbacks`)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = 0.0

    def __call__(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = self._clock.monotonic()
        elif self._clock.monotonic() - self._began > PAUSE_S:
            gc.freeze()


def bound_pauses(clock: Clock) -> None:
    """See to it that the collector never stops the program for long, however much it keeps.

    A full collection looks at every object there is: with 80,000 queues it takes a third of a second, again
    and again as they grow. What outlives a long one is set aside. It is freed as ever when its last reference
    goes; only a cycle among the objects of that moment would stay, and there are few such moments.
    """
    gc.callbacks.append(_Pauses(clock))
