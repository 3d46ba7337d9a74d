"""Subscription groups and offsets by request (codes 43, 200, 201, 207, 300, 352)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.live_clients import ConsumerGroup, LiveClients
from pymq.broker.name_checks import group_fault, queues_fault
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import RETRY_PREFIX, TopicTable
from pymq.errors import ResponseError
from pymq.protocol.bodies.connections import GroupList
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    DeleteSubscriptionGroupRequest,
    GetAllConsumerOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetSubscriptionGroupConfigRequest,
    QueryTopicConsumeByWhoRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.groups")


class GroupProcessor:
    """Serves those who set up subscription groups and look at them.

    `save` and `save_offsets` return when groups and offsets are on the disk; they raise StoreError when these
    cannot be written. `register_topic` returns when the name servers know of a topic's change; `notify` tells
    the members of a group to look at it anew.
    """

    def __init__(
        self,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsetTable,
        topics: TopicTable,
        clients: LiveClients,
        save: Callable[[], Awaitable[None]],
        save_offsets: Callable[[], Awaitable[None]],
        register_topic: Callable[[str], Awaitable[None]],
        notify: Callable[[ConsumerGroup], None],
    ) -> None:
        self._groups = groups
        self._offsets = offsets
        self._topics = topics
        self._clients = clients
        self._save = save
        self._save_offsets = save_offsets
        self._register_topic = register_topic
        self._notify = notify

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(UpdateAndCreateSubscriptionGroupRequest, self.update),
            row(DeleteSubscriptionGroupRequest, self.delete),
            row(GetAllSubscriptionGroupConfigRequest, self.all_groups),
            row(GetSubscriptionGroupConfigRequest, self.one_group),
            row(GetAllConsumerOffsetRequest, self.all_offsets),
            row(QueryTopicConsumeByWhoRequest, self.consumed_by),
        ]

    async def update(self, request: Request[UpdateAndCreateSubscriptionGroupRequest]) -> Answer:
        """Create or change a group; answered once that is on the disk.

        A retry topic that it has already gets the queues that it now wants, and its members hear of that.
        """
        group = SubscriptionGroupConfig.decode(request.body)
        # The name of a group that exists is right as it is: another broker may have let it in.
        fault = None if self._groups.get(group.group_name) else group_fault(group.group_name)
        fault = fault or queues_fault("retryQueueNums", group.retry_queue_nums)
        if fault is not None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, fault)
        self._groups.put(group)
        log.info("subscription group %s set by %s", group.group_name, request.connection.address)
        topic = self._topics.get(RETRY_PREFIX + group.group_name)
        widened = topic
        if group.retry_queue_nums > 0 and topic is not None:
            widened = self._topics.ensure_retry_topic(group.group_name, group.retry_queue_nums, is_unit=False)
        await self._save()
        if widened != topic:
            await self._register_topic(RETRY_PREFIX + group.group_name)
            online = self._clients.consumers(group.group_name)
            if online is not None:
                self._notify(online)
        return Answer()

    async def delete(self, request: Request[DeleteSubscriptionGroupRequest]) -> Answer:
        """Delete a group, and its offsets if asked to; answered once that is on the disk.

        Its retry and dead-letter topics stay: tools delete these by requests of their own.
        """
        header = request.header
        if self._groups.delete(header.group_name):
            log.info("subscription group %s deleted by %s", header.group_name, request.connection.address)
        if header.remove_offset or header.clean_offset:
            self._offsets.remove_group(header.group_name)
            await self._save_offsets()
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

    def consumed_by(self, request: Request[QueryTopicConsumeByWhoRequest]) -> Answer:
        """The groups that consume a topic: those online that subscribe it, and those with offsets in it."""
        topic = request.header.topic
        online = [group.name for group in self._clients.consumer_groups() if topic in group.subscriptions]
        return Answer(body=GroupList(sorted({*online, *self._offsets.groups_of(topic)})).encode())
