"""Who is connected: producers and consumers by group (semantics.md §3.1).

A member is one connection. Subscriptions belong to the group, not to a member: the last heartbeat's set of
topics replaces the group's, as in Apache. What each member wants is kept to tell when they differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.unlike_members import UnlikeMembers, Wants, wants_of
from pymq.clock import Clock
from pymq.protocol.bodies.heartbeat import (
    ConsumeFromWhere,
    ConsumerData,
    ConsumeType,
    MessageModel,
    ProducerData,
)
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.transport.connection import Connection

log = logging.getLogger("pymq.broker.clients")

CLIENT_EXPIRY_MS = 120_000
"""A client not heard of for this long is dropped and its connection closed (wire.md §1.5)."""


class Member(msgspec.Struct):
    """One connection of a group."""

    connection: Connection
    client_id: str
    language: str
    version: int
    heard_ms: int
    wants: Wants = frozenset()


class ConsumerGroup(msgspec.Struct):
    """A consumer group that is online. The three settings are those of the last heartbeat."""

    name: str
    consume_type: ConsumeType
    message_model: MessageModel
    consume_from_where: ConsumeFromWhere
    subscriptions: dict[str, SubscriptionData]
    members: dict[Connection, Member]
    unlike: UnlikeMembers = msgspec.field(default_factory=UnlikeMembers)


class LiveClients:
    """The groups that are online.

    `on_change` is called with the group when its members or its set of topics have changed, and
    `on_heartbeat` after each heartbeat of one of its members; `on_empty` with the name of one whose
    last member has left.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.on_change: list[Callable[[ConsumerGroup], None]] = []
        self.on_heartbeat: list[Callable[[ConsumerGroup], None]] = []
        self.on_empty: list[Callable[[str], None]] = []
        self._consumers: dict[str, ConsumerGroup] = {}
        self._producers: dict[str, dict[Connection, Member]] = {}
        self._producer_connections: dict[str, Connection] = {}
        self._producer_ids: dict[Connection, str] = {}

    # -- joining ------------------------------------------------------------------------------------

    def consumer_heartbeat(
        self, connection: Connection, client_id: str, language: str, version: int, data: ConsumerData
    ) -> None:
        """Take one consumer group of a heartbeat."""
        group = self._consumers.get(data.group_name)
        if group is None:
            group = self._consumers[data.group_name] = ConsumerGroup(
                data.group_name, data.consume_type, data.message_model, data.consume_from_where, {}, {}
            )
        group.consume_type = data.consume_type
        group.message_model = data.message_model
        group.consume_from_where = data.consume_from_where
        joined = self._refresh(group.members, connection, client_id, language, version)
        if joined:
            log.info("consumer %s joined group %s from %s", client_id, group.name, connection.address)
        wants = wants_of(data.subscription_data_set)
        if wants != group.members[connection].wants:
            group.members[connection].wants = wants
            group.unlike.look(group.name, [(each.client_id, each.wants) for each in group.members.values()])
        resubscribed = self._subscribe(group, data.subscription_data_set)
        if joined or resubscribed:
            self._changed(group)
        for listener in self.on_heartbeat:
            listener(group)

    def producer_heartbeat(
        self, connection: Connection, client_id: str, language: str, version: int, data: ProducerData
    ) -> None:
        """Take one producer group of a heartbeat."""
        members = self._producers.setdefault(data.group_name, {})
        if self._producer_connections.get(client_id) is not connection:
            self._forget_producer(connection)
            self._producer_ids[connection] = client_id
            self._producer_connections[client_id] = connection
        if self._refresh(members, connection, client_id, language, version):
            log.debug("producer %s joined group %s", client_id, data.group_name)

    def _forget_producer(self, connection: Connection) -> None:
        client_id = self._producer_ids.pop(connection, None)
        if client_id is not None and self._producer_connections.get(client_id) is connection:
            del self._producer_connections[client_id]

    def _changed(self, group: ConsumerGroup) -> None:
        for listener in self.on_change:
            listener(group)

    def _refresh(
        self,
        members: dict[Connection, Member],
        connection: Connection,
        client_id: str,
        language: str,
        version: int,
    ) -> bool:
        member = members.get(connection)
        if member is not None and member.client_id == client_id:
            member.heard_ms = self._clock.now_ms()
            return False
        members[connection] = Member(connection, client_id, language, version, self._clock.now_ms())
        return True

    @staticmethod
    def _subscribe(group: ConsumerGroup, subscriptions: Iterable[SubscriptionData]) -> bool:
        """Take over a heartbeat's subscriptions; says whether the *set of topics* has changed."""
        topics = set()
        changed = False
        for subscription in subscriptions:
            topics.add(subscription.topic)
            known = group.subscriptions.get(subscription.topic)
            if known is None:
                changed = True
            if known is None or subscription.sub_version > known.sub_version:
                group.subscriptions[subscription.topic] = subscription
        for topic in [topic for topic in group.subscriptions if topic not in topics]:
            del group.subscriptions[topic]
            changed = True
        return changed

    # -- leaving ------------------------------------------------------------------------------------

    def unregister(
        self, connection: Connection, producer_group: str | None, consumer_group: str | None
    ) -> None:
        """A client leaves groups on its own."""
        if producer_group:
            self._leave_producers(producer_group, connection)
            if not any(connection in members for members in self._producers.values()):
                self._forget_producer(connection)
        if consumer_group:
            self._leave_consumers(consumer_group, connection)

    def connection_closed(self, connection: Connection) -> None:
        """A connection has ended: its members leave all groups."""
        self._forget_producer(connection)
        for name in [name for name, members in self._producers.items() if connection in members]:
            self._leave_producers(name, connection)
        for name in [name for name, group in self._consumers.items() if connection in group.members]:
            self._leave_consumers(name, connection)

    def _leave_producers(self, name: str, connection: Connection) -> None:
        members = self._producers.get(name, {})
        members.pop(connection, None)
        if not members:
            self._producers.pop(name, None)

    def _leave_consumers(self, name: str, connection: Connection) -> None:
        group = self._consumers.get(name)
        if group is None:
            return
        member = group.members.pop(connection, None)
        if member is None:
            return
        log.info("consumer %s left group %s", member.client_id, name)
        if group.members:
            self._changed(group)
        else:
            del self._consumers[name]
            for listener in self.on_empty:
                listener(name)

    def expire(self) -> None:
        """Close the connections of members whose heartbeat is overdue; closing makes them leave."""
        limit = self._clock.now_ms() - CLIENT_EXPIRY_MS
        tables = [*self._producers.values(), *(group.members for group in self._consumers.values())]
        for members in tables:
            for member in list(members.values()):
                if member.heard_ms < limit:
                    log.warning(
                        "%s (%s): no heartbeat for %d s; connection closed",
                        member.client_id,
                        member.connection.address,
                        CLIENT_EXPIRY_MS // 1000,
                    )
                    member.connection.abort()

    # -- looking ------------------------------------------------------------------------------------

    def consumers(self, group: str) -> ConsumerGroup | None:
        """A consumer group, if it is online."""
        return self._consumers.get(group)

    def consumer_groups(self) -> list[ConsumerGroup]:
        """The consumer groups that are online."""
        return list(self._consumers.values())

    def producers(self, group: str) -> list[Member]:
        """The members of a producer group."""
        return list(self._producers.get(group, {}).values())

    def producer_connection(self, client_id: str) -> Connection | None:
        """The connection of a client that is a producer of any group; its last one, if it has several."""
        return self._producer_connections.get(client_id)

    def producer_groups(self) -> dict[str, list[Member]]:
        """All producer groups with their members."""
        return {name: list(members.values()) for name, members in self._producers.items()}
