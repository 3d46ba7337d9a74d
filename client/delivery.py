"""Giving out the messages of the owned queues, and what becomes of them; here: side by side, as they come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Literal, Protocol

from pymq.client.consume_figures import ConsumeFigures
from pymq.client.handing_back import GIVEN_BACK_MAX, HandingBack, has_failed, pause_s
from pymq.client.inbox import Inbox
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage, Recipient, Settling
from pymq.client.send_back import SendBack
from pymq.client.settings import Settings
from pymq.clock import Clock
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import MessageRecord

log = logging.getLogger("pymq.client.consumer")

Order = Literal["concurrent", "ordered"]
"""`concurrent`: messages side by side; `ordered`: one, or a batch, of each queue at a time, in its order."""

_TIMED_OUT_DELAY_LEVEL = 3


class Owner(Protocol):
    """The group member whose queues these are."""

    async def lose(self, queues: Collection[MessageQueue]) -> None:
        """These are another member's already: stop pulling them, and commit nothing of them."""
        ...

    def rebalance_soon(self, delay_s: float = 0.0) -> None:
        """Work out the owned queues anew, in `delay_s` seconds at the latest."""
        ...


class Delivery(Settling, Protocol):
    """How messages are given out.

    Attributes:
        inbox: what may be given out now.
        owned: the owned queues; the group member changes it.
        is_ordered: whether each queue keeps its order.
    """

    inbox: Inbox
    owned: dict[MessageQueue, ProcessQueue]
    is_ordered: bool

    def start(self, owner: Owner) -> None:
        """Begin."""
        ...

    async def stop(self) -> None:
        """Give out nothing more, and let what is being handed back get there."""
        ...

    async def close(self) -> None:
        """All queues were given up."""
        ...

    async def acquire(self, share: Collection[MessageQueue]) -> list[MessageQueue]:
        """Those of this member's share that it may pull: they are nobody else's any more."""
        ...

    async def surrender(self, queues: Collection[MessageQueue]) -> list[MessageQueue]:
        """Those of these that may be given up now; of the others a message is still being handled."""
        ...

    async def release(self, queues: Collection[MessageQueue]) -> None:
        """These were given up and committed: others may have them."""
        ...

    def doubt(self, address: str) -> None:
        """The connection to a broker was lost: what it promised may have been forgotten."""
        ...

    def locked_ms(self, queue: MessageQueue) -> int:
        """When the queue's lock was last renewed, ms since 1970; 0 where it is not locked."""
        ...

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """These were pulled, in the order of the queue."""
        ...

    def hand_out(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """Somebody took this message from the inbox and begins to handle it."""
        ...

    def hand_out_behind(self, message: ReceivedMessage, count: int) -> list[ReceivedMessage]:
        """Up to `count` of those that come next in the queue of a message which was just handed out, to be
        handled together with it: where each queue keeps its order. Elsewhere none."""
        ...

    async def give_up_stuck(self) -> None:
        """Look for messages that somebody handles for longer than the consume time-out."""
        ...


class ConcurrentDelivery:
    """Every message is given out at once; what fails is sent back to its broker, which brings it again.

    Attributes: as Delivery.
    """

    is_ordered = False

    def __init__(
        self,
        send_back: SendBack,
        clock: Clock,
        settings: Settings,
        recipient: Recipient,
        figures: ConsumeFigures,
        *,
        broadcast: bool,
        consume_timeout_s: float,
    ) -> None:
        self.inbox = Inbox()
        self.owned: dict[MessageQueue, ProcessQueue] = {}
        self.recipient = recipient
        self._send_back = send_back
        self._clock = clock
        self._settings = settings
        self._figures = figures
        self._broadcast = broadcast
        self._consume_timeout_s = consume_timeout_s
        self._again: set[asyncio.TimerHandle] = set()
        self._handing_back = HandingBack()
        self._stopped = False

    def start(self, owner: Owner) -> None:
        """As Delivery.start."""

    async def stop(self) -> None:
        """As Delivery.stop."""
        self._stopped = True
        self.inbox.close()
        for timer in self._again:
            timer.cancel()
        await self._handing_back.finish(self._settings.close_timeout_s)

    async def close(self) -> None:
        """As Delivery.close."""
        await self._handing_back.close()

    async def acquire(self, share: Collection[MessageQueue]) -> list[MessageQueue]:
        """All of them: two members may own a queue for a moment, as with Apache's clients."""
        return list(share)

    async def surrender(self, queues: Collection[MessageQueue]) -> list[MessageQueue]:
        """All of them: what is still being handled comes again elsewhere."""
        return list(queues)

    async def release(self, queues: Collection[MessageQueue]) -> None:
        """As Delivery.release."""

    def doubt(self, address: str) -> None:
        """As Delivery.doubt."""

    def locked_ms(self, queue: MessageQueue) -> int:
        """As Delivery.locked_ms."""
        return 0

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """Hold messages and put them into the inbox."""
        for record in records:
            if process_queue.add(record.queue_offset, len(record.body)):
                self.inbox.put(process_queue, ReceivedMessage(record, process_queue.queue, self))

    # -- settling (Settling) ------------------------------------------------------------------------

    def hand_out(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """As Delivery.hand_out."""
        process_queue.hand_out(message, self._clock.monotonic())

    def hand_out_behind(self, message: ReceivedMessage, count: int) -> list[ReceivedMessage]:
        """As Delivery.hand_out_behind."""
        return []

    def done(self, message: ReceivedMessage) -> None:
        """As Settling.done."""
        process_queue = self._hand_in(message, is_done=True)
        if process_queue is not None:
            process_queue.last_consume_ms = self._clock.now_ms()
            process_queue.settle(message.queue_offset)

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        """As Settling.failed: the broker takes it back, or else it is kept here and handed out once more."""
        process_queue = self._hand_in(message, is_done=False)
        if process_queue is not None:
            await self._handing_back.run(self._hand_back(process_queue, message, delay_level))

    async def _hand_back(
        self, process_queue: ProcessQueue, message: ReceivedMessage, delay_level: int
    ) -> None:
        if self._broadcast:
            log.warning("%s failed and is not retried: the group is broadcasting", message)
            process_queue.settle(message.queue_offset)
        elif await self._send_back.send(message, delay_level):
            process_queue.settle(message.queue_offset)
        else:
            again = message.again(message.reconsume_times + 1)
            self._put_again(process_queue, again, self._settings.local_retry_s)

    def released(self, message: ReceivedMessage) -> None:
        """As Settling.released."""
        is_last_time = message.given_back >= GIVEN_BACK_MAX
        process_queue = self._hand_in(message, is_done=False if is_last_time else None)
        if process_queue is None:
            return
        if has_failed(message) and not self._stopped:
            self._handing_back.start(self._hand_back(process_queue, message, 0))
        else:
            again = message.again()
            self._put_again(process_queue, again, pause_s(again.given_back, self._settings.local_retry_s))

    def _hand_in(self, message: ReceivedMessage, is_done: bool | None = None) -> ProcessQueue | None:
        """The queue of a message, if it is owned still; `is_done` is None where its handling was given up."""
        process_queue = self.owned.get(message.source)
        since_s = None if process_queue is None else process_queue.hand_in(message)
        if since_s is None:
            return None
        if is_done is not None:
            self._figures.handled(message.source.topic, since_s, is_done=is_done)
        return process_queue

    def _put_again(self, process_queue: ProcessQueue, again: ReceivedMessage, delay_s: float) -> None:
        def put() -> None:
            self._again.discard(timer)
            self.inbox.put(process_queue, again)

        if not self._stopped:
            timer = asyncio.get_running_loop().call_later(delay_s, put)
            self._again.add(timer)

    async def give_up_stuck(self) -> None:
        """Hand back what somebody has handled for longer than the consume time-out, settled or not."""
        before_s = self._clock.monotonic() - self._consume_timeout_s
        stuck = [process_queue.handed_out_before(before_s) for process_queue in self.owned.values()]
        await asyncio.gather(*[self._give_up(messages) for messages in stuck if messages])

    async def _give_up(self, messages: list[ReceivedMessage]) -> None:
        for message in messages:
            if not message.is_settled:
                log.warning("%s is not settled after %g s; it is retried", message, self._consume_timeout_s)
                await message.retry(_TIMED_OUT_DELAY_LEVEL)
