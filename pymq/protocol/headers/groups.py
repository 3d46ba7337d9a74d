"""Headers of what keeps groups of clients together (wire.md §4.1, §4.4)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header, Int, Long


class HeartBeatRequest(Header):
    """A client's groups and subscriptions, in the body (code 34)."""

    code = RequestCode.HEART_BEAT


class UnregisterClientRequest(Header):
    """A client leaves its groups (code 35)."""

    code = RequestCode.UNREGISTER_CLIENT
    client_id: str = field(name="clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


class CheckClientConfigRequest(Header):
    """Would this subscription's expression be accepted? In the body (code 46)."""

    code = RequestCode.CHECK_CLIENT_CONFIG


class GetConsumerListByGroupRequest(Header):
    """The client ids of a consumer group (code 38)."""

    code = RequestCode.GET_CONSUMER_LIST_BY_GROUP
    consumer_group: str


class NotifyConsumerIdsChangedRequest(Header):
    """Broker → client: the members of a group have changed, rebalance (code 40, oneway)."""

    code = RequestCode.NOTIFY_CONSUMER_IDS_CHANGED
    consumer_group: str


class LockBatchMqRequest(Header):
    """Lock queues for ordered consumption, in the body (code 41)."""

    code = RequestCode.LOCK_BATCH_MQ


class UnlockBatchMqRequest(Header):
    """Release queue locks, in the body (code 42)."""

    code = RequestCode.UNLOCK_BATCH_MQ


class ResetConsumerClientOffsetRequest(Header):
    """Broker → client: set offsets, in the body (code 220, oneway). `timestamp` in ms."""

    code = RequestCode.RESET_CONSUMER_CLIENT_OFFSET
    topic: str
    group: str
    timestamp: Long
    is_force: bool = False


class GetConsumerStatusFromClientRequest(Header):
    """Broker → client: the offsets a client stands at (code 221)."""

    code = RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT
    topic: str
    group: str
    client_addr: str | None = None


class GetConsumerRunningInfoRequest(Header):
    """What a consumer is doing (code 307)."""

    code = RequestCode.GET_CONSUMER_RUNNING_INFO
    consumer_group: str
    client_id: str
    jstack_enable: bool = False


class ConsumeMessageDirectlyRequest(Header):
    """Let a consumer handle one message now (code 309)."""

    code = RequestCode.CONSUME_MESSAGE_DIRECTLY
    consumer_group: str
    client_id: str | None = None
    msg_id: str | None = None
    broker_name: str | None = None


class PushReplyMessageToClientRequest(Header):
    """Broker → producer: the reply to one of its requests (code 326)."""

    code = RequestCode.PUSH_REPLY_MESSAGE_TO_CLIENT
    producer_group: str
    topic: str
    default_topic: str
    default_topic_queue_nums: Int
    queue_id: Int
    sys_flag: Int
    born_timestamp: Long
    flag: Int
    born_host: str
    store_host: str
    store_timestamp: Long
    properties: str | None = None
    reconsume_times: Int | None = None
    unit_mode: bool | None = None
