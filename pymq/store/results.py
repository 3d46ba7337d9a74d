"""What the store answers, and what it tells those who follow it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Required, TypedDict

import msgspec

from pymq.disk import MappedFile

FilePart = tuple[MappedFile, int, int]
"""A file, the position in it, and how many bytes."""


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
    unread: list[FilePart] | None = None
    """Where the records stand, when they are left to `MessageStore.fetch`: `records` is empty until then."""
    are_right: Callable[[list[bytes]], bool] | None = None
    """Whether what was read there are the queue's records."""


class ChangedFields(TypedDict, total=False):
    """Fields in which a record that is stored anew may differ from the old one."""

    sys_flag: int
    reconsume_times: int
    prepared_transaction_offset: int


class PutFields(ChangedFields, total=False):
    """What `MessageStore.put` takes by name from those who put through something that holds back."""

    born_host: Required[bytes]
    flag: int
    born_timestamp: int
    tags_code: int
    keys: str
    unique_key: str
    is_accepted: bool


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
