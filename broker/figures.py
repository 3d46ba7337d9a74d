"""Counters of a running broker, and the rates that tools show (semantics.md §10)."""

from __future__ import annotations

from collections import deque

import msgspec

from pymq.clock import Clock

SAMPLE_PERIOD_S = 10
_WINDOWS_S = (10, 60, 600)


class Sample(msgspec.Struct, frozen=True):
    """The counters at one time."""

    at_ms: int
    puts: int
    gets: int
    finds: int
    misses: int

    @property
    def pulls(self) -> int:
        """All pulls answered, with messages or without."""
        return self.finds + self.misses


class Figures:
    """What the broker has done since it started. `sample` is called every 10 seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.started_ms = clock.now_ms()
        self.put_messages = 0
        self.put_bytes = 0
        self.put_failures = 0
        self.get_messages = 0
        self.get_bytes = 0
        self.finds = 0
        self.misses = 0
        self.puts_this_morning = 0
        self.puts_yesterday_morning = 0
        self.gets_this_morning = 0
        self.gets_yesterday_morning = 0
        self._day = clock.local_time(self.started_ms).date()
        self._samples: deque[Sample] = deque(maxlen=_WINDOWS_S[-1] // SAMPLE_PERIOD_S + 1)
        self.sample()

    def put(self, messages: int, size: int) -> None:
        """Messages were stored: how many, and how many bytes their bodies have."""
        self.put_messages += messages
        self.put_bytes += size

    def got(self, messages: int, size: int) -> None:
        """A pull found messages: how many, and how many bytes their records have."""
        self.finds += 1
        self.get_messages += messages
        self.get_bytes += size

    def missed(self) -> None:
        """A pull found nothing."""
        self.misses += 1

    def sample(self) -> None:
        """Remember the counters of now, and at midnight those that the day began with."""
        now = self._now()
        self._samples.append(now)
        day = self._clock.local_time(now.at_ms).date()
        if day != self._day:
            self._day = day
            self.puts_yesterday_morning, self.puts_this_morning = self.puts_this_morning, self.put_messages
            self.gets_yesterday_morning, self.gets_this_morning = self.gets_this_morning, self.get_messages

    def _now(self) -> Sample:
        return Sample(self._clock.now_ms(), self.put_messages, self.get_messages, self.finds, self.misses)

    def rates(self, name: str) -> str:
        """A counter of `Sample` per second, over 10 s, 1 min and 10 min: three numbers, blanks between."""
        now = self._now()
        texts = []
        for window_s in _WINDOWS_S:
            then = self._samples[-min(window_s // SAMPLE_PERIOD_S, len(self._samples))]
            elapsed_ms = max(1, now.at_ms - then.at_ms)
            texts.append(str((getattr(now, name) - getattr(then, name)) * 1000 / elapsed_ms))
        return " ".join(texts)
