"""Reading a queue through a SQL92 filter, which has to look at each record (semantics.md §2.3).

The queue is read in portions of one plain answer each, and what the filter does not want is left out of them.
That ends when the answer is full, at the queue's end, or when so much work is done that other clients should
have their turn: then the consumer asks again, from where this read has come.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_filters import Sieve
from pymq.errors import ProtocolError, StoreBroken, StoreError
from pymq.protocol.message import QUEUE_OFFSET_POSITION, RECORD_FIXED_SIZE, read_properties
from pymq.store.messagestore import GetResult, GetStatus, MessageStore

WORK_MAX = 8_000
"""What one read may do, in operations of filters: a few milliseconds."""
_RECORD_WORK = 8
"""Finding and splitting the properties of a record."""
_WORK_SHIFT = 10
"""Copying a KiB is as much as one operation."""

_SIZE = Struct(">i")
_QUEUE_OFFSET = Struct(">q")

Done = Callable[[GetResult | StoreError], None]


class FilteredReads:
    """Reads for pulls that have a Sieve."""

    def __init__(self, config: BrokerConfig, store: MessageStore) -> None:
        self._store = store
        self._max_count = config.max_transfer_count_on_message_in_memory
        self._max_bytes = config.max_transfer_bytes_on_message_in_memory

    def read(
        self, topic: str, queue_id: int, offset: int, max_num: int, sieve: Sieve, done: Done
    ) -> GetResult | None:
        """Up to `max_num` messages from `offset` on that pass the sieve.

        NO_MATCHED_MESSAGE: none so far, go on at `next_begin_offset`. None: part of it has to be fetched from
        the disk; then `done` is told the result, or the error, in a later turn of the loop.
        """
        read = _Read(self._store, (topic, queue_id), offset, sieve, done)
        read.portion = self._max_count
        read.max_count = min(max(max_num, 1), self._max_count)
        read.max_bytes = self._max_bytes
        return read.go_on()


class _Read:
    """One read under way.

    Attributes:
        portion: how many messages to ask the store for at a time.
        max_count, max_bytes: what the answer may have; its first message is taken whole.
    """

    portion = max_count = max_bytes = 0

    def __init__(
        self, store: MessageStore, queue: tuple[str, int], offset: int, sieve: Sieve, done: Done
    ) -> None:
        self._store = store
        self._queue = queue
        self._next = self._begin = offset
        self._sieve = sieve
        self._done = done
        self._work = WORK_MAX
        self._records: list[bytes] = []
        self._count = self._size = 0
        self._is_full = False

    def go_on(self, lazily: bool = True) -> GetResult | None:
        """Read until there is a result, or until the disk has to be waited for."""
        while True:
            count = max(1, min(self.portion, self._work // (_RECORD_WORK + self._sieve.cost)))
            portion = self._store.get(*self._queue, self._next, count, self._sieve.codes, lazily)
            if portion.status is GetStatus.NO_MATCHED_MESSAGE:
                self._passed(portion)
            elif portion.status is not GetStatus.FOUND:
                return portion if self._next == self._begin else self._result(portion)
            elif portion.unread is not None:
                if self._records:
                    return self._result(portion)  # rather than to hold on to them meanwhile
                self._fetch(portion)
                return None
            else:
                self._sift(portion)
            if self._is_over(portion):
                return self._result(portion)

    def _passed(self, portion: GetResult) -> None:
        """Units whose tags are not wanted."""
        self._work -= (portion.next_begin_offset - self._next) // _RECORD_WORK + 1
        self._next = portion.next_begin_offset

    def _is_over(self, portion: GetResult) -> bool:
        return (
            self._is_full
            or self._count >= self.max_count
            or self._work <= 0
            or self._next >= portion.max_offset
            or (portion.is_far_behind and self._count > 0)
        )

    def _result(self, portion: GetResult) -> GetResult:
        status = GetStatus.FOUND if self._records else GetStatus.NO_MATCHED_MESSAGE
        return GetResult(
            status,
            self._next,
            portion.min_offset,
            portion.max_offset,
            self._records,
            self._count,
            self._size,
            is_far_behind=portion.is_far_behind,
        )

    def _fetch(self, portion: GetResult) -> None:
        def fetched(error: StoreError | None) -> None:
            try:
                if isinstance(error, StoreBroken):
                    raise error
                if error is None:
                    self._sift(portion)
                    if self._is_over(portion):
                        self._done(self._result(portion))
                        return
                result = self.go_on(lazily=error is None)
            except StoreError as failure:
                self._done(failure)
                return
            if result is not None:
                self._done(result)

        self._store.fetch(portion, fetched)

    def _sift(self, portion: GetResult) -> None:
        """Take the records that are wanted; neighbours among them stay one slice."""
        self._work -= (_RECORD_WORK + self._sieve.cost) * portion.count + (portion.size >> _WORK_SHIFT)
        matches = self._sieve.matches
        for data in portion.records:
            view = memoryview(data)
            start = end = 0  # of the slice being gathered
            for position, size in _records_in(data):
                self._is_full = self._count >= self.max_count
                if not self._is_full:
                    try:
                        is_wanted = matches(read_properties(data, position))
                    except ProtocolError:
                        is_wanted = True  # as without a filter, the consumer is to hear of it
                    if not is_wanted:
                        continue
                    self._is_full = self._count > 0 and self._size + size > self.max_bytes
                if self._is_full:
                    self._next = _QUEUE_OFFSET.unpack_from(data, position + QUEUE_OFFSET_POSITION)[0]
                    break
                if position != end:
                    if end > start:
                        self._records.append(bytes(view[start:end]))
                    start = position
                end = position + size
                self._count += 1
                self._size += size
            if end > start:
                self._records.append(data if end - start == len(data) else bytes(view[start:end]))
            if self._is_full:
                return
        self._next = portion.next_begin_offset


def _records_in(data: bytes) -> list[tuple[int, int]]:
    """Where the records of a slice begin, and their sizes. From one on that is damaged, the rest is one."""
    found = []
    position, length = 0, len(data)
    while position < length:
        rest = length - position
        size = _SIZE.unpack_from(data, position)[0] if rest >= RECORD_FIXED_SIZE else rest
        if not RECORD_FIXED_SIZE <= size <= rest:
            size = rest
        found.append((position, size))
        position += size
    return found
