"""One request under way: which queue, which broker, and what to do when it fails (semantics.md §11.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from pymq.client.failures import Attempt, RouteNotFound, SendFailed, similar
from pymq.client.heartbeats import Heartbeats
from pymq.client.outgoing import Outgoing
from pymq.client.queue_choice import QueueChoice, shard_queue
from pymq.client.route_cache import AUTO_CREATE_TOPIC, DEFAULT_TOPIC_QUEUE_NUMS, RouteCache
from pymq.client.send_result import STATUS_BY_CODE, SendResult
from pymq.client.settings import Settings
from pymq.client.topic_route import TopicRoute
from pymq.clock import Clock
from pymq.errors import CallTimeout, ConnectFailed, PymqError, ResponseError, TransportError
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import Command
from pymq.protocol.headers.messaging import (
    SendBatchMessageRequest,
    SendMessageRequestV2,
    SendMessageResponse,
)
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.sender")

_RETRIED_CODES = frozenset(
    (
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.NO_PERMISSION,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
    )
)
"""Refusals after which another broker may still take the message."""

_HINT_S = 0.5
"""How long an error may take to learn what would help."""


class Sending(msgspec.Struct):
    """What is sent, and where to, until when, and what was tried so far.

    Attributes:
        topic: the topic.
        outgoing: the message, or the batch.
        deadline: time of the loop at which to give up.
        started: time of the loop at which it began.
        shard_by: leads to its queue, unless None.
        queue: its very queue, unless None.
        attempts: the tries that failed.
    """

    topic: str
    outgoing: Outgoing
    deadline: float
    started: float
    shard_by: str | None = None
    queue: MessageQueue | None = None
    attempts: list[Attempt] = []

    @property
    def is_bound(self) -> bool:
        """Whether it may go to one queue only."""
        return self.queue is not None or self.shard_by is not None


class Sender:
    """Brings requests of one producer group to brokers."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        heartbeats: Heartbeats,
        clock: Clock,
        group: str,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._clock = clock
        self._group = group
        self._settings = settings
        self._choice = QueueChoice(clock)
        self._suspects: dict[str, float] = {}

    async def deliver(self, sending: Sending) -> list[SendResult]:
        """Send until a broker confirms: after a failure to another one, or if bound to its queue to the same.

        Gives the result of every message in it. Raises RouteNotFound, NameServersUnreachable, SendFailed.
        """
        loop = asyncio.get_running_loop()
        attempts_left = 1 + self._settings.send_retries
        last: str | None = None
        while True:
            queue = self._pick(await self.route(sending), sending, last)
            if queue.broker_name == last:
                await self._pause(sending)
            try:
                return await self._attempt(sending, queue, attempts_left)
            except PymqError as error:
                self._failed(sending, queue, error)
                attempts_left -= 1
                if not attempts_left or loop.time() >= sending.deadline or not _may_retry(error, sending):
                    raise await self._final(sending) from error
                log.info("sending to %s: %s; trying again", sending.topic, error)
                last = queue.broker_name

    async def hand_over(self, sending: Sending) -> None:
        """Send in one attempt and expect no answer. Waits while the broker does not keep up with reading.

        Raises RouteNotFound, NameServersUnreachable, SendFailed.
        """
        queue = self._pick(await self.route(sending), sending, None)
        try:
            connection = await self._connection(self._master(queue), sending.deadline, 1)
            connection.oneway(self._header(sending, queue), sending.outgoing.body)
        except TransportError as error:
            self._failed(sending, queue, error)
            raise await self._final(sending) from error
        await _let_go_out(connection, sending.deadline)

    async def route(self, sending: Sending) -> TopicRoute:
        """The route of its topic, with a queue to write to. From the first on, brokers know the group.

        Raises RouteNotFound, NameServersUnreachable.
        """
        route = self._routes.known(sending.topic)
        if route is None or not route.writable:
            try:
                async with asyncio.timeout_at(sending.deadline):
                    if route is not None:
                        await self._routes.refresh(sending.topic)
                    route = await self._routes.route(sending.topic)
            except TimeoutError:
                raise self._routes.unanswered() from None
        if not route.writable:
            hint = "the topic exists, but no broker with a master lets it be written to"
            raise RouteNotFound(sending.topic, self._routes.name_servers, (), hint)
        self._heartbeats.add_producer(self._group)
        return route

    def _pick(self, route: TopicRoute, sending: Sending, last: str | None) -> MessageQueue:
        if sending.queue is not None:
            return sending.queue
        if sending.shard_by is not None:
            return shard_queue(route.writable, sending.shard_by)
        avoid = set() if last is None else {last}
        if self._suspects:
            now = asyncio.get_running_loop().time()
            self._suspects = {name: until for name, until in self._suspects.items() if until > now}
            avoid.update(self._suspects)
        return self._choice.pick(route.topic, route.writable, avoid)

    def _header(self, sending: Sending, queue: MessageQueue) -> SendMessageRequestV2:
        outgoing = sending.outgoing
        cls = SendBatchMessageRequest if outgoing.is_batch else SendMessageRequestV2
        return cls(
            producer_group=self._group,
            topic=sending.topic,
            default_topic=AUTO_CREATE_TOPIC,
            default_topic_queue_nums=DEFAULT_TOPIC_QUEUE_NUMS,
            queue_id=queue.queue_id,
            sys_flag=outgoing.sys_flag,
            born_timestamp=self._clock.now_ms(),
            flag=outgoing.flag,
            properties=outgoing.properties,
            reconsume_times=0,
            unit_mode="false",
            batch="true" if outgoing.is_batch else "false",
        )

    async def _attempt(self, sending: Sending, queue: MessageQueue, attempts_left: int) -> list[SendResult]:
        address = self._master(queue)
        connection = self._pool.connected(address)
        if connection is None:
            connection = await self._connection(address, sending.deadline, attempts_left)
        command = await connection.call(
            self._header(sending, queue),
            sending.outgoing.body,
            timeout_s=max(0.001, sending.deadline - asyncio.get_running_loop().time()),
        )
        return _results(sending, queue, command, address)

    async def _connection(self, address: str, deadline: float, attempts_left: int) -> Connection:
        """A connection; opening it may take its share of the time only, so that others can still be tried."""
        share_s = max(0.001, (deadline - asyncio.get_running_loop().time()) / attempts_left)
        try:
            async with asyncio.timeout(share_s):
                return await self._pool.connection(address)
        except TimeoutError:
            raise ConnectFailed(
                address, f"connecting to {address} took longer than {share_s:.1f} s"
            ) from None

    async def _pause(self, sending: Sending) -> None:
        pause_s = self._settings.retry_pause_s * 2 ** (len(sending.attempts) - 1)
        left_s = sending.deadline - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(pause_s, left_s)))

    def _master(self, queue: MessageQueue) -> str:
        address = self._routes.address(queue.broker_name)
        if address is None:
            raise ConnectFailed("", f"the address of the master of {queue.broker_name} is not known")
        return address

    def _failed(self, sending: Sending, queue: MessageQueue, error: PymqError) -> None:
        """Note a failure; remember a broker that gave no answer, and ask for the routes anew."""
        address = self._routes.address(queue.broker_name) or ""
        sending.attempts.append(Attempt(queue.broker_name, address, error))
        if isinstance(error, TransportError):
            now = asyncio.get_running_loop().time()
            self._suspects[queue.broker_name] = now + self._settings.suspect_s
        if isinstance(error, CallTimeout):
            self._heartbeats.doubt(error.address)
        if isinstance(error, TransportError) or getattr(error, "code", None) in _RETRIED_CODES:
            self._routes.refresh_soon()

    async def _final(self, sending: Sending) -> SendFailed:
        took_s = asyncio.get_running_loop().time() - sending.started
        error = sending.attempts[-1].error
        hint = _hint(error)
        if isinstance(error, ResponseError) and error.code == ResponseCode.TOPIC_NOT_EXIST:
            hint += f" (name servers asked: {', '.join(self._routes.name_servers)})"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HINT_S):
                    hint = ". ".join(filter(None, (hint, similar(await self._routes.nearest(sending.topic)))))
        return SendFailed(sending.topic, sending.attempts, took_s, hint)


