"""Ordered consumption: one message or batch of a queue at a time, in its order (semantics.md §4.6, §12.7)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection

from pymq.client.consume_figures import ConsumeFigures
from pymq.client.delivery import Owner
from pymq.client.handing_back import HandingBack, has_failed, pause_s
from pymq.client.held_locks import HeldLocks
from pymq.client.inbox import Inbox
from pymq.client.lane import Lane
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage, Recipient
from pymq.client.repeating import Repeating
from pymq.client.send_back import SendBack
from pymq.client.settings import Settings
from pymq.clock import Clock
from pymq.errors import ConfigError
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import MessageRecord

log = logging.getLogger("pymq.client.consumer")

SUSPEND_BOUNDS_S = (0.01, 30.0)
"""How long a queue may stand still after a failure (Apache's bounds of suspendCurrentQueueTimeMillis)."""

UNLIMITED_RETRIES = 2**31 - 1
"""What Java's ordered consumers take for maxReconsumeTimes when it is not set."""


class OrderedDelivery:
    """Gives out the messages of each queue one after the other; one that fails comes again in its place.

    A batch counts as one: what comes behind it waits until all of it is settled.

    With `locks` a queue is owned only while its lock is held, and it is given up only when nothing of it is
    being handled: so two members never handle messages of one queue at the same time, unless a handler goes
    on for a minute after the connection to its broker was lost. Without (broadcasting) all queues are owned.

    Attributes: as Delivery.
    """

    is_ordered = True

    def __init__(
        self,
        locks: HeldLocks | None,
        send_back: SendBack,
        clock: Clock,
        settings: Settings,
        recipient: Recipient,
        figures: ConsumeFigures,
        *,
        suspend_s: float,
        max_retries: int,
        consume_timeout_s: float,
    ) -> None:
        """After `max_retries` failures in a row a message goes to the dead letters, and the queue goes on.

        Raises ConfigError for a `suspend_s` out of bounds.
        """
        low, high = SUSPEND_BOUNDS_S
        if not low <= suspend_s <= high:
            raise ConfigError(f"suspend={suspend_s!r}: expected seconds from {low:g} to {high:g}")
        self.inbox = Inbox(self._may_be_taken)
        self.owned: dict[MessageQueue, ProcessQueue] = {}
        self.recipient = recipient
        self._locks = locks
        self._send_back = send_back
        self._clock = clock
        self._settings = settings
        self._figures = figures
        self._suspend_s = suspend_s
        self._max_retries = max_retries
        self._consume_timeout_s = consume_timeout_s
        self._lanes: dict[MessageQueue, Lane] = {}
        self._burying = HandingBack()
        self._owner: Owner | None = None
        self._renewals = Repeating("queue locks", settings.lock_renewal_s, self._renew)
        self._stopped = False

    # -- life ---------------------------------------------------------------------------------------

    def start(self, owner: Owner) -> None:
        """As Delivery.start."""
        self._owner = owner
        if self._locks is not None:
            self._renewals.start()

    async def stop(self) -> None:
        """As Delivery.stop. What is being handled has `surrender_s` to be settled, or stays locked."""
        self._stopped = True
        self.inbox.close()
        lanes = list(self._lanes.values())
        for lane in lanes:
            lane.end_rest()
        await asyncio.gather(self._all_settled(lanes), self._burying.finish(self._settings.close_timeout_s))

    async def close(self) -> None:
        """Unlock all queues but those of which a message is still being handled."""
        await self._burying.close()
        await self._renewals.close()
        busy = [queue for queue, lane in self._lanes.items() if lane.out]
        for queue in busy:
            log.warning(
                "%s is not settled: its queue stays locked to other members for up to a minute",
                next(iter(self._lanes[queue].out.values())),
            )
        if self._locks is not None:
            await self._locks.release(self._locks.held - set(busy))
        self._lanes.clear()

    # -- owning queues ------------------------------------------------------------------------------

    async def acquire(self, share: Collection[MessageQueue]) -> list[MessageQueue]:
        """As Delivery.acquire: those whose lock is held. It is tried again soon for the others."""
        for queue in share:
            lane = self._lanes.get(queue)
            if lane is not None and lane.is_leaving:
                lane.is_leaving = False
                self._offer(lane)
        if self._locks is None:
            return list(share)
        topics = {queue.topic for queue in share}
        await self._locks.release([q for q in self._locks.unanswered if q.topic in topics and q not in share])
        new = [queue for queue in share if queue not in self.owned]
        locked = await self._locks.acquire(new)
        if len(locked) < len(new) and self._owner is not None:
            self._owner.rebalance_soon(self._settings.lock_retry_s)
        return [queue for queue in share if queue in self.owned or queue in locked]

    async def surrender(self, queues: Collection[MessageQueue]) -> list[MessageQueue]:
        """As Delivery.surrender. When the last message of one of the others is settled, it is asked again."""
        lanes = [self._lanes[queue] for queue in queues if queue in self._lanes]
        for lane in lanes:
            lane.is_leaving = True
        await self._all_settled(lanes)
        return [queue for queue in queues if queue not in self._lanes or not self._lanes[queue].out]

    async def _all_settled(self, lanes: Collection[Lane]) -> None:
        """Wait until nothing of these is being handled, for `surrender_s` at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.surrender_s):
                for lane in lanes:
                    if lane.out:
                        await lane.idle.wait()

    async def release(self, queues: Collection[MessageQueue]) -> None:
        """As Delivery.release."""
        for queue in queues:
            if (lane := self._lanes.get(queue)) is not None:
                self._forget_if_idle(queue, lane)
        if self._locks is not None:
            await self._locks.release(queues)

    def doubt(self, address: str) -> None:
        """As Delivery.doubt: what is being handled goes on, but nothing more is given out for now."""
        if self._locks is not None and self._locks.doubt(address):
            self._renewals.soon()

    def locked_ms(self, queue: MessageQueue) -> int:
        """As Delivery.locked_ms."""
        return 0 if self._locks is None else self._locks.renewed_ms(queue)

    async def _renew(self) -> None:
        assert self._locks is not None
        assert self._owner is not None
        lost, is_complete = await self._locks.renew()
        if not is_complete:
            self._renewals.soon(self._settings.lock_retry_s)
        if lost:
            await self._owner.lose(lost)
            for queue in lost:
                if (lane := self._lanes.get(queue)) is not None:
                    self._forget_if_idle(queue, lane)
            self._owner.rebalance_soon(self._settings.lock_retry_s)
        for lane in self._lanes.values():
            self._offer(lane)

    def _forget_if_idle(self, queue: MessageQueue, lane: Lane) -> None:
        """Forget a queue that is not owned any more once nothing of it is being handled."""
        if not lane.out:
            lane.end_rest()
            del self._lanes[queue]

    # -- giving out ---------------------------------------------------------------------------------

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """As Delivery.arrived."""
        lane = self._lanes.get(process_queue.queue)
        if lane is None:
            lane = self._lanes[process_queue.queue] = Lane(process_queue)
        elif lane.process_queue is not process_queue:
            lane.begin(process_queue)
        for record in records:
            if process_queue.add(record.queue_offset, len(record.body)):
                lane.waiting.append(ReceivedMessage(record, process_queue.queue, self))
        self._offer(lane)

    def _may_go_on(self, lane: Lane) -> bool:
        return not lane.out and self._may_give_out(lane)

    def _may_give_out(self, lane: Lane) -> bool:
        return (
            lane.rest is None
            and not lane.is_leaving
            and not lane.process_queue.is_dropped
            and not self._stopped
            and (self._locks is None or self._locks.is_valid(lane.process_queue.queue))
        )

    def _offer(self, lane: Lane) -> None:
        """Put a queue's next message into the inbox, if it is its turn."""
        if lane.waiting and not lane.offered and self._may_go_on(lane):
            lane.offered = True
            self.inbox.put(lane.process_queue, lane.waiting[0])

    def _may_be_taken(self, process_queue: ProcessQueue, message: ReceivedMessage) -> bool:
        """Whether an offered message is still to be given out. If not, it is offered again in its time."""
        lane = self._lanes.get(message.source)
        if lane is None or not lane.waiting or lane.waiting[0] is not message:
            return False
        if self._may_go_on(lane):
            return True
        lane.offered = False
        return False

    # -- settling (Settling) ------------------------------------------------------------------------

    def hand_out(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """As Delivery.hand_out."""
        lane = self._lanes[message.source]
        lane.offered = False
        lane.told_stuck = False
        process_queue.hand_out(lane.hand_out(), self._clock.monotonic())

    def hand_out_behind(self, message: ReceivedMessage, count: int) -> list[ReceivedMessage]:
        """As Delivery.hand_out_behind: the next of its queue, which wait no longer for it."""
        lane = self._lane_of(message)
        batch: list[ReceivedMessage] = []
        while lane is not None and len(batch) < count and lane.waiting and self._may_give_out(lane):
            batch.append(lane.hand_out())
            lane.process_queue.hand_out(batch[-1], self._clock.monotonic())
        return batch

    def done(self, message: ReceivedMessage) -> None:
        """As Settling.done."""
        lane = self._lane_of(message)
        if lane is not None:
            self._settle(lane, message, is_done=True)

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        """As Settling.failed: it comes again after a pause, and its queue waits for it.

        With `delay_level` -1, or after too many failures, it goes to the dead letters, if they take it.
        """
        burying = self._fail(message, delay_level)
        if burying is not None:
            await asyncio.shield(burying)

    def _fail(self, message: ReceivedMessage, delay_level: int) -> asyncio.Task[None] | None:
        """Let it come again, or begin to bury it: then gives the task that does so."""
        lane = self._lane_of(message)
        if lane is None:
            return None
        if delay_level >= 0 and message.reconsume_times < self._max_retries:
            self._again(lane, message, message.again(message.reconsume_times + 1), self._suspend_s)
        elif self._locks is not None:
            return self._burying.start(self._bury(lane, message))
        else:
            log.warning("%s failed and is not retried: the group is broadcasting", message)
            self._settle(lane, message, is_done=False)
        return None

    async def _bury(self, lane: Lane, message: ReceivedMessage) -> None:
        is_buried = False
        try:
            is_buried = await self._send_back.bury(message)
        finally:  # whatever happens, the queue must not wait for it for ever
            if is_buried:
                self._settle(lane, message, is_done=False)
            else:
                self._again(lane, message, message.again(message.reconsume_times + 1), self._suspend_s)

    def released(self, message: ReceivedMessage) -> None:
        """As Settling.released."""
        lane = self._lane_of(message)
        if lane is None:
            return
        if has_failed(message) and not self._stopped:
            self._fail(message, 0)
        else:
            again = message.again()
            self._again(lane, message, again, pause_s(again.given_back, self._settings.local_retry_s))

    def _lane_of(self, message: ReceivedMessage) -> Lane | None:
        lane = self._lanes.get(message.source)
        return lane if lane is not None and lane.holds(message) else None

    def _settle(self, lane: Lane, message: ReceivedMessage, *, is_done: bool) -> None:
        process_queue = lane.process_queue
        if (since_s := process_queue.hand_in(message)) is not None:
            self._figures.handled(message.source.topic, since_s, is_done=is_done)
            process_queue.last_consume_ms = self._clock.now_ms()
            process_queue.settle(message.queue_offset)
        self._go_on(lane, message)

    def _again(self, lane: Lane, message: ReceivedMessage, again: ReceivedMessage, after_s: float) -> None:
        since_s = lane.process_queue.hand_in(message)
        if since_s is not None and again.given_back == 0:
            self._figures.handled(message.source.topic, since_s, is_done=False)
        if since_s is not None and not self._stopped:
            lane.failed.append(again)
            lane.pause_s = max(lane.pause_s, after_s)
        self._go_on(lane, message)

    def _rested(self, lane: Lane) -> None:
        lane.rest = None
        self._offer(lane)

    def _go_on(self, lane: Lane, message: ReceivedMessage) -> None:
        """A message was settled; when it was the last of its batch, the queue goes on."""
        must_rest = bool(lane.failed)
        if not lane.hand_in(message):
            return
        if must_rest:
            lane.rest = asyncio.get_running_loop().call_later(lane.pause_s, self._rested, lane)
            lane.pause_s = 0.0
        queue = lane.process_queue.queue
        if queue not in self.owned and self._lanes.get(queue) is lane:
            self._forget_if_idle(queue, lane)
        elif lane.is_leaving and self._owner is not None:
            self._owner.rebalance_soon()  # somebody waits for this queue
        self._offer(lane)

    async def give_up_stuck(self) -> None:
        """Tell of messages that hold up their queues. Nothing else: without them there is no order."""
        before_s = self._clock.monotonic() - self._consume_timeout_s
        for process_queue in list(self.owned.values()):
            for message in process_queue.handed_out_before(before_s):
                lane = self._lanes.get(message.source)
                if lane is not None and not lane.told_stuck:
                    lane.told_stuck = True
                    log.warning(
                        "%s is not settled after %g s; its queue waits for it",
                        message,
                        self._consume_timeout_s,
                    )
