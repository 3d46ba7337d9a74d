"""A slave's store: the master's bytes are appended as they are, and dispatched as puts are (store.md §9).

Blocks may end within a record. What is not whole waits in memory, so that the log always ends where a record
does: there both sides see whether their logs agree, and a kill leaves nothing torn behind a mark.
"""

from __future__ import annotations

import logging
import os.path
from collections.abc import Callable

from pymq.errors import MessageIllegal, StoreBroken, StoreCorrupt, StoreError
from pymq.protocol.message import BLANK_MAGIC, MESSAGE_MAGIC, MESSAGE_MAGIC_V2
from pymq.protocol.sysflags import (
    TRANSACTION_MASK,
    TRANSACTION_PREPARED,
    TRANSACTION_ROLLBACK,
    has_queue_unit,
)
from pymq.store.commitlog import BLANK_RECORD, CommitLog
from pymq.store.consumequeue import CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE, ConsumeQueue
from pymq.store.flush import FlushSchedule
from pymq.store.index import BATCH, MessageIndex
from pymq.store.queues import ConsumeQueues
from pymq.store.record_units import record_tags_code
from pymq.store.requeue import Requeuer
from pymq.store.results import DispatchListener
from pymq.store.scan import RECORD_MIN_SIZE, LogRecord, LogScan

log = logging.getLogger("pymq.store.replica")

_NEWEST_MAX = 256 << 20
"""So many bytes are walked at most to find the newest record: behind the last unit stand few."""


class _BlankEnd:
    """A file's blank end as it comes in pieces. It may be long, and all zeros: those are only counted.

    Apache 4.3.2 leaves bytes of an older message in it (store.md §2), which belong to the log, too.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self.bytes = bytearray()
        self._zeros = 0

    def take(self, data: bytes) -> int:
        """Take what belongs to it of `data`'s front: how many bytes that were."""
        piece = data[: self.left]
        told = piece.rstrip(b"\0")
        if told:
            self.bytes += bytes(self._zeros) + told
            self._zeros = 0
        self._zeros += len(piece) - len(told)
        self.left -= len(piece)
        return len(piece)