def _may_retry(error: PymqError, sending: Sending) -> bool:
    if isinstance(error, TransportError):
        return True
    return isinstance(error, ResponseError) and error.code in _RETRIED_CODES and not sending.is_bound


def _results(sending: Sending, queue: MessageQueue, command: Command, address: str) -> list[SendResult]:
    status = STATUS_BY_CODE.get(command.code)
    if status is None:
        raise ResponseError(command.code, command.remark or "", address)
    header = command.read(SendMessageResponse)
    if header.queue_id != queue.queue_id:
        queue = MessageQueue(queue.topic, queue.broker_name, header.queue_id)
    if not sending.outgoing.is_batch:
        return [SendResult(status, sending.outgoing.msg_id, header.msg_id, queue, header.queue_offset)]
    msg_ids = sending.outgoing.msg_id.split(",")
    offset_ids = header.msg_id.split(",")
    if len(offset_ids) != len(msg_ids):
        offset_ids = [""] * len(msg_ids)
    return [
        SendResult(status, msg_id, offset_id, queue, header.queue_offset + place)
        for place, (msg_id, offset_id) in enumerate(zip(msg_ids, offset_ids, strict=True))
    ]


def _hint(error: PymqError) -> str:
    if not isinstance(error, ResponseError):
        return ""
    match error.code:
        case ResponseCode.TOPIC_NOT_EXIST:
            return (
                "The broker does not create topics by itself (autoCreateTopicEnable): create the topic first"
            )
        case ResponseCode.NO_PERMISSION:
            return (
                "The broker does not let the topic be written to: see brokerPermission and the topic's perm"
            )
        case ResponseCode.SERVICE_NOT_AVAILABLE:
            return "The broker takes no messages at present: a slave, a full disk, or shutting down"
        case ResponseCode.SYSTEM_BUSY:
            return "The broker is overloaded: send more slowly, or try again later"
        case _:
            return ""


async def _let_go_out(connection: Connection, deadline: float) -> None:
    """Wait while the broker does not keep up with reading, until `deadline` at most."""
    await asyncio.sleep(0)
    if connection.writing_paused:
        writable = asyncio.Event()
        connection.when_writable(writable.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await writable.wait()
