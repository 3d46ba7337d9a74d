"""The front of the store: put, get, offsets, opening and closing (store.md; design.md §3, §4)."""

from __future__ import annotations

import logging
import os.path
from collections.abc import Iterator, Sequence
from struct import error as StructError
from zlib import crc32

from pymq.clock import Clock
from pymq.disk import Disk, DiskUsage, FileLock
from pymq.errors import MessageIllegal, StoreBroken, StoreError, StoreFull
from pymq.protocol.message import (
    MESSAGE_MAGIC,
    PROPERTIES_LENGTH,
    RECORD_FIXED_SIZE,
    RECORD_HEADS,
    BatchEntry,
    MessageRecord,
)
from pymq.protocol.message_ids import pack_host
from pymq.protocol.properties import KEYS, PROPERTIES_MAX_LENGTH, TAGS, UNIQ_KEY, get_property
from pymq.protocol.sysflags import BORN_HOST_V6, HOST_MASK, STORE_HOST_V6, TRANSACTION_PREPARED
from pymq.protocol.tag_filter import tags_code as tags_code_of
from pymq.store.checkpoint import Checkpoint
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import ConsumeQueue, QueueFiles
from pymq.store.flush import FlushSchedule
from pymq.store.limits import check_limits, checked_length
from pymq.store.queues import ConsumeQueues
from pymq.store.reader import QueueReader
from pymq.store.recovery import dispatch_record, recover
from pymq.store.reservation import Reservation
from pymq.store.results import (
    Dispatch,
    Dispatcher,
    DispatchListener,
    GetResult,
    GetStatus,
    PutResult,
)
from pymq.store.segments import Mappings
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import parse_delay_levels, unit_tags_code
from pymq.store.watermark import Watermark

__all__ = ["Dispatch", "GetResult", "GetStatus", "MessageStore", "PutResult"]

log = logging.getLogger("pymq.store")

_OTHER_BITS = ~HOST_MASK
_pack_head = tuple(head.pack for head in RECORD_HEADS)
_pack_length = PROPERTIES_LENGTH.pack