class Replica:
    """Takes the master's log. It belongs to the store's thread.

    Attributes:
        received: physical offset behind all that came, also the beginning of a record that is not whole.
        on_anew: called with topic and queue id before a queue starts anew: what it held is gone, and its
            offsets begin at 0 again.
    """

    def __init__(
        self,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        flush: FlushSchedule,
        index: MessageIndex,
        listeners: list[DispatchListener],
        delay_levels_ms: list[int],
        segment_bytes: int,
        on_broken: Callable[[StoreError], None],
    ) -> None:
        self.received = commit_log.end
        self.on_anew: list[Callable[[str, int], None]] = []
        self._log = commit_log
        self._queues = queues
        self._flush = flush
        self._index = index
        self._listeners = listeners
        self._delay_levels_ms = delay_levels_ms
        self._segment_bytes = segment_bytes
        self._on_broken = on_broken
        self._scan = LogScan(commit_log.segments, check_crc=True)
        self._requeuer = Requeuer(queues, LogScan(commit_log.segments, check_crc=False), delay_levels_ms)
        self._held = b""
        self._blank: _BlankEnd | None = None
        """The blank end of a file that is not whole yet."""

    @property
    def end(self) -> int:
        """Physical offset behind the last whole record: what is reported to the master. 0 when empty."""
        return self._log.end if not self._log.is_empty else 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing yet: the master says where the log begins."""
        return self._log.is_empty

    def forget_part(self) -> None:
        """The connection has ended: the beginning of a record comes again on the next one."""
        self._held, self._blank = b"", None
        self.received = self._log.end

    def newest_record(self) -> tuple[int, bytes] | None:
        """Physical offset and bytes of the log's last record, by which two logs are compared, or None."""
        if self._log.is_empty:
            return None
        physical, size = self._queues.last_unit()
        at = physical if size and physical >= self._log.min_offset else self._log.min_offset
        newest: tuple[int, bytes] | None = None
        stop = min(self._log.end, at + _NEWEST_MAX)
        while at < stop:
            record = self._log.record_at(at)
            if record is None:  # the blank end of a file
                at += self._segment_bytes - at % self._segment_bytes
            else:
                newest = at, record
                at += len(record)
        return newest

    def append(self, physical_offset: int, data: bytes) -> None:
        """Take a block. StoreFull: nothing of it is kept but whole records; ask for the rest again.

        StoreCorrupt when it does not follow what is there, or is no piece of a commit log; StoreBroken.
        """
        if self._log.is_empty and not self._held and self._blank is None:
            if physical_offset % self._segment_bytes:
                raise StoreCorrupt(
                    f"the master's log begins at {physical_offset}, where no file of {self._segment_bytes}"
                    " bytes does: mappedFileSizeCommitLog must be the same on both"
                )
            self._log.begin_at(physical_offset)
            self.received = physical_offset
        if physical_offset != self.received:
            raise StoreCorrupt(f"the master sends what is at {physical_offset}, expected {self.received}")
        self.received += len(data)
        self._held = data = self._held + data
        try:
            self._take(data)
        except StoreBroken as e:
            self._on_broken(e)
            raise

    def _take(self, data: bytes) -> None:
        """Append the whole records at the front of `data`, and hold the rest."""
        at = 0
        try:
            while self._blank is not None or len(data) - at >= BLANK_RECORD.size:
                if self._blank is not None:
                    at += self._blank.take(data[at:])
                    if self._blank.left:
                        break
                    self._log.end_file(bytes(self._blank.bytes))
                    self._blank = None
                    continue
                offset = self._log.end
                if records := self._scan.records_in(data[at:] if at else data, offset):
                    at += self._append_all(records, data, at)
                    continue
                room = self._segment_bytes - offset % self._segment_bytes
                size, magic = BLANK_RECORD.unpack_from(data, at)
                is_blank = magic == BLANK_MAGIC and size == room
                is_message = magic in (MESSAGE_MAGIC, MESSAGE_MAGIC_V2) and RECORD_MIN_SIZE <= size <= room
                if not (is_blank or is_message):
                    raise StoreCorrupt(self._misfit(offset, size, magic))
                if is_blank:
                    self._blank = _BlankEnd(size)
                    continue
                if at + size > len(data):
                    break
                log.error(
                    "the message at %d, as the master has it, is damaged: it is kept and not served", offset
                )
                self._log.append_raw(data[at : at + size])
                at += size
        finally:
            self._held = data[at:]

    def _misfit(self, offset: int, size: int, magic: int) -> str:
        """What is wrong with these bytes of the master's."""
        if magic in (BLANK_MAGIC, MESSAGE_MAGIC, MESSAGE_MAGIC_V2) and size > 0:
            return (
                f"what the master sends for {offset}, {size} bytes, does not end where a file of"
                f" {self._segment_bytes} bytes does: mappedFileSizeCommitLog must be the same on both"
            )
        return f"what the master sends for {offset} is no message"

    def _append_all(self, records: list[LogRecord], data: bytes, at: int) -> int:
        """Append records, which stand side by side in `data` from `at` on; how many bytes that were."""
        start, done = at, 0
        while done < len(records):
            count, size = self._append_run(records, done, data, at)
            if not count:
                count, size = 1, records[done].total_size
                self._append_one(records[done], data[at : at + size])
            done += count
            at += size
        return at - start

    def _append_run(self, records: list[LogRecord], first: int, data: bytes, at: int) -> tuple[int, int]:
        """Append together as many as are simply the next of their queues: how many, and their bytes.

        A SYNC_MASTER's senders wait for this: a slave must not need more for a message than its master.
        """
        if self._requeuer.is_in_doubt:
            return 0, 0
        table, levels, pack = self._queues.table, self._delay_levels_ms, CQ_STORE_UNIT.pack
        units: dict[ConsumeQueue, bytearray] = {}
        codes: list[int] = []
        for number in range(first, len(records)):
            record = records[number]
            queue = table.get((record.topic, record.queue_id))
            if queue is None or not has_queue_unit(record.sys_flag):
                break
            packed = units.setdefault(queue, bytearray())
            if record.queue_offset != queue.max_offset + len(packed) // CQ_STORE_UNIT_SIZE:
                break
            codes.append(record_tags_code(record, levels))
            packed += pack(record.physical_offset, record.total_size, codes[-1])
        count = len(codes)
        if not count:
            return 0, 0
        for queue, packed in units.items():
            if packed:
                self._flush.mark_dirty(queue)
                queue.make_room(len(packed) // CQ_STORE_UNIT_SIZE)
        run = records[first : first + count]
        size = run[-1].physical_offset + run[-1].total_size - run[0].physical_offset
        self._log.append_raw(data[at : at + size])
        self._log.last_store_timestamp = max(self._log.last_store_timestamp, run[-1].store_timestamp)
        for queue, packed in units.items():
            queue.extend(packed)
        self._index_soon(run)
        self._tell(run, codes)
        return count, size

    def build_index(self) -> None:
        """Have what came found by its keys: after the report to the master, for which senders wait."""
        if self._index.pending is not None and len(self._index.pending) >= BATCH:
            self._index.build()

    def _index_soon(self, run: list[LogRecord]) -> None:
        """Have messages found by their keys, by `build_index` or the store's `tick`."""
        pending = self._index.pending
        if pending is not None:
            pending.extend(
                (
                    record.topic,
                    str(record.text, "utf-8", "replace"),
                    record.physical_offset,
                    record.store_timestamp,
                )
                for record in run
                if record.sys_flag & TRANSACTION_MASK != TRANSACTION_ROLLBACK
            )

    def _tell(self, run: list[LogRecord], codes: list[int]) -> None:
        """Tell who waits for these messages, whose tags codes are `codes`."""
        for listener in self._listeners:
            for record, tags_code in zip(run, codes, strict=True):
                listener(record.topic, record.queue_id, record.queue_offset, tags_code)

    def _append_one(self, record: LogRecord, data: bytes) -> None:
        """Append one record, whatever it is, give it its unit if it has one, and tell who waits for it."""
        queue = self._queue_with_room(record)
        self._log.append_raw(data)
        self._log.last_store_timestamp = max(self._log.last_store_timestamp, record.store_timestamp)
        before = queue.max_offset if queue is not None else 0
        self._requeuer.place(record, fills_holes=True)
        self._index_soon([record])
        if queue is not None and queue.max_offset != before:
            self._tell([record], [record_tags_code(record, self._delay_levels_ms)])

    def _queue_with_room(self, record: LogRecord) -> ConsumeQueue | None:
        """The queue of the record's unit, with room for it; StoreFull before anything is written."""
        if not has_queue_unit(record.sys_flag) or record.sys_flag & TRANSACTION_PREPARED:
            return None
        queue = self._queues.table.get((record.topic, record.queue_id))
        if queue is not None and not record.queue_offset and queue.max_offset:
            # On the master its topic was deleted and made again: every record comes here just once.
            log.warning("queue %s/%d starts anew, as on the master", queue.topic, queue.queue_id)
            for listener in self.on_anew:
                listener(queue.topic, queue.queue_id)
            self._queues.delete(queue)
            self._flush.mark_soon(os.path.dirname(queue.folder))
            queue = None
        if queue is None:
            try:
                queue = self._queues.make(record.topic, record.queue_id)
            except MessageIllegal:  # `place` tells of it
                return None
        self._flush.mark_dirty(queue)
        if queue.position >= queue.tail.limit:
            queue.make_room(1)
        return queue
