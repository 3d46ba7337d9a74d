"""What the broker asks of running consumers for tools (codes 222, 223, 307, 309; wire.md §4.4, §4.5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.live_clients import LiveClients, Member
from pymq.broker.resets import Resets
from pymq.broker.topics import TopicTable
from pymq.errors import CallTimeout, PymqError, ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.heartbeat import MessageModel
from pymq.protocol.bodies.offsets import ConsumerStatusBody, ResetOffsetBody
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    InvokeBrokerToGetConsumerStatusRequest,
    InvokeBrokerToResetOffsetRequest,
)
from pymq.protocol.headers.groups import (
    ConsumeMessageDirectlyRequest,
    GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest,
    ResetConsumerClientOffsetRequest,
)
from pymq.protocol.message_ids import MessageIdError, decode_offset_msg_id
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.offsets")

_OLDEST_VERSION = 28
"""3.0.7-SNAPSHOT: older clients know neither 220 nor 221 (wire.md §1.1)."""
_OLDEST_FOR_RUNNING_INFO = 62
"""3.1.8-SNAPSHOT."""

_STATUS_TIMEOUT_S = 5.0
_RELAY_TIMEOUT_S = 10.0

_END = -1
"""As the time to reset to: the end of each queue."""


class ConsumerCallProcessor:
    """Serves those who want something of a group's running consumers.

    `save_offsets` returns when the offsets are on the disk; it raises StoreError when they cannot be written.
    """

    def __init__(
        self,
        broker_name: str,
        topics: TopicTable,
        offsets: ConsumerOffsetTable,
        resets: Resets,
        clients: LiveClients,
        store: MessageStore,
        save_offsets: Callable[[], Awaitable[None]],
    ) -> None:
        self._broker_name = broker_name
        self._topics = topics
        self._offsets = offsets
        self._resets = resets
        self._clients = clients
        self._store = store
        self._save_offsets = save_offsets

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(InvokeBrokerToResetOffsetRequest, self.reset),
            row(InvokeBrokerToGetConsumerStatusRequest, self.status),
            row(GetConsumerRunningInfoRequest, self.running_info),
            row(ConsumeMessageDirectlyRequest, self.consume_directly),
        ]

    # -- resetting ----------------------------------------------------------------------------------

    async def reset(self, request: Request[InvokeBrokerToResetOffsetRequest]) -> Answer:
        """Tell all members of a group to go on elsewhere; answers with the offsets (semantics.md §7).

        They are stored at once, on the disk before the answer, and what a member commits that cannot know of
        them does not count: see Resets. Apache leaves all to the members. With nobody online tools commit
        them themselves. A client in C++ gets them as a list; Apache sends a list to all, also to Java which
        cannot read it, when the tool says `-c`, and else to none.
        """
        header = request.header
        targets = self._given(request) if request.body else self._wanted(header)
        group = self._clients.consumers(header.group)
        if group is None:
            raise ResponseError(
                ResponseCode.CONSUMER_NOT_ONLINE,
                f"Consumer not online, so can not reset offset, Group: {header.group} Topic: {header.topic} "
                f"Timestamp: {header.timestamp}",
            )
        for member in group.members.values():
            _check_version(member, _OLDEST_VERSION)
        push = ResetConsumerClientOffsetRequest(header.topic, header.group, header.timestamp, header.is_force)
        log.info(
            "group %s is reset in topic %s by %s", header.group, header.topic, request.connection.address
        )
        if group.message_model is MessageModel.CLUSTERING:
            for queue, offset in targets.items():
                self._offsets.commit(header.group, queue.topic, queue.queue_id, offset, "a reset")
        self._resets.begin(group, push, targets, as_list=request.command.language == "CPP")
        await self._save_offsets()
        return Answer(body=ResetOffsetBody(targets).encode())

    def _wanted(self, header: InvokeBrokerToResetOffsetRequest) -> dict[MessageQueue, int]:
        """The offset of each queue that consumers own; Apache goes by the queues that producers write to."""
        queue_ids = range(self._readable(header.topic))
        if header.queue_id is not None and header.queue_id >= 0:
            queue_ids = range(header.queue_id, header.queue_id + 1)
            self._check_queue(header.topic, header.queue_id)
        return {
            MessageQueue(header.topic, self._broker_name, queue_id): self._target(header, queue_id)
            for queue_id in queue_ids
        }

    def _target(self, header: InvokeBrokerToResetOffsetRequest, queue_id: int) -> int:
        current = self._offsets.query(header.group, header.topic, queue_id)
        if current is None or current < 0:
            remark = f"THe consumer group <{header.group}> not exist"  # spelt so, as tools know it
            raise ResponseError(ResponseCode.SYSTEM_ERROR, remark)
        if header.offset is not None and header.offset != _END:
            self._check_offset(header.topic, queue_id, header.offset)
            return header.offset
        if header.timestamp == _END:
            target = self._store.max_offset(header.topic, queue_id)
        else:
            target = self._store.offset_by_time(header.topic, queue_id, header.timestamp)
        target = max(0, target)
        return target if header.is_force else min(target, current)

    def _given(self, request: Request[InvokeBrokerToResetOffsetRequest]) -> dict[MessageQueue, int]:
        """The offsets that a pymq client chose itself. Raises BodyError, ResponseError."""
        topic = request.header.topic
        offsets = ResetOffsetBody.decode(request.body).offsets
        for queue, offset in offsets.items():
            if (queue.topic, queue.broker_name) != (topic, self._broker_name):
                text = f"{queue} is not a queue of topic {topic} on broker {self._broker_name}"
                raise ResponseError(ResponseCode.SYSTEM_ERROR, text)
            self._check_queue(topic, queue.queue_id)
            self._check_offset(topic, queue.queue_id, offset)
        return offsets

    def _readable(self, topic: str) -> int:
        """How many queues of the topic consumers read."""
        config = self._topics.get(topic)
        if config is None:
            remark = f"[reset-offset] reset offset failed, no topic in this broker. topic={topic}"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, remark)
        return config.read_queue_nums

    def _check_queue(self, topic: str, queue_id: int) -> None:
        if not 0 <= queue_id < self._readable(topic):
            text = f"queueId={queue_id}: topic {topic} has the read queues 0 to {self._readable(topic) - 1}"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, text)

    def _check_offset(self, topic: str, queue_id: int, offset: int) -> None:
        low = max(0, self._store.min_offset(topic, queue_id))
        high = max(low, self._store.max_offset(topic, queue_id))
        if not low <= offset <= high:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"Target offset {offset} not in consume queue range [{low}-{high}] of {topic}/{queue_id}",
            )

    # -- asking -------------------------------------------------------------------------------------

    async def status(self, request: Request[InvokeBrokerToGetConsumerStatusRequest]) -> Answer:
        """Where the members of a group stand in a topic, as they say themselves."""
        header = request.header
        group = self._clients.consumers(header.group)
        if group is None:
            remark = f"No Any Consumer online in the consumer group: [{header.group}]"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, remark)
        members = [
            member
            for member in group.members.values()
            if not header.client_addr or member.client_id == header.client_addr
        ]
        for member in members:
            _check_version(member, _OLDEST_VERSION)
        tables = await asyncio.gather(*[self._standing(member, header) for member in members])
        answered = {
            member.client_id: table
            for member, table in zip(members, tables, strict=True)
            if table is not None
        }
        return Answer(body=ConsumerStatusBody(answered).encode())

    async def _standing(
        self, member: Member, header: InvokeBrokerToGetConsumerStatusRequest
    ) -> dict[MessageQueue, int] | None:
        question = GetConsumerStatusFromClientRequest(header.topic, header.group)
        try:
            reply = await member.connection.call(question, timeout_s=_STATUS_TIMEOUT_S)
            if reply.code != ResponseCode.SUCCESS or not reply.body:
                return None
            return ConsumerStatusBody.decode(reply.body).message_queue_table
        except PymqError as error:
            log.warning("where %s of group %s stands: %s", member.client_id, header.group, error)
            return None

    async def running_info(self, request: Request[GetConsumerRunningInfoRequest]) -> Answer:
        """What one member is doing: its own answer, passed on."""
        return await self._relay(request.header)

    async def consume_directly(self, request: Request[ConsumeMessageDirectlyRequest]) -> Answer:
        """Let one member handle a stored message now; its own answer, passed on (semantics.md §10).

        It moves no offset and is not retried. Apache passes on an empty message when there is none.
        """
        header = request.header
        try:
            _, offset = decode_offset_msg_id(header.msg_id or "")
        except MessageIdError as error:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"msgId: {error}") from None
        record = self._store.record_at(offset)
        if record is None:
            text = f"can not find message by the offset, {offset}"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, text)
        asked = msgspec.structs.replace(header, broker_name=self._broker_name)
        return await self._relay(asked, bytes(record))

    async def _relay(
        self, header: GetConsumerRunningInfoRequest | ConsumeMessageDirectlyRequest, body: bytes = b""
    ) -> Answer:
        group = self._clients.consumers(header.consumer_group)
        members = [] if group is None else list(group.members.values())
        member = next((each for each in members if each.client_id == header.client_id), None)
        who = f"The Consumer <{header.consumer_group}> <{header.client_id}>"
        if member is None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"{who} not online")
        _check_version(member, _OLDEST_FOR_RUNNING_INFO)
        try:
            reply = await member.connection.call(header, body, timeout_s=_RELAY_TIMEOUT_S)
        except CallTimeout as error:
            raise ResponseError(ResponseCode.CONSUME_MSG_TIMEOUT, f"{who} {error}") from None
        return Answer(reply.code, body=reply.body, remark=reply.remark)


def _check_version(member: Member, oldest: int) -> None:
    if member.version < oldest:
        remark = f"the client does not support this feature. version={member.version}"
        raise ResponseError(ResponseCode.SYSTEM_ERROR, f"{remark} ({member.client_id})")
