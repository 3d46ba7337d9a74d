"""One request of a producer: what is sent, where to, and what the broker says of it."""

from __future__ import annotations

import msgspec

from pymq.client.failures import Attempt
from pymq.client.outgoing import Outgoing
from pymq.client.queue_choice import QueueSelector
from pymq.client.send_result import STATUS_BY_CODE, SendResult
from pymq.client.turns import Turn
from pymq.errors import ResponseError
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.command import Command
from pymq.protocol.headers.messaging import SendMessageResponse, SendTimedMessageResponse
from pymq.protocol.recall_handles import recall_handle


class Sending(msgspec.Struct):
    """What is sent, and where to, until when, and what was tried so far.

    Attributes:
        topic: the topic.
        outgoing: the message, or the batch.
        deadline: time of the loop at which to give up.
        started: time of the loop at which it began.
        shard_by: leads to its queue, unless None.
        queue: its very queue, unless None.
        near: name of the broker that is tried first, if it has the topic.
        select: picks its queue when the route is known, unless None.
        is_async: nobody waits for it (`send_nowait`).
        turn: over when it is written, unless None.
        attempts: the tries that failed.
        results: what a broker said that has stored it less safely than it should.
    """

    topic: str
    outgoing: Outgoing
    deadline: float
    started: float
    shard_by: str | None = None
    queue: MessageQueue | None = None
    near: str | None = None
    select: QueueSelector | None = None
    is_async: bool = False
    turn: Turn | None = None
    attempts: list[Attempt] = []
    results: list[SendResult] = []

    @property
    def is_bound(self) -> bool:
        """Whether it may go to one queue only."""
        return self.queue is not None or self.shard_by is not None or self.select is not None


def read_results(sending: Sending, queue: MessageQueue, command: Command, address: str) -> list[SendResult]:
    """What the broker at `address` says of every message in it. Raises ResponseError, HeaderError."""
    status = STATUS_BY_CODE.get(command.code)
    if status is None:
        raise ResponseError(command.code, command.remark or "", address)
    header = command.read(SendMessageResponse)
    if header.queue_id != queue.queue_id:
        queue = MessageQueue(queue.topic, queue.broker_name, header.queue_id)
    region, trace_on = header.msg_region, header.trace_on != "false"
    if not sending.outgoing.is_batch:
        handle = _recall_handle(sending, queue, command) if sending.outgoing.is_timed else None
        return [
            SendResult(
                status, sending.outgoing.msg_id, header.msg_id, queue, header.queue_offset, handle,
                region, trace_on,
            )
        ]  # fmt: skip
    msg_ids = sending.outgoing.msg_id.split(",")
    offset_ids = header.msg_id.split(",")
    if len(offset_ids) != len(msg_ids):
        offset_ids = [""] * len(msg_ids)
    return [
        SendResult(status, msg_id, offset_id, queue, header.queue_offset + place, None, region, trace_on)
        for place, (msg_id, offset_id) in enumerate(zip(msg_ids, offset_ids, strict=True))
    ]


def _recall_handle(sending: Sending, queue: MessageQueue, command: Command) -> str | None:
    """What the message can be cancelled by: the broker says it from 5.3.2 on, and pymq's."""
    outgoing = sending.outgoing
    told = command.read(SendTimedMessageResponse).recall_handle
    if told is None and outgoing.deliver_ms:
        return recall_handle(sending.topic, queue.broker_name, outgoing.deliver_ms, outgoing.msg_id)
    return told
