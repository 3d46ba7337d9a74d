"""A small name server and small brokers, in memory: just enough for a client to talk to."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

from pymq.client import Settings
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol import properties as names
from pymq.protocol.bodies import (
    BrokerData,
    ConsumerList,
    HeartbeatData,
    MessageQueue,
    QueueData,
    TopicList,
    TopicRouteData,
)
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers import groups, messaging, naming
from pymq.protocol.message import decode_batch, encode_record
from pymq.protocol.message_ids import encode_offset_msg_id, pack_host
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.server import Server

HOST = "127.0.0.1"
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
)
"""Settings under which nothing takes long."""


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
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
        offsets: committed offsets by (group, topic, queue id).
        status: the code that sends are answered with.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = ""
        self.refusals: defaultdict[int, list[ResponseError]] = defaultdict(list)
        self.silent: set[int] = set()
        self.seen: list[Header] = []
        self.heartbeats: list[HeartbeatData] = []
        self.members: defaultdict[str, dict[str, Connection]] = defaultdict(dict)
        self.offsets: dict[tuple[str, str, int], int] = {}
        self.queues: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        self.min_offset = 0
        self.status = ResponseCode.SUCCESS
        self._held: list[Request[messaging.PullMessageRequest]] = []
        self._server = self._new_server()
        self._physical = 0
        self._table = merge(
            [
                row(messaging.SendMessageRequestV2, self._guard(self._send)),
                row(messaging.SendBatchMessageRequest, self._guard(self._send_batch)),
                row(messaging.PullMessageRequest, self._guard(self._pull)),
                row(messaging.QueryConsumerOffsetRequest, self._guard(self._query_offset)),
                row(messaging.UpdateConsumerOffsetRequest, self._guard(self._update_offset)),
                row(messaging.GetMinOffsetRequest, self._guard(self._offset(lambda log: self.min_offset))),
                row(messaging.GetMaxOffsetRequest, self._guard(self._offset(len))),
                row(messaging.SearchOffsetRequest, self._guard(self._offset(lambda log: len(log) // 2))),
                row(messaging.ConsumerSendMsgBackRequest, self._guard(lambda request: Answer())),
                row(groups.HeartBeatRequest, self._guard(self._heartbeat)),
                row(groups.UnregisterClientRequest, self._guard(self._unregister)),
                row(groups.GetConsumerListByGroupRequest, self._guard(self._list_members)),
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

    def _send(self, request: Request[messaging.SendMessageRequestV2]) -> Answer:
        h = request.header
        offset_id = self.put(h.topic, h.queue_id, request.body, h.properties or "", h.sys_flag, h.flag)
        offset = len(self.queues[h.topic, h.queue_id]) - 1
        return Answer(self.status, messaging.SendMessageResponse(offset_id, h.queue_id, offset))

    def _send_batch(self, request: Request[messaging.SendBatchMessageRequest]) -> Answer:
        h = request.header
        first = len(self.queues[h.topic, h.queue_id])
        ids = [
            self.put(h.topic, h.queue_id, entry.body, entry.properties)
            for entry in decode_batch(request.body)
        ]
        return Answer(self.status, messaging.SendMessageResponse(",".join(ids), h.queue_id, first))

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

    def _list_members(self, request: Request[groups.GetConsumerListByGroupRequest]) -> Answer:
        members = list(self.members[request.header.consumer_group])
        if not members:
            return Answer(ResponseCode.SYSTEM_ERROR, remark="no consumer for this group")
        return Answer(body=ConsumerList(members).encode())


class FakeCluster:
    """One name server and some brokers. `queues` is how many of each topic every broker has."""

    def __init__(self, brokers: int = 1, topics: tuple[str, ...] = ("orders",), queues: int = 4) -> None:
        self.brokers = [FakeBroker(f"broker-{'abcdef'[index]}") for index in range(brokers)]
        self.topics = list(topics)
        self.queue_nums = queues
        self.asked: list[str] = []
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

    def _route(self, request: Request[naming.GetRouteInfoRequest]) -> Answer:
        topic = request.header.topic or ""
        self.asked.append(topic)
        if topic not in self.topics:
            return Answer(ResponseCode.TOPIC_NOT_EXIST, remark=f"No topic route info for {topic}")
        nums = 1 if topic.startswith("%RETRY%") else self.queue_nums
        route = TopicRouteData(
            [QueueData(broker.name, nums, nums, 6) for broker in self.brokers],
            [BrokerData(broker.name, "c", {0: broker.address}) for broker in self.brokers],
        )
        return Answer(body=route.encode(standard_json=True))

    def bodies(self, topic: str = "orders") -> list[int]:
        """How many messages each queue of a topic holds, in the order of brokers and queues."""
        return [
            len(broker.queues[topic, queue_id])
            for broker in self.brokers
            for queue_id in range(self.queue_nums)
        ]


def tagged(tag: str, **more: str) -> str:
    """Property text of a message with this tag."""
    return names.encode_properties({names.TAGS: tag, **more})


def queue(queue_id: int, broker: str = "broker-a", topic: str = "orders") -> MessageQueue:
    """A queue."""
    return MessageQueue(topic, broker, queue_id)


__all__ = ["FAST", "HOST", "FakeBroker", "FakeCluster", "RequestCode", "queue", "tagged", "until"]
