"""One seed: messages damaged in the log and units damaged in the queues, again and again, over many starts.

What can be read is served, once and in order; an Apache 4.9.4 broker could go on with the units.
"""

from __future__ import annotations

import random

from pymq.store import recovery
from pymq.store.checkpoint import Checkpoint
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.unit_reads import BORDER_TAGS_CODE
from tests.store.making import open_store, put, records
from tests.store.sim_disk import SimDisk

_LOG_FILE = 8192
_UNITS_PER_FILE = 40
_TOPICS = ("A", "B", "C")
_PLACE = 28
"""Position of the physical offset in a record: without that it is none."""
_WINDOW = recovery._WINDOW

Unit = tuple[int, int, int]


class Losses:
    """A store, what was put into it, and which of that is damaged."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.disk = SimDisk()
        self.sent: dict[tuple[str, int], PutResult] = {}
        self.lost: set[tuple[str, int]] = set()
        self.story: list[str] = []
        """What happened, for who reads a failure."""
        self.lives = self.checked = 0
        self._log_start = 0

    def run(self) -> None:
        """AssertionError, or whatever the store failed by."""
        try:
            for _ in range(self.luck.randrange(2, 8)):
                self._life()
        finally:
            recovery._WINDOW = _WINDOW

    def _life(self) -> None:
        self.lives += 1
        luck = self.luck
        recovery._WINDOW = luck.choice((100, 3000, _WINDOW))
        memory = luck.choice((0, 40))
        store = open_store(
            self.disk,
            "/s",
            commit_log_segment_bytes=_LOG_FILE,
            consume_queue_segment_bytes=20 * _UNITS_PER_FILE,
            access_message_in_memory_max_ratio=memory,
        )
        for _ in range(luck.choice((0, 1, 2, 2))):
            self._read(store)
        for _ in range(luck.choice((0, 5, 60))):
            topic = luck.choice(_TOPICS)
            result = put(store, topic, body=luck.randbytes(luck.choice((20, 20, 300))))
            assert (topic, result.queue_offset) not in self.sent, "no number is given twice"
            self.sent[topic, result.queue_offset] = result
        self._read(store)
        store.close()
        self._check_units()
        damages = (self._damage_messages, self._damage_messages, self._damage_units, self._change)
        for damage in sorted(luck.choices(damages, k=luck.choice((0, 1, 3))), key=damages.index):
            damage()

    # -- looking

    def _read(self, store: MessageStore) -> None:
        """All that is not lost is served, from wherever one begins."""
        for topic in _TOPICS:
            low, high = store.min_offset(topic, 0), store.max_offset(topic, 0)
            numbers = [number for name, number in self.sent if name == topic]
            assert high == max(numbers, default=-1) + 1, f"{topic} ends at {high}"
            left = [n for n in numbers if (topic, n) not in self.lost]
            for start in (low, self.luck.randrange(low, high + 1)):
                max_num = self.luck.choice((1, 7, 32))
                offset, found = start, []
                for _ in range(500):
                    if offset >= high:
                        break
                    result = store.get(topic, 0, offset, max_num, None)
                    found += [record.queue_offset for record in records(result)]
                    offset = result.next_begin_offset
                assert found == [n for n in left if n >= start], f"{topic} from {start}, {max_num} at a time"
                self.checked += len(found)

    def _check_units(self) -> None:
        """Each unit names a message of its queue, in order, unless its message has left with a log file."""
        for topic in _TOPICS:
            there = {
                (r.physical_offset, r.end_offset - r.physical_offset)
                for (name, n), r in self.sent.items()
                if name == topic and (name, n) not in self.lost
            }
            before = 0
            for number, (physical, size, code) in enumerate(self._units(topic)):
                if physical < self._log_start:
                    assert before < self._log_start
                elif there and code != BORDER_TAGS_CODE:
                    assert (physical, size) in there, f"unit {number} of {topic}: {physical}, {size}"
                    assert physical >= before, f"unit {number} of {topic}: {physical} behind {before}"
                before = physical

    def _units(self, topic: str) -> list[Unit]:
        """From the first file's first one on."""
        end = max((n for name, n in self.sent if name == topic), default=-1) + 1
        data = b""
        for path in sorted(p for p in self.disk.contents if p.startswith(f"/s/consumequeue/{topic}/0/")):
            base = int(path.rpartition("/")[2]) // 20
            data += self.disk.contents[path].data()[: max(0, end - base) * 20]
        return list(CQ_STORE_UNIT.iter_unpack(data))

    # -- damaging

    def _damage_messages(self) -> None:
        """Some beside each other in a queue, or in the log; never the last of the log, which would be cut."""
        newest = max((result.physical_offset for result in self.sent.values()), default=0)
        left = sorted(
            (key for key in self.sent if key not in self.lost and self.sent[key].physical_offset < newest),
            key=self.luck.choice((lambda key: key, lambda key: (self.sent[key].physical_offset,))),
        )
        start = self.luck.choice((0, 0, self.luck.randrange(len(left) + 1)))
        for key in left[start : start + self.luck.choice((1, 1, 2, 10, 50))]:
            offset = self.sent[key].physical_offset
            self._flip(f"/s/commitlog/{offset - offset % _LOG_FILE:020d}", offset % _LOG_FILE + _PLACE)
            self.lost.add(key)
            self.story.append(f"{key} is lost")

    def _flip(self, path: str, position: int) -> None:
        content = self.disk.contents[path]
        content.buffer[position : position + 1] = bytes((content.buffer[position] ^ 0x80,))
        content.sync()

    def _damage_units(self) -> None:
        """Some of one queue, beside each other; but the last few of it would be the queue's end."""
        topic = self.luck.choice(_TOPICS)
        units = self._units(topic)
        numbers = [n for n in range(len(units) - 1) if units[n][0] >= self._log_start]
        if not numbers:
            return
        start, kind = self.luck.choice(numbers), self.luck.randrange(5)
        for number in range(start, min(start + self.luck.choice((1, 1, 3, 30)), len(units) - 1)):
            physical, size, code = units[number]
            bad = (
                (0, 0, 0),
                (physical + 1, size, code),
                (physical, max(size - 20, 1), code),
                (physical, BLANK_UNIT_SIZE, 0),
                units[number - 1],
            )[kind]
            if kind == 3 and (topic, number) not in self.lost:
                continue  # that such a unit stands for nothing is believed
            if kind == 4 and (number == 0 or (topic, number - 1) in self.lost):
                continue  # a queue's first ones may be of a topic that was deleted: no search tells
            if kind == 0 and (topic, len(units) - 1) in self.lost:
                continue  # where units end nobody could tell: neither by the queue nor by the log
            self._set_unit(topic, number, bad)
            self.story.append(f"unit {number} of {topic} is {bad}")

    def _set_unit(self, topic: str, number: int, unit: Unit) -> None:
        base = number // _UNITS_PER_FILE * _UNITS_PER_FILE
        content = self.disk.contents[f"/s/consumequeue/{topic}/0/{20 * base:020d}"]
        at = 20 * (number - base)
        content.buffer[at : at + 20] = CQ_STORE_UNIT.pack(*unit)
        content.sync()

    def _change(self) -> None:
        """What happens to a store between two starts, besides."""
        change = self.luck.randrange(3)
        if change == 0:
            self.story.append("killed")
            self.disk.write_bytes("/s/abort", b"")
        elif change == 1:
            self.story.append("Apache wrote the checkpoint")
            checkpoint = Checkpoint("/s/checkpoint", self.disk)
            checkpoint.load()
            checkpoint.mark = None
            checkpoint.write_job()()
        else:
            self._remove_oldest_file()

    def _remove_oldest_file(self) -> None:
        """As retention does while a store is open."""
        paths = sorted(path for path in self.disk.contents if path.startswith("/s/commitlog/"))
        if len(paths) < 3:
            return
        self.story.append("the log's oldest file is gone")
        self.disk.remove_file(paths[0])
        self._log_start += _LOG_FILE
        for key, result in self.sent.items():
            if result.physical_offset < self._log_start:
                self.lost.add(key)
