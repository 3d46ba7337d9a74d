"""Reading consume queues as they stand in the files (store.md §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pymq.store.consumequeue import CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE
from pymq.store.inspection.files import Range, StoreFolder
from pymq.store.unit_reads import BORDER_TAGS_CODE, stands_for_nothing

Bounds = dict[tuple[str, int], tuple[int, int]]
"""Queue → number of its first message that the log still has, and the one behind its last."""
_CHUNK_UNITS = 256
_SCAN_UNITS = 16_384
_CHUNKS_KEPT = 4096


class Unit(NamedTuple):
    """A queue unit: where its message stands in the commit log, its size, its tags code."""

    physical_offset: int
    size: int
    tags_code: int

    @property
    def is_used(self) -> bool:
        """Whether anything was written here; the first unit that is not ends the queue."""
        return self.size > 0 and self.physical_offset >= 0

    @property
    def is_blank(self) -> bool:
        """Whether it only fills the place of a message that is no more."""
        return stands_for_nothing(self)

    @property
    def is_at_border(self) -> bool:
        """Whether it does so where even an Apache 4.9.4 broker passes it (`log_border`)."""
        return self.tags_code == BORDER_TAGS_CODE


NO_UNIT = Unit(0, 0, 0)


class QueueUnits:
    """Single units of many queues; neighbours cost one read, and a bounded number of pieces is kept."""

    def __init__(self, queues: dict[tuple[str, int], Range]) -> None:
        self._queues = queues
        self._chunks: dict[tuple[str, int, int], bytes] = {}

    def unit(self, topic: str, queue_id: int, number: int) -> Unit | None:
        """The unit of message `number`; None where there is no file for it."""
        index, position = divmod(number, _CHUNK_UNITS)
        key = (topic, queue_id, index)
        chunk = self._chunks.get(key)
        if chunk is None:
            chunk = self._chunks[key] = self._load(topic, queue_id, index)
            if len(self._chunks) > _CHUNKS_KEPT:
                del self._chunks[next(iter(self._chunks))]
        start = position * CQ_STORE_UNIT_SIZE
        if len(chunk) < start + CQ_STORE_UNIT_SIZE or number < 0:
            return None
        return Unit(*CQ_STORE_UNIT.unpack_from(chunk, start))

    def _load(self, topic: str, queue_id: int, index: int) -> bytes:
        """One piece, which may go over the end of a file."""
        queue = self._queues.get((topic, queue_id))
        if queue is None:
            return b""
        start, end = (i * _CHUNK_UNITS * CQ_STORE_UNIT_SIZE for i in (index, index + 1))
        data = b""
        while start < end:
            # A piece that begins before the first file: what is not there is as good as unused.
            part = queue.read(start, end - start) or bytes(min(end, max(start, queue.start)) - start)
            if not part:
                break
            data += part
            start += len(part)
        return data


def walk_units(queue: Range) -> Iterator[tuple[int, Unit]]:
    """Give the units of a queue with their numbers, up to the first that is unused or missing."""
    offset, count = queue.start, _CHUNK_UNITS  # most queues are short
    while data := queue.read(offset, count * CQ_STORE_UNIT_SIZE):
        count = min(4 * count, _SCAN_UNITS)
        whole = len(data) - len(data) % CQ_STORE_UNIT_SIZE
        for number, fields in enumerate(
            CQ_STORE_UNIT.iter_unpack(data[:whole]), offset // CQ_STORE_UNIT_SIZE
        ):
            unit = Unit(*fields)
            if not unit.is_used:
                return
            yield number, unit
        offset += len(data)


def unit_at(queue: Range, number: int) -> Unit:
    """One unit; `NO_UNIT` where there is none."""
    data = queue.read(number * CQ_STORE_UNIT_SIZE, CQ_STORE_UNIT_SIZE)
    return Unit(*CQ_STORE_UNIT.unpack(data)) if len(data) == CQ_STORE_UNIT_SIZE else NO_UNIT


def bounds(queue: Range, log_start: int) -> tuple[int, int]:
    """The number of the first message that the log still has, and the one behind the last, by bisection.

    `log_start`: the log's first physical offset. A queue that contradicts itself gives something between.
    """
    low, high = queue.start // CQ_STORE_UNIT_SIZE, queue.end // CQ_STORE_UNIT_SIZE
    end = _first(queue, low, high, lambda unit: not unit.is_used)
    begin = _first(queue, low, end, lambda unit: not unit.is_blank and unit.physical_offset >= log_start)
    return begin, end


def _first(queue: Range, low: int, high: int, holds: Callable[[Unit], bool]) -> int:
    """The first number from `low` on whose unit satisfies `holds`, given that all behind do; else `high`."""
    step = 1
    while low < high:
        # Doubling steps first: the usual queue fills little of its file.
        middle = min(low + step - 1, (low + high) // 2) if step else (low + high) // 2
        if holds(unit_at(queue, middle)):
            high, step = middle, 0
        else:
            low, step = middle + 1, 2 * step
    return low


def newest_known_end(folder: StoreFolder, queue_bounds: Bounds) -> int:
    """Where the newest message ends that any queue knows of, as far as the log reaches."""
    end = 0
    for key, (_, behind) in queue_bounds.items():
        unit = unit_at(folder.queues[key], behind - 1)
        if unit.is_used and not unit.is_blank and unit.physical_offset + unit.size <= folder.commit_log.end:
            end = max(end, unit.physical_offset + unit.size)
    return end
