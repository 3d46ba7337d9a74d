"""Who is connected, as tools ask for it; and what a subscription is checked for (wire.md §4.1, §4.5)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body, Int, Long
from pymq.protocol.bodies.heartbeat import ConsumeFromWhere, ConsumeType, MessageModel
from pymq.protocol.bodies.subscription import SubscriptionData


class ConnectionData(Body):
    """One client. `client_addr` is `ip:port`, `language` the name of its code."""

    client_id: str
    client_addr: str
    language: str = "JAVA"
    version: Int = 0


class ConsumerConnection(Body):
    """The members of a consumer group (answer to 203)."""

    connection_set: list[ConnectionData] = field(default_factory=list)
    subscription_table: dict[str, SubscriptionData] = field(default_factory=dict)
    consume_type: ConsumeType = ConsumeType.CONSUME_PASSIVELY
    message_model: MessageModel = MessageModel.CLUSTERING
    consume_from_where: ConsumeFromWhere = ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET


class ProducerConnection(Body):
    """The members of a producer group (answer to 204)."""

    connection_set: list[ConnectionData] = field(default_factory=list)


class ProducerInfo(Body):
    """One client of a producer group. `remote_ip` is `/ip:port`; `last_update_timestamp` is when it was last
    heard of, ms since 1970."""

    client_id: str
    remote_ip: str = field(name="remoteIP")
    language: str = "JAVA"
    version: Int = 0
    last_update_timestamp: Long = 0


class ProducerTableInfo(Body):
    """All producer groups with their members (answer to 328, wire.md §4.5)."""

    data: dict[str, list[ProducerInfo]] = field(default_factory=dict)


class CheckClientConfigBody(Body):
    """The subscription that a consumer asks about (code 46)."""

    subscription_data: SubscriptionData
    client_id: str = ""
    group: str = ""


class GroupList(Body):
    """Names of consumer groups (answer to 300)."""

    group_list: list[str]
