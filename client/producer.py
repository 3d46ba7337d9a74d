"""Sending: which queue, which broker, what to do when it fails (semantics.md §11.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

import msgspec

from pymq.client.failures import (
    Attempt,
    BatchFailed,
    BufferFull,
    MessageInvalid,
    RouteNotFound,
    SendFailed,
    similar,
)
from pymq.client.heartbeats import Heartbeats
from pymq.client.outgoing import Message, Outgoing, check_topic, compress, encode_message
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
from pymq.protocol.message import RECORD_FIXED_SIZE, BatchEntry, encode_batch
from pymq.protocol.message_ids import UniqueKeys
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.producer")

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

_ADDED_BY_BROKER = 128
"""Bytes that a broker may add to a record's properties (CLUSTER)."""


class _Sending(msgspec.Struct):
    """One request on its way: what is sent, until when, and what was tried so far."""

    topic: str
    outgoing: Outgoing
    is_batch: bool
    started: float
    deadline: float
    attempts: list[Attempt]


class Producer:
    """Sends messages. One for each client."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        heartbeats: Heartbeats,
        unique_keys: UniqueKeys,
        clock: Clock,
        group: str,
        settings: Settings,
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._unique_keys = unique_keys
        self._clock = clock
        self._group = group
        self._settings = settings
        self._choice = QueueChoice(clock)
        self._suspects: dict[str, float] = {}
        self._in_flight: dict[asyncio.Task[SendResult], int] = {}
        self._in_flight_bytes = 0

    # -- the ways to send ---------------------------------------------------------------------------

    async def send(
        self, topic: str, message: Message, timeout_s: float, queue: MessageQueue | None = None
    ) -> SendResult:
        """Send one message; all attempts together take `timeout_s` at most.

        Raises MessageInvalid, RouteNotFound, NameServersUnreachable, SendFailed.
        """
        outgoing = self._encode(topic, message, queue)
        outgoing = await compress(outgoing, self._settings.compress_from_bytes)
        sending = self._sending(topic, outgoing, timeout_s)
        return (await self._send(sending, message.shard_by, queue))[0]

    def send_nowait(
        self, topic: str, message: Message, timeout_s: float, queue: MessageQueue | None = None
    ) -> asyncio.Task[SendResult]:
        """As `send`, in the background. Raises BufferFull when too much is under way already."""
        size = len(message.body)
        if (
            len(self._in_flight) >= self._settings.in_flight_messages
            or self._in_flight_bytes + size > self._settings.in_flight_bytes
        ):
            raise BufferFull(
                f"{len(self._in_flight)} messages of {self._in_flight_bytes} bytes are under way already"
            )
        task = asyncio.ensure_future(self.send(topic, message, timeout_s, queue))
        self._in_flight[task] = size
        self._in_flight_bytes += size
        task.add_done_callback(self._sent)
        return task

    def _sent(self, task: asyncio.Task[SendResult]) -> None:
        self._in_flight_bytes -= self._in_flight.pop(task)

    async def flush(self) -> None:
        """Wait until nothing of `send_nowait` is under way. Raises nothing: the futures tell how it went."""
        while self._in_flight:
            await asyncio.wait(list(self._in_flight))

    async def send_oneway(
        self, topic: str, message: Message, timeout_s: float, queue: MessageQueue | None = None
    ) -> None:
        """Send one message and expect no answer: one attempt, and nobody says whether it was stored.

        Raises as `send`; no error of the broker's.
        """
        outgoing = self._encode(topic, message, queue)
        outgoing = await compress(outgoing, self._settings.compress_from_bytes)
        sending = self._sending(topic, outgoing, timeout_s)
        route = await self._route(sending)
        target = queue or self._pick(route, message.shard_by, None)
        try:
            address = self._master(target.broker_name)
            connection = await self._connection(address, sending.deadline, 1)
            connection.oneway(self._header(sending, target), outgoing.body)
        except TransportError as error:
            sending.attempts.append(Attempt(target.broker_name, self._address(target), error))
            self._blame(target, error)
            raise await self._failed(sending) from error
        await _let_go_out(connection, sending.deadline)

    async def send_batch(
        self, topic: str, messages: Sequence[Message], timeout_s: float, queue: MessageQueue | None = None
    ) -> list[SendResult]:
        """Send many messages, one request for each queue and 4 MiB; their results in the same order.

        Without an explicit queue, those with `shard_by` go where it says and the others to one queue.
        Raises as `send`, and BatchFailed when some requests failed.
        """
        encoded = [self._encode(topic, message, queue) for message in messages]
        if not encoded:
            return []
        deadline = asyncio.get_running_loop().time() + timeout_s
        route = await self._route(self._sending(topic, encoded[0], timeout_s))
        requests: list[tuple[list[int], str | None]] = []
        for shard_by, indices in _by_queue(route, messages, queue).items():
            requests += [(part, shard_by) for part in self._parts(topic, encoded, indices)]

        async def send_part(indices: list[int], shard_by: str | None) -> list[SendResult]:
            left_s = deadline - asyncio.get_running_loop().time()
            parts = [encoded[index] for index in indices]
            if len(parts) == 1:
                alone = await compress(parts[0], self._settings.compress_from_bytes)
                return await self._send(self._sending(topic, alone, left_s), shard_by, queue)
            block = encode_batch(BatchEntry(part.body, part.properties, part.flag) for part in parts)
            together = Outgoing(block, _BATCH_PROPERTIES, 0, 0, ",".join(part.msg_id for part in parts))
            return await self._send(self._sending(topic, together, left_s, is_batch=True), shard_by, queue)

        answers = await asyncio.gather(*[send_part(*request) for request in requests], return_exceptions=True)
        results: dict[int, SendResult | PymqError] = {}
        for (indices, _), answer in zip(requests, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, PymqError):
                    raise answer
                results.update(dict.fromkeys(indices, answer))
            else:
                results.update(zip(indices, answer, strict=True))
        if any(isinstance(result, PymqError) for result in results.values()):
            raise BatchFailed([results[index] for index in range(len(encoded))])
        return [results[index] for index in range(len(encoded))]  # type: ignore[misc]

    # -- preparing ----------------------------------------------------------------------------------

    def _encode(self, topic: str, message: Message, queue: MessageQueue | None) -> Outgoing:
        check_topic(topic)
        if queue is not None and queue.topic != topic:
            raise MessageInvalid(f"queue {queue} is none of topic {topic}")
        return encode_message(message, self._unique_keys.next(), self._settings.max_message_bytes)

    def _sending(
        self, topic: str, outgoing: Outgoing, timeout_s: float, *, is_batch: bool = False
    ) -> _Sending:
        now = asyncio.get_running_loop().time()
        return _Sending(topic, outgoing, is_batch, now, now + timeout_s, [])

    def _parts(self, topic: str, encoded: Sequence[Outgoing], indices: Sequence[int]) -> list[list[int]]:
        """Cut a batch so that what a broker makes of each part stays below its limit."""
        parts: list[list[int]] = [[]]
        filled = 0
        for index in indices:
            size = RECORD_FIXED_SIZE + _ADDED_BY_BROKER + len(topic) + len(encoded[index].body)
            size += len(encoded[index].properties.encode())
            if parts[-1] and filled + size > self._settings.max_message_bytes:
                parts.append([])
                filled = 0
            parts[-1].append(index)
            filled += size
        return parts

    async def _route(self, sending: _Sending) -> TopicRoute:
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

    def _pick(self, route: TopicRoute, shard_by: str | None, last: str | None) -> MessageQueue:
        if shard_by is not None:
            return shard_queue(route.writable, shard_by)
        avoid = set() if last is None else {last}
        if self._suspects:
            now = asyncio.get_running_loop().time()
            self._suspects = {name: until for name, until in self._suspects.items() if until > now}
            avoid.update(self._suspects)
        return self._choice.pick(route.topic, route.writable, avoid)

    def _header(self, sending: _Sending, queue: MessageQueue) -> SendMessageRequestV2:
        outgoing = sending.outgoing
        cls = SendBatchMessageRequest if sending.is_batch else SendMessageRequestV2
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
            batch="true" if sending.is_batch else "false",
        )

    # -- attempts -----------------------------------------------------------------------------------

    async def _send(
        self, sending: _Sending, shard_by: str | None, explicit: MessageQueue | None
    ) -> list[SendResult]:
        """Try until a broker confirms: on another one, or for a message bound to its queue on the same."""
        loop = asyncio.get_running_loop()
        is_bound = explicit is not None or shard_by is not None
        attempts_left = 1 + self._settings.send_retries
        last: str | None = None
        while True:
            route = await self._route(sending)
            queue = explicit or self._pick(route, shard_by, last)
            if queue.broker_name == last:
                await self._pause(sending)
            try:
                return await self._attempt(sending, queue, attempts_left)
            except PymqError as error:
                sending.attempts.append(Attempt(queue.broker_name, self._address(queue), error))
                attempts_left -= 1
                self._blame(queue, error)
                if attempts_left and loop.time() < sending.deadline and _may_retry(error, is_bound):
                    log.info("sending to %s: %s; trying again", sending.topic, error)
                    last = queue.broker_name
                    continue
                raise await self._failed(sending) from error

    async def _attempt(self, sending: _Sending, queue: MessageQueue, attempts_left: int) -> list[SendResult]:
        address = self._master(queue.broker_name)
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

    async def _pause(self, sending: _Sending) -> None:
        pause_s = self._settings.retry_pause_s * 2 ** (len(sending.attempts) - 1)
        left_s = sending.deadline - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(pause_s, left_s)))

    def _master(self, broker_name: str) -> str:
        address = self._routes.address(broker_name)
        if address is None:
            raise ConnectFailed("", f"the address of the master of {broker_name} is not known")
        return address

    def _address(self, queue: MessageQueue) -> str:
        return self._routes.address(queue.broker_name) or ""

    def _blame(self, queue: MessageQueue, error: PymqError) -> None:
        """Remember a broker that gave no answer, and see whether the routes are still right."""
        if isinstance(error, TransportError):
            now = asyncio.get_running_loop().time()
            self._suspects[queue.broker_name] = now + self._settings.suspect_s
        if isinstance(error, CallTimeout):
            self._heartbeats.doubt(error.address)
        if isinstance(error, TransportError) or getattr(error, "code", None) in _RETRIED_CODES:
            self._routes.refresh_soon()

    async def _failed(self, sending: _Sending) -> SendFailed:
        took_s = asyncio.get_running_loop().time() - sending.started
        error = sending.attempts[-1].error
        hint = _hint(error)
        if isinstance(error, ResponseError) and error.code == ResponseCode.TOPIC_NOT_EXIST:
            hint += f" (name servers asked: {', '.join(self._routes.name_servers)})"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HINT_S):
                    hint = ". ".join(filter(None, (hint, similar(await self._routes.nearest(sending.topic)))))
        return SendFailed(sending.topic, sending.attempts, took_s, hint)


_HINT_S = 0.5
"""How long an error may take to learn what would help."""

_BATCH_PROPERTIES = "WAIT\x01true"


def _by_queue(
    route: TopicRoute, messages: Sequence[Message], queue: MessageQueue | None
) -> dict[str | None, list[int]]:
    """Indices of the messages of a batch that go to one queue together, by a `shard_by` that leads there."""
    leads: dict[MessageQueue | None, str | None] = {}
    together: dict[str | None, list[int]] = {}
    for index, message in enumerate(messages):
        shard_by = None if queue is not None else message.shard_by
        target = None if shard_by is None else shard_queue(route.writable, shard_by)
        together.setdefault(leads.setdefault(target, shard_by), []).append(index)
    return together


def _may_retry(error: PymqError, is_bound: bool) -> bool:
    if isinstance(error, TransportError):
        return True
    return isinstance(error, ResponseError) and error.code in _RETRIED_CODES and not is_bound


def _results(sending: _Sending, queue: MessageQueue, command: Command, address: str) -> list[SendResult]:
    status = STATUS_BY_CODE.get(command.code)
    if status is None:
        raise ResponseError(command.code, command.remark or "", address)
    header = command.read(SendMessageResponse)
    if header.queue_id != queue.queue_id:
        queue = MessageQueue(queue.topic, queue.broker_name, header.queue_id)
    if not sending.is_batch:
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
