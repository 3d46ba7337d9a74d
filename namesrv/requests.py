"""What the name server answers: one handler for each request code (wire.md §4.6)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pymq.errors import ResponseError
from pymq.namesrv.kv_config import ORDER_TOPIC_CONFIG, KVConfig
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.namesrv.route_table import BrokerIdentity, RouteTable
from pymq.protocol.bodies import (
    NO_DATA_VERSION,
    TOPIC_UNIT,
    TOPIC_UNIT_SUB,
    DataVersion,
    KVTable,
    RegisterBrokerBody,
    TopicList,
    body_crc32,
)
from pymq.protocol.codes import VERSION_STANDARD_JSON, RequestCode, ResponseCode
from pymq.protocol.header import H
from pymq.protocol.headers import naming
from pymq.transport.dispatch import Answer, HandlerResult, Request, Row, row

log = logging.getLogger("pymq.namesrv")


class BrokerRequests:
    """What brokers say: that they are there, with which topics, and that they leave."""

    def __init__(self, routes: RouteTable, kv_config: KVConfig) -> None:
        self._routes = routes
        self._kv_config = kv_config
        self.table = (
            row(naming.RegisterBrokerRequest, self.register),
            row(naming.UnregisterBrokerRequest, self.unregister),
            row(naming.QueryDataVersionRequest, self.query_data_version),
        )

    def register(self, request: Request[naming.RegisterBrokerRequest]) -> Answer:
        """103: take the broker's topics; tell a slave its master, and every broker the ordered topics."""
        header = request.header
        if header.body_crc32 and header.body_crc32 != body_crc32(request.body):
            raise ResponseError(ResponseCode.SYSTEM_ERROR, "crc32 not match")
        broker = _identity(header)
        body = RegisterBrokerBody.decode(request.body)
        done = self._routes.register(broker, header.ha_server_addr, body, request.connection)
        if done.is_new:
            peer, topics = request.connection.address, len(body.topics)
            log.info("broker %s registered from %s with %d topics", broker, peer, topics)
        answer = naming.RegisterBrokerResponse(done.ha_server_addr, done.master_addr)
        ordered = self._kv_config.namespace(ORDER_TOPIC_CONFIG)
        return Answer(header=answer, body=KVTable(dict(ordered)).encode() if ordered else b"")

    def unregister(self, request: Request[naming.UnregisterBrokerRequest]) -> Answer:
        """104: forget the broker."""
        broker = _identity(request.header)
        if self._routes.unregister(broker):
            log.info("broker %s unregistered", broker)
        return Answer()

    def query_data_version(self, request: Request[naming.QueryDataVersionRequest]) -> Answer:
        """322: whether the broker's topics have changed since it registered them."""
        broker = _identity(request.header)
        version = DataVersion.decode(request.body) if request.body else NO_DATA_VERSION
        changed, known = self._routes.query_data_version(broker, version, request.connection)
        header = naming.QueryDataVersionResponse(changed)
        return Answer(header=header, body=known.encode() if known is not None else b"")


