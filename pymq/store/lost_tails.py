"""Lost messages at the ends of queues whose last units are written anew (store.md §3).

The log tells of those before a message that it has. Of those behind a queue's last one only the queue knows,
and their numbers must not be given once more: who consumed up to there would pass over the new ones.
"""

from __future__ import annotations

from typing import NamedTuple

from pymq.store.commitlog import FILLER_TOPIC
from pymq.store.consumequeue import BLANK_UNIT_SIZE, ConsumeQueue
from pymq.store.scan import RECORD_MIN_SIZE, LogScan
from pymq.store.unit_match import Unit
from pymq.store.unit_reads import stands_for_nothing

_FILLER = FILLER_TOPIC.decode()


class _Tail(NamedTuple):
    start: int
    """The number behind that of the last message that the log seems to have."""
    places: list[int]
    """Physical offsets at which the messages from there on stood, or what is known of that."""

    def end_behind(self, number: int, low: int, end: int) -> int:
        """The number up to which, from `number` on, their places are from `low` on and before `end`."""
        if number < self.start:
            return number
        places = self.places[number - self.start :]
        wrong = (index for index, place in enumerate(places) if not low <= place < end)
        return number + next(wrong, len(places))


class LostTails:
    """What the queues knew of them before they were cut, to be given back."""

    def __init__(self, scan: LogScan, log_end: int, durable: int) -> None:
        """`log_end`: physical offset before which all messages stand, or stood.

        `durable`: the one before which they were on the disk. Behind it no message is lost, only torn: a unit
        there that names none is left from before an earlier cut.
        """
        self._scan = scan
        self._log_end = log_end
        self._durable = durable
        self._found: dict[ConsumeQueue, _Tail] = {}

    def take(self, queue: ConsumeQueue) -> None:
        """Note what a queue that is going to be cut knows."""
        number = queue.max_offset
        places: list[int] = []
        while (unit := queue.unit(number - 1)) is not None and self._is_lost(queue, number - 1, unit):
            number -= 1
            places.append(unit[0])
        if places and queue not in self._found:
            self._found[queue] = _Tail(number, places[::-1])

    def _is_lost(self, queue: ConsumeQueue, number: int, unit: Unit) -> bool:
        """Whether a unit looks as if it had stood for a message."""
        physical, size, _ = unit
        if not self._scan.start <= physical < self._log_end:
            return False
        if stands_for_nothing(unit):
            return True
        record = self._scan.record_at(physical)
        if record is None:
            return size >= RECORD_MIN_SIZE and physical < self._durable
        if record.topic == _FILLER:
            return True
        is_of_queue = (record.topic, record.queue_id) == (queue.topic, queue.queue_id)
        return is_of_queue and record.queue_offset < number  # a copy, whatever became of that one's unit

    def restore(self, end: int) -> list[tuple[ConsumeQueue, int]]:
        """Add them to the queues, as far as they lie before the physical offset `end`.

        That may be behind the log's end, where more was on the disk once: the numbers are not given again.
        Gives queues and numbers of units that are blank, for want of a message. StoreFull, StoreBroken.
        """
        blanks: list[tuple[ConsumeQueue, int]] = []
        for queue, tail in self._found.items():
            last = queue.last_unit()
            number = tail.end_behind(queue.max_offset, 0 if last is None else last[0], end)
            if number > queue.max_offset:
                queue.skip_to(number, last or (self._scan.start, BLANK_UNIT_SIZE, 0))
                queue.dirty = True
                if last is None:
                    blanks.append((queue, number - 1))
        return blanks
