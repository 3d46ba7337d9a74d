"""A timed message: what asks for it, how it lies in the timer topic, and its copies (Apache 5.x's HookUtils).

A producer asks by one of three properties. The record in the timer topic says in TIMER_OUT_MS when it is due
and in REAL_TOPIC and REAL_QID where it goes. What follows from it, a delivery or the same message put again
at the log's end, names it by a property of our own: so the log itself tells which ones wait no more.
"""

from __future__ import annotations

import re

import msgspec

from pymq.errors import MessageIllegal, ProtocolError
from pymq.protocol import properties as names
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.properties import decode_properties, encode_properties, get_property
from pymq.store.timer_journal import MINUTE_MS, TIMER_TOPIC, TimerEntry, timer_key
from pymq.store.transaction_topics import HALF_TOPIC

_LONG = re.compile(r"[+-]?\d{1,19}", re.ASCII)
_INT = re.compile(r"\d{1,10}", re.ASCII)
_LONG_MAX = 2**63 - 1
_ADDED_LATER = 160
"""Bytes kept free in the property text of a timed message for what its copies add."""
FOLLOWS_MARK = f"\x02{names.PYMQ_TIMER_OFFSET}\x01".encode()
"""Stands in each record that follows from a timed one; never in front, since TIMER_OUT_MS is there, too."""
_REQUESTS = (
    (names.TIMER_DELAY_SEC, 1000, True),
    (names.TIMER_DELAY_MS, 1, True),
    (names.TIMER_DELIVER_MS, 1, False),
)
"""Property, ms of its unit, and whether it counts from now on. The first one there is counts."""


