"""A clock that tests move by hand."""

from __future__ import annotations

import datetime
import random


class SimClock:
    """Virtual time: stands still until `advance`."""

    def __init__(self, now_ms: int = 1_700_000_000_000, seed: int = 7, pid: int = 4242) -> None:
        self._now_ms = now_ms
        self._started_ms = now_ms
        self.random = random.Random(seed)
        self.pid = pid

    def advance(self, ms: int) -> None:
        """Move time forward by `ms` milliseconds."""
        self._now_ms += ms

    def now_ms(self) -> int:
        """Virtual wall-clock time in milliseconds."""
        return self._now_ms

    def monotonic(self) -> float:
        """Virtual seconds since the clock was made."""
        return (self._now_ms - self._started_ms) / 1000

    def local_time(self, timestamp_ms: int) -> datetime.datetime:
        """The given time as UTC, so that tests do not depend on the machine's zone."""
        return datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.UTC)
