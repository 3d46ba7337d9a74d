"""Brokers that are passed over because they were slow or failed (semantics.md §11.3)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

_PASSED_OVER: Final = ((15.0, 600.0), (3.0, 180.0), (2.0, 120.0), (1.0, 60.0), (0.55, 30.0))
"""From which time of a send on, s → for how long its broker is passed over, s. Below that: not at all."""
_FAILURE_S: Final = 30.0
"""A send that failed counts as one that took so long."""


class _Fault(NamedTuple):
    until: float
    took_s: float


class LatencyFaults:
    """What the last send to each broker has taught. Times are the loop's, in seconds."""

    def __init__(self) -> None:
        self._faults: dict[str, _Fault] = {}

    def answered(self, broker_name: str, took_s: float, now: float) -> None:
        """A send to this broker was answered after so long."""
        for limit_s, pause_s in _PASSED_OVER:
            if took_s >= limit_s:
                self._faults[broker_name] = _Fault(now + pause_s, took_s)
                return
        self._faults.pop(broker_name, None)

    def failed(self, broker_name: str, now: float) -> None:
        """A send to this broker had no good end."""
        self.answered(broker_name, _FAILURE_S, now)

    def avoided(self, broker_names: Collection[str], now: float) -> set[str]:
        """Those of these brokers that are passed over now; of all of them, the worse half at most."""
        bad = {name for name in broker_names if name in self._faults and self._faults[name].until > now}
        if not bad or len(bad) < len(set(broker_names)):
            return bad
        by_time = sorted(bad, key=lambda name: (self._faults[name].took_s, self._faults[name].until))
        return set(by_time[max(1, len(by_time) // 2) :])
