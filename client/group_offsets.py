"""Where groups stand, and moving them: lag, resetting, cloning (semantics.md §7, Part C)."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping
from typing import Literal, TypeVar

import msgspec

from pymq.client.failures import GroupNotFound, MoveRefused, RouteNotFound
from pymq.client.namespace import Namespace
from pymq.client.received import RETRY_TOPIC_PREFIX
from pymq.client.route_cache import RouteCache
from pymq.client.topic_route import TopicRoute
from pymq.clock import Clock
from pymq.errors import ConnectFailed, ResponseError
from pymq.protocol.bodies import (
    MASTER_ID,
    ConsumeStats,
    ConsumeTimeSpans,
    MessageModel,
    MessageQueue,
    OffsetWrapper,
    QueueTimeSpan,
    ResetOffsetBody,
)
from pymq.protocol.bodies.connections import ConsumerConnection
from pymq.protocol.codes import ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import (
    CloneGroupOffsetRequest,
    GetConsumerConnectionListRequest,
    GetConsumeStatsRequest,
    InvokeBrokerToResetOffsetRequest,
    QueryConsumeTimeSpanRequest,
)
from pymq.protocol.headers.messaging import (
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    OffsetResponse,
    SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.pool import Pool, Reply

ResetTo = Literal["first", "last"] | datetime.datetime | int | Mapping[MessageQueue, int]
"""Where a group is to go on: at the first message that is stored, behind the last, at those stored since a
time, at one offset in every queue, or at an offset of its own in each queue that is named."""

_FIRST_MS = 0
_LAST_MS = -1
_NO_OFFSET = "not exist"
"""In the broker's remark, when the group has no offset in some queue."""
_NONE_ONLINE = (ResponseCode.SUCCESS, ResponseCode.CONSUMER_NOT_ONLINE)

T = TypeVar("T")


class QueueLag(msgspec.Struct, frozen=True):
    """How far a group is in one queue.

    Attributes:
        queue: the queue.
        broker_offset: the number that the queue's next message will get.
        consumer_offset: the number of the message that the group goes on at, as committed; 0 where it has
            committed nothing.
        last_consumed: when the last message that it has consumed was stored; None when there is none.
        behind: how old the first message is that it has not consumed: 0 when there is none, None when the
            broker does not tell.
    """

    queue: MessageQueue
    broker_offset: int
    consumer_offset: int
    last_consumed: datetime.datetime | None
    behind: datetime.timedelta | None

    @property
    def messages(self) -> int:
        """How many messages it has not consumed, whether it subscribes their tags or not."""
        return max(0, self.broker_offset - self.consumer_offset)


class GroupLag(msgspec.Struct, frozen=True):
    """How far a group is in its queues, those of its retry topic among them, by topic, broker and queue."""

    group: str
    queues: tuple[QueueLag, ...]

    @property
    def messages(self) -> int:
        """How many messages it has not consumed."""
        return sum(each.messages for each in self.queues)

    @property
    def behind(self) -> datetime.timedelta:
        """How old the oldest message is that it has not consumed; 0 when there is none."""
        known = [each.behind for each in self.queues if each.behind is not None]
        return max(known, default=datetime.timedelta())


