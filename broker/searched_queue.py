"""Messages of a queue by their numbers, also where units of the queue are damaged.

The store mends such a unit only later, in the background. Who reads a queue at the start does not wait for
that: the log is read from the sound unit before it to the one behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pymq.protocol.message import MessageRecord
from pymq.store.messagestore import MessageStore

_UNITS = 1000
_NOWHERE = (-1, 0, 0)


class Numbered(Protocol):
    """What is read from a record."""

    @property
    def record(self) -> MessageRecord:
        """The record."""
        ...


M = TypeVar("M", bound=Numbered)


class SearchedQueue(Generic[M]):
    """Queue 0 of a topic."""

    def __init__(
        self, store: MessageStore, topic: str, low: int, end: int, read: Callable[[bytes | None], M | None]
    ) -> None:
        """Of the numbers from `low` up to `end`.

        `read`: what a record is, None when it is no sound message of the topic.
        """
        self._store = store
        self._topic = topic
        self._low, self._end = low, end
        self._read = read
        self._searched: dict[int, int] = {}
        """Number → physical offset, -1 where the log has none, of those whose units lead nowhere."""
        self._units: list[tuple[int, int, int]] = []
        self._first = low

    def read(self, number: int) -> M | None:
        """A message; None when it is gone or damaged. StoreError."""
        message = self._at(number, self._unit(number)[0])
        if message is None and self._low <= number < self._end and not self._is_lost(number):
            if number not in self._searched:
                self._search(number)
            message = self._at(number, self._searched[number])
        return message

    def _at(self, number: int, physical_offset: int) -> M | None:
        message = self._read(self._store.record_at(physical_offset))
        return message if message is not None and message.record.queue_offset == number else None

    def _unit(self, number: int) -> tuple[int, int, int]:
        """A number's unit; when they are read in order, many at once."""
        if not 0 <= number - self._first < len(self._units):
            is_next = number == self._first + len(self._units)
            count = min(_UNITS, max(1, self._end - number)) if is_next else 1
            self._units, self._first = self._store.units(self._topic, 0, number, count), number
        return self._units[number - self._first] if self._units else _NOWHERE

    def _is_lost(self, number: int) -> bool:
        """Whether the store knows that the log has lost the message."""
        return self._unit(number)[0] < 0

    def _leads_nowhere(self, number: int) -> bool:
        return self._at(number, self._unit(number)[0]) is None

    def _search(self, number: int) -> None:
        """Find the messages of all units around a number that lead nowhere."""
        first, behind = number, number + 1
        while first > self._low and self._leads_nowhere(first - 1):
            first -= 1
        while behind < self._end and self._leads_nowhere(behind):
            behind += 1
        self._searched.update(dict.fromkeys(range(first, behind), -1))
        start = self._store.commit_log_min_offset
        if first > self._low:
            start = max(start, self._unit(first - 1)[0])
        mark = self._topic.encode()
        for data in self._store.records_from(start):
            message = self._read(data) if mark in data else None
            if message is None or message.record.queue_offset < first:
                continue
            if message.record.queue_offset >= behind:
                break
            self._searched[message.record.queue_offset] = message.record.physical_offset
