"""The slave's tables follow the master's: one class for each answer (semantics.md §9)."""

from __future__ import annotations

from collections.abc import Callable

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.replication.metadata import Source
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.protocol.bodies.offsets import ConsumerOffsets, DelayOffsets
from pymq.protocol.bodies.subscription import SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.headers.administration import (
    GetAllConsumerOffsetRequest,
    GetAllDelayOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetAllTopicConfigRequest,
)


class CopiedTopics:
    """Topics: all of the master's, and only those, unless the data version says that nothing changed."""

    def __init__(
        self, topics: TopicTable, changed: Callable[[], None], deleted: Callable[[list[str]], None]
    ) -> None:
        """`changed`: has the table saved; `deleted` gets the topics that the master has no more."""
        self._topics = topics
        self._changed = changed
        self._deleted = deleted

    def take(self, body: bytes) -> None:
        """As CopiedTable.take."""
        theirs = TopicConfigSerializeWrapper.decode(body)
        if theirs.data_version != self._topics.data_version:
            gone = [
                name
                for name in self._topics.names()
                if name not in theirs.topic_config_table and not self._topics.is_system(name)
            ]
            self._topics.load(body.decode())
            self._topics.drop(gone)
            self._changed()
            if gone:
                self._deleted(gone)


class CopiedGroups:
    """Subscription groups, as the topics."""

    def __init__(
        self,
        groups: SubscriptionGroups,
        changed: Callable[[], None],
        deleted: Callable[[list[str]], None],
    ) -> None:
        """`changed`: has the table saved; `deleted` gets the groups that the master has no more."""
        self._groups = groups
        self._changed = changed
        self._deleted = deleted

    def take(self, body: bytes) -> None:
        """As CopiedTable.take."""
        theirs = SubscriptionGroupWrapper.decode(body)
        if theirs.data_version != self._groups.data_version:
            mine = self._groups.snapshot().subscription_group_table
            self._groups.load(body.decode())
            gone = [name for name in mine if name not in theirs.subscription_group_table]
            self._groups.drop(gone)
            self._changed()
            if gone:
                self._deleted(gone)


class CopiedOffsets:
    """Consumer offsets: the master's are put over those of here."""

    def __init__(self, offsets: ConsumerOffsetTable, level: Callable[[], None] = lambda: None) -> None:
        """`level`: the log has come to where the master's ended when it told its topics and offsets."""
        self._offsets = offsets
        self._level = level

    def take(self, body: bytes) -> None:
        """As CopiedTable.take."""
        self._offsets.merge(ConsumerOffsets.decode(body))
        self._level()


class CopiedDelayOffsets:
    """How far delayed messages are delivered: kept for the day when this broker becomes a master."""

    def __init__(self, offsets: DelayOffsetTable) -> None:
        self._offsets = offsets

    def take(self, body: bytes) -> None:
        """As CopiedTable.take."""
        self._offsets.take(DelayOffsets.decode(body))


def sources(
    topics: CopiedTopics, groups: CopiedGroups, offsets: CopiedOffsets, delay_offsets: CopiedDelayOffsets
) -> list[Source]:
    """What is asked for, in this order: a group's offsets mean nothing without its topics."""
    return [
        Source("topics", GetAllTopicConfigRequest(), topics),
        Source("subscription groups", GetAllSubscriptionGroupConfigRequest(), groups),
        Source("consumer offsets", GetAllConsumerOffsetRequest(), offsets, needs_log=True),
        Source("delay offsets", GetAllDelayOffsetRequest(), delay_offsets, needs_log=True),
    ]
