"""What clients tell brokers about themselves (wire.md §5.2)."""

from __future__ import annotations

import enum

from msgspec import field

from pymq.protocol.bodies.body import Body, MessageQueue
from pymq.protocol.bodies.subscription import SubscriptionData


class ConsumeType(enum.StrEnum):
    """How a consumer gets its messages."""

    CONSUME_ACTIVELY = "CONSUME_ACTIVELY"
    """Pull."""
    CONSUME_PASSIVELY = "CONSUME_PASSIVELY"
    """Push."""
    CONSUME_POP = "CONSUME_POP"
    """5.x clients."""


class MessageModel(enum.StrEnum):
    """Whether the members of a group share the messages, or each gets all."""

    BROADCASTING = "BROADCASTING"
    CLUSTERING = "CLUSTERING"


class ConsumeFromWhere(enum.StrEnum):
    """Where a group begins that has no stored offset. The last three are obsolete."""

    CONSUME_FROM_LAST_OFFSET = "CONSUME_FROM_LAST_OFFSET"
    CONSUME_FROM_FIRST_OFFSET = "CONSUME_FROM_FIRST_OFFSET"
    CONSUME_FROM_TIMESTAMP = "CONSUME_FROM_TIMESTAMP"
    CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST = (
        "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST"
    )
    CONSUME_FROM_MIN_OFFSET = "CONSUME_FROM_MIN_OFFSET"
    CONSUME_FROM_MAX_OFFSET = "CONSUME_FROM_MAX_OFFSET"


class ProducerData(Body):
    """A producer group of a client."""

    group_name: str


class ConsumerData(Body):
    """A consumer group of a client."""

    group_name: str
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
    subscription_data_set: list[SubscriptionData] = field(default_factory=list)
    unit_mode: bool = False


class HeartbeatData(Body):
    """The body of HEART_BEAT (34)."""

    client_id: str = field(name="clientID")
    producer_data_set: list[ProducerData] = field(default_factory=list)
    consumer_data_set: list[ConsumerData] = field(default_factory=list)


class ConsumerList(Body):
    """The client ids of a group's members (answer to 38)."""

    consumer_id_list: list[str]


class LockBatchRequestBody(Body):
    """Queues to lock or to unlock (41, 42)."""

    consumer_group: str
    client_id: str
    mq_set: list[MessageQueue] = field(default_factory=list)


class LockBatchResponseBody(Body):
    """The queues that are locked by the asker now (answer to 41)."""

    locked: list[MessageQueue] = field(name="lockOKMQSet", default_factory=list)
