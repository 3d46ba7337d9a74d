"""When the unit of a waiting message leads nowhere, its delivery waits until the store has mended it.

Asked for as by a pull, the store mends a unit that contradicts the log, in the background (`healing`).
"""

from __future__ import annotations

from pymq.errors import PymqError, StoreCorrupt
from pymq.store.messagestore import MessageStore
from pymq.store.unit_match import Unit

_DOUBTS_MAX = 10
"""So often it is tried to have a message mended; when nothing comes of it the message is left out."""


class BeingMended(PymqError):
    """The unit of a message is being mended: it can be read a little later."""


class MendedUnits:
    """Has units of one topic mended, and says when to give up."""

    def __init__(self, store: MessageStore, topic: str) -> None:
        self._store = store
        self._topic = topic
        self._doubts: dict[tuple[int, int], int] = {}
        """Queue and number → how often nothing came of mending."""

    def is_being_mended(self, queue_id: int, number: int, unit: Unit) -> bool:
        """Whether a message whose unit leads nowhere may be read a little later. StoreError."""
        try:
            result = self._store.get(self._topic, queue_id, number, 1)
        except StoreCorrupt:
            return False
        if self._store.is_mending(self._topic, queue_id):
            return True
        if self._store.units(self._topic, queue_id, number, 1) != [unit]:
            return True
        doubts = self._doubts[queue_id, number] = self._doubts.get((queue_id, number), 0) + 1
        if result.next_begin_offset <= number and doubts < _DOUBTS_MAX:
            return True
        del self._doubts[queue_id, number]
        return False

    def settled(self, queue_id: int, number: int) -> None:
        """The message is dealt with."""
        if self._doubts:
            self._doubts.pop((queue_id, number), None)