class GroupOffsets:
    """Asks the brokers where groups stand, and moves them. Names are the user's, without the namespace."""

    def __init__(
        self, pool: Pool, routes: RouteCache, namespace: Namespace, clock: Clock, timeout_s: float
    ) -> None:
        """`timeout_s` holds for each request."""
        self._pool = pool
        self._routes = routes
        self._namespace = namespace
        self._clock = clock
        self._timeout_s = timeout_s

    # -- lag ----------------------------------------------------------------------------------------

    async def lag(self, group: str, topic: str | None) -> GroupLag:
        """As `Client.lag`."""
        wrapped = self._namespace.wrap(group)
        wanted = None if topic is None else self._namespace.wrap(topic)
        route = await self._routes.refresh(RETRY_TOPIC_PREFIX + wrapped)
        if route is None:
            rows = await self._lag_of_new(wrapped, topic)
            if not rows:
                raise GroupNotFound(group, self._routes.name_servers)
        else:
            asked = [self._lag_at(_any_replica(route, name), wrapped, wanted) for name in route.brokers]
            rows = [row for part in await asyncio.gather(*asked) for row in part]
        return GroupLag(group, tuple(sorted(rows, key=lambda row: row.queue)))

    async def _lag_of_new(self, group: str, topic: str | None) -> list[QueueLag]:
        """Of a group that no consumer was in yet; it may have offsets all the same, as `clone` sets them.

        Without a topic that it has been told only the brokers of those topics are asked that are known here.
        """
        if topic is not None:
            await self._routes.refresh(self._namespace.wrap(topic))
        addresses = self._routes.addresses(masters_only=True)
        parts = await asyncio.gather(*[self._lag_at(address, group, None) for address in addresses])
        return [row for part in parts for row in part if topic is None or row.queue.topic == topic]

    async def _lag_at(self, address: str, group: str, topic: str | None) -> list[QueueLag]:
        reply = await self._call(address, GetConsumeStatsRequest(group, topic))
        table = ConsumeStats.decode(reply.body).offset_table
        late = {queue.topic for queue, row in table.items() if row.broker_offset > row.consumer_offset}
        spans: dict[MessageQueue, QueueTimeSpan] = {}
        for each in sorted(late):
            reply = await self._call(address, QueryConsumeTimeSpanRequest(each, group))
            found = ConsumeTimeSpans.decode(reply.body).consume_time_span_set
            spans |= {span.message_queue: span for span in found}
        return [self._queue_lag(queue, row, spans.get(queue)) for queue, row in table.items()]

    def _queue_lag(self, queue: MessageQueue, row: OffsetWrapper, span: QueueTimeSpan | None) -> QueueLag:
        last_ms = row.last_timestamp
        return QueueLag(
            self._namespace.unwrap_queue(queue),
            row.broker_offset,
            row.consumer_offset,
            datetime.datetime.fromtimestamp(last_ms / 1000, datetime.UTC) if last_ms > 0 else None,
            self._behind(row, span),
        )

    def _behind(self, row: OffsetWrapper, span: QueueTimeSpan | None) -> datetime.timedelta | None:
        if row.broker_offset <= row.consumer_offset:
            return datetime.timedelta()
        if span is None:
            return None
        delay_ms = span.delay_time
        if span.min_time_stamp > 0:
            # Apache counts from 1970 when the next message has expired, or none was ever consumed.
            delay_ms = min(delay_ms, max(0, self._clock.now_ms() - span.min_time_stamp))
        return datetime.timedelta(milliseconds=delay_ms)

    # -- resetting ----------------------------------------------------------------------------------

    async def reset(self, group: str, topic: str, to: ResetTo) -> dict[MessageQueue, int]:
        """As `Client.reset_offsets`."""
        wrapped = self._namespace.wrap(group)
        route = await self._route(topic)
        if isinstance(to, int) and not isinstance(to, bool):
            to = dict.fromkeys(route.readable, to)
        if isinstance(to, Mapping):
            targets = {self._namespace.wrap_queue(queue): offset for queue, offset in to.items()}
            strange = sorted(targets.keys() - set(route.readable))
            if strange:
                raise ValueError(f"to: {strange[0]} is not a queue of topic {topic!r} that can be read")
            by_broker = _by_broker(targets)
            done = [self._to_offsets(_master(route, name), wrapped, by_broker[name]) for name in by_broker]
        else:
            at_ms = _time_ms(to)
            queues = _by_broker(dict.fromkeys(route.readable, 0))
            done = [
                self._to_time(_master(route, name), wrapped, route.topic, list(queues[name]), at_ms)
                for name in queues
            ]
        offsets = {queue: offset for part in await asyncio.gather(*done) for queue, offset in part.items()}
        return {self._namespace.unwrap_queue(queue): offsets[queue] for queue in sorted(offsets)}

    async def _to_time(
        self, address: str, group: str, topic: str, queues: list[MessageQueue], at_ms: int
    ) -> dict[MessageQueue, int]:
        """Reset the queues of one broker by its own clock and index."""
        header = InvokeBrokerToResetOffsetRequest(topic, group, at_ms, is_force=True)
        reply = await self._call(address, header, accept=(*_NONE_ONLINE, ResponseCode.SYSTEM_ERROR))
        if reply.code == ResponseCode.SUCCESS:
            return ResetOffsetBody.decode(reply.body).offsets
        if reply.code == ResponseCode.SYSTEM_ERROR and _NO_OFFSET not in reply.remark:
            raise ResponseError(reply.code, reply.remark, address)
        is_online = reply.code == ResponseCode.SYSTEM_ERROR and await self._online(address, group) is not None
        targets = {queue: await self._offset_at(address, queue, at_ms) for queue in queues}
        await self._commit(address, group, targets)
        if not is_online:
            return targets
        # It runs and had no offset yet, for want of which the broker would not tell its members.
        return ResetOffsetBody.decode((await self._call(address, header)).body).offsets

    async def _to_offsets(
        self, address: str, group: str, targets: dict[MessageQueue, int]
    ) -> dict[MessageQueue, int]:
        """Reset queues of one broker to offsets that the user chose."""
        for queue, offset in targets.items():
            low = await self._offset_at(address, queue, _FIRST_MS)
            high = await self._offset_at(address, queue, _LAST_MS)
            if not low <= offset <= high:
                raise ValueError(f"to: {queue} holds {low} to {high}, it cannot go on at {offset}")
        online = await self._online(address, group)
        if online is None:
            await self._commit(address, group, targets)
            return targets
        if online.command.language != "PYTHON":
            raise MoveRefused(
                f"consumers of group {group!r} are running, and the broker at {address}, as Apache's are, "
                "resets these to times only: stop them, or give a time"
            )
        topic = next(iter(targets)).topic
        header = InvokeBrokerToResetOffsetRequest(topic, group, _FIRST_MS, is_force=True)
        reply = await self._call(address, header, ResetOffsetBody(targets).encode())
        return ResetOffsetBody.decode(reply.body).offsets

    async def _online(self, address: str, group: str) -> Reply | None:
        """The broker's answer when consumers of the group are running; MoveRefused when they broadcast."""
        reply = await self._call(address, GetConsumerConnectionListRequest(group), accept=_NONE_ONLINE)
        if reply.code != ResponseCode.SUCCESS:
            return None
        if ConsumerConnection.decode(reply.body).message_model is MessageModel.BROADCASTING:
            raise MoveRefused(
                f"group {group!r} is broadcasting: its consumers keep their offsets on their own machines"
            )
        return reply

    async def _offset_at(self, address: str, queue: MessageQueue, at_ms: int) -> int:
        header: GetMinOffsetRequest | GetMaxOffsetRequest | SearchOffsetRequest
        if at_ms == _FIRST_MS:
            header = GetMinOffsetRequest(queue.topic, queue.queue_id)
        elif at_ms == _LAST_MS:
            header = GetMaxOffsetRequest(queue.topic, queue.queue_id)
        else:
            header = SearchOffsetRequest(queue.topic, queue.queue_id, at_ms)
        return max(0, (await self._call(address, header)).read(OffsetResponse).offset)

    async def _commit(self, address: str, group: str, offsets: Mapping[MessageQueue, int]) -> None:
        """One by one: see BrokerOffsets."""
        for queue, offset in offsets.items():
            header = UpdateConsumerOffsetRequest(group, queue.topic, queue.queue_id, offset)
            await self._call(address, header)

    # -- cloning ------------------------------------------------------------------------------------

    async def clone(self, source: str, target: str, topic: str | None) -> list[str]:
        """As `Client.clone_offsets`."""
        consumed = {row.queue.topic for row in (await self.lag(source, None)).queues}
        topics = sorted(each for each in consumed if not each.startswith(RETRY_TOPIC_PREFIX))
        if topic is not None:
            topics = [each for each in topics if each == topic]
        if not topics:
            where = "any topic" if topic is None else f"topic {topic!r}"
            raise MoveRefused(f"group {source!r} has committed no offset in {where}")
        routes = [await self._route(each) for each in topics]
        masters = {_master(route, name) for route in routes for name in route.brokers}
        source, target = self._namespace.wrap(source), self._namespace.wrap(target)
        for address in sorted(masters):
            if await self._online(address, target) is not None:
                raise MoveRefused(
                    f"consumers of group {target!r} are running, which would commit where they stand "
                    "themselves: stop them first"
                )
        for route in routes:
            header = CloneGroupOffsetRequest(source, target, route.topic, offline=True)
            for name in route.brokers:
                await self._call(_master(route, name), header)
        return topics

    # -- asking -------------------------------------------------------------------------------------

    async def _route(self, topic: str) -> TopicRoute:
        wrapped = self._namespace.wrap(topic)
        route = await self._routes.refresh(wrapped)
        if route is None or route.borrowed:
            nearest = await self._routes.nearest(wrapped)
            raise RouteNotFound(wrapped, self._routes.name_servers, nearest, "the topic does not exist")
        return route

    async def _call(
        self,
        address: str,
        header: Header,
        body: bytes = b"",
        accept: tuple[int, ...] = (ResponseCode.SUCCESS,),
    ) -> Reply:
        return await self._pool.call(address, header, body, timeout_s=self._timeout_s, accept=accept)


