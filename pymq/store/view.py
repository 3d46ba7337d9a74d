"""The reading half of the store: messages, offsets, and figures of what is there (store.md §7)."""

from __future__ import annotations

from collections.abc import Iterator

from pymq.disk import Disk, DiskUsage, Done
from pymq.store.cleaning import Cleaner
from pymq.store.commitlog import CommitLog
from pymq.store.flush import FlushSchedule
from pymq.store.index import MessageIndex
from pymq.store.lost_units import read_units
from pymq.store.queues import ConsumeQueues
from pymq.store.reader import QueueReader
from pymq.store.results import GetResult, GetStatus
from pymq.store.scan import LogScan
from pymq.store.store_config import StoreConfig
from pymq.store.store_times import offset_by_time, store_time


class StoreView:
    """What `MessageStore` is for who reads from it."""

    def __init__(
        self,
        *,
        config: StoreConfig,
        disk: Disk,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        reader: QueueReader,
        index: MessageIndex,
        flush: FlushSchedule,
        cleaner: Cleaner,
    ) -> None:
        self._config = config
        self._disk = disk
        self._log = commit_log
        self._queues = queues
        self._queue_table = queues.table
        self._reader = reader
        self._index = index
        self._flush = flush
        self._cleaner = cleaner

    # -- messages and offsets

    def get(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_num: int,
        tag_codes: frozenset[int] | None = None,
        lazily: bool = False,
    ) -> GetResult:
        """Read up to `max_num` messages from number `offset` on, within the transfer limits (store.md §7).

        `tag_codes`: signed 32-bit hashes of the tags to let through, None for all. `lazily`: records that
        memory may hold no more are left `unread`, for `fetch`. A queue unit that contradicts the log is
        mended (`healing`): until then what stands before it is given, or OFFSET_FOUND_NULL with the same
        offset; `on_dispatch` is told when it can be read. StoreCorrupt when that is not what is wrong.
        """
        queue = self._queue_table.get((topic, queue_id))
        if queue is None:
            return GetResult(GetStatus.NO_MESSAGE_IN_QUEUE, 0, 0, 0, [])
        return self._reader.get(queue, offset, max_num, tag_codes, lazily)

    def fetch(self, result: GetResult, done: Done) -> None:
        """Read in a thread what `get` left `unread`; then `done` is told how that ended.

        StoreBroken: the disk cannot read it. StoreError: its file was deleted meanwhile, `get` again.
        """
        self._reader.fetch(result, done)

    def max_offset(self, topic: str, queue_id: int) -> int:
        """Number of the queue's next message; 0 for an unknown queue."""
        queue = self._queue_table.get((topic, queue_id))
        return queue.max_offset if queue else 0

    def min_offset(self, topic: str, queue_id: int) -> int:
        """Number of the queue's first message that is still there; 0 for an unknown queue."""
        queue = self._queue_table.get((topic, queue_id))
        if queue is None:
            return 0
        self._cleaner.refresh(queue)
        return queue.min_offset

    def store_time(self, topic: str, queue_id: int, offset: int) -> int:
        """When message number `offset` was stored, ms since 1970; -1 when it is not there."""
        queue = self._queue_table.get((topic, queue_id))
        return store_time(self._log, queue, offset) if queue else -1

    def earliest_store_time(self, topic: str, queue_id: int) -> int:
        """When the queue's first message was stored, ms since 1970; -1 when there is none."""
        return self.store_time(topic, queue_id, self.min_offset(topic, queue_id))

    def offset_by_time(self, topic: str, queue_id: int, timestamp: int) -> int:
        """Number of the message stored at `timestamp` (ms), else of its nearer neighbour; 0 without any."""
        queue = self._queue_table.get((topic, queue_id))
        return offset_by_time(self._log, queue, timestamp) if queue else 0

    def is_in_memory(self, topic: str, queue_id: int, offset: int) -> bool:
        """Whether a message is near enough to the log's end to be in memory; also when it does not exist."""
        queue = self._queue_table.get((topic, queue_id))
        return queue is None or self._reader.is_in_memory(queue, offset)

    def is_mending(self, topic: str, queue_id: int) -> bool:
        """Whether damaged units of the queue are being mended (`healing`)."""
        queue = self._queue_table.get((topic, queue_id))
        return queue is not None and self._reader.is_mending(queue)

    def record_at(self, physical_offset: int) -> bytes | None:
        """The record that begins at `physical_offset`, or None when none begins there."""
        return self._log.record_at(physical_offset) if physical_offset >= 0 else None

    def units(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """Physical offset, size and tags code of up to `count` messages from number `offset` on.

        Fewer at the end of a queue's file; none where the queue has none. A lost message's are -1,
        BLANK_UNIT_SIZE and 0.
        """
        queue = self._queue_table.get((topic, queue_id))
        return read_units(queue, self._log, offset, count) if queue else []

    def records_from(self, physical_offset: int) -> Iterator[bytes]:
        """Each record, as stored, from `physical_offset` on, where one must begin or the log end.

        One whose body is damaged is given, too; one whose parts contradict each other is passed over.
        """
        segment_bytes = self._config.commit_log_segment_bytes
        scan = LogScan(self._log.segments, check_crc=False)
        while physical_offset < self._log.end:
            record = self._log.record_at(physical_offset)
            if record is not None and scan.records_in(record, physical_offset):
                yield record
                physical_offset += len(record)
            elif scan.is_blank(physical_offset):
                physical_offset += segment_bytes - physical_offset % segment_bytes
            else:
                sound = scan.next_sound(physical_offset, self._log.end)
                scan.forget()
                physical_offset = self._log.end if sound is None else sound

    def search(self, topic: str, key: str, begin: int, end: int) -> Iterator[bytes | None]:
        """The records of `topic` that have `key` among their KEYS or as their unique key, newest first.

        Stored from time `begin` to `end` (ms since 1970). Now and then None comes, where the owner may do
        something else before it goes on.
        """
        return self._index.search(topic, key, begin, end)

    @property
    def index_last_update(self) -> tuple[int, int]:
        """Store time (ms) and physical offset of the index's newest message; (0, 0) without one."""
        return self._index.last_update

    def queues(self) -> Iterator[tuple[str, int]]:
        """Topic and queue id of each queue."""
        return iter(list(self._queues.table))

    # -- figures

    @property
    def commit_log_min_offset(self) -> int:
        """Physical offset of the log's first byte."""
        return self._log.min_offset

    @property
    def commit_log_max_offset(self) -> int:
        """Physical offset behind the last record."""
        return self._log.end

    @property
    def dispatch_behind_bytes(self) -> int:
        """Bytes of the log that have no queue units yet: none, since a put writes both."""
        return 0

    @property
    def remaining_to_flush(self) -> int:
        """Bytes of the log that are not on the disk yet."""
        return self._log.end - self._flush.flushed.position

    def earliest_log_time(self) -> int:
        """When the log's first record was stored, ms since 1970; -1 when the log is empty."""
        return self._log.store_timestamp(self._log.min_offset)

    @property
    def newest_log_time(self) -> int:
        """When the log's last record was stored, ms since 1970; 0 when the log is empty."""
        return self._log.last_store_timestamp

    def log_offset_before(self, timestamp: int) -> int:
        """Physical offset of a file of the log that begins before anything stored at `timestamp` or later."""
        for start in reversed(self._log.segment_starts()):
            if 0 <= self._log.store_timestamp(start) < timestamp:
                return start
        return self._log.min_offset

    def disk_usage(self) -> DiskUsage:
        """Usage of the partition that holds the commit log."""
        return self._disk.usage(self._config.commit_log_folder)
