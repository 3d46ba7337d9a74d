"""Bodies of requests and answers: one class each (wire.md §5, §7)."""

from pymq.protocol.bodies.body import Body, MessageQueue
from pymq.protocol.bodies.heartbeat import (
    ConsumeFromWhere,
    ConsumerData,
    ConsumerList,
    ConsumeType,
    HeartbeatData,
    LockBatchRequestBody,
    LockBatchResponseBody,
    MessageModel,
    ProducerData,
)
from pymq.protocol.bodies.offsets import (
    ConsumerOffsets,
    ConsumeStats,
    DelayOffsets,
    OffsetWrapper,
    TopicOffset,
    TopicStatsTable,
)
from pymq.protocol.bodies.register import RegisterBrokerBody, body_crc32
from pymq.protocol.bodies.route import MASTER_ID, BrokerData, ClusterInfo, QueueData, TopicRouteData
from pymq.protocol.bodies.running_info import ConsumerRunningInfo, ConsumeStatus, ProcessQueueInfo
from pymq.protocol.bodies.subscription import (
    SubscriptionData,
    SubscriptionGroupConfig,
    SubscriptionGroupWrapper,
)
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.bodies.topic_config import (
    NO_DATA_VERSION,
    PERM_INHERIT,
    PERM_READ,
    PERM_WRITE,
    TOPIC_UNIT,
    TOPIC_UNIT_SUB,
    DataVersion,
    TopicConfig,
    TopicConfigSerializeWrapper,
    TopicList,
)

__all__ = [
    "MASTER_ID",
    "NO_DATA_VERSION",
    "PERM_INHERIT",
    "PERM_READ",
    "PERM_WRITE",
    "TOPIC_UNIT",
    "TOPIC_UNIT_SUB",
    "Body",
    "BrokerData",
    "ClusterInfo",
    "ConsumeFromWhere",
    "ConsumeStats",
    "ConsumeStatus",
    "ConsumeType",
    "ConsumerData",
    "ConsumerList",
    "ConsumerOffsets",
    "ConsumerRunningInfo",
    "DataVersion",
    "DelayOffsets",
    "HeartbeatData",
    "KVTable",
    "LockBatchRequestBody",
    "LockBatchResponseBody",
    "MessageModel",
    "MessageQueue",
    "OffsetWrapper",
    "ProcessQueueInfo",
    "ProducerData",
    "QueueData",
    "RegisterBrokerBody",
    "SubscriptionData",
    "SubscriptionGroupConfig",
    "SubscriptionGroupWrapper",
    "TopicConfig",
    "TopicConfigSerializeWrapper",
    "TopicList",
    "TopicOffset",
    "TopicRouteData",
    "TopicStatsTable",
    "body_crc32",
]