def _time_ms(to: object) -> int:
    """The time as 222 takes it."""
    if to == "first":
        return _FIRST_MS
    if to == "last":
        return _LAST_MS
    if isinstance(to, datetime.datetime):
        try:
            return max(1, int(to.timestamp() * 1000))
        except (ValueError, OverflowError):
            raise ValueError(f"to={to!r}: out of what can be told as a time") from None
    raise ValueError(f"to={to!r}: expected 'first', 'last', a datetime, an offset, or offsets by queue")


def _by_broker(values: Mapping[MessageQueue, T]) -> dict[str, dict[MessageQueue, T]]:
    found: dict[str, dict[MessageQueue, T]] = {}
    for queue, value in sorted(values.items(), key=lambda item: item[0]):
        found.setdefault(queue.broker_name, {})[queue] = value
    return found


def _any_replica(route: TopicRoute, broker_name: str) -> str:
    """The master, or where there is none the replica with the lowest id."""
    replicas = route.brokers[broker_name]
    return replicas.get(MASTER_ID) or replicas[min(replicas)]


def _master(route: TopicRoute, broker_name: str) -> str:
    address = route.brokers.get(broker_name, {}).get(MASTER_ID)
    if address is None:
        raise ConnectFailed("", f"broker {broker_name} has no master now: offsets cannot be changed")
    return address
