"""Reading queues: messages from an offset on, and the offset that belongs to a time (store.md §7)."""

from __future__ import annotations

from struct import Struct

from pymq.errors import StoreCorrupt
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.results import GetResult, GetStatus
from pymq.store.store_config import StoreConfig

_SCAN_MIN_UNITS = 800
_SCAN_MAX_UNITS = 16_000
"""What one read may look at when its filter lets little through; the next one goes on from there."""
_FIRST_OFFSET = Struct(">q")
_OFFSET_AND_SIZE = Struct(">qi")


class QueueReader:
    """Reads the messages of a queue as slices of the commit log."""

    def __init__(self, config: StoreConfig, commit_log: CommitLog, memory_bytes: int) -> None:
        """`memory_bytes`: the machine's memory, which bounds what the page cache may still hold."""
        self._log = commit_log
        self._memory_bytes = memory_bytes * config.access_message_in_memory_max_ratio // 100
        self._max_bytes = config.max_transfer_bytes_in_memory
        self._max_count = max(config.max_transfer_count_in_memory, 1)
        self._max_bytes_in_disk = config.max_transfer_bytes_in_disk
        self._max_count_in_disk = max(config.max_transfer_count_in_disk, 1)
        self._size_fields = [Struct(">" + "8xi8x" * n) for n in range(self._max_count + 1)]
        """Only the sizes of n units in a row."""

    def get(
        self, queue: ConsumeQueue, offset: int, max_num: int, tag_codes: frozenset[int] | None
    ) -> GetResult:
        """Up to `max_num` messages from number `offset` on whose tags code is in `tag_codes` (None: all)."""
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
        return self._scan(queue, offset, max(max_num, 1), tag_codes)

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
        # Records do not overlap, so they are adjacent just when their sizes add up to their span.
        if last + last_size - first == size:
            records = self._log.read_runs(((first, size, 0),))
        else:
            records = self._log.read_runs(CQ_STORE_UNIT.iter_unpack(units))
        if records is None:
            return None
        return GetResult(
            GetStatus.FOUND, offset + count, queue.min_offset, queue.max_offset, records, count, size, last
        )

    def _scan(
        self, queue: ConsumeQueue, offset: int, max_num: int, tag_codes: frozenset[int] | None
    ) -> GetResult:
        """Unit by unit, with filter and limits; neighbours in the log are still copied in one slice."""
        units = queue.read(offset, min(max(_SCAN_MIN_UNITS, max_num), _SCAN_MAX_UNITS))
        low, high = queue.min_offset, queue.max_offset
        if not units:
            following = queue.next_file_offset(offset)
            return GetResult(GetStatus.OFFSET_FOUND_NULL, following, low, high, [])
        log_start, in_memory_from = self._log.min_offset, self._log.end - self._memory_bytes
        memory_limits = self._max_bytes, min(self._max_count, max_num)
        disk_limits = self._max_bytes_in_disk, min(self._max_count_in_disk, max_num)
        runs: list[tuple[int, int, int]] = []
        looked = count = size = removed = 0
        run_start = run_end = physical = -1
        for physical, record_size, tags_code in CQ_STORE_UNIT.iter_unpack(units):
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
            if physical != run_end:
                if count:
                    runs.append((run_start, run_end - run_start, 0))
                run_start = physical
            run_end = physical + record_size
            count += 1
            size += record_size
        next_offset = offset + looked
        if not count:
            status = GetStatus.MESSAGE_WAS_REMOVING if removed else GetStatus.NO_MATCHED_MESSAGE
            return GetResult(status, next_offset, low, high, [], last_physical_offset=physical)
        runs.append((run_start, run_end - run_start, 0))
        records = self._log.read_runs(runs)
        if records is None:
            raise StoreCorrupt(
                f"queue {queue.topic}/{queue.queue_id} names records between {runs[0][0]} and {run_end}"
                " that the commit log does not have"
            )
        is_far_behind = physical < in_memory_from
        return GetResult(
            GetStatus.FOUND, next_offset, low, high, records, count, size, physical, is_far_behind
        )

    def is_in_memory(self, queue: ConsumeQueue, offset: int) -> bool:
        """Whether the page cache may still hold message number `offset`; also when there is none."""
        unit = queue.unit(offset)
        return unit is None or self._log.end - unit[0] <= self._memory_bytes

    def store_time(self, queue: ConsumeQueue, offset: int) -> int:
        """When message number `offset` was stored, ms since 1970; -1 when it is not there."""
        unit = queue.unit(offset) if queue.min_offset <= offset < queue.max_offset else None
        if unit is None or unit[1] == BLANK_UNIT_SIZE:
            return -1
        return self._log.store_timestamp(unit[0])

    def offset_by_time(self, queue: ConsumeQueue, timestamp: int) -> int:
        """The message stored at `timestamp` (ms); else its nearer neighbour, of two equally near the earlier.

        0 for an empty queue. Unlike Apache's, the answer does not depend on the files' times of change.
        """
        low, high = queue.min_offset, queue.max_offset
        if low >= high:
            return 0
        first, last = low, high
        while first < last:
            middle = (first + last) // 2
            if self.store_time(queue, middle) < timestamp:
                first = middle + 1
            else:
                last = middle
        if first == high:
            return high - 1
        if first == low:
            return low
        left, right = self.store_time(queue, first - 1), self.store_time(queue, first)
        return first if right - timestamp < timestamp - left else first - 1
