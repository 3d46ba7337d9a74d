"""The half messages whose transactions are open; all others before the end of their queue have ended."""

from __future__ import annotations

from collections import OrderedDict

from pymq.broker.transactions.halves import Half, Identity, OpenHalf

DISCARDED_MAX = 10_000
"""So many of those that were given up are known."""


class OpenHalves:
    """Open half messages by number, in the order of their queue."""

    def __init__(self) -> None:
        self._by_number: OrderedDict[int, OpenHalf] = OrderedDict()
        self._by_first: dict[int, OpenHalf] = {}
        self._strangers: dict[Identity, list[OpenHalf]] = {}
        """Whose older copies may not name the first: those that another broker may have put again."""
        self._discarded: OrderedDict[Identity, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_number)

    def clear(self) -> None:
        """Know nothing."""
        self._by_number.clear()
        self._by_first.clear()
        self._strangers.clear()
        self._discarded.clear()

    def add(self, half: OpenHalf) -> None:
        """One more, the last of its queue."""
        self._by_number[half.number] = half
        self._by_first[half.first] = half

    def note_stranger(self, half: OpenHalf, identity: Identity) -> None:
        """Let an end find this one by what its copies have in common."""
        self._strangers.setdefault(identity, []).append(half)

    @property
    def has_strangers(self) -> bool:
        """Whether there may be such."""
        return bool(self._strangers)

    def remove(self, half: OpenHalf) -> None:
        """Its transaction has ended."""
        del self._by_number[half.number]
        del self._by_first[half.first]

    def moved(self, half: OpenHalf, number: int, physical_offset: int) -> None:
        """It was put again at the end of its queue."""
        del self._by_number[half.number]
        half.number, half.physical_offset = number, physical_offset
        self._by_number[number] = half

    def get(self, number: int) -> OpenHalf | None:
        """By the number of its newest copy."""
        return self._by_number.get(number)

    def find(self, half: Half) -> OpenHalf | None:
        """The open one that `half`, any of its copies, belongs to; None when that has ended."""
        found = self._by_first.get(half.number if half.first is None else half.first)
        if found is not None:
            return found
        for stranger in self._strangers.get(half.identity, ()):
            if self._by_first.get(stranger.first) is stranger:
                return stranger
        return None

    def lowest(self) -> OpenHalf | None:
        """The first in the queue."""
        return next(iter(self._by_number.values()), None)

    def numbers(self) -> list[int]:
        """The numbers of all, in order."""
        return list(self._by_number)

    # -- those that were given up

    def discarded(self, identity: Identity) -> None:
        """Nobody has ended it: its producer may still come to commit it."""
        self._discarded[identity] = None
        while len(self._discarded) > DISCARDED_MAX:
            self._discarded.popitem(last=False)

    def not_discarded(self, identity: Identity) -> None:
        """It has ended after all."""
        self._discarded.pop(identity, None)

    @property
    def has_discarded(self) -> bool:
        """Whether any was discarded and has not ended since."""
        return bool(self._discarded)

    def was_discarded(self, identity: Identity) -> bool:
        """Whether one like this was discarded and has not ended since."""
        return identity in self._discarded
