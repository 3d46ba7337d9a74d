"""A delayed message as it lies in the schedule topic, and its copy that was delivered (store.md §10)."""

from __future__ import annotations

import re

import msgspec

from pymq.errors import MessageIllegal, ProtocolError
from pymq.protocol import properties as names
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.properties import decode_properties, encode_properties, get_property
from pymq.store.tags_codes import SCHEDULE_TOPIC
from pymq.store.transaction_topics import HALF_TOPIC

_INT = re.compile(r"[+-]?\d{1,10}", re.ASCII)
_INT_MAX = 2**31 - 1


class Scheduled(msgspec.Struct, gc=False):
    """A message that waits in the schedule topic, and where it is to go."""

    record: MessageRecord
    topic: str
    queue_id: int

    def is_delivered_as(self, copy: MessageRecord) -> bool:
        """Whether `copy` is what a delivery of this message stores; only place, time and host may differ."""
        record = self.record
        return (
            (copy.topic, copy.queue_id, copy.born_timestamp, copy.flag, copy.reconsume_times)
            == (self.topic, self.queue_id, record.born_timestamp, record.flag, record.reconsume_times)
            and copy.born_host == record.born_host
            and copy.body == record.body
            # Apache writes the text anew, maybe in another order.
            and (copy.properties == record.properties or copy.read_properties() == record.read_properties())
        )


def delay_level(properties: str) -> int:
    """The delay level that property text asks for; 0 or less: none. MessageIllegal when it is no number."""
    text = get_property(properties, names.DELAY)
    if text is None:
        return 0
    if not _INT.fullmatch(text) or abs(int(text)) > _INT_MAX:
        raise MessageIllegal(f"DELAY={text[:40]}: expected a delay level, 1 or more")
    return int(text)


def scheduled_properties(properties: str, level: int, topic: str, queue_id: int) -> str:
    """Property text as 4.9.4 stores it in the schedule topic: all that the message had, and where it goes.

    Unlike that of other messages it keeps WAIT. The order is the producer's, where Apache's is its hash
    map's.
    """
    table = decode_properties(properties)
    table[names.DELAY] = str(level)
    table[names.REAL_TOPIC] = topic
    table[names.REAL_QID] = str(queue_id)
    return encode_properties(table)


def read_scheduled(data: bytes | None, level: int, number: int) -> Scheduled | None:
    """Message `number` of a level; None when the record is gone, damaged, another's or tells no destination.

    Half messages are never delivered so: Apache drops them as well.
    """
    if data is None:
        return None
    try:
        record = decode_record(data, check_crc=True)  # its copy has a checksum of its own
    except ProtocolError:
        return None
    if (record.topic, record.queue_id, record.queue_offset) != (SCHEDULE_TOPIC, level - 1, number):
        return None
    topic = get_property(record.properties, names.REAL_TOPIC)
    queue_id = get_property(record.properties, names.REAL_QID)
    if topic in (None, HALF_TOPIC) or queue_id is None or not _INT.fullmatch(queue_id) or int(queue_id) < 0:
        return None
    return Scheduled(record, topic, int(queue_id))
