"""Headers by which tools set up and look at a broker, and slaves copy its tables (wire.md §4.5)."""

from __future__ import annotations

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header, Int, Long


class CreateTopicRequest(Header):
    """Create or change a topic on a broker (code 17)."""

    code = RequestCode.UPDATE_AND_CREATE_TOPIC
    topic: str
    read_queue_nums: Int
    write_queue_nums: Int
    perm: Int
    default_topic: str | None = None
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int | None = None
    order: bool = False


class DeleteTopicInBrokerRequest(Header):
    """Delete a topic and its queues on a broker (code 215)."""

    code = RequestCode.DELETE_TOPIC_IN_BROKER
    topic: str


class GetAllTopicConfigRequest(Header):
    """The broker's topic table (code 21)."""

    code = RequestCode.GET_ALL_TOPIC_CONFIG


class GetAllConsumerOffsetRequest(Header):
    """The broker's offset table (code 43)."""

    code = RequestCode.GET_ALL_CONSUMER_OFFSET


class GetAllDelayOffsetRequest(Header):
    """How far the delay levels are delivered (code 45)."""

    code = RequestCode.GET_ALL_DELAY_OFFSET


class GetAllSubscriptionGroupConfigRequest(Header):
    """The broker's subscription-group table (code 201)."""

    code = RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG


class UpdateAndCreateSubscriptionGroupRequest(Header):
    """Create or change a subscription group, in the body (code 200)."""

    code = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP


class DeleteSubscriptionGroupRequest(Header):
    """Delete a subscription group (code 207). `removeOffset` is 4.9's name, `cleanOffset` 5.x's."""

    code = RequestCode.DELETE_SUBSCRIPTIONGROUP
    group_name: str
    remove_offset: bool | None = None
    clean_offset: bool | None = None


class GetBrokerConfigResponse(Header):
    """The version of the configuration, a data version as JSON text."""

    version: str | None = None


class GetBrokerConfigRequest(Header):
    """The broker's settings as properties text (code 26)."""

    code = RequestCode.GET_BROKER_CONFIG
    answer = GetBrokerConfigResponse


class GetBrokerRuntimeInfoRequest(Header):
    """Figures of the running broker (code 28)."""

    code = RequestCode.GET_BROKER_RUNTIME_INFO


class GetBrokerHaStatusRequest(Header):
    """How replication stands (code 907, of RocketMQ 5)."""

    code = RequestCode.GET_BROKER_HA_STATUS


class GetTopicStatsInfoRequest(Header):
    """Bounds of a topic's queues (code 202)."""

    code = RequestCode.GET_TOPIC_STATS_INFO
    topic: str


class GetConsumeStatsRequest(Header):
    """How far a group is in its topics, or in one (code 208)."""

    code = RequestCode.GET_CONSUME_STATS
    consumer_group: str
    topic: str | None = None


class InvokeBrokerToResetOffsetRequest(Header):
    """Let the running consumers of a group go on elsewhere in a topic (code 222).

    `timestamp` in ms, -1: the end. 4.x peers set these fields only; with `queue_id` and `offset`, 5.x's, one
    queue is reset, to just this offset. A pymq broker also takes the offsets of many queues as the body.
    """

    code = RequestCode.INVOKE_BROKER_TO_RESET_OFFSET
    topic: str
    group: str
    timestamp: Long
    is_force: bool = False
    queue_id: Int | None = None
    offset: Long | None = None


class InvokeBrokerToGetConsumerStatusRequest(Header):
    """Where the running consumers of a group stand in a topic (code 223). `client_addr`: one client's id."""

    code = RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS
    topic: str
    group: str
    client_addr: str | None = None


class QueryConsumeTimeSpanRequest(Header):
    """How old the messages are at which a group stands (code 303)."""

    code = RequestCode.QUERY_CONSUME_TIME_SPAN
    topic: str
    group: str


class QueryCorrectionOffsetRequest(Header):
    """The lowest offset that any group has in each queue of a topic (code 308).

    `filter_groups`: names, commas between them, of groups that do not count.
    """

    code = RequestCode.QUERY_CORRECTION_OFFSET
    compare_group: str
    topic: str
    filter_groups: str | None = None


class CloneGroupOffsetRequest(Header):
    """Give a group the offsets of another (code 314), in one topic or in all.

    Unless `offline`, topics that the running consumers of `src_group` do not subscribe are passed over.
    """

    code = RequestCode.CLONE_GROUP_OFFSET
    src_group: str
    dest_group: str
    topic: str | None = None
    offline: bool = False


class GetBrokerConsumeStatsRequest(Header):
    """How far every group of the broker is (code 317), with `is_order` in ordered topics only."""

    code = RequestCode.GET_BROKER_CONSUME_STATS
    is_order: bool = False


class GetConsumerConnectionListRequest(Header):
    """The members of a consumer group (code 203)."""

    code = RequestCode.GET_CONSUMER_CONNECTION_LIST
    consumer_group: str


class GetProducerConnectionListRequest(Header):
    """The members of a producer group (code 204)."""

    code = RequestCode.GET_PRODUCER_CONNECTION_LIST
    producer_group: str


class GetAllProducerInfoRequest(Header):
    """All producer groups with their members (code 328)."""

    code = RequestCode.GET_ALL_PRODUCER_INFO


class GetSystemTopicListFromBrokerRequest(Header):
    """The broker's system topics (code 305)."""

    code = RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER


class QueryTopicConsumeByWhoRequest(Header):
    """The groups that consume a topic (code 300)."""

    code = RequestCode.QUERY_TOPIC_CONSUME_BY_WHO
    topic: str


class CleanExpiredConsumeQueueRequest(Header):
    """Delete the queues of whose messages none is left (code 306)."""

    code = RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE


class CleanUnusedTopicRequest(Header):
    """Delete the queues of topics that do not exist any more (code 316)."""

    code = RequestCode.CLEAN_UNUSED_TOPIC


class DeleteExpiredCommitLogRequest(Header):
    """Delete what is expired soon, whatever the hour (code 329)."""

    code = RequestCode.DELETE_EXPIRED_COMMITLOG


class GetTopicConfigRequest(Header):
    """One topic's configuration (code 351; 5.x tools)."""

    code = RequestCode.GET_TOPIC_CONFIG
    topic: str


class GetSubscriptionGroupConfigRequest(Header):
    """One group's configuration (code 352; 5.x tools)."""

    code = RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG
    group: str


class ResumeCheckHalfMessageRequest(Header):
    """Ask again about a half message that was discarded; `msg_id`: its offset id there (code 323)."""

    code = RequestCode.RESUME_CHECK_HALF_MESSAGE
    msg_id: str | None = None
