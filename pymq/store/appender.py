"""The writing half of the store: messages into the log, their units into the queues (store.md §2, §3)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from itertools import count, repeat
from struct import error as StructError
from zlib import crc32

from pymq.clock import Clock
from pymq.errors import MessageIllegal, StoreBroken, StoreError, StoreFull
from pymq.protocol.message import MESSAGE_MAGIC, PROPERTIES_LENGTH, RECORD_HEADS
from pymq.protocol.properties import KEYS, PROPERTIES_MAX_LENGTH, UNIQ_KEY, get_property
from pymq.protocol.sysflags import (
    BORN_HOST_V6,
    HOST_MASK,
    STORE_HOST_V6,
    TRANSACTION_MASK,
    TRANSACTION_PREPARED,
    TRANSACTION_ROLLBACK,
)
from pymq.store.batches import Batch, BatchResult
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import ConsumeQueue
from pymq.store.flush import FlushSchedule
from pymq.store.index import BATCH as INDEX_BATCH
from pymq.store.index import LARGE_PROPERTIES as INDEX_LARGE_PROPERTIES
from pymq.store.index import MessageIndex
from pymq.store.limits import check_limits
from pymq.store.queues import ConsumeQueues
from pymq.store.results import Dispatch, Dispatcher, DispatchListener, PutResult

log = logging.getLogger("pymq.store")

_OTHER_BITS = ~HOST_MASK
_INDEXED_AT_ONCE = 256 << 10
"""The entries of a batch over this (bytes of its records) are made later, in slices."""
_pack_head = tuple(head.pack for head in RECORD_HEADS)
_pack_length = PROPERTIES_LENGTH.pack


class Appender:
    """What `MessageStore` is for who stores messages."""

    def __init__(
        self,
        *,
        clock: Clock,
        store_host: bytes,
        max_body: int,
        commit_log: CommitLog,
        queues: ConsumeQueues,
        flush: FlushSchedule,
        index: MessageIndex,
        on_dispatch: list[DispatchListener],
    ) -> None:
        """`store_host`: packed, stamped into each record."""
        self.on_dispatch = on_dispatch
        self.dispatchers: list[Dispatcher] = []
        self.on_new_queue: list[Callable[[str, int], None]] = []
        """Called with topic and queue id when a message is put to a queue that there was not."""
        self._store_host = store_host
        self._store_host_hex = store_host.hex().upper()
        self._store_host_bits = STORE_HOST_V6 if len(store_host) == 20 else 0
        self._max_body = max_body
        self._now_ms = clock.now_ms
        self._log = commit_log
        self._queues = queues
        self._queue_table = queues.table
        self._flush = flush
        self._index = index
        self._standing: StoreError | None = None
        """Why nothing is stored here though all is well; None where it is."""
        self._refusal: StoreError | None = StoreError("the store is not open")

    def _new_queue(self, topic: str, queue_id: int) -> ConsumeQueue:
        queue = self._queues.make(topic, queue_id)
        for listener in self.on_new_queue:
            listener(topic, queue_id)
        return queue

    # -- whether messages are accepted

    @property
    def is_writable(self) -> bool:
        """Whether messages are accepted, as far as is known without trying."""
        return self._refusal is None

    def _on_broken(self, error: StoreError) -> None:
        if self._is_sound:
            log.critical("the disk failed, no message is stored before a restart: %s", error)
            self._refusal = StoreBroken(str(error))
        self._flush.fail(error)

    @property
    def _is_sound(self) -> bool:
        """Open and not broken; it may be full."""
        return self._refusal is self._standing or isinstance(self._refusal, StoreFull)

    def refuse_while_full(self, reason: str) -> None:
        """Refuse messages with StoreFull and this reason until called again with an empty one.

        For who judges the disk; that a record has no room is noticed here anyway. Reading goes on.
        """
        if self._is_sound:
            self._refusal = StoreFull(reason) if reason else self._standing

    @contextlib.contextmanager
    def despite_full(self) -> Iterator[None]:
        """Within this, messages are accepted although the disk counts as full, as long as there is room.

        For what lets older files go; nothing else may have a turn meanwhile.
        """
        refusal = self._refusal
        if isinstance(refusal, StoreFull):
            self._refusal = self._standing
        try:
            yield
        finally:
            if self._refusal is self._standing:
                self._refusal = refusal

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise type(self._refusal)(str(self._refusal))

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """Around what may find the disk broken."""
        try:
            yield
        except StoreBroken as e:
            self._on_broken(e)
            raise

    # -- one message

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
        delay_ms: int = -1,
        keys: str = "",
        unique_key: str = "",
        is_accepted: bool = False,
    ) -> PutResult:
        """Append a message and its queue unit; whoever reads the queue sees it from then on.

        `properties`: encoded text, stored as it is. `born_host`: packed, 8 or 20 bytes; the host bits of
        `sys_flag` are set here. `tags_code`, `keys`, `unique_key`: as the properties have them, so that they
        need not be searched again. `delay_ms`: when not negative, the tags code is the store time plus that
        (`tags_codes`). `is_accepted`: it was stored before, whatever maxMessageSize may be by now.
        MessageIllegal, StoreFull, StoreBroken, StoreError: nothing was written.
        """
        # The hottest path of the broker: written out, no calls but those that do the work.
        if self._refusal is not None:
            self._refuse()
        queue = self._queue_table.get((topic, queue_id)) or self._new_queue(topic, queue_id)
        try:
            text = properties.encode()
        except UnicodeEncodeError:
            raise MessageIllegal("the properties hold half a UTF-16 pair") from None
        body_length, text_length = len(body), len(text)
        if body_length > self._max_body or text_length > PROPERTIES_MAX_LENGTH or "\0" in properties:
            check_limits(body, properties, text, body_length if is_accepted else self._max_body)
        size = queue.record_base + len(born_host) + body_length + text_length
        commit_log = self._log
        if queue.position >= queue.tail.limit or commit_log.position + size > commit_log.tail.limit:
            self._make_room(queue, 1, size)
        tail, position = commit_log.tail, commit_log.position
        physical_offset = tail.base + position
        end = position + size
        sys_flag = sys_flag & _OTHER_BITS | self._store_host_bits
        if len(born_host) != 8:
            sys_flag |= BORN_HOST_V6
        queue_offset = 0 if sys_flag & TRANSACTION_PREPARED else queue.max_offset
        timestamp = self._now_ms()
        if timestamp < commit_log.last_store_timestamp:
            timestamp = commit_log.last_store_timestamp  # the clock was put back; the log's times never are
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
        if delay_ms >= 0:
            tags_code = timestamp + delay_ms
        if not sys_flag & TRANSACTION_PREPARED:
            try:
                queue.append(physical_offset, size, tags_code)
            except StoreError as e:  # the log has the message: another one must not get its number
                self._on_broken(e)
                raise StoreBroken(str(e)) from e
            if not queue.dirty:
                queue.dirty = True
                self._flush.dirty.append(queue)
        pending = self._index.pending
        if pending is not None and sys_flag & TRANSACTION_MASK != TRANSACTION_ROLLBACK:
            pending.append((topic, properties, physical_offset, timestamp))
            if len(pending) >= INDEX_BATCH or text_length > INDEX_LARGE_PROPERTIES:
                self._index.build()
        if self.dispatchers:
            dispatch = Dispatch(
                topic, queue_id, queue_offset, physical_offset, size, tags_code, timestamp, sys_flag, keys,
                unique_key, prepared_transaction_offset,
            )  # fmt: skip
            for dispatcher in self.dispatchers:
                dispatcher(dispatch)
        if self.on_dispatch and not sys_flag & TRANSACTION_PREPARED:
            for listener in self.on_dispatch:
                listener(topic, queue_id, queue_offset, tags_code)
        return PutResult(physical_offset, tail.base + end, queue_offset, timestamp, self._store_host_hex)

    # -- many messages

    def new_batch(
        self,
        topic: str,
        queue_id: int,
        *,
        born_host: bytes,
        sys_flag: int = 0,
        born_timestamp: int = 0,
        reconsume_times: int = 0,
    ) -> Batch:
        """An empty batch for one queue, for `put_batch`; parameters as for `put`.

        MessageIllegal for a topic or queue that cannot be, and for a batch in a transaction.
        """
        if sys_flag & TRANSACTION_MASK:
            raise MessageIllegal("a batch cannot be in a transaction")
        self._queues.make(topic, queue_id)
        born_bits = BORN_HOST_V6 if len(born_host) == 20 else 0
        return Batch(
            topic,
            queue_id,
            max_body=self._max_body,
            sys_flag=sys_flag & _OTHER_BITS | self._store_host_bits | born_bits,
            born_timestamp=born_timestamp,
            born_host=born_host,
            store_host=self._store_host,
            reconsume_times=reconsume_times,
        )

    def put_batch(self, batch: Batch) -> BatchResult:
        """Append messages with consecutive queue offsets, all of them or none, in one commit-log file.

        `on_dispatch` is told once for each tags code, with the last message that has it. Errors as `put`;
        MessageIllegal for an empty batch and for one that is larger than a file.
        """
        if self._refusal is not None:
            self._refuse()
        if not len(batch):
            raise MessageIllegal("a batch without messages")
        queue = self._queues.make(batch.topic, batch.queue_id)
        size = batch.size
        self._make_room(queue, len(batch), size)
        commit_log = self._log
        tail, position, queue_offset = commit_log.tail, commit_log.position, queue.max_offset
        timestamp = max(self._now_ms(), commit_log.last_store_timestamp)
        records, starts = batch.placed(tail.base + position, queue_offset, timestamp)
        assert tail.buffer is not None
        tail.buffer[position : position + size] = records
        commit_log.position = position + size
        commit_log.last_store_timestamp = timestamp
        try:
            queue.extend(batch.units(starts))
        except StoreError as e:
            self._on_broken(e)
            raise StoreBroken(str(e)) from e
        self._flush.mark_dirty(queue)
        if self._index.pending is not None:
            self._index_batch(batch, starts, timestamp)
        if self.dispatchers:
            self._dispatch_batch(batch, starts, queue_offset, timestamp)
        for tags_code, last in dict(zip(batch.tags_codes, count(queue_offset), strict=False)).items():
            for listener in self.on_dispatch:
                listener(batch.topic, batch.queue_id, last, tags_code)
        return BatchResult(starts, commit_log.end, queue_offset, timestamp, self._store_host_hex)

    def _index_batch(self, batch: Batch, starts: list[int], timestamp: int) -> None:
        pending = self._index.pending
        if batch.size > _INDEXED_AT_ONCE or pending is None:
            self._index.postpone(starts[0])
            return
        texts = [text.decode() for text in batch.properties]
        pending += zip(repeat(batch.topic), texts, starts, repeat(timestamp), strict=False)
        if len(pending) >= INDEX_BATCH:
            self._index.build()

    def _dispatch_batch(self, batch: Batch, starts: list[int], queue_offset: int, timestamp: int) -> None:
        rows = zip(starts, batch.sizes, batch.tags_codes, batch.properties, strict=True)
        for number, (start, size, tags_code, encoded) in enumerate(rows, queue_offset):
            text = encoded.decode()
            dispatch = Dispatch(
                batch.topic, batch.queue_id, number, start, size, tags_code, timestamp, batch.sys_flag,
                get_property(text, KEYS) or "", get_property(text, UNIQ_KEY) or "", 0,
            )  # fmt: skip
            for dispatcher in self.dispatchers:
                dispatcher(dispatch)

    # -- what both need

    def _make_room(self, queue: ConsumeQueue, count: int, size: int) -> None:
        """See to it that `count` units and `size` bytes of records can be written; errors as `put`."""
        try:
            if count > 1 or queue.position >= queue.tail.limit:
                queue.make_room(count)
            if self._log.position + size > self._log.tail.limit:
                self._log.make_room(size)
        except StoreBroken as e:
            self._on_broken(e)
            raise