class Timed(msgspec.Struct, gc=False):
    """A message that waits in the timer topic."""

    record: MessageRecord
    topic: str
    """Where it goes."""
    queue_id: int
    deliver_ms: int
    unique_key: str
    """UNIQ_KEY, empty without one."""
    cancelled_key: str
    """UNIQ_KEY of the message that this one cancels; empty for a message that is to be delivered."""

    @property
    def number(self) -> int:
        """Its queue offset in the timer topic, by which its copies name it."""
        return self.record.queue_offset

    @property
    def entry(self) -> TimerEntry:
        """What the journal holds of it."""
        key = self.cancelled_key or self.unique_key
        return TimerEntry(
            self.deliver_ms, self.number, timer_key(self.topic, key) if key else 0, bool(self.cancelled_key)
        )

    @property
    def needed_until_ms(self) -> int:
        """Up to when its record is read: a cancellation counts for all of its minute."""
        if not self.cancelled_key:
            return self.deliver_ms
        return ((self.deliver_ms - 1) // MINUTE_MS + 1) * MINUTE_MS

    def cancels(self, other: Timed) -> bool:
        """Whether this one keeps the other from being delivered."""
        return (self.topic, self.cancelled_key) == (other.topic, other.unique_key)

    def is_followed_by(self, copy: MessageRecord) -> bool:
        """Whether `copy` is a delivery of this message, the message put again, or says that it is cancelled.

        Not so what an application forwards with all properties of a message of another broker.
        """
        record = self.record
        if (copy.born_timestamp, copy.born_host) != (record.born_timestamp, record.born_host):
            return False
        if copy.topic == TIMER_TOPIC:  # no client can write there
            again = timed(copy)
            return again is not None and (again.topic, again.queue_id) == (self.topic, self.queue_id)
        return (copy.topic, copy.queue_id) == (self.topic, self.queue_id) and copy.body == record.body

    def is_put_again_as(self, copy: MessageRecord) -> bool:
        """Of what follows from it, whether it is the message put again, at the end of the log."""
        again = timed(copy) if copy.topic == TIMER_TOPIC else None
        return again is not None and bool(again.cancelled_key) == bool(self.cancelled_key)

    def delivered_properties(self, now_ms: int) -> str:
        """Property text of the copy that is delivered: as Apache's, and which message it follows from."""
        table = self.record.read_properties()
        table[names.TIMER_ENQUEUE_MS] = str(self.record.store_timestamp)
        table[names.TIMER_DEQUEUE_MS] = str(now_ms)
        return self._following(table)

    def rolled_properties(self) -> str:
        """Property text of the message put again."""
        table = self.record.read_properties()
        rolled = table.get(names.TIMER_ROLL_TIMES, "")
        table[names.TIMER_ROLL_TIMES] = str(int(rolled) + 1 if _INT.fullmatch(rolled) else 1)
        return self._following(table)

    def cancelled_properties(self) -> str:
        """Property text of a record that says that this message was cancelled: it cancels it once more."""
        table = {
            names.TIMER_OUT_MS: str(self.deliver_ms),
            names.REAL_TOPIC: self.topic,
            names.REAL_QID: str(self.queue_id),
            names.TIMER_DEL_UNIQKEY: f"{self.topic}+{self.unique_key}",
        }
        return self._following(table)

    def _following(self, table: dict[str, str]) -> str:
        table.pop(names.PYMQ_TIMER_OFFSET, None)  # it may stand in front, where FOLLOWS_MARK is not found
        table[names.PYMQ_TIMER_OFFSET] = str(self.number)
        return encode_properties(table)


def delivery_time(properties: str, now_ms: int, max_delay_ms: int) -> int | None:
    """When a message with this property text is to be delivered, ms since 1970; None: now.

    `properties` ask for no delay level. MessageIllegal for a time that cannot be read, one too far ahead, and
    a cancellation that comes too late.
    """
    if get_property(properties, names.TIMER_OUT_MS) is not None:
        return None  # a copy of one that has had its delay: of a consumer's retry, say
    for name, unit_ms, is_relative in _REQUESTS:
        text = get_property(properties, name)
        if text is None:
            continue
        if not _LONG.fullmatch(text) or abs(int(text) * unit_ms) > _LONG_MAX:
            raise MessageIllegal(f"{name}={text[:40]}: expected a whole number")
        deliver_ms = int(text) * unit_ms + is_relative * now_ms
        if deliver_ms - now_ms > max_delay_ms:
            raise MessageIllegal(
                f"{name}={text} is {(deliver_ms - now_ms) / 1000:.0f} s ahead, "
                f"timerMaxDelaySec={max_delay_ms // 1000} are allowed"
            )
        if deliver_ms > now_ms:
            return deliver_ms
        if get_property(properties, names.TIMER_DEL_UNIQKEY) is not None:
            raise MessageIllegal(f"{name}={text} is over: a message that was due then cannot be cancelled")
        return None
    return None


def is_timed(properties: str) -> bool:
    """Whether property text asks for a time of delivery."""
    return get_property(properties, names.TIMER_OUT_MS) is None and any(
        get_property(properties, name) is not None for name, _, _ in _REQUESTS
    )


def without_times(properties: str) -> str:
    """Property text without a time of delivery: a delay level counts for more."""
    table = decode_properties(properties)
    for name, _, _ in _REQUESTS:
        table.pop(name, None)
    return encode_properties(table)


def timer_properties(properties: str, deliver_ms: int, topic: str, queue_id: int) -> tuple[str, int, bool]:
    """Property text as it stands in the timer topic, and key and kind of the message's `TimerEntry`.

    As with delay levels it keeps WAIT. MessageIllegal when it becomes too long.
    """
    table = decode_properties(properties)
    table[names.TIMER_OUT_MS] = str(deliver_ms)
    table[names.REAL_TOPIC] = topic
    table[names.REAL_QID] = str(queue_id)
    text = encode_properties(table)
    limit = names.PROPERTIES_MAX_LENGTH - _ADDED_LATER
    if len(text) * 3 > limit and len(text.encode("utf-8", "surrogatepass")) > limit:
        raise MessageIllegal(f"the properties of a timed message may take {limit} bytes")
    cancelled = _cancelled_key(table, topic)
    key = cancelled or table.get(names.UNIQ_KEY, "")
    return text, timer_key(topic, key) if key else 0, bool(cancelled)


def _cancelled_key(table: dict[str, str], topic: str) -> str:
    """UNIQ_KEY of the message to cancel; brokers before 5.3.2 have no topic in front of it."""
    return table.get(names.TIMER_DEL_UNIQKEY, "").removeprefix(f"{topic}+")


def read_timed(data: bytes | None) -> Timed | None:
    """A record of the timer topic; None when it is gone, damaged or tells no time or destination."""
    if data is None:
        return None
    try:
        record = decode_record(data, check_crc=True)  # its copy has a checksum of its own
    except ProtocolError:
        return None
    return timed(record) if record.topic == TIMER_TOPIC else None


def timed(record: MessageRecord) -> Timed | None:
    """What a record of the timer topic asks for; None when it tells no time or destination."""
    table = record.read_properties()
    topic, queue_id = table.get(names.REAL_TOPIC), table.get(names.REAL_QID, "")
    time = table.get(names.TIMER_OUT_MS, "")
    if topic in (None, HALF_TOPIC, TIMER_TOPIC) or not _INT.fullmatch(queue_id) or not _LONG.fullmatch(time):
        return None
    cancelled = _cancelled_key(table, topic)
    return Timed(record, topic, int(queue_id), int(time), table.get(names.UNIQ_KEY, ""), cancelled)


def follows(data: bytes) -> tuple[int, MessageRecord] | None:
    """The number of the timed message that a record follows from, and the record; None of any other."""
    if FOLLOWS_MARK not in data:
        return None
    try:
        record = decode_record(data)
    except ProtocolError:
        return None
    number = get_property(record.properties, names.PYMQ_TIMER_OFFSET)
    return (int(number), record) if number and _LONG.fullmatch(number) else None
