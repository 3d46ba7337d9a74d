"""Clients and their groups: heartbeats, leaving, member lists, and the notice that members have changed."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_filters import ConsumerFilterTable
from pymq.broker.live_clients import ConsumerGroup, LiveClients, Member
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.errors import ConnectionLost, ResponseError
from pymq.protocol.bodies.connections import (
    CheckClientConfigBody,
    ConnectionData,
    ConsumerConnection,
    ProducerConnection,
    ProducerInfo,
    ProducerTableInfo,
)
from pymq.protocol.bodies.heartbeat import ConsumerList, HeartbeatData
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    GetAllProducerInfoRequest,
    GetConsumerConnectionListRequest,
    GetProducerConnectionListRequest,
)
from pymq.protocol.headers.groups import (
    CheckClientConfigRequest,
    GetConsumerListByGroupRequest,
    HeartBeatRequest,
    NotifyConsumerIdsChangedRequest,
    UnregisterClientRequest,
)
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.clients")

_DOUBLED_TOLD = 100
"""So many ids that two clients share are told of."""


class MembershipProcessor:
    """Serves clients that come, stay and go."""

    def __init__(
        self,
        config: BrokerConfig,
        clients: LiveClients,
        groups: SubscriptionGroups,
        topics: TopicTable,
        filters: ConsumerFilterTable,
    ) -> None:
        self._config = config
        self._clients = clients
        self._groups = groups
        self._topics = topics
        self._filters = filters
        self._doubled: set[str] = set()

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(HeartBeatRequest, self.heartbeat),
            row(UnregisterClientRequest, self.unregister),
            row(CheckClientConfigRequest, self.check),
            row(GetConsumerListByGroupRequest, self.consumer_list),
            row(GetConsumerConnectionListRequest, self.consumer_connections),
            row(GetProducerConnectionListRequest, self.producer_connections),
            row(GetAllProducerInfoRequest, self.all_producers),
        ]

    def heartbeat(self, request: Request[HeartBeatRequest]) -> Answer:
        """A client and its groups. The answer's version tells clients what the broker can."""
        data = HeartbeatData.decode(request.body)
        connection, command = request.connection, request.command
        # All names are looked at first: a heartbeat that is refused lets nobody join.
        groups = [self._groups.get_or_create(consumer.group_name) for consumer in data.consumer_data_set]
        for consumer, group in zip(data.consumer_data_set, groups, strict=True):
            if group is None:
                continue
            if group.retry_queue_nums > 0:
                self._topics.ensure_retry_topic(group.group_name, group.retry_queue_nums, consumer.unit_mode)
            self._look_for_double(request.connection, data.client_id, consumer.group_name)
            self._clients.consumer_heartbeat(
                connection, data.client_id, command.language, command.version, consumer
            )
        for producer in data.producer_data_set:
            self._clients.producer_heartbeat(
                connection, data.client_id, command.language, command.version, producer
            )
        return Answer()

    def _look_for_double(self, connection: Connection, client_id: str, name: str) -> None:
        """Tell, once for each id, of two clients that share it: each was heard while the other was there.

        A connection that has died unseen is heard no more, so a client that came back is none of them.
        """
        group = self._clients.consumers(name)
        own = None if group is None else group.members.get(connection)
        if group is None or own is None or client_id in self._doubled or len(self._doubled) >= _DOUBLED_TOLD:
            return
        for other in group.members.values():
            if other.client_id == client_id and other is not own and other.heard_ms > own.heard_ms:
                self._doubled.add(client_id)
                log.warning(
                    "group %s: two consumers, at %s and %s, call themselves %s, so both take the same share "
                    "of the queues, and messages come twice or out of order; give each its own instance name",
                    name,
                    connection.address,
                    other.connection.address,
                    client_id,
                )
                return

    def unregister(self, request: Request[UnregisterClientRequest]) -> Answer:
        """A client leaves groups."""
        header = request.header
        self._clients.unregister(request.connection, header.producer_group, header.consumer_group)
        return Answer()

    def check(self, request: Request[CheckClientConfigRequest]) -> Answer:
        """Would this subscription be served? SQL92 is off unless enablePropertyFilter says otherwise."""
        subscription = CheckClientConfigBody.decode(request.body).subscription_data
        self._filters.check(subscription.expression_type, subscription.sub_string)
        return Answer()

    def consumer_list(self, request: Request[GetConsumerListByGroupRequest]) -> Answer:
        """The client ids of a group, each once, though it may have two connections."""
        name = request.header.consumer_group
        group = self._clients.consumers(name)
        if group is None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"no consumer for this group, {name}")
        client_ids = list(dict.fromkeys(member.client_id for member in group.members.values()))
        return Answer(body=ConsumerList(client_ids).encode())

    def consumer_connections(self, request: Request[GetConsumerConnectionListRequest]) -> Answer:
        """The members of a consumer group and what they subscribe."""
        name = request.header.consumer_group
        group = self._clients.consumers(name)
        if group is None:
            raise ResponseError(ResponseCode.CONSUMER_NOT_ONLINE, f"the consumer group[{name}] not online")
        body = ConsumerConnection(
            [_connection_data(member) for member in group.members.values()],
            dict(group.subscriptions),
            group.consume_type,
            group.message_model,
            group.consume_from_where,
        )
        return Answer(body=body.encode())

    def producer_connections(self, request: Request[GetProducerConnectionListRequest]) -> Answer:
        """The members of a producer group."""
        name = request.header.producer_group
        members = self._clients.producers(name)
        if not members:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"the producer group[{name}] not exist")
        return Answer(body=ProducerConnection([_connection_data(member) for member in members]).encode())

    def all_producers(self, request: Request[GetAllProducerInfoRequest]) -> Answer:
        """All producer groups with their members."""
        groups = self._clients.producer_groups()
        data = {name: [_producer_info(member) for member in members] for name, members in groups.items()}
        return Answer(body=ProducerTableInfo(data).encode())

    def notify_changed(self, group: ConsumerGroup, only: Collection[str] | None = None) -> None:
        """Tell the members of a group to rebalance, if the group and the broker want that.

        `only`: the client ids of those to tell; all, unless given.
        """
        config = self._groups.get(group.name)
        if not self._config.notify_consumer_ids_changed_enable or config is None:
            return
        if not config.notify_consumer_ids_changed_enable:
            return
        header = NotifyConsumerIdsChangedRequest(group.name)
        for member in list(group.members.values()):
            if only is not None and member.client_id not in only:
                continue
            try:
                member.connection.oneway(header)
            except ConnectionLost:
                continue  # its own leaving is on the way


def _connection_data(member: Member) -> ConnectionData:
    return ConnectionData(member.client_id, member.connection.address, member.language, member.version)


def _producer_info(member: Member) -> ProducerInfo:
    address = f"/{member.connection.address}"  # as Java writes one
    return ProducerInfo(member.client_id, address, member.language, member.version, member.heard_ms)
