"""Headers by which tools set up and look at a broker, and slaves copy its tables (wire.md §4.5)."""

from __future__ import annotations

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header, Int


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


class GetTopicStatsInfoRequest(Header):
    """Bounds of a topic's queues (code 202)."""

    code = RequestCode.GET_TOPIC_STATS_INFO
    topic: str


class GetConsumeStatsRequest(Header):
    """How far a group is in its topics, or in one (code 208)."""

    code = RequestCode.GET_CONSUME_STATS
    consumer_group: str
    topic: str | None = None


class GetConsumerConnectionListRequest(Header):
    """The members of a consumer group (code 203)."""

    code = RequestCode.GET_CONSUMER_CONNECTION_LIST
    consumer_group: str


class GetProducerConnectionListRequest(Header):
    """The members of a producer group (code 204)."""

    code = RequestCode.GET_PRODUCER_CONNECTION_LIST
    producer_group: str


class GetSystemTopicListFromBrokerRequest(Header):
    """The broker's system topics (code 305)."""

    code = RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER


class QueryTopicConsumeByWhoRequest(Header):
    """The groups that consume a topic (code 300)."""

    code = RequestCode.QUERY_TOPIC_CONSUME_BY_WHO
    topic: str


class GetTopicConfigRequest(Header):
    """One topic's configuration (code 351; 5.x tools)."""

    code = RequestCode.GET_TOPIC_CONFIG
    topic: str


class GetSubscriptionGroupConfigRequest(Header):
    """One group's configuration (code 352; 5.x tools)."""

    code = RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG
    group: str
