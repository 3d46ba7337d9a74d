"""One request under way: which queue, which broker, and what to do when it fails (semantics.md §11.3)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from pymq.client.failures import Attempt, RouteNotFound, SendFailed, TimersMissing, similar
from pymq.client.heartbeats import Heartbeats
from pymq.client.latency_faults import LatencyFaults
from pymq.client.outgoing import Outgoing
from pymq.client.queue_choice import QueueChoice, shard_queue
from pymq.client.route_cache import AUTO_CREATE_TOPIC, DEFAULT_TOPIC_QUEUE_NUMS, RouteCache
from pymq.client.send_advice import advice
from pymq.client.send_result import SendResult, SendStatus
from pymq.client.sending import Sending, read_results
from pymq.client.settings import Settings
from pymq.client.timer_support import TimerSupport
from pymq.client.topic_route import TopicRoute
from pymq.clock import Clock
from pymq.errors import CallTimeout, ConnectFailed, PymqError, ResponseError, TransportError
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import (
    SendBatchMessageRequest,
    SendMessageRequestV2,
    SendReplyMessageRequestV2,
)
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

if TYPE_CHECKING:
    from pymq.client.tracing import SendTrace

log = logging.getLogger("pymq.client.sender")

_NOTHING = Outgoing(b"", "", 0, 0, "")

_HINT_S = 0.5
"""How long an error may take to learn what would help."""


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
        trace: SendTrace | None = None,
    ) -> None:
        """`trace` hears how every attempt ended."""
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._clock = clock
        self._group = group
        self._settings = settings
        self._trace = trace
        self._choice = QueueChoice(clock)
        self._timer_support = TimerSupport(heartbeats)
        self._suspects: dict[str, float] = {}
        self._faults = LatencyFaults() if settings.send_latency_fault_enable else None

    async def deliver(self, sending: Sending) -> list[SendResult]:
        """Send until a broker confirms: after a failure to another one, or if bound to its queue to the same.

        Gives the result of every message in it. Raises RouteNotFound, NameServersUnreachable, SendFailed.
        """
        loop = asyncio.get_running_loop()
        settings = self._settings
        attempts_left = 1 + (settings.send_async_retries if sending.is_async else settings.send_retries)
        last: str | None = None
        while True:
            try:
                queue = self._pick(await self.route(sending), sending, last)
            except PymqError as error:
                if sending.results:
                    return sending.results
                if sending.attempts:  # the route is lost since: what was tried tells more
                    raise await self._final(sending) from error
                raise
            if queue.broker_name == last:
                await self._pause(sending)
            began = loop.time()
            try:
                results = await self._attempt(sending, queue, attempts_left)
                if self._faults is not None:
                    self._faults.answered(queue.broker_name, loop.time() - began, loop.time())
                if self._trace is not None:
                    address = self._routes.address(queue.broker_name) or ""
                    took_s = loop.time() - began
                    self._trace.stored(sending.topic, sending.outgoing, address, results, took_s)
                if results[0].status is SendStatus.SEND_OK or not self._may_store_elsewhere(sending, queue):
                    return results
                sending.results = results
                attempts_left -= 1
                if not attempts_left or loop.time() >= sending.deadline:
                    return results
                last = queue.broker_name
            except PymqError as error:
                self._failed(sending, queue, error)
                if self._trace is not None:
                    took_s = loop.time() - began
                    self._trace.failed(sending.topic, sending.outgoing, sending.attempts[-1].address, took_s)
                attempts_left -= 1
                is_late = loop.time() >= sending.deadline
                if not attempts_left or is_late or not self._may_retry(error, sending):
                    if sending.results:  # stored, if less safely than wanted
                        return sending.results
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
            outgoing = sending.outgoing
            if outgoing.is_timed:
                outgoing = await self._as_kept(connection, sending)
            connection.oneway(self._header(sending, queue, outgoing), outgoing.body)
        except (TransportError, ResponseError, TimersMissing) as error:
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

    async def find(self, topic: str, timeout_s: float) -> None:
        """Learn the route of a topic to send to. Raises RouteNotFound, NameServersUnreachable."""
        now = asyncio.get_running_loop().time()
        await self.route(Sending(topic, _NOTHING, now + timeout_s, now))

    def _pick(self, route: TopicRoute, sending: Sending, last: str | None) -> MessageQueue:
        if sending.queue is not None:
            return sending.queue
        if sending.shard_by is not None:
            # For all attempts: the first one may have stored it, and the queues may be others by the next.
            sending.queue = shard_queue(route.writable, sending.shard_by)
            return sending.queue
        if sending.select is not None:
            sending.queue = sending.select(route.writable)
            return sending.queue
        if sending.near is not None and last is None:
            for queue in route.writable:
                if queue.broker_name == sending.near:
                    return queue
        avoid = set() if last is None else {last}
        if self._suspects:
            now = asyncio.get_running_loop().time()
            self._suspects = {name: until for name, until in self._suspects.items() if until > now}
            avoid.update(self._suspects)
        if self._faults is not None:
            names = {queue.broker_name for queue in route.writable}
            avoid |= self._faults.avoided(names, asyncio.get_running_loop().time())
        return self._choice.pick(route.topic, route.writable, avoid)

    def _header(self, sending: Sending, queue: MessageQueue, outgoing: Outgoing) -> SendMessageRequestV2:
        cls = SendMessageRequestV2
        if outgoing.is_batch:
            cls = SendBatchMessageRequest
        elif outgoing.is_reply:
            cls = SendReplyMessageRequestV2
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
        outgoing = sending.outgoing
        if outgoing.is_timed:
            outgoing = await self._as_kept(connection, sending)
        if sending.turn is not None:
            sending.turn.over()  # who comes next runs after the call has written this one
        command = await connection.call(
            self._header(sending, queue, outgoing), outgoing.body, timeout_s=_time_left(sending)
        )
        return read_results(sending, queue, command, address)

    async def _as_kept(self, connection: Connection, sending: Sending) -> Outgoing:
        """A timed message as this broker can keep its time. Raises as TimerSupport.check."""
        outgoing, left_s = sending.outgoing, _time_left(sending)
        if not outgoing.level_properties:
            await self._timer_support.check(connection, left_s)
        elif not await self._timer_support.has_timers(connection, left_s):
            return msgspec.structs.replace(outgoing, properties=outgoing.level_properties)
        return outgoing

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

    def _may_retry(self, error: PymqError, sending: Sending) -> bool:
        if isinstance(error, TransportError):
            return True
        is_retried = isinstance(error, ResponseError) and error.code in self._settings.retry_codes
        return is_retried and not sending.is_bound

    def _may_store_elsewhere(self, sending: Sending, queue: MessageQueue) -> bool:
        """Whether what a broker has not stored safely goes to another one, and there is another."""
        if sending.is_bound or not self._settings.retry_another_broker_when_not_store_ok:
            return False
        route = self._routes.known(sending.topic)
        return route is not None and any(each.broker_name != queue.broker_name for each in route.writable)

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
        if sending.turn is not None:
            sending.turn.over()
        address = self._routes.address(queue.broker_name) or ""
        sending.attempts.append(Attempt(queue.broker_name, address, error))
        if isinstance(error, TransportError):
            now = asyncio.get_running_loop().time()
            self._suspects[queue.broker_name] = now + self._settings.suspect_s
        if isinstance(error, CallTimeout):
            self._heartbeats.doubt(error.address)
        if isinstance(error, TransportError) or getattr(error, "code", None) in self._settings.retry_codes:
            self._routes.refresh_soon()
            if self._faults is not None:
                self._faults.failed(queue.broker_name, asyncio.get_running_loop().time())

    async def _final(self, sending: Sending) -> SendFailed:
        took_s = asyncio.get_running_loop().time() - sending.started
        error = sending.attempts[-1].error
        hint = advice(sending.attempts, sending.outgoing)
        if isinstance(error, ResponseError) and error.code == ResponseCode.TOPIC_NOT_EXIST:
            hint += f" (name servers asked: {', '.join(self._routes.name_servers)})"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HINT_S):
                    hint = ". ".join(filter(None, (hint, similar(await self._routes.nearest(sending.topic)))))
        return SendFailed(sending.topic, sending.attempts, took_s, hint, sending.outgoing.msg_id)


def _time_left(sending: Sending) -> float:
    return max(0.001, sending.deadline - asyncio.get_running_loop().time())


async def _let_go_out(connection: Connection, deadline: float) -> None:
    """Wait while the broker does not keep up with reading, until `deadline` at most."""
    await asyncio.sleep(0)
    if connection.writing_paused:
        writable = asyncio.Event()
        connection.when_writable(writable.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await writable.wait()
