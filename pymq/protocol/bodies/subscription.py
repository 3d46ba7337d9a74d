"""Subscriptions and consumer groups (wire.md §5.1)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body, Int, Long
from pymq.protocol.bodies.topic_config import NO_DATA_VERSION, DataVersion


class SubscriptionData(Body):
    """What a group wants of a topic."""

    topic: str
    sub_string: str = "*"
    """The expression: `*`, `TagA || TagB`, or SQL."""
    tags_set: set[str] = field(default_factory=set)
    code_set: set[Int] = field(default_factory=set)
    """Java's String.hashCode of each tag; empty for `*` and for SQL."""
    sub_version: Long = 0
    """When the subscription was made, in milliseconds; a higher one replaces a lower one."""
    expression_type: str = "TAG"
    class_filter_mode: bool = False


class SubscriptionGroupConfig(Body):
    """One consumer group of a broker."""

    group_name: str
    consume_enable: bool = True
    consume_from_min_enable: bool = True
    consume_broadcast_enable: bool = True
    retry_queue_nums: Int = 1
    retry_max_times: Int = 16
    broker_id: Long = 0
    which_broker_when_consume_slowly: Long = 1
    notify_consumer_ids_changed_enable: bool = True


class SubscriptionGroupWrapper(Body):
    """All consumer groups of a broker (answer to 201, file subscriptionGroup.json)."""

    data_version: DataVersion = NO_DATA_VERSION
    subscription_group_table: dict[str, SubscriptionGroupConfig] = field(default_factory=dict)
