"""A small name server and small brokers, in memory: just enough for a client to talk to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import msgspec

from pymq.client import Settings
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol import properties as names
from pymq.protocol.bodies import (
    BrokerData,
    ClusterInfo,
    ConsumerList,
    HeartbeatData,
    LockBatchRequestBody,
    LockBatchResponseBody,
    MessageQueue,
    QueueData,
    TopicList,
    TopicRouteData,
)
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers import groups, messaging, naming
from pymq.protocol.message import MessageRecord, batch_parts, decode_record, encode_record
from pymq.protocol.message_ids import encode_offset_msg_id, pack_host
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.server import Server

HOST = "127.0.0.1"
HALF_TOPIC = "RMQ_SYS_TRANS_HALF_TOPIC"
FAST = Settings(
    poll_name_server_s=0.5,
    poll_missing_route_s=0.02,
    heartbeat_s=0.5,
    rebalance_s=0.5,
    commit_s=0.02,
    close_timeout_s=1.0,
    retry_pause_s=0.01,
    suspend_s=0.2,
    pull_retry_s=0.02,
    local_retry_s=0.05,
    lock_renewal_s=0.1,
    lock_retry_s=0.02,
    surrender_s=0.05,
)
"""Settings under which nothing takes long."""


async def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until something is so. TimeoutError when it takes too long."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - conditions are of all kinds
            await asyncio.sleep(0.002)


class FakeBroker:
    """A broker that keeps messages in lists.

    Attributes:
        refusals: by request code, the errors to answer the next requests with.
        silent: request codes that get no answer.
        seen: the headers of all requests, in order.
        members: consumer group → client id → its connection.
        producers: client id → its connection.
        offsets: committed offsets by (group, topic, queue id).
        locks: who holds the lock of a queue, by group and queue.
        status: the code that sends are answered with.
        names_cluster: the cluster that it writes into messages, none as before 4.6 unless set.
        trace_on: whether it lets messages be traced, `true` or `false`.
        deaf_to: a topic whose messages it does not answer.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.refusals: defaultdict[int, list[ResponseError]] = defaultdict(list)
        self.silent: set[int] = set()
        self.seen: list[Header] = []
        self.heartbeats: list[HeartbeatData] = []
        self.members: defaultdict[str, dict[str, Connection]] = defaultdict(dict)
        self.producers: dict[str, Connection] = {}
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.queues: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.locks: dict[tuple[str, MessageQueue], str] = {}
        self.min_offset = 0
        self.status = ResponseCode.SUCCESS
        self.names_cluster = ""
        self.trace_on = "true"
        self.deaf_to = ""
        self._replying: set[asyncio.Task[None]] = set()
        self._held: list[Request[messaging.PullMessageRequest]] = []
        self._server = self._new_server()
        self._physical = 0
        self._table = merge(
            [
                row(messaging.SendMessageRequestV2, self._guard(self._send)),
                row(messaging.SendBatchMessageRequest, self._guard(self._send_batch)),
                row(messaging.SendReplyMessageRequestV2, self._guard(self._reply)),
                row(messaging.PullMessageRequest, self._guard(self._pull)),
                row(messaging.QueryConsumerOffsetRequest, self._guard(self._query_offset)),
                row(messaging.UpdateConsumerOffsetRequest, self._guard(self._update_offset)),
                row(messaging.GetMinOffsetRequest, self._guard(self._offset(lambda log: self.min_offset))),
                row(messaging.GetMaxOffsetRequest, self._guard(self._offset(len))),
                row(messaging.SearchOffsetRequest, self._guard(self._offset(lambda log: len(log) // 2))),
                row(messaging.ConsumerSendMsgBackRequest, self._guard(lambda request: Answer())),
                row(messaging.EndTransactionRequest, self._guard(self._end_transaction)),
                row(messaging.QueryMessageRequest, self._guard(self._query)),
                row(groups.HeartBeatRequest, self._guard(self._heartbeat)),
                row(groups.UnregisterClientRequest, self._guard(self._unregister)),
                row(groups.GetConsumerListByGroupRequest, self._guard(self._list_members)),
                row(groups.CheckClientConfigRequest, self._guard(lambda request: Answer())),
                row(groups.LockBatchMqRequest, self._guard(self._lock)),
                row(groups.UnlockBatchMqRequest, self._guard(self._unlock)),
            ]
        )

    def _new_server(self) -> Server:
        return Server(SystemNetwork(), on_close=self._connection_closed)

    async def start(self, port: int = 0) -> None:
        """Listen."""
        self.address = f"{HOST}:{await self._server.listen(HOST, port, self._table)}"

    async def stop(self) -> None:
        """Close everything, as a broker that dies."""
        await self._server.close()
        self._held.clear()

    async def restart(self) -> None:
        """Come back on the same port, with the same messages."""
        self._server = self._new_server()
        await self.start(int(self.address.split(":")[1]))

    def requests(self, cls: type[Header]) -> list[Any]:
        """The requests of one kind that came so far."""
        return [header for header in self.seen if type(header) is cls]

    @property
    def connections(self) -> list[Connection]:
        """The open connections."""
        return self._server.connections

    def _guard(
        self, handler: Callable[[Request[Any]], Answer | None]
    ) -> Callable[[Request[Any]], Answer | None]:
        def guarded(request: Request[Any]) -> Answer | None:
            self.seen.append(request.header)
            code = int(request.header.code)
            if code in self.silent:
                return None
            if self.refusals[code]:
                raise self.refusals[code].pop(0)
            return handler(request)

        return guarded

    # -- messages -----------------------------------------------------------------------------------

    def put(
        self,
        topic: str,
        queue_id: int,
        body: bytes,
        properties: str = "",
        sys_flag: int = 0,
        flag: int = 0,
        reconsume_times: int = 0,
    ) -> str:
        """Store one message; gives its offset id."""
        log = self.queues[topic, queue_id]
        store_host = pack_host(HOST, 1)
        record = encode_record(
            topic.encode(),
            body,
            properties.encode(),
            queue_id,
            len(log),
            self._physical,
            flag,
            sys_flag,
            0,
            pack_host(HOST, 2),
            0,
            store_host,
            reconsume_times,
        )
        log.append(record)
        offset_id = encode_offset_msg_id(store_host, self._physical)
        self._physical += len(record)
        held, self._held = self._held, []
        for request in held:
            self._answer_pull(request)
        return offset_id

    def _send(self, request: Request[messaging.SendMessageRequestV2]) -> Answer | None:
        h = request.header
        topic = h.topic
        if topic == self.deaf_to:
            return None
        if topic.startswith("%RETRY%") and (h.reconsume_times or 0) >= (h.max_reconsume_times or 0):
            topic = topic.replace("%RETRY%", "%DLQ%")
        properties = h.properties or ""
        if self.names_cluster:
            properties += f"\x02CLUSTER\x01{self.names_cluster}"
        queue_id = h.queue_id
        if names.get_property(properties, names.TRAN_MSG):
            properties += f"\x02REAL_TOPIC\x01{topic}\x02REAL_QID\x01{queue_id}"
            topic, queue_id = HALF_TOPIC, 0
        offset_id = self.put(topic, queue_id, request.body, properties, h.sys_flag, h.flag)
        offset = len(self.queues[topic, queue_id]) - 1
        header = messaging.SendMessageResponse(offset_id, h.queue_id, offset, trace_on=self.trace_on)
        return Answer(self.status, header)

    def _end_transaction(self, request: Request[messaging.EndTransactionRequest]) -> Answer | None:
        """As Apache: what is committed twice is stored twice, and UNKNOWN gets no answer."""
        h = request.header
        if h.commit_or_rollback == 8:
            half = decode_record(self.queues[HALF_TOPIC, 0][h.tran_state_table_offset])
            properties = half.read_properties()
            if (half.physical_offset, properties[names.PGROUP]) != (h.commit_log_offset, h.producer_group):
                return Answer(ResponseCode.SYSTEM_ERROR, remark="Find prepared transaction message failed")
            queue_id = int(properties[names.REAL_QID])
            self.put(properties[names.REAL_TOPIC], queue_id, half.body, half.properties, 8, half.flag)
        return None if h.commit_or_rollback == 0 else Answer()

    def _query(self, request: Request[messaging.QueryMessageRequest]) -> Answer:
        h = request.header
        found = [
            record
            for (topic, _), log in self.queues.items()
            for record in log
            if topic == h.topic and h.key in _keys(record)
        ]
        return Answer(0 if found else ResponseCode.QUERY_NOT_FOUND, body=b"".join(found))

    def check(self, connection: Connection, queue_offset: int = -1) -> messaging.EndTransactionRequest:
        """Store a half message anew, the last one unless told, and ask a client how its transaction ended.

        Gives the request by which that copy is committed.
        """
        old = decode_record(self.queues[HALF_TOPIC, 0][queue_offset])
        self.put(HALF_TOPIC, 0, old.body, old.properties, old.sys_flag, old.flag)
        copy = decode_record(self.queues[HALF_TOPIC, 0][-1])
        properties = copy.read_properties()
        msg_id = properties[names.UNIQ_KEY]
        asked = msgspec.structs.replace(
            copy, topic=properties[names.REAL_TOPIC], queue_id=int(properties[names.REAL_QID])
        )
        header = messaging.CheckTransactionStateRequest(
            copy.queue_offset, copy.physical_offset, msg_id, msg_id, copy.offset_msg_id
        )
        connection.oneway(header, encode_again(asked))
        return messaging.EndTransactionRequest(
            properties[names.PGROUP], copy.queue_offset, copy.physical_offset, 8, msg_id, True, msg_id
        )

    def _send_batch(self, request: Request[messaging.SendBatchMessageRequest]) -> Answer:
        h = request.header
        first = len(self.queues[h.topic, h.queue_id])
        ids = [
            self.put(h.topic, h.queue_id, body, properties.decode())
            for _, body, properties in batch_parts(request.body)
        ]
        return Answer(self.status, messaging.SendMessageResponse(",".join(ids), h.queue_id, first))

    async def _pass_on(self, request: Request[messaging.SendReplyMessageRequestV2]) -> Answer:
        h = request.header
        properties = names.decode_properties(h.properties or "")
        asker = self.producers.get(properties.get(names.REPLY_TO_CLIENT, ""))
        if asker is None or asker.closed:
            return Answer(ResponseCode.SYSTEM_ERROR, remark="push reply message fail, channel not found.")
        pushed = groups.PushReplyMessageToClientRequest(
            producer_group=h.producer_group,
            topic=h.topic,
            default_topic=h.default_topic,
            default_topic_queue_nums=h.default_topic_queue_nums,
            queue_id=h.queue_id,
            sys_flag=h.sys_flag,
            born_timestamp=h.born_timestamp,
            flag=h.flag,
            born_host=request.connection.address,
            store_host=self.address,
            store_timestamp=0,
            properties=h.properties,
        )
        answer = await asker.call(pushed, request.body)
        header = messaging.SendMessageResponse("0", h.queue_id, 0)
        return Answer(answer.code, header, remark=answer.remark)

    def _reply(self, request: Request[messaging.SendReplyMessageRequestV2]) -> None:
        async def reply() -> None:
            request.reply(await self._pass_on(request))

        task = asyncio.ensure_future(reply())
        self._replying.add(task)
        task.add_done_callback(self._replying.discard)

    def _pull(self, request: Request[messaging.PullMessageRequest]) -> Answer | None:
        h = request.header
        if h.sys_flag & 1:
            self.offsets[h.consumer_group, h.topic, h.queue_id] = h.commit_offset
        end = len(self.queues[h.topic, h.queue_id])
        if h.queue_offset < self.min_offset or h.queue_offset > end:
            return self._pull_answer(h, ResponseCode.PULL_OFFSET_MOVED, self.min_offset)
        if h.queue_offset < end:
            log = self.queues[h.topic, h.queue_id][h.queue_offset : h.queue_offset + h.max_msg_nums]
            return self._pull_answer(h, ResponseCode.SUCCESS, h.queue_offset + len(log), b"".join(log))
        self._held.append(request)
        asyncio.get_running_loop().call_later(h.suspend_timeout_millis / 1000, self._release, request)
        return None

    def _release(self, request: Request[messaging.PullMessageRequest]) -> None:
        if request in self._held:
            self._held.remove(request)
            h = request.header
            request.reply(self._pull_answer(h, ResponseCode.PULL_NOT_FOUND, h.queue_offset))

    def _answer_pull(self, request: Request[messaging.PullMessageRequest]) -> None:
        answer = self._pull(request)
        if answer is not None:
            request.reply(answer)

    def _pull_answer(
        self, h: messaging.PullMessageRequest, code: ResponseCode, next_offset: int, body: bytes = b""
    ) -> Answer:
        end = len(self.queues[h.topic, h.queue_id])
        return Answer(code, messaging.PullMessageResponse(0, next_offset, self.min_offset, end), body)

    # -- offsets ------------------------------------------------------------------------------------

    def _query_offset(self, request: Request[messaging.QueryConsumerOffsetRequest]) -> Answer:
        h = request.header
        offset = self.offsets.get((h.consumer_group, h.topic, h.queue_id))
        if offset is None:
            return Answer(ResponseCode.QUERY_NOT_FOUND)
        return Answer(header=messaging.QueryConsumerOffsetResponse(offset))

    def _update_offset(self, request: Request[messaging.UpdateConsumerOffsetRequest]) -> Answer:
        h = request.header
        self.offsets[h.consumer_group, h.topic, h.queue_id] = h.commit_offset
        return Answer()

    def _offset(self, of: Callable[[list[bytes]], int]) -> Callable[[Request[Any]], Answer]:
        def answer(request: Request[Any]) -> Answer:
            log = self.queues[request.header.topic, request.header.queue_id]
            return Answer(header=messaging.OffsetResponse(of(log)))

        return answer

    # -- groups -------------------------------------------------------------------------------------

    def _heartbeat(self, request: Request[groups.HeartBeatRequest]) -> Answer:
        data = HeartbeatData.decode(request.body)
        self.heartbeats.append(data)
        if data.producer_data_set:
            self.producers[data.client_id] = request.connection
        for consumer in data.consumer_data_set:
            members = self.members[consumer.group_name]
            is_new = members.get(data.client_id) is not request.connection
            members[data.client_id] = request.connection
            if is_new:
                self.notify(consumer.group_name)
        return Answer()

    def _unregister(self, request: Request[groups.UnregisterClientRequest]) -> Answer:
        group = request.header.consumer_group
        if group is not None and self.members[group].pop(request.header.client_id, None) is not None:
            self.notify(group)
        return Answer()

    def _connection_closed(self, connection: Connection) -> None:
        for group, members in self.members.items():
            gone = [client_id for client_id, member in members.items() if member is connection]
            for client_id in gone:
                del members[client_id]
            if gone:
                self.notify(group)

    def notify(self, group: str) -> None:
        """Tell all members that the group has changed."""
        for connection in self.members[group].values():
            if not connection.closed:
                connection.oneway(groups.NotifyConsumerIdsChangedRequest(group))

    def _lock(self, request: Request[groups.LockBatchMqRequest]) -> Answer:
        body = LockBatchRequestBody.decode(request.body)
        keys = {queue: (body.consumer_group, queue) for queue in body.mq_set}
        held = [q for q, key in keys.items() if self.locks.setdefault(key, body.client_id) == body.client_id]
        return Answer(body=LockBatchResponseBody(held).encode())

    def _unlock(self, request: Request[groups.UnlockBatchMqRequest]) -> Answer:
        body = LockBatchRequestBody.decode(request.body)
        for queue in body.mq_set:
            if self.locks.get((body.consumer_group, queue)) == body.client_id:
                del self.locks[body.consumer_group, queue]
        return Answer()

    def _list_members(self, request: Request[groups.GetConsumerListByGroupRequest]) -> Answer:
        members = list(self.members[request.header.consumer_group])
        if not members:
            return Answer(ResponseCode.SYSTEM_ERROR, remark="no consumer for this group")
        return Answer(body=ConsumerList(members).encode())


class FakeCluster:
    """One name server and some brokers. `queues` is how many of each topic every broker has.

    Attributes:
        has_masters: whether the name server tells brokers as masters, or as slaves.
    """

    def __init__(self, brokers: int = 1, topics: tuple[str, ...] = ("orders",), queues: int = 4) -> None:
        self.brokers = [FakeBroker(f"broker-{'abcdef'[index]}") for index in range(brokers)]
        self.topics = list(topics)
        self.queue_nums = queues
        self.asked: list[str] = []
        self.has_masters = True
        self.name_servers = ""
        self._server = Server(SystemNetwork())

    async def __aenter__(self) -> Self:
        for broker in self.brokers:
            await broker.start()
        table = merge(
            [
                row(naming.GetRouteInfoRequest, self._route),
                row(
                    naming.GetAllTopicListRequest,
                    lambda request: Answer(body=TopicList(self.topics).encode()),
                ),
                row(naming.GetBrokerClusterInfoRequest, self._cluster),
            ]
        )
        self.name_servers = f"{HOST}:{await self._server.listen(HOST, 0, table)}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.close()
        for broker in self.brokers:
            await broker.stop()

    async def stop_name_server(self) -> None:
        """Let the name server die."""
        await self._server.close()

    def _cluster(self, request: Request[naming.GetBrokerClusterInfoRequest]) -> Answer:
        table = {broker.name: BrokerData(broker.name, "c", {0: broker.address}) for broker in self.brokers}
        return Answer(body=ClusterInfo(table, {"c": list(table)}).encode())

    def _route(self, request: Request[naming.GetRouteInfoRequest]) -> Answer:
        topic = request.header.topic or ""
        self.asked.append(topic)
        if topic not in self.topics:
            return Answer(ResponseCode.TOPIC_NOT_EXIST, remark=f"No topic route info for {topic}")
        nums = 1 if topic.startswith("%RETRY%") else self.queue_nums
        route = TopicRouteData(
            [QueueData(broker.name, nums, nums, 6) for broker in self.brokers],
            [
                BrokerData(broker.name, "c", {0 if self.has_masters else 1: broker.address})
                for broker in self.brokers
            ],
        )
        return Answer(body=route.encode(standard_json=True))

    def bodies(self, topic: str = "orders") -> list[int]:
        """How many messages each queue of a topic holds, in the order of brokers and queues."""
        return [
            len(broker.queues[topic, queue_id])
            for broker in self.brokers
            for queue_id in range(self.queue_nums)
        ]


def encode_again(record: MessageRecord) -> bytes:
    """The bytes of a record, some fields of which were changed."""
    return encode_record(
        record.topic.encode(),
        record.body,
        record.properties.encode(),
        record.queue_id,
        record.queue_offset,
        record.physical_offset,
        record.flag,
        record.sys_flag,
        record.born_timestamp,
        record.born_host,
        record.store_timestamp,
        record.store_host,
    )


def _keys(record: bytes) -> list[str]:
    """What a stored message is found by."""
    properties = decode_record(record).read_properties()
    return [*properties.get(names.KEYS, "").split(), properties.get(names.UNIQ_KEY, "")]


def tagged(tag: str, **more: str) -> str:
    """Property text of a message with this tag."""
    return names.encode_properties({names.TAGS: tag, **more})


def queue(queue_id: int, broker: str = "broker-a", topic: str = "orders") -> MessageQueue:
    """A queue."""
    return MessageQueue(topic, broker, queue_id)


__all__ = ["FAST", "HOST", "FakeBroker", "FakeCluster", "RequestCode", "queue", "tagged", "until"]