class MessageStore:
    """Messages by topic and queue, in Apache's files.

    It belongs to one thread, its owner's: the disk delivers what its threads did there. The owner starts and
    stops the disk around `open` and `close`, and calls `tick` as often as it says.
    """

    def __init__(
        self, config: StoreConfig, disk: Disk, clock: Clock, store_host: bytes | tuple[str, int]
    ) -> None:
        """`store_host`: the address stamped into each record, packed (8 or 20 bytes) or as (ip, port)."""
        self.on_dispatch: list[DispatchListener] = []
        self.dispatchers: list[Dispatcher] = []
        self._config = config
        self._disk = disk
        self._clock = clock
        self._store_host = store_host if isinstance(store_host, bytes) else pack_host(*store_host)
        self._store_host_hex = self._store_host.hex().upper()
        self._store_host_bits = STORE_HOST_V6 if len(self._store_host) == 20 else 0
        self._max_body = config.max_message_bytes
        self._now_ms = clock.now_ms
        self._delay_levels_ms = parse_delay_levels(config.message_delay_level)
        reservation = Reservation(disk, clock, self._on_broken)
        self._log = CommitLog(config, disk, reservation)
        mappings = Mappings(config.mapped_consume_queue_segments)
        self._queues = ConsumeQueues(
            QueueFiles(
                config.consume_queue_folder,
                config.consume_queue_file_bytes,
                RECORD_FIXED_SIZE - 16 + len(self._store_host),
                disk,
                mappings,
                reservation,
            )
        )
        self._queue_table = self._queues.table
        self._checkpoint = Checkpoint(os.path.join(config.root, "checkpoint"), disk)
        self._flush = FlushSchedule(config, disk, clock, self._log, self._checkpoint, self._on_broken)
        self._reader = QueueReader(config, self._log, disk.memory_bytes())
        self._abort_path = os.path.join(config.root, "abort")
        self._lock: FileLock | None = None
        self._refusal: StoreError | None = StoreError("the store is not open")

    # -- opening and closing

    def open(self) -> None:
        """Take the folder, recover if need be, and accept messages from then on.

        StoreLocked when somebody has the folder, StoreCorrupt when its files do not fit the configuration,
        StoreFull, StoreBroken.
        """
        self._disk.make_folder(self._config.root)
        self._lock = self._disk.lock(os.path.join(self._config.root, "lock"))
        try:
            self._open()
        except BaseException:
            self._let_go()
            raise
        self._refusal = None

    def _open(self) -> None:
        self._disk.make_folder(self._config.commit_log_folder)
        self._disk.make_folder(self._config.consume_queue_folder)
        self._disk.sync_folder(self._config.root)
        clean = not self._disk.exists(self._abort_path)
        if not clean:
            log.warning("the store in %s was not closed cleanly: recovering", self._config.root)
        self._checkpoint.load()
        self._log.load()
        self._queues.load()
        if self._log.is_empty and not self._queues.table and not self._disk.exists(self._checkpoint.path):
            log.info("new store in %s", self._config.root)
        # From here on files are changed: an end before `close` is not a clean one.
        self._disk.write_bytes(self._abort_path, b"")
        if not self._disk.exists(self._checkpoint.path):
            self._checkpoint.write_job()()  # has its room now, so that a full disk does not hinder `close`
        start = self._log.min_offset
        changed = recover(
            self._log,
            self._queues,
            self._dispatch_recovered,
            clean=clean,
            durable_timestamp=self._checkpoint.min_timestamp,
        )
        if changed:
            self._log.flush_job(start)()
            self._flush.flush_dirty(self._queues)
        newest = self._log.store_timestamp(self._queues.last_unit()[0])
        self._log.last_store_timestamp = max(0, newest)
        self._flush.start(self._log.end)

    def close(self) -> None:
        """Flush all, mark the store as cleanly closed, and give the folder back. Twice is fine.

        The mark is left out when the disk is broken or refuses: then the next start recovers.
        """
        if self._lock is None:
            return
        was_open, self._refusal = self._is_sound, StoreError("the store is closed")
        try:
            self._flush.stop()
            self._disk.drain()
            self._flush.finish(self._queues)
            self._log.remove_upcoming()
            if was_open:
                self._disk.remove_file(self._abort_path)
                self._disk.sync_folder(self._config.root)
        except StoreError as e:
            log.error("the store was not closed cleanly: %s", e)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._log.close()
        self._queues.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _on_broken(self, error: StoreError) -> None:
        if self._is_sound:
            log.critical("the disk failed, no message is stored before a restart: %s", error)
            self._refusal = StoreBroken(str(error))
        self._flush.fail()

    @property
    def _is_sound(self) -> bool:
        """Open and not broken; it may be full."""
        return self._refusal is None or isinstance(self._refusal, StoreFull)

    def refuse_while_full(self, reason: str) -> None:
        """Refuse messages with StoreFull and this reason until called again with an empty one.

        For who judges the disk; that a record has no room is noticed here anyway. Reading goes on.
        """
        if self._is_sound:
            self._refusal = StoreFull(reason) if reason else None

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))

    # -- writing

    def put(
        self,
        topic: str,
        queue_id: int,
        body: bytes,
        properties: str,
        *,
        born_host: bytes,
        flag: int = 0,
        sys_flag: int = 0,
        born_timestamp: int = 0,
        reconsume_times: int = 0,
        prepared_transaction_offset: int = 0,
        tags_code: int = 0,
        keys: str = "",
        unique_key: str = "",
    ) -> PutResult:
        """Append a message and its queue unit; whoever reads the queue sees it from then on.

        `properties`: encoded text, stored as it is. `born_host`: packed, 8 or 20 bytes; the host bits of
        `sys_flag` are set here. `tags_code`, `keys`, `unique_key`: as the properties have them, so that they
        need not be searched again. MessageIllegal, StoreFull, StoreBroken, StoreError: nothing was written.
        """
        # The hottest path of the broker: written out, no calls but those that do the work.
        if self._refusal is not None:
            self._refuse()
        queue = self._queue_table.get((topic, queue_id)) or self._queues.make(topic, queue_id)
        try:
            text = properties.encode()
        except UnicodeEncodeError:
            raise MessageIllegal("the properties hold half a UTF-16 pair") from None
        body_length, text_length = len(body), len(text)
        if body_length > self._max_body or text_length > PROPERTIES_MAX_LENGTH or "\0" in properties:
            check_limits(body, properties, text, self._max_body)
        size = queue.record_base + len(born_host) + body_length + text_length
        if queue.position >= queue.tail.limit:
            queue.make_room(1)
        commit_log = self._log
        if commit_log.position + size > commit_log.tail.limit:
            commit_log.make_room(size)
        tail, position = commit_log.tail, commit_log.position
        physical_offset = tail.base + position
        end = position + size
        sys_flag = sys_flag & _OTHER_BITS | self._store_host_bits
        if len(born_host) != 8:
            sys_flag |= BORN_HOST_V6
        queue_offset = 0 if sys_flag & TRANSACTION_PREPARED else queue.max_offset
        timestamp = self._now_ms()
        try:
            tail.buffer[position:end] = b"".join(  # type: ignore[index]
                (
                    _pack_head[(sys_flag & HOST_MASK) >> 4](
                        size,
                        MESSAGE_MAGIC,
                        crc32(body) & 0x7FFFFFFF,
                        queue_id,
                        flag,
                        queue_offset,
                        physical_offset,
                        sys_flag,
                        born_timestamp,
                        born_host,
                        timestamp,
                        self._store_host,
                        reconsume_times,
                        prepared_transaction_offset,
                        body_length,
                    ),
                    body,
                    queue.topic_field,
                    _pack_length(text_length),
                    text,
                )
            )
        except StructError as e:
            raise MessageIllegal(f"a field of the message does not fit the record: {e}") from None
        commit_log.position = end
        commit_log.last_store_timestamp = timestamp
        if not sys_flag & TRANSACTION_PREPARED:
            queue.append(physical_offset, size, tags_code)
            if not queue.dirty:
                queue.dirty = True
                self._flush.dirty.append(queue)
        if self.dispatchers:
            self._dispatch(
                queue, queue_offset, physical_offset, size, tags_code, timestamp, sys_flag, keys, unique_key,
                prepared_transaction_offset,
            )  # fmt: skip
        if self.on_dispatch and not sys_flag & TRANSACTION_PREPARED:
            for listener in self.on_dispatch:
                listener(topic, queue_id, queue_offset, tags_code)
        return PutResult(physical_offset, tail.base + end, queue_offset, timestamp, self._store_host_hex)

    def put_batch(
        self,
        topic: str,
        queue_id: int,
        entries: Sequence[BatchEntry],
        *,
        born_host: bytes,
        sys_flag: int = 0,
        born_timestamp: int = 0,
        reconsume_times: int = 0,
    ) -> list[PutResult]:
        """Append messages with consecutive queue offsets, all of them or none, in one commit-log file.

        Errors as `put`; MessageIllegal too for an empty batch and for one that is larger than a file.
        """
        if self._refusal is not None:
            self._refuse()
        if not entries:
            raise MessageIllegal("a batch without messages")
        queue = self._queues.make(topic, queue_id)
        fixed = queue.record_base + len(born_host)
        size = sum(fixed + checked_length(entry, self._max_body) for entry in entries)
        queue.make_room(len(entries))
        if self._log.position + size > self._log.tail.limit:
            self._log.make_room(size)
        results = []
        for entry in entries:
            properties = entry.properties
            results.append(
                self.put(
                    topic,
                    queue_id,
                    entry.body,
                    properties,
                    born_host=born_host,
                    flag=entry.flag,
                    sys_flag=sys_flag,
                    born_timestamp=born_timestamp,
                    reconsume_times=reconsume_times,
                    tags_code=tags_code_of(get_property(properties, TAGS)),
                    keys=get_property(properties, KEYS) or "",
                    unique_key=get_property(properties, UNIQ_KEY) or "",
                )
            )
        return results

    def _dispatch_recovered(self, record: MessageRecord) -> None:
        """What `put` does behind the record, for one that is in the log already."""
        tags_code = unit_tags_code(record, self._delay_levels_ms)
        queue = dispatch_record(self._queues, record, tags_code)
        if self.dispatchers and queue is not None:
            self._dispatch(
                queue,
                record.queue_offset,
                record.physical_offset,
                record.total_size,
                tags_code,
                record.store_timestamp,
                record.sys_flag,
                get_property(record.properties, KEYS) or "",
                get_property(record.properties, UNIQ_KEY) or "",
                record.prepared_transaction_offset,
            )

    def _dispatch(
        self,
        queue: ConsumeQueue,
        queue_offset: int,
        physical_offset: int,
        size: int,
        tags_code: int,
        timestamp: int,
        sys_flag: int,
        keys: str,
        unique_key: str,
        prepared_transaction_offset: int,
    ) -> None:
        """Tell the dispatchers of a record."""
        dispatch = Dispatch(
            queue.topic,
            queue.queue_id,
            queue_offset,
            physical_offset,
            size,
            tags_code,
            timestamp,
            sys_flag,
            keys,
            unique_key,
            prepared_transaction_offset,
        )
        for dispatcher in self.dispatchers:
            dispatcher(dispatch)

    def delete_topic(self, topic: str) -> int:
        """Delete the queues of a topic, and say how many; its records leave the log when they are old."""
        return self._queues.delete_topic(topic)

    # -- flushing

    @property
    def flushed(self) -> Watermark:
        """Physical offset up to which the log is on the disk, to wait for (SYNC_FLUSH)."""
        return self._flush.flushed

    def flush_now(self) -> None:
        """Start to flush the commit log; `flushed` moves when it is done. Cheap while a flush runs."""
        self._flush.flush_log()

    def tick(self) -> float:
        """Do what is due by the clock. Returns the seconds after which to call again."""
        return self._flush.tick()

    # -- reading

    def get(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_num: int,
        tag_codes: frozenset[int] | None = None,
    ) -> GetResult:
        """Read up to `max_num` messages from number `offset` on, within the transfer limits (store.md §7).

        `tag_codes`: signed 32-bit hashes of the tags to let through, None for all. StoreCorrupt when queue
        and log contradict each other.
        """
        queue = self._queue_table.get((topic, queue_id))
        if queue is None:
            return GetResult(GetStatus.NO_MESSAGE_IN_QUEUE, 0, 0, 0, [])
        return self._reader.get(queue, offset, max_num, tag_codes)

    def max_offset(self, topic: str, queue_id: int) -> int:
        """Number of the queue's next message; 0 for an unknown queue."""
        queue = self._queue_table.get((topic, queue_id))
        return queue.max_offset if queue else 0

    def min_offset(self, topic: str, queue_id: int) -> int:
        """Number of the queue's first message that is still there; 0 for an unknown queue."""
        queue = self._queue_table.get((topic, queue_id))
        return queue.min_offset if queue else 0

    def store_time(self, topic: str, queue_id: int, offset: int) -> int:
        """When message number `offset` was stored, ms since 1970; -1 when it is not there."""
        queue = self._queue_table.get((topic, queue_id))
        return self._reader.store_time(queue, offset) if queue else -1

    def earliest_store_time(self, topic: str, queue_id: int) -> int:
        """When the queue's first message was stored, ms since 1970; -1 when there is none."""
        return self.store_time(topic, queue_id, self.min_offset(topic, queue_id))

    def offset_by_time(self, topic: str, queue_id: int, timestamp: int) -> int:
        """Number of the message stored at `timestamp` (ms), else of its nearer neighbour; 0 without any."""
        queue = self._queue_table.get((topic, queue_id))
        return self._reader.offset_by_time(queue, timestamp) if queue else 0

    def is_in_memory(self, topic: str, queue_id: int, offset: int) -> bool:
        """Whether a message is near enough to the log's end to be in memory; also when it does not exist."""
        queue = self._queue_table.get((topic, queue_id))
        return queue is None or self._reader.is_in_memory(queue, offset)

    def record_at(self, physical_offset: int) -> bytes | None:
        """The record that begins at `physical_offset`, or None when none begins there."""
        return self._log.record_at(physical_offset) if physical_offset >= 0 else None

    def queues(self) -> Iterator[tuple[str, int]]:
        """Topic and queue id of each queue."""
        return iter(list(self._queues.table))

    # -- figures

    @property
    def is_writable(self) -> bool:
        """Whether messages are accepted, as far as is known without trying."""
        return self._refusal is None

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

    def disk_usage(self) -> DiskUsage:
        """Usage of the partition that holds the commit log."""
        return self._disk.usage(self._config.commit_log_folder)
