"""How far groups have come, and giving one the offsets of another (codes 208, 303, 308, 314, 317)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.live_clients import LiveClients
from pymq.broker.name_checks import group_fault
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.clock import Clock
from pymq.errors import ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import (
    BrokerConsumeStats,
    ConsumeStats,
    ConsumeTimeSpans,
    CorrectionOffsets,
    OffsetWrapper,
    QueueTimeSpan,
)
from pymq.protocol.bodies.topic_config import TopicConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    CloneGroupOffsetRequest,
    GetBrokerConsumeStatsRequest,
    GetConsumeStatsRequest,
    QueryConsumeTimeSpanRequest,
    QueryCorrectionOffsetRequest,
)
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.offsets")

_NO_CORRECTION = 2**63 - 1
"""The answer of 308 for a queue in which the group asked about is not ahead (Java's Long.MAX_VALUE)."""


class ProgressProcessor:
    """Serves those who look at how far groups are.

    `save_offsets` returns when the offsets are on the disk; it raises StoreError when they cannot be written.
    """

    def __init__(
        self,
        broker_name: str,
        address: str,
        topics: TopicTable,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsetTable,
        clients: LiveClients,
        store: MessageStore,
        clock: Clock,
        save_offsets: Callable[[], Awaitable[None]],
    ) -> None:
        """`address`: the broker's, `host:port`, as clients reach it."""
        self._broker_name = broker_name
        self._address = address
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._clients = clients
        self._store = store
        self._clock = clock
        self._save_offsets = save_offsets

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(GetConsumeStatsRequest, self.consume_stats),
            row(GetBrokerConsumeStatsRequest, self.all_consume_stats),
            row(QueryConsumeTimeSpanRequest, self.time_spans),
            row(QueryCorrectionOffsetRequest, self.correction_offsets),
            row(CloneGroupOffsetRequest, self.clone),
        ]

    # -- how many messages are left -----------------------------------------------------------------

    def consume_stats(self, request: Request[GetConsumeStatsRequest]) -> Answer:
        """How far a group is, queue by queue (semantics.md §7)."""
        group, topic = request.header.consumer_group, request.header.topic
        table: dict[MessageQueue, OffsetWrapper] = {}
        for config in self._consumed(group, [topic] if topic else self._offsets.topics_of(group)):
            table |= self._progress(group, config)
        return Answer(body=ConsumeStats(table).encode())

    def all_consume_stats(self, request: Request[GetBrokerConsumeStatsRequest]) -> Answer:
        """How far every group is in each of its topics."""
        listed = []
        total = 0
        for group in sorted(self._groups.snapshot().subscription_group_table):
            stats = []
            for config in self._consumed(group, self._offsets.topics_of(group)):
                if request.header.is_order and not config.order:
                    continue
                progress = self._progress(group, config)
                total += sum(each.broker_offset - each.consumer_offset for each in progress.values())
                stats.append(ConsumeStats(progress))
            listed.append({group: stats})
        return Answer(body=BrokerConsumeStats(self._address, listed, total).encode())

    def _consumed(self, group: str, topics: Iterable[str]) -> list[TopicConfig]:
        """Those of `topics` that exist and that the group, if it is online, still subscribes."""
        online = self._clients.consumers(group)
        configs = [
            self._topics.get(topic)
            for topic in topics
            if online is None or not online.subscriptions or topic in online.subscriptions
        ]
        return [config for config in configs if config is not None]

    def _progress(self, group: str, config: TopicConfig) -> dict[MessageQueue, OffsetWrapper]:
        topic = config.topic_name
        table = {}
        for queue_id in range(config.read_queue_nums):
            end = max(0, self._store.max_offset(topic, queue_id))
            consumed = max(0, self._offsets.query(group, topic, queue_id) or 0)
            last_ms = self._store.store_time(topic, queue_id, consumed - 1) if consumed else 0
            table[self._queue(topic, queue_id)] = OffsetWrapper(end, consumed, max(0, last_ms))
        return table

    def _queue(self, topic: str, queue_id: int) -> MessageQueue:
        return MessageQueue(topic, self._broker_name, queue_id)

    # -- how old they are ---------------------------------------------------------------------------

    def time_spans(self, request: Request[QueryConsumeTimeSpanRequest]) -> Answer:
        """When the first, the last and the last consumed message of each queue were stored.

        Apache tells nonsense about a group without an offset, or whose messages have expired: 1970's delay.
        Here such a group stands at the queue's first message.
        """
        header = request.header
        config = self._topics.get(header.topic)
        if config is None:
            raise ResponseError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist")
        queues = range(config.write_queue_nums)
        spans = [self._time_span(header.group, header.topic, queue_id) for queue_id in queues]
        return Answer(body=ConsumeTimeSpans(spans).encode())

    def _time_span(self, group: str, topic: str, queue_id: int) -> QueueTimeSpan:
        store = self._store
        low, high = store.min_offset(topic, queue_id), store.max_offset(topic, queue_id)
        first_ms = store.store_time(topic, queue_id, low)
        consumed = max(0, self._offsets.query(group, topic, queue_id) or 0)
        next_ms = store.store_time(topic, queue_id, max(low, consumed)) if consumed < high else -1
        return QueueTimeSpan(
            self._queue(topic, queue_id),
            first_ms,
            store.store_time(topic, queue_id, high - 1),
            store.store_time(topic, queue_id, consumed - 1) if consumed else first_ms,
            max(0, self._clock.now_ms() - next_ms) if next_ms >= 0 else 0,
        )

    # -- from group to group ------------------------------------------------------------------------

    def correction_offsets(self, request: Request[QueryCorrectionOffsetRequest]) -> Answer:
        """The lowest offset that any group has in each queue: to where `compare_group` should go back.

        Apache deletes the offsets of the groups that it only should leave out, and never finds those of
        `compare_group` (semantics.md Part E); not so here.
        """
        header = request.header
        left_out = [name for name in (header.filter_groups or "").split(",") if name]
        lowest = self._offsets.lowest(
            header.topic, left_out, lambda queue_id: self._store.min_offset(header.topic, queue_id)
        )
        for queue_id, offset in lowest.items():
            own = self._offsets.query(header.compare_group, header.topic, queue_id)
            if own is not None and offset > own:
                lowest[queue_id] = _NO_CORRECTION
        return Answer(body=CorrectionOffsets(lowest).encode())

    async def clone(self, request: Request[CloneGroupOffsetRequest]) -> Answer:
        """Give a group another's offsets in the topic, or in all; answered once that is on the disk.

        Apache copies nothing when no topic is named, though it has code for it.
        """
        header = request.header
        fault = group_fault(header.dest_group)
        if fault is not None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"offsets not cloned: {fault}")
        topics = [header.topic] if header.topic else self._offsets.topics_of(header.src_group)
        if header.offline:
            found = [topic for topic in topics if self._topics.get(topic) is not None]
        else:
            found = [config.topic_name for config in self._consumed(header.src_group, topics)]
        for topic in topics:
            if topic not in found:
                log.warning("offsets of %s in %s: not cloned, no such topic", header.src_group, topic)
        for topic in found:
            self._offsets.clone(header.src_group, header.dest_group, topic)
        log.info(
            "offsets of %s in %s cloned to %s by %s",
            header.src_group,
            found,
            header.dest_group,
            request.connection.address,
        )
        await self._save_offsets()
        return Answer()
