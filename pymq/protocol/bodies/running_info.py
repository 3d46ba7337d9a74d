"""What a consumer tells of its inner state (answer to 307; wire.md §5.2), and of one message (309; §4.4)."""

from __future__ import annotations

import enum

import msgspec
from msgspec import field

from pymq.protocol import tolerant_json
from pymq.protocol.bodies.body import Body, Int, Long, MessageQueue
from pymq.protocol.bodies.subscription import SubscriptionData


class ProcessQueueInfo(Body):
    """One queue that a consumer owns. Timestamps in milliseconds."""

    commit_offset: Long = 0
    cached_msg_min_offset: Long = 0
    cached_msg_max_offset: Long = 0
    cached_msg_count: Int = 0
    cached_msg_size_in_mib: Int = field(name="cachedMsgSizeInMiB", default=0)
    transaction_msg_min_offset: Long = 0
    transaction_msg_max_offset: Long = 0
    transaction_msg_count: Int = 0
    locked: bool = False
    try_unlock_times: Long = 0
    last_lock_timestamp: Long = 0
    droped: bool = False
    last_pull_timestamp: Long = 0
    last_consume_timestamp: Long = 0


class ConsumeStatus(Body):
    """Rates of one topic in a consumer: times in milliseconds, the rest per second."""

    pull_rt: float = field(name="pullRT", default=0.0)
    pull_tps: float = field(name="pullTPS", default=0.0)
    consume_rt: float = field(name="consumeRT", default=0.0)
    consume_ok_tps: float = field(name="consumeOKTPS", default=0.0)
    consume_failed_tps: float = field(name="consumeFailedTPS", default=0.0)
    consume_failed_msgs: Long = 0
    """Of the last hour."""


class ConsumerRunningInfo(Body):
    """A consumer's settings, subscriptions, queues and rates."""

    properties: dict[str, str] = field(default_factory=dict)
    """mqadmin reads the PROP_… ones (wire.md §5.2)."""
    subscription_set: list[SubscriptionData] = field(default_factory=list)
    mq_table: dict[MessageQueue, ProcessQueueInfo] = field(default_factory=dict)
    status_table: dict[str, ConsumeStatus] = field(default_factory=dict)
    jstack: str | None = None

    def encode(self) -> bytes:
        """With message queues as object keys."""
        return tolerant_json.encode(
            _Encodable(
                self.properties,
                self.subscription_set,
                tolerant_json.encode_map(self.mq_table),
                self.status_table,
                self.jstack,
            )
        )


class DirectResult(enum.Enum):
    """How a consumer dealt with a message that it was given by 309."""

    SUCCESS = "CR_SUCCESS"
    LATER = "CR_LATER"
    ROLLBACK = "CR_ROLLBACK"
    COMMIT = "CR_COMMIT"
    THROW_EXCEPTION = "CR_THROW_EXCEPTION"
    RETURN_NULL = "CR_RETURN_NULL"


class ConsumeMessageDirectlyResult(Body):
    """What came of a message that a consumer was given by 309; `spent_time_mills`: ms that it was handled."""

    consume_result: DirectResult | None = None
    order: bool = False
    auto_commit: bool = True
    remark: str | None = None
    spent_time_mills: Long = 0


class _Encodable(msgspec.Struct, rename="camel", omit_defaults=True):
    properties: dict[str, str]
    subscription_set: list[SubscriptionData]
    mq_table: msgspec.Raw
    status_table: dict[str, ConsumeStatus]
    jstack: str | None = None
