"""How fast a consumer pulls and handles messages, as mqadmin's consumerStatus shows it (wire.md §5.2)."""

from __future__ import annotations

from collections import deque

import msgspec

from pymq.clock import Clock
from pymq.protocol.bodies import ConsumeStatus

_PERIOD_S = 10
_PERIODS = 6
"""Rates are those of the last minute."""

_LONG_PERIOD_S = 600
_LONG_PERIODS = 6
"""Failures are counted for the last hour."""


class _Sums(msgspec.Struct):
    """What happened in one period; times in seconds."""

    period: int
    pulls: int = 0
    pulled: int = 0
    pulling_s: float = 0.0
    handled: int = 0
    failed: int = 0
    handling_s: float = 0.0


class _Topic:
    def __init__(self) -> None:
        self.minute: deque[_Sums] = deque(maxlen=_PERIODS)
        self.hour: deque[_Sums] = deque(maxlen=_LONG_PERIODS)


class ConsumeFigures:
    """Counts for one consumer, by topic, in a few sums each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_s = clock.monotonic()
        self._topics: dict[str, _Topic] = {}

    def pulled(self, topic: str, messages: int, took_s: float) -> None:
        """A pull brought messages."""
        sums = _now(self._of(topic).minute, self._clock.monotonic(), _PERIOD_S)
        sums.pulls += 1
        sums.pulled += messages
        sums.pulling_s += took_s

    def handled(self, topic: str, since_s: float, *, is_done: bool) -> None:
        """The handling of a message that began at `since_s` (monotonic) has ended, well or not."""
        now_s = self._clock.monotonic()
        figures = self._of(topic)
        sums = _now(figures.minute, now_s, _PERIOD_S)
        sums.handled += 1
        sums.handling_s += now_s - since_s
        if not is_done:
            sums.failed += 1
            _now(figures.hour, now_s, _LONG_PERIOD_S).failed += 1

    def status(self, topic: str) -> ConsumeStatus:
        """The figures of a topic."""
        figures = self._of(topic)
        now_s = self._clock.monotonic()
        oldest = int(now_s // _PERIOD_S) - _PERIODS + 1
        minute = [sums for sums in figures.minute if sums.period >= oldest]
        oldest_long = int(now_s // _LONG_PERIOD_S) - _LONG_PERIODS + 1
        seconds = max(1.0, now_s - max(self._began_s, oldest * _PERIOD_S))
        pulls = sum(sums.pulls for sums in minute)
        handled = sum(sums.handled for sums in minute)
        failed = sum(sums.failed for sums in minute)
        return ConsumeStatus(
            pull_rt=sum(sums.pulling_s for sums in minute) * 1000 / max(1, pulls),
            pull_tps=sum(sums.pulled for sums in minute) / seconds,
            consume_rt=sum(sums.handling_s for sums in minute) * 1000 / max(1, handled),
            consume_ok_tps=(handled - failed) / seconds,
            consume_failed_tps=failed / seconds,
            consume_failed_msgs=sum(sums.failed for sums in figures.hour if sums.period >= oldest_long),
        )

    def _of(self, topic: str) -> _Topic:
        figures = self._topics.get(topic)
        if figures is None:
            figures = self._topics[topic] = _Topic()
        return figures


def _now(window: deque[_Sums], now_s: float, period_s: int) -> _Sums:
    """The sums of the period that is now."""
    period = int(now_s // period_s)
    if not window or window[-1].period != period:
        window.append(_Sums(period))
    return window[-1]
