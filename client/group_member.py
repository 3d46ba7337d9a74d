"""One membership in a consumer group: owns queues, pulls them, settles and commits (semantics.md §12)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from pymq.client.heartbeats import Heartbeats
from pymq.client.inbox import Inbox
from pymq.client.offset_store import OffsetStore
from pymq.client.process_queue import ProcessQueue
from pymq.client.pull_loop import PullLoop
from pymq.client.rebalance import Rebalance
from pymq.client.received import ReceivedMessage
from pymq.client.repeating import Repeating, end_tasks
from pymq.client.route_cache import RouteCache
from pymq.client.send_back import SendBack
from pymq.client.settings import Settings
from pymq.client.start_offset import StartOffset
from pymq.clock import Clock
from pymq.errors import PymqError, ResponseError
from pymq.protocol.bodies import (
    ConsumerData,
    ConsumerRunningInfo,
    ConsumeStatus,
    MessageModel,
    MessageQueue,
    ProcessQueueInfo,
    SubscriptionData,
)
from pymq.protocol.codes import VERSION_NAME, ResponseCode
from pymq.protocol.message import MessageRecord
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.consumer")

_SWEEPS = 10
"""How often within a consume time-out it is looked for messages that exceed it."""

_UNKNOWN_HERE = frozenset(
    (
        ResponseCode.SUBSCRIPTION_NOT_EXIST,
        ResponseCode.SUBSCRIPTION_NOT_LATEST,
        ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
    )
)
"""Refusals of a pull by a broker that a heartbeat may set right."""

_TIMED_OUT_DELAY_LEVEL = 3


class GroupMember:
    """The engine under a consumer. Messages go to `inbox`; it hears of them again as their `Settling`.

    Attributes:
        group: the group.
        inbox: what was pulled and is not handed out.
    """

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        heartbeats: Heartbeats,
        rebalance: Rebalance,
        offsets: OffsetStore,
        start_offset: StartOffset,
        send_back: SendBack,
        clock: Clock,
        settings: Settings,
        group: str,
        subscriptions: Iterable[SubscriptionData],
        *,
        broadcast: bool,
        prefetch: int,
        prefetch_bytes: int,
        consume_timeout_s: float,
    ) -> None:
        self.group = group
        self.inbox = Inbox()
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._rebalance = rebalance
        self._offsets = offsets
        self._start_offset = start_offset
        self._send_back = send_back
        self._clock = clock
        self._settings = settings
        self._subscriptions = {subscription.topic: subscription for subscription in subscriptions}
        self._broadcast = broadcast
        self._prefetch = prefetch
        self._prefetch_bytes = prefetch_bytes
        self._consume_timeout_s = consume_timeout_s
        self._started_ms = 0
        self._owned: dict[MessageQueue, ProcessQueue] = {}
        self._pulls: dict[MessageQueue, asyncio.Task[None]] = {}
        self._again: set[asyncio.TimerHandle] = set()
        self._backgrounds = [
            Repeating(f"rebalance of {group}", settings.rebalance_s, self._rebalance_all),
            Repeating(f"offsets of {group}", settings.commit_s, self._commit_all),
            Repeating(f"time-outs of {group}", consume_timeout_s / _SWEEPS, self._give_up_stuck),
        ]
        self._changing = asyncio.Lock()
        self._closed = False

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and own queues, as far as name servers and brokers can be reached now."""
        self._started_ms = self._clock.now_ms()
        self._routes.on_change(self._route_changed)
        for topic in self._subscriptions:
            self._routes.subscribe(topic)
            try:
                if await self._routes.refresh(topic) is None:
                    log.info("topic %s does not exist yet; waiting for it", topic)
            except PymqError as error:
                log.warning("topic %s: %s", topic, error)
        await self._heartbeats.add_consumer(self.group, self.describe)
        await self._rebalance_all()
        for background in self._backgrounds:
            background.start()

    async def close(self) -> None:
        """Leave the group: nothing more is handed out, what was settled is committed."""
        if self._closed:
            return
        self._closed = True
        self._routes.forget(self._route_changed)
        for topic in self._subscriptions:
            self._routes.unsubscribe(topic)
        self.inbox.close()
        for timer in self._again:
            timer.cancel()
        pulls = list(self._pulls.values())
        for pull in pulls:
            pull.cancel()
        await asyncio.gather(*[background.close() for background in self._backgrounds])
        committable = self._committable()
        for process_queue in self._owned.values():
            process_queue.drop()
        await end_tasks(*pulls)
        await self._offsets.commit(committable, wait=True)
        await self._heartbeats.remove_consumer(self.group)

    # -- owning queues ------------------------------------------------------------------------------

    def rebalance_soon(self) -> None:
        """Work out the owned queues anew, without waiting for it."""
        self._backgrounds[0].soon()

    def _route_changed(self, topic: str) -> None:
        if topic in self._subscriptions:
            self.rebalance_soon()

    async def _rebalance_all(self) -> None:
        async with self._changing:
            for topic in self._subscriptions:
                share = await self._rebalance.share(topic, of_all=self._broadcast)
                if share is not None:
                    await self._own(topic, share)

    async def _own(self, topic: str, share: list[MessageQueue]) -> None:
        gone = [queue for queue in self._owned if queue.topic == topic and queue not in share]
        await self._give_up(gone)
        come = [queue for queue in share if queue not in self._owned]
        begins = await asyncio.gather(*[self._begin(queue) for queue in come])
        for queue, offset in zip(come, begins, strict=True):
            if offset is not None and not self._closed:
                self._pull(ProcessQueue(queue, offset))
        if gone or come:
            log.info("group %s owns %d queues of %s (%d given up)", self.group, len(share), topic, len(gone))
            for process_queue in self._owned.values():
                process_queue.wake()  # the room of each depends on their number

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
        await end_tasks(*[self._pulls.pop(queue) for queue in queues])
        await self._offsets.commit(committable, wait=True)

    # -- pulling (Puller) ---------------------------------------------------------------------------

    def room(self, process_queue: ProcessQueue) -> int:
        """Each owned queue has the same part of what may be held in all."""
        owned = max(1, len(self._owned))
        if len(process_queue) and process_queue.size_bytes >= self._prefetch_bytes // owned:
            return 0
        if process_queue.span >= self._settings.max_span:
            return 0
        return max(1, self._prefetch // owned) - len(process_queue)

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """Hold messages and put them into the inbox."""
        for record in records:
            if process_queue.add(record.queue_offset, len(record.body)):
                self.inbox.put(process_queue, ReceivedMessage(record, process_queue.queue, self))

    def offset_moved(self, process_queue: ProcessQueue, offset: int) -> None:
        """As Puller.offset_moved. What is held of the queue is void; the new offset is committed soon."""
        process_queue.drop()
        self._pull(ProcessQueue(process_queue.queue, offset), self._settings.pull_retry_s)
        self._backgrounds[1].soon()

    def troubled(self, address: str, error: PymqError) -> None:
        """A pull failed: a broker that does not know the group hears of it; routes may be out of date."""
        if isinstance(error, ResponseError):
            if error.code in _UNKNOWN_HERE:
                self._heartbeats.doubt(address)
        else:
            self._routes.refresh_soon()

    # -- settling (Settling) ------------------------------------------------------------------------

    def hand_out(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """Somebody begins to handle this message."""
        process_queue.hand_out(message, self._clock.monotonic())

    def done(self, message: ReceivedMessage) -> None:
        """As Settling.done."""
        process_queue = self._hand_in(message)
        if process_queue is not None:
            process_queue.last_consume_ms = self._clock.now_ms()
            process_queue.settle(message.queue_offset)

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        """As Settling.failed: the broker takes it back, or else it is kept here and handed out once more."""
        process_queue = self._hand_in(message)
        if process_queue is None:
            return
        if self._broadcast:
            log.warning("%s failed and is not retried: the group is broadcasting", message)
        elif not await self._send_back.send(message, delay_level):
            self._put_again(process_queue, message, message.reconsume_times + 1, self._settings.local_retry_s)
            return
        process_queue.settle(message.queue_offset)

    def released(self, message: ReceivedMessage) -> None:
        """As Settling.released."""
        process_queue = self._hand_in(message)
        if process_queue is not None:
            self._put_again(process_queue, message, message.reconsume_times, 0.0)

    def _hand_in(self, message: ReceivedMessage) -> ProcessQueue | None:
        process_queue = self._owned.get(message.queue)
        return process_queue if process_queue is not None and process_queue.hand_in(message) else None

    def _put_again(
        self, process_queue: ProcessQueue, message: ReceivedMessage, reconsume_times: int, delay_s: float
    ) -> None:
        def put() -> None:
            self._again.discard(timer)
            self.inbox.put(process_queue, again)

        if not self._closed:
            again = ReceivedMessage(message.record, message.queue, self, reconsume_times)
            timer = asyncio.get_running_loop().call_later(delay_s, put)
            self._again.add(timer)

    async def _give_up_stuck(self) -> None:
        """Hand back what somebody has handled for longer than the consume time-out, settled or not."""
        before_s = self._clock.monotonic() - self._consume_timeout_s
        for process_queue in list(self._owned.values()):
            for message in process_queue.handed_out_before(before_s):
                log.warning("%s is not settled after %g s; it is retried", message, self._consume_timeout_s)
                await message.retry(_TIMED_OUT_DELAY_LEVEL)

    # -- offsets ------------------------------------------------------------------------------------

    def _committable(self) -> dict[MessageQueue, int]:
        return {queue: process_queue.committable for queue, process_queue in self._owned.items()}

    async def _commit_all(self) -> None:
        await self._offsets.commit(self._committable(), wait=False)

    async def reset(self, offsets: Mapping[MessageQueue, int]) -> None:
        """Go on at these offsets in those of the queues that are owned (semantics.md §12.9)."""
        async with self._changing:
            owned = {queue: offset for queue, offset in offsets.items() if queue in self._owned}
            for queue, offset in owned.items():
                log.info("group %s: %s is reset to offset %d", self.group, queue, offset)
                self._owned[queue].drop()
                await end_tasks(self._pulls.pop(queue))
                self._pull(ProcessQueue(queue, offset))
            await self._offsets.commit(owned, wait=True)

    # -- telling ------------------------------------------------------------------------------------

    def offsets(self, topic: str) -> dict[MessageQueue, int]:
        """How far this member has come in its queues of a topic."""
        return {queue: offset for queue, offset in self._committable().items() if queue.topic == topic}

    def queues(self) -> list[MessageQueue]:
        """The owned queues."""
        return sorted(self._owned)

    def describe(self) -> ConsumerData:
        """The member as heartbeats tell it."""
        return ConsumerData(
            self.group,
            message_model=MessageModel.BROADCASTING if self._broadcast else MessageModel.CLUSTERING,
            consume_from_where=self._start_offset.where,
            subscription_data_set=list(self._subscriptions.values()),
        )

    def running_info(self, name_servers: Iterable[str]) -> ConsumerRunningInfo:
        """The member as mqadmin's consumerStatus shows it (wire.md §5.2)."""
        properties = {
            "PROP_NAMESERVER_ADDR": "".join(f"{address};" for address in name_servers),
            "PROP_CONSUME_TYPE": self.describe().consume_type.value,
            "PROP_CONSUMEORDERLY": "false",
            "PROP_THREADPOOL_CORE_SIZE": "1",
            "PROP_CLIENT_VERSION": VERSION_NAME,
            "PROP_CONSUMER_START_TIMESTAMP": str(self._started_ms),
            "messageModel": self.describe().message_model.value,
            "consumeFromWhere": self._start_offset.where.value,
            "consumerGroup": self.group,
        }
        queues = {queue: _queue_info(process_queue) for queue, process_queue in self._owned.items()}
        statuses = {topic: ConsumeStatus() for topic in self._subscriptions}
        return ConsumerRunningInfo(properties, list(self._subscriptions.values()), queues, statuses)


def _queue_info(process_queue: ProcessQueue) -> ProcessQueueInfo:
    return ProcessQueueInfo(
        commit_offset=process_queue.committable,
        cached_msg_min_offset=process_queue.first_offset,
        cached_msg_max_offset=process_queue.last_offset,
        cached_msg_count=len(process_queue),
        cached_msg_size_in_mib=process_queue.size_bytes >> 20,
        droped=process_queue.is_dropped,
        last_pull_timestamp=process_queue.last_pull_ms,
        last_consume_timestamp=process_queue.last_consume_ms,
    )
