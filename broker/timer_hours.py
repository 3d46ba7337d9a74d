"""Which hours' timed messages are in memory: those that have begun, and the next one from a minute before.

An hour's file is read a batch in each turn of the loop; what is stored for the hour meanwhile goes to the
wheel at once. Files of past hours go when nothing waits in them any more.
"""

from __future__ import annotations

from collections.abc import Iterator

from pymq.broker.timer_wheel import TimerWheel
from pymq.store.timer_journal import HOUR_MS, TimerEntry, TimerJournal, hour_of

PRELOAD_MS = 60_000
"""An hour's file is read so long before the hour begins."""


class TimerHours:
    """Moves entries from the journal to the wheel in time."""

    def __init__(self, journal: TimerJournal, wheel: TimerWheel, now_ms: int) -> None:
        """All that was due before now, and this hour's, is in the wheel from the beginning. StoreCorrupt."""
        self._journal = journal
        self._wheel = wheel
        self._loaded = 0
        """All of this hour and those before it is in the wheel, or in `_loading`."""
        self._loading: Iterator[list[TimerEntry]] | None = None
        self._hour = 0
        """The one that it is; files of earlier ones go when all in them is settled."""
        self.turn_to(now_ms)

    def are_in_memory(self, deliver_ms: int) -> bool:
        """Whether what is due then has to be in the wheel."""
        return hour_of(deliver_ms) <= self._loaded

    def add(self, entry: TimerEntry) -> None:
        """A message waits that the journal has just been told of."""
        if self.are_in_memory(entry.deliver_ms):
            self._wheel.add(entry)

    def next_ms(self) -> int | None:
        """When there is something to read next, ms since 1970, 0 for now; None when nothing is left."""
        if self._loading is not None:
            return 0
        following = self._journal.next_hour(self._loaded)
        return None if following is None else following * HOUR_MS - PRELOAD_MS

    def turn_to(self, now_ms: int) -> bool:
        """Have in memory what may be due; read ahead a little. Whether there is more to read just now.

        StoreCorrupt when a file is not what was written.
        """
        hour = hour_of(now_ms)
        if self._loaded < hour or (self._loading is not None and self._loaded <= hour):
            self._load_until(hour)
        if self._loading is not None:
            self._load_batch()
        else:
            next_ms = self.next_ms()
            if next_ms is not None and next_ms <= now_ms:
                self._begin(self._journal.next_hour(self._loaded) or 0)
        if hour != self._hour:
            self._hour = hour
            self._drop_settled()
        return self._loading is not None

    def _load_until(self, hour: int) -> None:
        """Have all hours up to this one in memory, now."""
        while True:
            while self._loading is not None:
                self._load_batch()
            following = self._journal.next_hour(self._loaded)
            if following is None or following > hour:
                break
            self._begin(following)
        self._loaded = max(self._loaded, hour)

    def _begin(self, hour: int) -> None:
        self._loading = self._journal.read(hour)
        self._loaded = hour

    def _load_batch(self) -> None:
        assert self._loading is not None
        batch = next(self._loading, None)
        if batch is None:
            self._loading = None
            return
        for entry in batch:
            self._wheel.add(entry)

    def settled(self, entry: TimerEntry) -> None:
        """An entry that was taken out of the wheel waits no more."""
        self._journal.remove(entry.deliver_ms, entry.number)
        if self._wheel.settled(entry) and hour_of(entry.deliver_ms) < self._hour:
            self._drop_settled()

    def _drop_settled(self) -> None:
        for hour in self._journal.hours():
            if hour < self._hour and not self._wheel.waiting_in(hour):
                self._journal.drop(hour)
