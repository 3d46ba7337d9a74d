"""Request and reply: a message sent to whoever consumes its topic, and the answer to it (semantics.md §8.3).

A request is an ordinary message that says who asks. Its consumer sends the reply to the reply topic of the
cluster, and the broker passes it to the client that asked, over the connection that client has there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

import msgspec

from pymq.client.failures import ClientClosed, MessageInvalid, RequestTimeout
from pymq.client.heartbeats import Heartbeats
from pymq.client.namespace import Namespace
from pymq.client.outgoing import Message
from pymq.client.producer import Producer
from pymq.client.queue_choice import QueueSelector
from pymq.client.received import ReceivedMessage
from pymq.client.repeating import end_tasks
from pymq.client.send_result import SendResult
from pymq.clock import Clock
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import PushReplyMessageToClientRequest
from pymq.protocol.message import UnreadableBody, read_body
from pymq.transport.dispatch import Answer, Request

log = logging.getLogger("pymq.client.request_reply")

REPLY_TOPIC_SUFFIX = "_REPLY_TOPIC"

_INTRODUCTION_SHARE = 0.25
"""The part of a request's time that brokers may take to hear of this client before the request is sent."""


class ReplyMessage(msgspec.Struct):
    """The answer to a request.

    Attributes:
        body: the content, decompressed.
        msg_id: the id that its sender gave it.
        tags: its tag, None without one.
        keys: its keys.
        properties: all its properties, those of RocketMQ's own included.
        flag: its sender's number.
        born_timestamp: when it was sent, ms since 1970 by its sender's clock.
        born_host: its sender's address, `ip:port`.
    """

    body: bytes
    msg_id: str
    tags: str | None
    keys: tuple[str, ...]
    properties: dict[str, str]
    flag: int
    born_timestamp: int
    born_host: str


class PendingReplies:
    """The requests of one client that wait for their replies."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[ReplyMessage]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def expect(self) -> Iterator[tuple[str, asyncio.Future[ReplyMessage]]]:
        """A new correlation id, and what its reply settles if it comes within the block."""
        bits = self._clock.random.getrandbits(128)
        correlation_id = "-".join(
            f"{bits:032x}"[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
        )
        future: asyncio.Future[ReplyMessage] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = future
        try:
            yield correlation_id, future
        finally:
            del self._waiting[correlation_id]
            if future.done() and not future.cancelled():
                future.exception()  # seen, so that a waiter that left does not make asyncio complain
            future.cancel()

    def arrived(self, request: Request[PushReplyMessageToClientRequest]) -> Answer:
        """Serve a broker that has a reply. One that nobody waits for any more is dropped, as by Java."""
        header = request.header
        properties = names.decode_properties(header.properties or "")
        correlation_id = properties.get(names.CORRELATION_ID, "")
        future = self._waiting.get(correlation_id)
        if future is None or future.done():
            log.info("a reply came too late: %s=%s", names.CORRELATION_ID, correlation_id)
            return Answer()
        properties[names.ARRIVE_TIME] = str(self._clock.now_ms())
        try:
            body = read_body(request.body, header.sys_flag)
        except UnreadableBody as error:
            future.set_exception(error)
            return Answer(ResponseCode.SYSTEM_ERROR, remark=f"process reply message fail: {error}")
        future.set_result(
            ReplyMessage(
                body,
                properties.get(names.UNIQ_KEY, ""),
                properties.get(names.TAGS),
                tuple(properties.get(names.KEYS, "").split()),
                properties,
                header.flag,
                header.born_timestamp,
                header.born_host,
            )
        )
        return Answer()

    def close(self) -> None:
        """Let those who wait know that no reply will come."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ClientClosed("the client was closed while it waited for a reply"))


class RequestReply:
    """Asks, and answers what others ask.

    Attributes:
        namespace: the client's.
    """

    def __init__(
        self,
        producer: Producer,
        heartbeats: Heartbeats,
        pending: PendingReplies,
        client_id: str,
        namespace: Namespace,
    ) -> None:
        self._producer = producer
        self._heartbeats = heartbeats
        self._pending = pending
        self._client_id = client_id
        self.namespace = namespace

    async def request(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None = None,
    ) -> ReplyMessage:
        """Send a request and wait for the reply, both within `timeout_s`.

        Raises RequestTimeout when the request is stored and no reply came, UnreadableBody when one came whose
        body cannot be decompressed, ClientClosed, and as `Producer.send`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        with self._pending.expect() as (correlation_id, reply):
            own = {
                names.CORRELATION_ID: correlation_id,
                names.REPLY_TO_CLIENT: self._client_id,
                names.TTL: str(max(1, round(timeout_s * 1000))),
            }
            sending = loop.create_task(self._send(topic, message, timeout_s, queue, own))
            try:
                # A reply may be here before the broker's word that the request is stored.
                await asyncio.wait((sending, reply), return_when=asyncio.FIRST_COMPLETED)
                if not reply.done():
                    sent = sending.result()
                    await asyncio.wait((reply,), timeout=max(0.0, deadline - loop.time()))
                    if not reply.done():
                        raise RequestTimeout(topic, timeout_s, sent)
                return reply.result()
            finally:
                await end_tasks(sending)
                if not sending.cancelled():
                    sending.exception()  # seen: with the reply here it does not matter

    async def _send(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None,
        own: dict[str, str],
    ) -> SendResult:
        """Send a request when the brokers know where its reply is to go, the one that takes it for sure."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        await self._producer.find(topic, timeout_s)
        await self._heartbeats.introduced(timeout_s * _INTRODUCTION_SHARE)
        left_s = max(0.001, timeout_s - (loop.time() - started))
        sent = await self._producer.send(topic, message, left_s, queue, own=own)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(started + timeout_s):
                await self._heartbeats.introduce(sent.queue.broker_name)  # it may just have come back
        return sent

    async def reply(
        self, message: ReceivedMessage, reply: bytes | str | Message, timeout_s: float
    ) -> SendResult:
        """Answer a request. The broker that it came from is tried first: the one who asks is known there.

        Raises MessageInvalid when `message` is no request that can be answered, SendFailed when the reply did
        not reach who asked, and as `Producer.send`.
        """
        properties = message.properties
        correlation_id = properties.get(names.CORRELATION_ID)
        client_id = properties.get(names.REPLY_TO_CLIENT)
        cluster = properties.get(names.CLUSTER)
        if correlation_id is None or client_id is None:
            raise MessageInvalid(f"{message} is no request: nobody waits for a reply to it")
        if cluster is None:
            raise MessageInvalid(
                f"{message} cannot be replied to: its broker does not name its cluster ({names.CLUSTER}), "
                "as brokers before 4.6 do not"
            )
        own = {
            names.MSG_TYPE: names.REPLY_TYPE,
            names.CORRELATION_ID: correlation_id,
            names.REPLY_TO_CLIENT: client_id,
        }
        if ttl := properties.get(names.TTL):
            own[names.TTL] = ttl
        answer = reply if isinstance(reply, Message) else Message(reply)
        return await self._producer.reply(
            cluster + REPLY_TOPIC_SUFFIX, answer, timeout_s, own, near=message.queue.broker_name
        )
