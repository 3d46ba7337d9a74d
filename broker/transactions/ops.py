"""Op messages: the record, in RMQ_SYS_TRANS_OP_HALF_TOPIC, of which half messages have ended (§6.3).

The body is the number of the half message, as text; 5.x brokers write several, with a comma behind each. One
that says that a half message was put again or discarded has a property of our own: Apache passes over the old
record then, as it should, and we know that the transaction has not ended with it.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final

import msgspec

from pymq.clock import Clock
from pymq.errors import ProtocolError
from pymq.protocol import properties as names
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.properties import encode_properties, get_property
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.transaction_topics import OP_TOPIC

LATE_QUEUE: Final = 1
"""The queue of the op topic for half messages that ended after they had been discarded."""
_REMOVE: Final = "d"
"""The tag of op messages. Source: TransactionalMessageUtil.REMOVETAG."""
_PROPERTIES = f"{names.WAIT}\x01true\x02{names.TAGS}\x01{_REMOVE}"
_NUMBERS = re.compile(rb"\d{1,18}(,\d{1,18})*,?")


class Op(msgspec.Struct, gc=False):
    """What an op message says."""

    record: MessageRecord
    numbers: list[int]
    """Of the half messages."""
    is_moved: bool
    """They were put again or discarded."""


def read_op(data: bytes | None) -> Op | None:
    """An op message; None when it is gone, damaged, another's or says nothing."""
    if data is None:
        return None
    try:
        record = decode_record(data, check_crc=True)
    except ProtocolError:
        return None
    if (record.topic, record.queue_id) != (OP_TOPIC, 0):
        return None
    if get_property(record.properties, names.TAGS) != _REMOVE or not _NUMBERS.fullmatch(record.body):
        return None
    numbers = [int(each) for each in record.body.split(b",") if each]
    return Op(record, numbers, get_property(record.properties, names.PYMQ_HALF_MOVED) is not None)


class OpQueue:
    """Writes op messages, and knows from which one on they are needed."""

    def __init__(self, store: MessageStore, clock: Clock, own_host: bytes) -> None:
        """`own_host`: packed; the broker is where op messages are born."""
        self._store = store
        self._clock = clock
        self._own_host = own_host
        self._first = 0
        self._needed: deque[int] = deque()
        """Of each op message from `_first` on, the highest half message that it names."""

    def restart(self, first: int) -> None:
        """Op messages are needed from this number on, as far as is known."""
        self._first = first
        self._needed.clear()

    def read(self, highest: int) -> None:
        """The next op message was read; no half message behind `highest` needs it."""
        self._needed.append(highest)

    def write(self, number: int, *, moved: bool = False) -> PutResult:
        """Say that a half message has ended, or was put again. Raises as `MessageStore.put`."""
        result = self._store.put(
            OP_TOPIC,
            0,
            str(number).encode(),
            f"{_PROPERTIES}\x02{names.PYMQ_HALF_MOVED}\x01true" if moved else _PROPERTIES,
            born_host=self._own_host,
            born_timestamp=self._clock.now_ms(),
            tags_code=tags_code(_REMOVE),
            is_accepted=True,
        )
        self._needed.append(number)
        return result

    def write_late(self, record: MessageRecord) -> PutResult:
        """Say that a half message has ended, or is open again, that had been discarded: `record` is any copy.

        That stands in a queue of its own, which Apache's broker does not read, and names the half message as
        its copies do: so a start finds it whatever else was written since. Raises as `MessageStore.put`.
        """
        names_of = {
            names.TAGS: _REMOVE,
            names.UNIQ_KEY: get_property(record.properties, names.UNIQ_KEY) or "",
            names.PGROUP: get_property(record.properties, names.PGROUP) or "",
        }
        return self._store.put(
            OP_TOPIC,
            LATE_QUEUE,
            str(record.queue_offset).encode(),
            encode_properties(names_of),
            born_host=record.born_host,
            born_timestamp=record.born_timestamp,
            tags_code=tags_code(_REMOVE),
            is_accepted=True,
        )

    def needed_from(self, half_progress: int) -> int:
        """The first op message that who looks at half messages from `half_progress` on has to read."""
        while self._needed and self._needed[0] < half_progress:
            self._needed.popleft()
            self._first += 1
        return self._first
