"""Time, randomness and the process id as one small interface, which tests and the simulator supply too."""

from __future__ import annotations

import datetime
import os
import random
import time
from typing import Protocol


class Clock(Protocol):
    """What a part needs of the outside world that is neither network nor disk."""

    @property
    def pid(self) -> int:
        """Process id."""
        ...

    @property
    def random(self) -> random.Random:
        """The source of randomness."""
        ...

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970 (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    def local_time(self, timestamp_ms: int) -> datetime.datetime:
        """The given wall-clock time in the local time zone (deleteWhen and index file names are local)."""
        ...


class SystemClock:
    """The machine's clock, process id and randomness."""

    def __init__(self) -> None:
        self.random = random.Random()

    @property
    def pid(self) -> int:
        """Process id, asked anew each time: a daemon forks."""
        return os.getpid()

    def now_ms(self) -> int:
        """Wall-clock time in milliseconds since 1970 (UTC)."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        return time.monotonic()

    def local_time(self, timestamp_ms: int) -> datetime.datetime:
        """The given wall-clock time in the local time zone."""
        return datetime.datetime.fromtimestamp(timestamp_ms / 1000).astimezone()
