"""One membership in a consumer group: owns queues, pulls them and commits (semantics.md §12)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping

from pymq.client.consume_figures import ConsumeFigures
from pymq.client.delivery import Delivery
from pymq.client.direct_consumption import consume_directly
from pymq.client.failures import ClientClosed
from pymq.client.flow_control import Room
from pymq.client.heartbeats import Heartbeats
from pymq.client.offset_store import OffsetStore
from pymq.client.process_queue import ProcessQueue
from pymq.client.pull_loop import PullLoop
from pymq.client.rebalance import Rebalance
from pymq.client.received import RETRY_TOPIC_PREFIX, ReceivedMessage
from pymq.client.repeating import Repeating, end_tasks
from pymq.client.route_cache import RouteCache
from pymq.client.running_state import running_info
from pymq.client.settings import Settings
from pymq.client.start_offset import StartOffset
from pymq.client.tracing import ConsumeTrace
from pymq.clock import Clock
from pymq.errors import PymqError, ResponseError
from pymq.protocol.bodies import (
    ConsumeMessageDirectlyResult,
    ConsumerData,
    ConsumerRunningInfo,
    MessageModel,
    MessageQueue,
    SubscriptionData,
)
from pymq.protocol.codes import ResponseCode
from pymq.protocol.message import MessageRecord
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.consumer")

_SWEEPS = 10
"""How often within a consume time-out it is looked for messages that exceed it."""

_LOOK_AGAIN_S = 0.1
"""Those who join one after the other let the retry queues be looked at together."""

_UNKNOWN_HERE = frozenset(
    (
        ResponseCode.SUBSCRIPTION_NOT_EXIST,
        ResponseCode.SUBSCRIPTION_NOT_LATEST,
        ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
    )
)
"""Refusals of a pull by a broker that a heartbeat may set right."""


class GroupMember:
    """The engine under a consumer: pulls the queues that it owns. `delivery` gives their messages out.

    Attributes:
        group: the group.
        inbox: what was pulled and may be handed out.
    """

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        heartbeats: Heartbeats,
        rebalance: Rebalance,
        offsets: OffsetStore,
        start_offset: StartOffset,
        delivery: Delivery,
        figures: ConsumeFigures,
        clock: Clock,
        settings: Settings,
        group: str,
        subscriptions: Iterable[SubscriptionData],
        *,
        broadcast: bool,
        room: Room,
        consume_timeout_s: float,
        trace: ConsumeTrace | None = None,
    ) -> None:
        self.group = group
        self.inbox = delivery.inbox
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._rebalance = rebalance
        self._offsets = offsets
        self._start_offset = start_offset
        self._delivery = delivery
        self._figures = figures
        self._clock = clock
        self._settings = settings
        self._subscriptions = {subscription.topic: subscription for subscription in subscriptions}
        self._broadcast = broadcast
        self._room = room
        self._trace = trace
        self._started_ms = 0
        self._owned = delivery.owned
        self._share_sizes: dict[str, int] = {}
        self._pulls: dict[MessageQueue, asyncio.Task[None]] = {}
        self._backgrounds = [
            Repeating(f"rebalance of {group}", settings.rebalance_s, self._rebalance_all),
            Repeating(f"offsets of {group}", settings.commit_s, self._commit_all),
            Repeating(f"time-outs of {group}", consume_timeout_s / _SWEEPS, delivery.give_up_stuck),
            Repeating(f"retry queues of {group}", settings.poll_name_server_s, self._refresh_retry_route),
        ]
        self._changing = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._reset_last: dict[MessageQueue, int] = {}

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and own queues, as far as name servers and brokers can be reached now.

        Raises ClientClosed when it is closed meanwhile.
        """
        self._started_ms = self._clock.now_ms()
        self._routes.on_change(self._route_changed)
        for topic in self._subscriptions:
            self._routes.subscribe(topic)
        for topic in self._subscriptions:
            try:
                if await self._routes.refresh(topic) is None:
                    log.info("topic %s does not exist yet; waiting for it", topic)
            except PymqError as error:
                log.warning("topic %s: %s", topic, error)
            self._check_open()
        self._delivery.start(self)
        await self._heartbeats.add_consumer(self.group, self.describe)
        self._check_open()
        for background in self._backgrounds:
            background.start()  # before the first rebalance, which may ask for another one soon
        await self._rebalance_all()
        self._check_open()

    async def close(self) -> None:
        """Leave the group: nothing more is handed out, what was settled is committed.

        Once begun this goes on to its end, though who asked for it is cancelled: half a member would hold its
        queues for ever. Who asks again waits for the same.
        """
        await asyncio.shield(self.begin_close())

    def begin_close(self) -> asyncio.Task[None]:
        """Begin to leave the group, unless that has begun already; gives the task that does it."""
        if self._closing is None:
            name = f"pymq leaving {self.group}"
            self._closing = asyncio.get_running_loop().create_task(self._leave(), name=name)
        return self._closing

    @property
    def is_closing(self) -> bool:
        """Whether it leaves the group, or has left it."""
        return self._closing is not None

    def _check_open(self) -> None:
        if self._closing is not None:
            raise ClientClosed(f"the consumer of group {self.group} was closed while it was starting")

    async def _leave(self) -> None:
        self._routes.forget(self._route_changed)
        for topic in self._subscriptions:
            self._routes.unsubscribe(topic)
        try:
            # Committed at once what can be: a broker that is silent is waited for once, beside the rest.
            early = self._offsets.commit(self._committable(), wait=True)
            await asyncio.gather(self._delivery.stop(), early)
            pulls = list(self._pulls.values())
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*[background.close() for background in self._backgrounds])
            committable = self._committable()
            for process_queue in self._owned.values():
                process_queue.drop()
            await end_tasks(*pulls)
            last = committable | self._reset_last
            await self._offsets.commit(last, wait=True, unless_silent=True)
            await self._delivery.close()
        finally:
            await self._heartbeats.remove_consumer(self.group)
            await end_tasks(*self._pulls.values())  # those of a change that was under way

    # -- owning queues ------------------------------------------------------------------------------

    def rebalance_soon(self, delay_s: float = 0.0) -> None:
        """Work out the owned queues anew, in `delay_s` seconds at the latest, without waiting for it."""
        self._backgrounds[0].soon(delay_s)

    @property
    def is_ordered(self) -> bool:
        """Whether each queue keeps its order."""
        return self._delivery.is_ordered

    def group_changed(self) -> None:
        """A broker says so: somebody has joined or left, or the group has more retry queues."""
        self.rebalance_soon()
        self._backgrounds[-1].soon(_LOOK_AGAIN_S)

    async def _refresh_retry_route(self) -> None:
        if not self._broadcast:
            await self._routes.refresh(RETRY_TOPIC_PREFIX + self.group)

    def _route_changed(self, topic: str) -> None:
        if topic in self._subscriptions:
            self.rebalance_soon()

    async def _rebalance_all(self) -> None:
        async with self._changing:
            topics = list(self._subscriptions)
            asked = [self._rebalance.share(topic, of_all=self._broadcast) for topic in topics]
            shares = dict(zip(topics, await asyncio.gather(*asked), strict=True))
            # All are counted before the first is pulled: the room of each queue depends on their number.
            for topic, share in shares.items():
                if share is not None:
                    self._share_sizes[topic] = len(share)
            for topic, share in shares.items():
                if share is not None:
                    await self._own(topic, share)

    async def _own(self, topic: str, share: list[MessageQueue]) -> None:
        gone = [queue for queue in self._owned if queue.topic == topic and queue not in share]
        gone = await self._delivery.surrender(gone)
        await self._give_up(gone)
        come = [queue for queue in await self._delivery.acquire(share) if queue not in self._owned]
        begins = await asyncio.gather(*[self._begin(queue) for queue in come])
        for queue, offset in zip(come, begins, strict=True):
            if offset is not None and not self.is_closing:
                self._pull(ProcessQueue(queue, offset))
        await self._delivery.release([queue for queue in come if queue not in self._owned])
        if gone or come:
            log.info("group %s owns %d queues of %s (%d given up)", self.group, len(share), topic, len(gone))
            for process_queue in self._owned.values():
                process_queue.wake()  # the room of each depends on their number
        self._offsets.confirm([queue for queue in share if self._is_sure_of(queue)])

    def _is_sure_of(self, queue: MessageQueue) -> bool:
        """Whether a queue of this member's share is owned; with order, that is, whether its lock is valid."""
        return queue in self._owned and (not self.is_ordered or self._delivery.locked_ms(queue) > 0)

    async def _begin(self, queue: MessageQueue) -> int | None:
        """The offset to begin at, None when it cannot be found out now: the next rebalance tries again."""
        try:
            offset = await self._offsets.read(queue)
            return await self._start_offset.find(queue) if offset is None else offset
        except PymqError as error:
            log.warning("where to begin in %s: %s", queue, error)
            return None

    def _pull(self, process_queue: ProcessQueue, delay_s: float = 0.0) -> None:
        queue = process_queue.queue
        loop = PullLoop(
            self._pool,
            self._routes,
            self._clock,
            self._settings,
            self.group,
            self._subscriptions[queue.topic],
            process_queue,
            self,
        )
        name = f"pymq pull {queue.topic} {queue.broker_name}:{queue.queue_id}"
        self._owned[queue] = process_queue
        self._pulls[queue] = asyncio.get_running_loop().create_task(loop.run(delay_s), name=name)

    async def _give_up(self, queues: list[MessageQueue]) -> None:
        committable = {queue: self._owned[queue].committable for queue in queues}
        for queue in queues:
            self._owned.pop(queue).drop()
        if queues:
            self.inbox.forget_dropped()
        await end_tasks(*[self._pulls.pop(queue) for queue in queues])
        await self._offsets.commit(committable, wait=True)
        await self._delivery.release(queues)

    async def lose(self, queues: Collection[MessageQueue]) -> None:
        """As Owner.lose. A commit could set back what the new owner has committed."""
        async with self._changing:
            lost = [queue for queue in queues if queue in self._owned]
            for queue in lost:
                log.warning("group %s: %s is another member's now", self.group, queue)
                self._owned.pop(queue).drop()
            self.inbox.forget_dropped()
            await end_tasks(*[self._pulls.pop(queue) for queue in lost])

    # -- pulling (Puller) ---------------------------------------------------------------------------

    def room(self, process_queue: ProcessQueue) -> int:
        """As Puller.room."""
        owned = max(1, len(self._owned), sum(self._share_sizes.values()))
        of_topic = max(1, self._share_sizes.get(process_queue.queue.topic, 1))
        return self._room.left(process_queue, owned, of_topic)

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """As Puller.arrived."""
        took_ms = max(0, self._clock.now_ms() - process_queue.last_pull_ms)
        self._figures.pulled(process_queue.queue.topic, len(records), took_ms / 1000)
        self._delivery.arrived(process_queue, records)

    def offset_moved(self, process_queue: ProcessQueue, offset: int) -> None:
        """As Puller.offset_moved. What is held of the queue is void; the new offset is committed soon."""
        process_queue.drop()
        self.inbox.forget_dropped()
        self._pull(ProcessQueue(process_queue.queue, offset), self._settings.pull_retry_s)
        self._backgrounds[1].soon()

    def troubled(self, address: str, error: PymqError) -> None:
        """A pull failed: a broker that does not know the group hears of it; routes may be out of date."""
        if isinstance(error, ResponseError):
            if error.code in _UNKNOWN_HERE:
                self._heartbeats.doubt(address)
        else:
            self._routes.refresh_soon()

    def connection_lost(self, address: str) -> None:
        """The connection to a broker has ended."""
        self._delivery.doubt(address)

    def hand_out(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """Somebody begins to handle this message."""
        if process_queue.is_direct:
            process_queue.hand_out(message, self._clock.monotonic())
            return
        began_s = self._clock.monotonic()
        self._delivery.hand_out(process_queue, message)
        if self._trace is not None:
            self._trace.begin(message, began_s)

    def hand_out_behind(self, message: ReceivedMessage, count: int) -> list[ReceivedMessage]:
        """Up to `count` messages that may be handled together with one that was just handed out."""
        began_s = self._clock.monotonic()
        behind = self._delivery.hand_out_behind(message, count)
        if self._trace is not None:
            for each in behind:
                self._trace.begin(each, began_s)
        return behind

    # -- offsets ------------------------------------------------------------------------------------

    def _committable(self) -> dict[MessageQueue, int]:
        return {queue: process_queue.committable for queue, process_queue in self._owned.items()}

    async def _commit_all(self) -> None:
        await self._offsets.commit(self._committable(), wait=False)

    async def reset(self, offsets: Mapping[MessageQueue, int]) -> None:
        """Go on at these offsets in those of the queues that are owned (semantics.md §12.9).

        A member that is leaving only commits them, as the last it says about these queues.
        """
        async with self._changing:
            owned = {queue: offset for queue, offset in offsets.items() if queue in self._owned}
            for queue, offset in owned.items():
                log.info("group %s: %s is reset to offset %d", self.group, queue, offset)
                self._owned[queue].drop()
                await end_tasks(self._pulls.pop(queue))
                if self.is_closing:
                    self._reset_last[queue] = offset
                else:
                    self._pull(ProcessQueue(queue, offset))
            self.inbox.forget_dropped()
            # In any case: the broker believes what this member commits once it has committed this.
            await self._offsets.commit(owned, wait=True, anew=True)

    # -- telling ------------------------------------------------------------------------------------

    def offsets(self, topic: str) -> dict[MessageQueue, int]:
        """How far this member has come in its queues of a topic."""
        return {queue: offset for queue, offset in self._committable().items() if queue.topic == topic}

    def queues(self) -> list[MessageQueue]:
        """The owned queues, as the user knows them."""
        namespace = self._delivery.recipient.namespace
        return sorted(map(namespace.unwrap_queue, self._owned))

    async def consume_directly(self, record: MessageRecord, broker: str) -> ConsumeMessageDirectlyResult:
        """Have one message handled, without effect on its queue. Raises ResponseError when nobody does."""
        delivery, inbox = self._delivery, self.inbox
        is_ordered = delivery.is_ordered
        return await consume_directly(
            inbox, delivery.recipient, self._clock, record, broker, is_ordered=is_ordered
        )

    def describe(self) -> ConsumerData:
        """The member as heartbeats tell it."""
        return ConsumerData(
            self.group,
            message_model=MessageModel.BROADCASTING if self._broadcast else MessageModel.CLUSTERING,
            consume_from_where=self._start_offset.where,
            subscription_data_set=list(self._subscriptions.values()),
        )

    def running_info(self, name_servers: Iterable[str]) -> ConsumerRunningInfo:
        """The member as mqadmin's consumerStatus shows it."""
        return running_info(self.describe(), self._delivery, self._figures, name_servers, self._started_ms)
