"""One stored message, handled now because a tool wants it (CONSUME_MESSAGE_DIRECTLY; semantics.md §13)."""

from __future__ import annotations

import asyncio

from pymq.client.inbox import Inbox
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage, Recipient
from pymq.clock import Clock
from pymq.errors import ResponseError
from pymq.protocol.bodies import ConsumeMessageDirectlyResult, DirectResult, MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.message import MessageRecord
from pymq.protocol.trace_data import ConsumeReturnType

PATIENCE_S = 10.0
"""As long as the broker waits for the answer (semantics.md §10)."""

_RESULTS = {
    ConsumeReturnType.SUCCESS: DirectResult.SUCCESS,
    ConsumeReturnType.FAILED: DirectResult.LATER,
    ConsumeReturnType.EXCEPTION: DirectResult.THROW_EXCEPTION,
    ConsumeReturnType.RETURNNULL: DirectResult.RETURN_NULL,
}
"""How the handling ended → what the tool is told; RETURN_NULL: it was cancelled."""


class _Nothing:
    """Settling that has no effect: no offset moves, and nothing is sent back."""

    def __init__(self, recipient: Recipient) -> None:
        self.recipient = recipient

    def done(self, message: ReceivedMessage) -> None:
        """As Settling.done."""

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        """As Settling.failed."""

    def released(self, message: ReceivedMessage) -> None:
        """As Settling.released."""


class _DirectQueue(ProcessQueue):
    """The message's queue, of which nothing is owned here."""

    is_direct = True

    def __init__(self, queue: MessageQueue) -> None:
        super().__init__(queue, 0)
        self.began_s: float | None = None

    def hand_out(self, message: ReceivedMessage, now_s: float) -> None:
        """As ProcessQueue.hand_out."""
        self.began_s = now_s


async def consume_directly(
    inbox: Inbox,
    recipient: Recipient,
    clock: Clock,
    record: MessageRecord,
    broker_name: str,
    *,
    is_ordered: bool,
) -> ConsumeMessageDirectlyResult:
    """Let whoever takes messages from `inbox` handle this one next to the others, and tell how that ended.

    Raises ResponseError when nobody has within 10 s.
    """
    queue = _DirectQueue(MessageQueue(record.topic, broker_name, record.queue_id))
    message = ReceivedMessage(record, queue.queue, _Nothing(recipient))
    ended: asyncio.Future[ConsumeReturnType] = asyncio.get_running_loop().create_future()

    def settled(how: ConsumeReturnType) -> None:
        if not ended.done():
            ended.set_result(how)

    message.when_settled = settled
    inbox.put(queue, message)
    try:
        async with asyncio.timeout(PATIENCE_S):
            how = await ended
    except TimeoutError:
        is_taken = "is not done with it" if queue.began_s is not None else "takes no messages"
        text = f"the consumer {is_taken} after {PATIENCE_S:g} s"
        raise ResponseError(ResponseCode.SYSTEM_ERROR, text) from None
    finally:
        queue.drop()
        inbox.forget_dropped()
    spent_s = 0.0 if queue.began_s is None else clock.monotonic() - queue.began_s
    return ConsumeMessageDirectlyResult(_RESULTS[how], is_ordered, spent_time_mills=round(spent_s * 1000))
