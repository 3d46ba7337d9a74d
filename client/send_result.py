"""What a broker says of a message that it stored."""

from __future__ import annotations

import enum

import msgspec

from pymq.protocol.bodies import MessageQueue
from pymq.protocol.codes import ResponseCode

DEFAULT_REGION = "DefaultRegion"
"""What stands for a broker's region where it tells none (MixAll.DEFAULT_TRACE_REGION_ID)."""


class SendStatus(enum.StrEnum):
    """How safely a message is stored (semantics.md §1.7). It is stored in every case."""

    SEND_OK = "SEND_OK"
    FLUSH_DISK_TIMEOUT = "FLUSH_DISK_TIMEOUT"
    """The broker flushes before it answers, and the disk did not manage in time."""
    FLUSH_SLAVE_TIMEOUT = "FLUSH_SLAVE_TIMEOUT"
    """The broker waits for a slave, and none confirmed in time."""
    SLAVE_NOT_AVAILABLE = "SLAVE_NOT_AVAILABLE"
    """The broker waits for a slave, and has none that keeps up."""


STATUS_BY_CODE: dict[int, SendStatus] = {
    ResponseCode.SUCCESS: SendStatus.SEND_OK,
    ResponseCode.FLUSH_DISK_TIMEOUT: SendStatus.FLUSH_DISK_TIMEOUT,
    ResponseCode.FLUSH_SLAVE_TIMEOUT: SendStatus.FLUSH_SLAVE_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE: SendStatus.SLAVE_NOT_AVAILABLE,
}
CODE_BY_STATUS = {status: code for code, status in STATUS_BY_CODE.items()}


class SendResult(msgspec.Struct, frozen=True):
    """A stored message.

    Attributes:
        status: how safely it is stored.
        msg_id: the id that the client gave it (UNIQ_KEY); the same in every attempt and for every consumer.
        offset_msg_id: the broker's id: its address and the message's place in its commit log.
        queue: the queue it is in.
        queue_offset: its place in the queue; for one that waits, in the broker's own topic for that.
        recall_handle: by which `Client.cancel` finds a message that waits for its time; None for others.
        region_id: the broker's regionId.
        trace_on: whether the broker lets messages be traced (its traceOn).
    """

    status: SendStatus
    msg_id: str
    offset_msg_id: str
    queue: MessageQueue
    queue_offset: int
    recall_handle: str | None = None
    region_id: str = DEFAULT_REGION
    trace_on: bool = True