class RouteRequests:
    """What clients and administrators ask of brokers and topics, and what the latter change."""

    def __init__(self, routes: RouteTable, kv_config: KVConfig, config: NamesrvConfig) -> None:
        self._routes = routes
        self._kv_config = kv_config
        self._config = config
        self.table = (
            row(naming.GetRouteInfoRequest, self.route),
            row(naming.GetBrokerClusterInfoRequest, self.cluster_info),
            row(naming.GetAllTopicListRequest, self.all_topics),
            row(naming.GetTopicsByClusterRequest, self.topics_of_cluster),
            row(naming.GetSystemTopicListFromNsRequest, self.system_topics),
            self._topics_with(naming.GetUnitTopicListRequest, lambda flag: bool(flag & TOPIC_UNIT)),
            self._topics_with(naming.GetHasUnitSubTopicListRequest, lambda flag: bool(flag & TOPIC_UNIT_SUB)),
            self._topics_with(
                naming.GetHasUnitSubUnunitTopicListRequest,
                lambda flag: bool(flag & TOPIC_UNIT_SUB) and not flag & TOPIC_UNIT,
            ),
            row(naming.WipeWritePermRequest, self.wipe_write_perm),
            row(naming.AddWritePermRequest, self.add_write_perm),
            row(naming.DeleteTopicInNamesrvRequest, self.delete_topic),
        )

    def route(self, request: Request[naming.GetRouteInfoRequest]) -> Answer:
        """105: where a topic is, in the JSON that the asker's version reads."""
        topic = request.header.topic
        route = self._routes.route(topic) if topic is not None else None
        if topic is None or route is None:
            remark = f"No topic route info in name server for the topic: {_text(topic)}"
            return Answer(ResponseCode.TOPIC_NOT_EXIST, remark=remark)
        if self._config.order_message_enable:
            route.order_topic_conf = self._kv_config.get(ORDER_TOPIC_CONFIG, topic)
        standard = request.version >= VERSION_STANDARD_JSON or bool(request.header.accept_standard_json_only)
        return Answer(body=route.encode(standard_json=standard))

    def cluster_info(self, request: Request[naming.GetBrokerClusterInfoRequest]) -> Answer:
        """106: all brokers."""
        return Answer(body=self._routes.cluster_info().encode())

    def all_topics(self, request: Request[naming.GetAllTopicListRequest]) -> Answer:
        """206: all topics."""
        return _topic_list(self._routes.topics())

    def topics_of_cluster(self, request: Request[naming.GetTopicsByClusterRequest]) -> Answer:
        """224: the topics of one cluster."""
        return _topic_list(self._routes.topics_of_cluster(request.header.cluster))

    def system_topics(self, request: Request[naming.GetSystemTopicListFromNsRequest]) -> Answer:
        """304: the names of clusters and brokers; the asker goes on with 305 to the broker named."""
        return Answer(body=TopicList(self._routes.system_names(), self._routes.some_broker()).encode())

    def _topics_with(self, header: type[H], wanted: Callable[[int], bool]) -> tuple[RequestCode, Row]:
        """311, 312, 313: the topics whose topicSysFlag is wanted."""

        def handler(request: Request[H]) -> HandlerResult:
            return _topic_list(self._routes.topics_by_flag(wanted))

        return row(header, handler)

    def wipe_write_perm(self, request: Request[naming.WipeWritePermRequest]) -> Answer:
        """205: let nobody send to a broker that is to be stopped."""
        name = request.header.broker_name
        count = self._routes.wipe_write_perm(name)
        log.info("write permission of broker %s wiped, %d topics", name, count)
        return Answer(header=naming.WipeWritePermResponse(count))

    def add_write_perm(self, request: Request[naming.AddWritePermRequest]) -> Answer:
        """327: let clients send to a broker again."""
        name = request.header.broker_name
        count = self._routes.add_write_perm(name)
        log.info("write permission of broker %s restored, %d topics", name, count)
        return Answer(header=naming.AddWritePermResponse(count))

    def delete_topic(self, request: Request[naming.DeleteTopicInNamesrvRequest]) -> Answer:
        """216: forget a topic, of one cluster where one is named."""
        topic, cluster = request.header.topic, request.header.cluster_name or None
        self._routes.delete_topic(topic, cluster)
        log.info("topic %s deleted%s", topic, f" from cluster {cluster}" if cluster else "")
        return Answer()


class KVConfigRequests:
    """Reading and writing the KV config."""

    def __init__(self, kv_config: KVConfig) -> None:
        self._kv_config = kv_config
        self.table = (
            row(naming.PutKvConfigRequest, self.put),
            row(naming.GetKvConfigRequest, self.get),
            row(naming.DeleteKvConfigRequest, self.delete),
            row(naming.GetKvListByNamespaceRequest, self.namespace),
        )

    async def put(self, request: Request[naming.PutKvConfigRequest]) -> Answer:
        """100: set a value; answered when it is on the disk."""
        header = request.header
        await self._kv_config.put(header.namespace, header.key, header.value)
        log.info("KV config %s/%s set to %r", header.namespace, header.key, header.value)
        return Answer()

    def get(self, request: Request[naming.GetKvConfigRequest]) -> Answer:
        """101: one value."""
        namespace, key = request.header.namespace, request.header.key
        value = None
        if namespace is not None and key is not None:
            value = self._kv_config.get(namespace, key)
        if value is None:
            remark = f"No config item, Namespace: {_text(namespace)} Key: {_text(key)}"
            return Answer(ResponseCode.QUERY_NOT_FOUND, naming.GetKvConfigResponse(), remark=remark)
        return Answer(header=naming.GetKvConfigResponse(value))

    async def delete(self, request: Request[naming.DeleteKvConfigRequest]) -> Answer:
        """102: forget a value; answered when that is on the disk."""
        await self._kv_config.delete(request.header.namespace, request.header.key)
        log.info("KV config %s/%s deleted", request.header.namespace, request.header.key)
        return Answer()

    def namespace(self, request: Request[naming.GetKvListByNamespaceRequest]) -> Answer:
        """219: all values of a namespace."""
        values = self._kv_config.namespace(request.header.namespace)
        if values is None:
            remark = f"No config item, Namespace: {request.header.namespace}"
            return Answer(ResponseCode.QUERY_NOT_FOUND, remark=remark)
        return Answer(body=KVTable(dict(values)).encode())


def _identity(
    header: naming.RegisterBrokerRequest | naming.UnregisterBrokerRequest | naming.QueryDataVersionRequest,
) -> BrokerIdentity:
    return BrokerIdentity(header.cluster_name, header.broker_name, header.broker_id, header.broker_addr)


def _topic_list(topics: list[str]) -> Answer:
    return Answer(body=TopicList(topics).encode())


def _text(value: str | None) -> str:
    """How Java prints it."""
    return "null" if value is None else value
