"""How far each delay level has been delivered: `delayOffset.json`, and the log's word on it after a crash.

Deliveries change the offsets all the time, the file follows every flushDelayOffsetInterval. In between the
commit log itself is the record: each delivery is a message in it, and levels are delivered in order. So the
file also says where the log ended when its offsets were true (`commitLogOffset`). At the start the log is
read from there on, and every copy of the message that stands first in its level moves the level on. That is
exact: after a kill no delivery is repeated and none is left out; after a power cut those are repeated whose
copies did not reach the disk. For the same reason a file is written only after the log is on the disk up to
that point: else a power cut could take the copies and leave the offsets.

Apache's file has no such number. Then the log is read from the last of its files that begins before the first
delivery that may be unknown was due, which serves a crash of Apache's broker as well.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

import msgspec

from pymq.broker.scheduled import Scheduled, delay_level, read_scheduled
from pymq.errors import MessageIllegal, ProtocolError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies.offsets import DelayOffsets
from pymq.protocol.message import MessageRecord, decode_record
from pymq.store.messagestore import MessageStore
from pymq.store.tags_codes import SCHEDULE_TOPIC

log = logging.getLogger("pymq.broker.delays")

_MARK = b"REAL_QID\x01"
"""In the properties of each delivered copy."""


class DelayOffsetTable:
    """Delay level → number of its next message to deliver. `on_change`: the file should be written."""

    def __init__(self, store: MessageStore) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._store = store
        self._offsets: dict[int, int] = {}
        self._durable = DelayOffsets({})
        self._waiting: tuple[int, DelayOffsets] | None = None
        """Offsets whose deliveries are not known to be on the disk yet, and where the log ended then."""
        self._settled: asyncio.Event | None = None
        store.flushed.on_change.append(self._flushed)

    def get(self, level: int) -> int:
        """Number of the level's next message to deliver."""
        return self._offsets.get(level, 0)

    def set(self, level: int, offset: int) -> None:
        """All before this number has been delivered, or never will be."""
        self._offsets[level] = offset

    def body(self) -> DelayOffsets:
        """The offsets of now, as Apache tells them."""
        return DelayOffsets(dict(self._offsets))

    # -- the file

    def snapshot(self) -> DelayOffsets:
        """What may stand in the file: offsets whose deliveries are on the disk."""
        return self._durable

    def load(self, text: str) -> None:
        """Take what a file holds. Raises BodyError."""
        self._durable = tolerant_json.decode(text.encode(), DelayOffsets)
        self._offsets = dict(self._durable.offset_table)

    def save_soon(self) -> None:
        """Have the offsets of now written once the log is on the disk up to here."""
        if self._waiting is not None:
            return
        end = self._store.commit_log_max_offset
        now = DelayOffsets(dict(self._offsets), end)
        is_first = self._durable.commit_log_offset is msgspec.UNSET
        if (self._offsets or is_first) and now != self._durable:
            self._waiting = end, now
            self._flushed()
            if self._waiting is not None:
                self._store.flush_now()

    def _flushed(self) -> None:
        flushed, waiting = self._store.flushed, self._waiting
        if waiting is not None and waiting[0] <= flushed.position:
            self._durable, self._waiting = waiting[1], None
            for listener in self.on_change:
                listener()
        if self._settled is not None and (self._waiting is None or flushed.failure is not None):
            self._settled.set()

    async def settle(self) -> None:
        """At the end: have the offsets of now in `snapshot`, unless the disk is broken."""
        self._settled = asyncio.Event()
        for _ in range(2):  # behind a snapshot that waits there may be a newer state
            self.save_soon()
            self._flushed()
            await self._settled.wait()
            self._settled.clear()
            if self._store.flushed.failure is not None:
                break

    def take(self, body: DelayOffsets) -> None:
        """Have what a master tells in the file, for the day when this broker becomes one.

        Where its log ended then is not known: so the log is looked at from the first doubtful delivery on.
        """
        told = DelayOffsets(dict(body.offset_table))
        if told != self._durable:
            self._offsets = dict(told.offset_table)
            self._durable = told
            for listener in self.on_change:
                listener()

    # -- the start

    def correct(self) -> list[int]:
        """Bring each level's offset into its queue's bounds. Returns the levels that have messages left."""
        pending = []
        for topic, queue_id in self._store.queues():
            if topic == SCHEDULE_TOPIC:
                low, high = self._store.min_offset(topic, queue_id), self._store.max_offset(topic, queue_id)
                level, offset = queue_id + 1, self.get(queue_id + 1)
                if not low <= offset <= high:
                    self.set(level, min(max(offset, low), high))
                    log.warning(
                        "delay level %d was delivered up to %d, but its queue has %d to %d: going on at %d",
                        level, offset, low, high, self.get(level),
                    )  # fmt: skip
                if self.get(level) < high:
                    pending.append(level)
        return pending

    def pass_delivered(self) -> int:
        """Move the levels past what the log shows as delivered since the file was written; says how many.

        Call it once, after loading and before anything is delivered.
        """
        pending = self.correct()
        start = self._unknown_from(pending)
        if start >= self._store.commit_log_max_offset:
            return 0
        heads = {level: self._head(level) for level in pending}
        count = 0
        for data in self._store.records_from(start):
            copy = _read_copy(data) if _MARK in data else None
            if copy is None:
                continue
            level, record = copy
            head = heads.get(level)
            if head is not None and head.is_delivered_as(record):
                count += 1
                self.set(level, head.record.queue_offset + 1)
                heads[level] = self._head(level)
        if count:
            log.info("%d delayed messages had been delivered since delayOffset.json was written", count)
        return count

    def _unknown_from(self, pending: list[int]) -> int:
        """Physical offset behind which deliveries may stand that the offsets do not know of."""
        end = self._store.commit_log_max_offset
        if not pending:
            return end
        units = [unit for level in pending for unit in self._units(level)]
        known = self._durable.commit_log_offset
        if known is msgspec.UNSET or not 0 <= known <= end:
            newest = self._store.newest_log_time
            passed = [due for _, _, due in units if due <= newest]
            known = self._store.log_offset_before(min(passed)) if passed else end
        first = min((physical for physical, _, _ in units), default=0)
        return max(known, first, self._store.commit_log_min_offset)

    def _units(self, level: int, ahead: int = 0) -> list[tuple[int, int, int]]:
        """The queue unit of the level's next message, or of one so far behind it."""
        return self._store.units(SCHEDULE_TOPIC, level - 1, self.get(level) + ahead, 1)

    def _head(self, level: int) -> Scheduled | None:
        """The level's next message that can be read: its delivery shows that those before it were dealt with.

        None at the queue's end.
        """
        for ahead in itertools.count():
            units = self._units(level, ahead)
            if not units:
                return None
            head = read_scheduled(self._store.record_at(units[0][0]), level, self.get(level) + ahead)
            if head is not None:
                return head
        return None


def log_left_out(level: int, offset: int) -> None:
    """Say that a message will never be delivered."""
    log.error("delay level %d: message %d is gone, damaged or has no destination; left out", level, offset)


def _read_copy(data: bytes) -> tuple[int, MessageRecord] | None:
    """The level and record of what may be the delivered copy of a delayed message."""
    try:
        record = decode_record(data)
        level = delay_level(record.properties)
    except (ProtocolError, MessageIllegal):
        return None
    return (level, record) if level > 0 and record.topic != SCHEDULE_TOPIC else None
