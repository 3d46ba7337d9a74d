"""Reading queues: messages from an offset on (store.md §7)."""

from __future__ import annotations

import functools
from struct import Struct

from pymq.disk import Disk, Done
from pymq.errors import StoreCorrupt, StoreError
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.healing import Healer
from pymq.store.lost_units import LostNumbers
from pymq.store.results import FilePart, GetResult, GetStatus
from pymq.store.scan import RECORD_MIN_SIZE
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import SCHEDULE_TOPIC
from pymq.store.unit_match import all_stand, stands_for
from pymq.store.unit_reads import BORDER_TAGS_CODE, stands_for_nothing

_SCAN_MIN_UNITS = 800
_SCAN_MAX_UNITS = 16_000
"""What one read may look at when its filter lets little through; the next one goes on from there."""
_FETCHES_MAX = 64
"""Past so many fetches under way, cold records are copied at once as well: a bound of what is in memory."""
_GAP_MAX = 64 << 10
"""Bytes of others between two records, up to which both are fetched in one go."""
_NO_END = 1 << 62
_TAGS_CODE_MIN, _TAGS_CODE_MAX = -(1 << 31), (1 << 31) - 1
"""Outside of the schedule topic."""
_FIRST_OFFSET = Struct(">q")
_OFFSET_AND_SIZE = Struct(">qi")


class _Choice:
    """The records that an answer is to have."""

    __slots__ = ("blank", "count", "is_next_bad", "last", "looked", "numbers", "removed", "runs", "size")

    def __init__(self) -> None:
        self.runs: list[tuple[int, int, int]] = []
        """(physical offset, size, 0) of one or more records that lie side by side."""
        self.numbers: list[int] = []
        """Of the records, where each is a run."""
        self.count = self.size = self.looked = self.removed = 0
        self.last = -1
        """Physical offset in the last unit looked at."""
        self.is_next_bad = False
        """The unit behind those looked at is bad; one that is good may follow."""
        self.blank = -1
        """Number of a blank unit among those looked at; -1 without one."""

    def are_right(self, queue: ConsumeQueue, records: list[bytes]) -> bool:
        """Whether these are the queue's records that were chosen."""
        return len(self.numbers) == len(records) and all_stand(queue, self.numbers, self.runs, records)


