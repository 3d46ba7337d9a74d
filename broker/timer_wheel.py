"""The timed messages of the hours that have begun, in memory: 24 bytes each, and a heap for this minute's.

A minute is opened when it begins: then its messages are put in order, and what cancels messages is known
before the first of them is due. A cancellation counts for messages of its own minute; Apache's wheel asks for
the same second. As there, a full minute is the end of the one before.
"""

from __future__ import annotations

import heapq
from array import array

from pymq.store.timer_journal import MINUTE_MS, TimerEntry, hour_of

_FIELDS = 3
"""Numbers for each entry of a minute: time and kind, number, key."""


class TimerWheel:
    """Gives entries in the order of their times, and those of one time in the order they were stored."""

    def __init__(self) -> None:
        self._slots: dict[int, array[int]] = {}
        """Minute → its entries, of those that are not opened yet."""
        self._minutes: list[int] = []
        """These minutes, as a heap."""
        self._due: list[tuple[int, int, int]] = []
        """Time, number and key of the messages of the opened minutes, as a heap."""
        self._cancels: dict[int, dict[int, list[TimerEntry]]] = {}
        """Opened minute → key → what cancels it."""
        self._counts: dict[int, int] = {}
        """Hour → how many of its entries are not settled."""

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, entry: TimerEntry) -> None:
        """An entry waits; its time may have come."""
        minute = (entry.deliver_ms - 1) // MINUTE_MS
        hour = hour_of(entry.deliver_ms)
        self._counts[hour] = self._counts.get(hour, 0) + 1
        if minute in self._cancels:
            self._add_opened(minute, entry)
            return
        slot = self._slots.get(minute)
        if slot is None:
            slot = self._slots[minute] = array("q")
            heapq.heappush(self._minutes, minute)
        slot.extend((entry.deliver_ms << 1 | entry.is_cancel, entry.number, entry.key))

    def _add_opened(self, minute: int, entry: TimerEntry) -> None:
        if entry.is_cancel:
            self._cancels[minute].setdefault(entry.key, []).append(entry)
        else:
            heapq.heappush(self._due, (entry.deliver_ms, entry.number, entry.key))

    def waiting_in(self, hour: int) -> int:
        """How many entries of an hour are not settled."""
        return self._counts.get(hour, 0)

    def next_ms(self) -> int | None:
        """When there is something to do next, ms since 1970; None when nothing waits."""
        times = [minute * MINUTE_MS + 1 for minute in self._minutes[:1]]
        times += [due[0] for due in self._due[:1]]
        times += [(minute + 1) * MINUTE_MS for minute in self._cancels]
        return min(times, default=None)

    def turn_to(self, now_ms: int) -> None:
        """Open the minutes that have begun."""
        while self._minutes and self._minutes[0] * MINUTE_MS < now_ms:
            minute = heapq.heappop(self._minutes)
            slot = self._slots.pop(minute)
            self._cancels[minute] = {}
            for at in range(0, len(slot), _FIELDS):
                time, number, key = slot[at : at + _FIELDS]
                self._add_opened(minute, TimerEntry(time >> 1, number, key, bool(time & 1)))

    def first_due(self, now_ms: int) -> TimerEntry | None:
        """The first message that is due, if one is."""
        if not self._due or self._due[0][0] > now_ms:
            return None
        return TimerEntry(*self._due[0], False)

    def pop(self) -> None:
        """Take the first message out: it is delivered, or put aside until it is `settled`."""
        heapq.heappop(self._due)

    def cancels(self, entry: TimerEntry) -> list[TimerEntry]:
        """What may cancel a message that is due."""
        minute = (entry.deliver_ms - 1) // MINUTE_MS
        return self._cancels.get(minute, {}).get(entry.key, []) if entry.key else []

    def close(self, now_ms: int) -> list[TimerEntry]:
        """The cancellations of the minutes that are over; call it when all that is due has been taken out."""
        over = [minute for minute in self._cancels if (minute + 1) * MINUTE_MS <= now_ms]
        return [entry for minute in over for same in self._cancels.pop(minute).values() for entry in same]

    def settled(self, entry: TimerEntry) -> bool:
        """An entry that was taken out waits no more. Whether it was the last one of its hour."""
        hour = hour_of(entry.deliver_ms)
        self._counts[hour] -= 1
        if self._counts[hour]:
            return False
        del self._counts[hour]
        return True
