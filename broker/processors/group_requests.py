"""Subscription groups and offsets by request (codes 43, 45, 200, 201, 207, 208, 300, 352)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.live_clients import LiveClients
from pymq.broker.name_checks import group_fault, queues_fault
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.errors import ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.connections import GroupList
from pymq.protocol.bodies.offsets import ConsumeStats, DelayOffsets, OffsetWrapper
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    DeleteSubscriptionGroupRequest,
    GetAllConsumerOffsetRequest,
    GetAllDelayOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetConsumeStatsRequest,
    GetSubscriptionGroupConfigRequest,
    QueryTopicConsumeByWhoRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.groups")


class GroupProcessor:
    """Serves those who set up subscription groups and look at their progress.

    `save` returns when the groups are on the disk; it raises StoreError when they cannot be written.
    """

    def __init__(
        self,
        config: BrokerConfig,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsetTable,
        topics: TopicTable,
        clients: LiveClients,
        store: MessageStore,
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._groups = groups
        self._offsets = offsets
        self._topics = topics
        self._clients = clients
        self._store = store
        self._save = save

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(UpdateAndCreateSubscriptionGroupRequest, self.update),
            row(DeleteSubscriptionGroupRequest, self.delete),
            row(GetAllSubscriptionGroupConfigRequest, self.all_groups),
            row(GetSubscriptionGroupConfigRequest, self.one_group),
            row(GetAllConsumerOffsetRequest, self.all_offsets),
            row(GetAllDelayOffsetRequest, self.delay_offsets),
            row(GetConsumeStatsRequest, self.consume_stats),
            row(QueryTopicConsumeByWhoRequest, self.consumed_by),
        ]

    async def update(self, request: Request[UpdateAndCreateSubscriptionGroupRequest]) -> Answer:
        """Create or change a group; answered once that is on the disk."""
        group = SubscriptionGroupConfig.decode(request.body)
        # The name of a group that exists is right as it is: another broker may have let it in.
        fault = None if self._groups.get(group.group_name) else group_fault(group.group_name)
        fault = fault or queues_fault("retryQueueNums", group.retry_queue_nums)
        if fault is not None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, fault)
        self._groups.put(group)
        log.info("subscription group %s set by %s", group.group_name, request.connection.address)
        await self._save()
        return Answer()

    async def delete(self, request: Request[DeleteSubscriptionGroupRequest]) -> Answer:
        """Delete a group, and its offsets if asked to."""
        header = request.header
        if self._groups.delete(header.group_name):
            log.info("subscription group %s deleted by %s", header.group_name, request.connection.address)
        if header.remove_offset or header.clean_offset:
            self._offsets.remove_group(header.group_name)
        await self._save()
        return Answer()

    def all_groups(self, request: Request[GetAllSubscriptionGroupConfigRequest]) -> Answer:
        """The whole table with its data version."""
        return Answer(body=self._groups.snapshot().encode())

    def one_group(self, request: Request[GetSubscriptionGroupConfigRequest]) -> Answer:
        """One group's configuration."""
        name = request.header.group
        group = self._groups.get(name)
        if group is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{name}] does not exist"
            )
        return Answer(body=group.encode())

    def all_offsets(self, request: Request[GetAllConsumerOffsetRequest]) -> Answer:
        """The offsets of all groups."""
        return Answer(body=self._offsets.body().encode())

    def delay_offsets(self, request: Request[GetAllDelayOffsetRequest]) -> Answer:
        """How far the delay levels are delivered: none is served yet."""
        return Answer(body=DelayOffsets().encode())

    def consume_stats(self, request: Request[GetConsumeStatsRequest]) -> Answer:
        """How far a group is, queue by queue (semantics.md §7)."""
        header = request.header
        group = self._clients.consumers(header.consumer_group)
        table = {}
        for topic in [header.topic] if header.topic else self._offsets.topics_of(header.consumer_group):
            config = self._topics.get(topic)
            if config is None or (group is not None and topic not in group.subscriptions):
                continue
            for queue_id in range(config.read_queue_nums):
                table[MessageQueue(topic, self._config.broker_name, queue_id)] = self._progress(
                    header.consumer_group, topic, queue_id
                )
        return Answer(body=ConsumeStats(table).encode())

    def _progress(self, group: str, topic: str, queue_id: int) -> OffsetWrapper:
        end = max(0, self._store.max_offset(topic, queue_id))
        consumed = max(0, self._offsets.query(group, topic, queue_id) or 0)
        last_ms = self._store.store_time(topic, queue_id, consumed - 1) if consumed else 0
        return OffsetWrapper(end, consumed, max(0, last_ms))

    def consumed_by(self, request: Request[QueryTopicConsumeByWhoRequest]) -> Answer:
        """The groups that consume a topic: those online that subscribe it, and those with offsets in it."""
        topic = request.header.topic
        online = [group.name for group in self._clients.consumer_groups() if topic in group.subscriptions]
        return Answer(body=GroupList(sorted({*online, *self._offsets.groups_of(topic)})).encode())
