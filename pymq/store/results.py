"""What the store answers, and what it tells those who follow it."""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec


class GetStatus(enum.Enum):
    """How a read of a queue ended; the names are the remarks of pull answers (store.md §7)."""

    FOUND = "FOUND"
    NO_MATCHED_MESSAGE = "NO_MATCHED_MESSAGE"
    MESSAGE_WAS_REMOVING = "MESSAGE_WAS_REMOVING"
    OFFSET_FOUND_NULL = "OFFSET_FOUND_NULL"
    OFFSET_OVERFLOW_BADLY = "OFFSET_OVERFLOW_BADLY"
    OFFSET_OVERFLOW_ONE = "OFFSET_OVERFLOW_ONE"
    OFFSET_TOO_SMALL = "OFFSET_TOO_SMALL"
    NO_MATCHED_LOGIC_QUEUE = "NO_MATCHED_LOGIC_QUEUE"
    NO_MESSAGE_IN_QUEUE = "NO_MESSAGE_IN_QUEUE"


class GetResult(msgspec.Struct):
    """Records of a queue, as stored bytes: each item of `records` is one or more whole records, in order."""

    status: GetStatus
    next_begin_offset: int
    min_offset: int
    max_offset: int
    records: list[bytes]
    count: int = 0
    """Number of records."""
    size: int = 0
    """Their bytes."""
    last_physical_offset: int = -1
    """Of the last queue unit looked at."""
    is_far_behind: bool = False
    """Further behind the log's end than memory holds (Apache's suggestPullingFromSlave)."""


class PutResult(msgspec.Struct, gc=False):
    """Where a message was stored."""

    physical_offset: int
    end_offset: int
    """Physical offset behind the record: once `MessageStore.flushed` reached it, it is on the disk."""
    queue_offset: int
    store_timestamp: int
    store_host_hex: str

    @property
    def offset_msg_id(self) -> str:
        """The broker's id of the message."""
        return f"{self.store_host_hex}{self.physical_offset:016X}"


class Dispatch(msgspec.Struct, gc=False):
    """A stored message, for those who build something from the log: the index, filters."""

    topic: str
    queue_id: int
    queue_offset: int
    physical_offset: int
    size: int
    tags_code: int
    store_timestamp: int
    sys_flag: int
    keys: str
    unique_key: str
    prepared_transaction_offset: int


Dispatcher = Callable[[Dispatch], None]
"""Called for each record, in the order of the log, after its queue unit is written."""
DispatchListener = Callable[[str, int, int, int], None]
"""Called with topic, queue id, queue offset and tags code after a queue unit became readable."""