class QueueReader:
    """Reads the messages of a queue as slices of the commit log.

    Units that this process wrote, and that memory still holds, are believed. Of others each record is looked
    at: one that is not the unit's is not served, and the unit is left to the healer.
    """

    def __init__(self, config: StoreConfig, commit_log: CommitLog, disk: Disk, healer: Healer) -> None:
        self._healer = healer
        self._log = commit_log
        self._disk = disk
        self._fetches = 0
        self._memory_bytes = disk.memory_bytes() * config.access_message_in_memory_max_ratio // 100
        self._max_bytes = config.max_transfer_bytes_in_memory
        self._max_count = max(config.max_transfer_count_in_memory, 1)
        self._max_bytes_in_disk = config.max_transfer_bytes_in_disk
        self._max_count_in_disk = max(config.max_transfer_count_in_disk, 1)
        self._size_fields = [Struct(">" + "8xi8x" * n) for n in range(self._max_count + 1)]
        """Only the sizes of n units in a row."""

    def get(
        self, queue: ConsumeQueue, offset: int, max_num: int, tag_codes: frozenset[int] | None, lazily: bool
    ) -> GetResult:
        """Up to `max_num` messages from number `offset` on whose tags code is in `tag_codes` (None: all).

        `lazily`: those that memory may hold no more are left to `fetch`.
        """
        low, high = queue.min_offset, queue.max_offset
        if high == 0:
            return GetResult(GetStatus.NO_MESSAGE_IN_QUEUE, 0, 0, 0, [])
        if offset >= high:
            if offset == high:
                return GetResult(GetStatus.OFFSET_OVERFLOW_ONE, offset, low, high, [])
            return GetResult(GetStatus.OFFSET_OVERFLOW_BADLY, high, low, high, [])
        if offset < low:
            return GetResult(GetStatus.OFFSET_TOO_SMALL, low, low, high, [])
        if tag_codes is None:
            result = self._get_all(queue, offset, max_num)
            if result is not None:
                return result
        return self._scan(queue, offset, max(max_num, 1), tag_codes, lazily)

    def _get_all(self, queue: ConsumeQueue, offset: int, max_num: int) -> GetResult | None:
        """Without a look at each unit, for the usual case: all is in memory and fits into one answer."""
        units = queue.read(offset, min(max_num, self._max_count) if max_num > 1 else 1)
        count = len(units) // CQ_STORE_UNIT_SIZE
        if count == 0:
            return None
        first = _FIRST_OFFSET.unpack_from(units)[0]
        last, last_size = _OFFSET_AND_SIZE.unpack_from(units, len(units) - CQ_STORE_UNIT_SIZE)
        size = sum(self._size_fields[count].unpack(units))
        if size > self._max_bytes or self._log.end - first > self._memory_bytes:
            return None
        is_old = offset < queue.opened_offset
        # Records do not overlap, so they are adjacent just when their sizes add up to their span.
        if not is_old and last + last_size - first == size:
            records = self._log.read_runs(((first, size, 0),))
        else:
            records = self._log.read_runs(CQ_STORE_UNIT.iter_unpack(units))
        if records is None or (
            is_old
            and not all_stand(queue, range(offset, offset + count), CQ_STORE_UNIT.iter_unpack(units), records)
        ):
            return None
        return GetResult(
            GetStatus.FOUND, offset + count, queue.min_offset, queue.max_offset, records, count, size, last
        )

    def _scan(
        self,
        queue: ConsumeQueue,
        offset: int,
        max_num: int,
        tag_codes: frozenset[int] | None,
        lazily: bool,
        end: int = _NO_END,
        is_doubtful: bool = False,
    ) -> GetResult:
        """Unit by unit, with filter and limits, up to number `end`. `is_doubtful`: look at each record."""
        units = queue.read(offset, min(max(_SCAN_MIN_UNITS, max_num), _SCAN_MAX_UNITS, end - offset))
        low, high = queue.min_offset, queue.max_offset
        if not units:
            following = queue.next_file_offset(offset)
            return GetResult(GetStatus.OFFSET_FOUND_NULL, following, low, high, [])
        first = _FIRST_OFFSET.unpack_from(units)[0]
        if first < self._log.min_offset and self._begins_behind(queue, offset):
            return GetResult(GetStatus.OFFSET_TOO_SMALL, queue.min_offset, queue.min_offset, high, [])
        in_memory_from = self._log.end - self._memory_bytes
        is_doubtful |= offset < queue.opened_offset or first < in_memory_from
        if is_doubtful and self._healer.is_busy(queue, offset):
            return GetResult(GetStatus.OFFSET_FOUND_NULL, offset, low, high, [])
        choice = self._choose(queue, offset, units, max_num, tag_codes, is_doubtful)
        next_offset, runs = offset + choice.looked, choice.runs
        if choice.blank >= 0:
            self._healer.settle(queue, choice.blank)
        if choice.is_next_bad:
            return self._without(queue, offset, next_offset, max_num, tag_codes, lazily)
        if not runs:
            status = GetStatus.MESSAGE_WAS_REMOVING if choice.removed else GetStatus.NO_MATCHED_MESSAGE
            return GetResult(status, next_offset, low, high, [], last_physical_offset=choice.last)
        result = GetResult(
            GetStatus.FOUND, next_offset, low, high, [], choice.count, choice.size, choice.last,
            choice.last < in_memory_from,
        )  # fmt: skip
        if lazily and runs[0][0] < in_memory_from and self._fetches < _FETCHES_MAX:
            result.unread = self._log.file_parts(runs)
        if result.unread is not None:
            result.are_right = functools.partial(choice.are_right, queue)
            return result
        records = self._log.read_runs(runs)
        if records is not None and (not is_doubtful or choice.are_right(queue, records)):
            result.records = records
            return result
        if not is_doubtful:
            return self._scan(queue, offset, max_num, tag_codes, lazily, end, is_doubtful=True)
        bad = self._first_bad(queue, choice)
        return self._without(queue, offset, bad, max_num, tag_codes, lazily)

    def _choose(
        self,
        queue: ConsumeQueue,
        offset: int,
        units: bytes,
        max_num: int,
        tag_codes: frozenset[int] | None,
        is_doubtful: bool,
    ) -> _Choice:
        """Which records to give; neighbours in the log in one run, unless each is to be looked at."""
        log_start, log_end = self._log.min_offset, self._log.end
        in_memory_from = log_end - self._memory_bytes
        memory_limits = self._max_bytes, min(self._max_count, max_num)
        disk_limits = self._max_bytes_in_disk, min(self._max_count_in_disk, max_num)
        any_code = queue.topic == SCHEDULE_TOPIC
        choice = _Choice()
        runs, numbers = choice.runs, choice.numbers
        looked = count = size = removed = 0
        run_start = run_end = physical = -1
        order = self._order_before(queue, offset, units) if is_doubtful else 0
        lost = LostNumbers(queue, self._log, offset, units) if is_doubtful else ()
        for physical, record_size, tags_code in CQ_STORE_UNIT.iter_unpack(units):
            if is_doubtful:
                if record_size == BLANK_UNIT_SIZE:
                    choice.blank = offset + looked
                elif tags_code == BORDER_TAGS_CODE:
                    record_size = BLANK_UNIT_SIZE
                elif offset + looked in lost:
                    if not self._healer.is_lost(queue, offset + looked):
                        choice.is_next_bad = True
                        break
                    record_size = BLANK_UNIT_SIZE
                else:
                    is_code = any_code or _TAGS_CODE_MIN <= tags_code <= _TAGS_CODE_MAX
                    is_place = (
                        record_size >= RECORD_MIN_SIZE and log_start <= physical <= log_end - record_size
                    )
                    if not (is_code and is_place and physical >= order):
                        choice.is_next_bad = True
                        if looked and physical < order and offset + looked - 1 not in numbers[-1:]:
                            looked -= 1  # it may be that one, which the filter left out
                        break
                    order = physical + record_size
            if count:
                max_bytes, max_count = memory_limits if physical >= in_memory_from else disk_limits
                if count >= max_count or size + record_size > max_bytes:
                    break
            looked += 1
            if tag_codes is not None and tags_code not in tag_codes:
                continue
            if record_size == BLANK_UNIT_SIZE or physical < log_start:
                removed += 1
                continue
            if physical != run_end or is_doubtful:
                if count:
                    runs.append((run_start, run_end - run_start, 0))
                run_start = physical
            if is_doubtful:
                numbers.append(offset + looked - 1)
            run_end = physical + record_size
            count += 1
            size += record_size
        if count:
            runs.append((run_start, run_end - run_start, 0))
        choice.looked, choice.count, choice.size, choice.removed = looked, count, size, removed
        choice.last = physical
        return choice

    def _order_before(self, queue: ConsumeQueue, offset: int, units: bytes) -> int:
        """The physical offset before which no record of this number can begin."""
        before = queue.unit(offset - 1) if offset > queue.min_offset else None
        if before is None or stands_for_nothing(before):
            return 0
        is_same = before[0] == _FIRST_OFFSET.unpack_from(units)[0]  # of which one is a lost message's
        return before[0] if is_same else before[0] + before[1]

    def _first_bad(self, queue: ConsumeQueue, choice: _Choice) -> int:
        """The number of the first unit chosen whose record is not there."""
        for number, (physical, size, _) in zip(choice.numbers, choice.runs, strict=True):
            data = self._log.read(physical, size)
            if data is None or not stands_for(queue, number, physical, data):
                return number
        raise StoreCorrupt(f"queue {queue.topic}/{queue.queue_id} and the commit log contradict each other")

    def _without(
        self,
        queue: ConsumeQueue,
        offset: int,
        bad: int,
        max_num: int,
        tag_codes: frozenset[int] | None,
        lazily: bool,
    ) -> GetResult:
        """What stands before a bad unit, which is mended meanwhile; with nothing before, the reader waits."""
        if self._healer.heal(queue, bad):
            return self._scan(queue, offset, max_num, tag_codes, lazily)
        if bad > offset:
            return self._scan(queue, offset, max_num, tag_codes, lazily, end=bad)
        low, high = queue.min_offset, queue.max_offset
        return GetResult(GetStatus.OFFSET_FOUND_NULL, offset, low, high, [])

    def fetch(self, result: GetResult, done: Done) -> None:
        """Read what `get` left unread, in a thread; then `done` is told how that ended.

        StoreBroken: the disk cannot read it. StoreError: its file was deleted meanwhile, or a unit of the
        queue is bad: ask again, not lazily.
        """
        parts = result.unread or []
        self._fetches += 1

        def job() -> None:
            records = _fetched(parts)
            if result.are_right is not None and not result.are_right(records):
                raise StoreCorrupt("a queue names records that are not its own")
            result.records = records

        def ended(error: StoreError | None) -> None:
            self._fetches -= 1
            done(error)

        self._disk.fetch_soon(job, ended)

    def _begins_behind(self, queue: ConsumeQueue, offset: int) -> bool:
        """Whether the queue begins behind `offset` now: the log's minimum has risen under a reader."""
        queue.raise_min_offset(self._log.min_offset)
        return offset < queue.min_offset

    def is_mending(self, queue: ConsumeQueue) -> bool:
        """Whether units of the queue are being mended."""
        return self._healer.is_searching(queue)

    def is_in_memory(self, queue: ConsumeQueue, offset: int) -> bool:
        """Whether the page cache may still hold message number `offset`; also when there is none."""
        unit = queue.unit(offset)
        return unit is None or self._log.end - unit[0] <= self._memory_bytes


def _fetched(parts: list[FilePart]) -> list[bytes]:
    """The parts' bytes; those near to each other are read in one go, as the disk would do anyhow."""
    found: list[bytes] = []
    first = 0
    for number, (file, position, size) in enumerate(parts, 1):
        following = parts[number] if number < len(parts) else None
        if following and following[0] is file and 0 <= following[1] - position - size <= _GAP_MAX:
            continue
        start = parts[first][1]
        data = file.fetch(start, position + size - start)
        found += [data[at - start : at - start + length] for _, at, length in parts[first:number]]
        first = number
    return found
