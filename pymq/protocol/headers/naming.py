"""Headers of the name server (wire.md §4.6)."""

from __future__ import annotations

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header, Int, Long


class PutKvConfigRequest(Header):
    """Set one value (code 100)."""

    code = RequestCode.PUT_KV_CONFIG
    namespace: str
    key: str
    value: str


class GetKvConfigResponse(Header):
    """A stored value."""

    value: str | None = None


class GetKvConfigRequest(Header):
    """One value (code 101)."""

    code = RequestCode.GET_KV_CONFIG
    answer = GetKvConfigResponse
    namespace: str | None = None
    key: str | None = None


class DeleteKvConfigRequest(Header):
    """Forget one value (code 102)."""

    code = RequestCode.DELETE_KV_CONFIG
    namespace: str
    key: str


class GetKvListByNamespaceRequest(Header):
    """All values of a namespace (code 219)."""

    code = RequestCode.GET_KVLIST_BY_NAMESPACE
    namespace: str


class RegisterBrokerResponse(Header):
    """To a slave: where its master is, if one is known and alive."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


class RegisterBrokerRequest(Header):
    """A broker and its topics, in the body (code 103, wire.md §7.2)."""

    code = RequestCode.REGISTER_BROKER
    answer = RegisterBrokerResponse
    broker_name: str
    broker_addr: str
    cluster_name: str
    ha_server_addr: str
    broker_id: Long
    compressed: bool = False
    body_crc32: Int = 0


class UnregisterBrokerRequest(Header):
    """A broker leaves (code 104)."""

    code = RequestCode.UNREGISTER_BROKER
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Long


class QueryDataVersionResponse(Header):
    """Whether the name server's picture differs from the broker's."""

    changed: bool


class QueryDataVersionRequest(Header):
    """Does this data version, in the body, differ from what is known? (code 322)"""

    code = RequestCode.QUERY_DATA_VERSION
    answer = QueryDataVersionResponse
    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: Long


class GetRouteInfoRequest(Header):
    """Where a topic is (code 105)."""

    code = RequestCode.GET_ROUTEINFO_BY_TOPIC
    topic: str | None = None
    accept_standard_json_only: bool | None = None


class GetBrokerClusterInfoRequest(Header):
    """All brokers by cluster (code 106)."""

    code = RequestCode.GET_BROKER_CLUSTER_INFO


class WipeWritePermResponse(Header):
    """How many topics changed."""

    wipe_topic_count: Int


class WipeWritePermRequest(Header):
    """Take the write permission from all topics of a broker (code 205)."""

    code = RequestCode.WIPE_WRITE_PERM_OF_BROKER
    answer = WipeWritePermResponse
    broker_name: str


class AddWritePermResponse(Header):
    """How many topics changed."""

    add_topic_count: Int


class AddWritePermRequest(Header):
    """Give all topics of a broker read and write permission (code 327)."""

    code = RequestCode.ADD_WRITE_PERM_OF_BROKER
    answer = AddWritePermResponse
    broker_name: str


class GetAllTopicListRequest(Header):
    """All topics (code 206)."""

    code = RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER


class DeleteTopicInNamesrvRequest(Header):
    """Forget a topic's route, of one cluster if given (code 216)."""

    code = RequestCode.DELETE_TOPIC_IN_NAMESRV
    topic: str
    cluster_name: str | None = None


class GetTopicsByClusterRequest(Header):
    """The topics of a cluster (code 224)."""

    code = RequestCode.GET_TOPICS_BY_CLUSTER
    cluster: str


class GetSystemTopicListFromNsRequest(Header):
    """Cluster names and broker names, and the address of some broker (code 304)."""

    code = RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS


class GetUnitTopicListRequest(Header):
    """Topics with the unit flag (code 311)."""

    code = RequestCode.GET_UNIT_TOPIC_LIST


class GetHasUnitSubTopicListRequest(Header):
    """Topics with the unit-subscription flag (code 312)."""

    code = RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST


class GetHasUnitSubUnunitTopicListRequest(Header):
    """Topics with the unit-subscription flag that are no unit topics (code 313)."""

    code = RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST


class UpdateNamesrvConfigRequest(Header):
    """Change the name server's settings, properties text in the body (code 318)."""

    code = RequestCode.UPDATE_NAMESRV_CONFIG


class GetNamesrvConfigRequest(Header):
    """The name server's settings as properties text (code 319)."""

    code = RequestCode.GET_NAMESRV_CONFIG
