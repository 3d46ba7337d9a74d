"""The parts of one client, put together: connections, routes, heartbeats, a producer, consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from pymq.client.allocation import Allocation, allocation_named
from pymq.client.cancelling import Cancelling
from pymq.client.consume_figures import ConsumeFigures
from pymq.client.delivery import ConcurrentDelivery, Delivery, Order
from pymq.client.failures import ClientClosed, GroupTaken
from pymq.client.flow_control import FlowControl, Room
from pymq.client.group_member import GroupMember
from pymq.client.group_offsets import GroupOffsets
from pymq.client.heartbeats import Heartbeats
from pymq.client.held_locks import HeldLocks
from pymq.client.message_trace import MessageTraces
from pymq.client.name_servers import NameServers, parse_addresses
from pymq.client.namespace import Namespace
from pymq.client.offset_store import BrokerOffsets, LocalOffsets, OffsetStore
from pymq.client.option_checks import check_consumer_options
from pymq.client.ordered import UNLIMITED_RETRIES, OrderedDelivery
from pymq.client.outgoing import check_group
from pymq.client.producer import Producer
from pymq.client.rebalance import Rebalance
from pymq.client.received import RETRY_TOPIC_PREFIX
from pymq.client.repeating import end_tasks
from pymq.client.request_reply import PendingReplies, RequestReply
from pymq.client.route_cache import RouteCache
from pymq.client.search import Search
from pymq.client.send_back import SendBack
from pymq.client.sender import Sender
from pymq.client.served import BrokerRequests
from pymq.client.settings import Settings
from pymq.client.start_offset import Start, StartOffset
from pymq.client.subscriptions import FilterCheck, Sql, subscription
from pymq.client.timer_support import TimerSupport
from pymq.client.tracing import Tracing, inner_group
from pymq.client.transaction import TransactionProducer
from pymq.client.transaction_checks import Checker, TransactionChecks
from pymq.client.transaction_ends import TransactionEnds
from pymq.client.transaction_states import TransactionStates
from pymq.clock import Clock
from pymq.config import home
from pymq.disk import Disk
from pymq.errors import ConfigError
from pymq.network import Network
from pymq.protocol.message_ids import UniqueKeys
from pymq.protocol.tag_filter import ALL_TAGS
from pymq.transport.connection import Connection
from pymq.transport.dispatch import DispatchTable
from pymq.transport.pool import Pool

DEFAULT_INSTANCE_NAME = "DEFAULT"
DEFAULT_MAX_RETRIES = 16
_NONCE_BITS = 48


class ClientInstance:
    """What Apache calls MQClientInstance: one identity with its connections and timers.

    Attributes:
        client_id: `ip@pid#number`, or `ip@name` with an instance name (semantics.md §13).
        producer: sends.
        transactions: sends what is delivered when it is committed.
        routes: where topics and brokers are.
        search: finds messages by key.
        message_traces: finds what is known of a message's life.
        cancelling: cancels timed messages.
        group_offsets: where groups stand.
        request_reply: asks, and answers.
        tracing: tells the life of messages to a trace topic.
        namespace: topics and groups are given and told without it.
    """

    def __init__(
        self,
        name_servers: str | Sequence[str],
        clock: Clock,
        network: Network,
        disk: Disk,
        instance_name: str | None,
        producer_group: str,
        settings: Settings,
        namespace: str = "",
        trace: bool | str = False,
        transaction_checker: Checker | None = None,
    ) -> None:
        self.namespace = Namespace(namespace)
        producer_group = self.namespace.wrap(producer_group)
        check_group(producer_group)
        addresses = parse_addresses(name_servers)
        ip = network.own_address()
        own_name = f"{clock.pid}#{clock.random.getrandbits(_NONCE_BITS)}"
        self.client_id = f"{ip}@{instance_name or own_name}"
        self._offsets_name = f"{ip}@{instance_name or DEFAULT_INSTANCE_NAME}"
        self._producer_group = producer_group
        self._clock = clock
        self._disk = disk
        self._settings = settings
        self._members: dict[str, GroupMember] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._pending = PendingReplies(clock)
        self._name_server_pool = Pool(network, {})
        first = clock.random.randrange(len(addresses))
        servers = NameServers(self._name_server_pool, addresses, first, settings.call_timeout_s)
        self.routes = RouteCache(servers, settings)
        table: DispatchTable = {}
        self._pool = Pool(network, table, offer_msgpack=True, on_close=self._lost)
        self._heartbeats = Heartbeats(self._pool, self.routes, self.client_id, settings)
        self._filter_check = FilterCheck(
            self._pool, self.routes, self.client_id, self.namespace, settings.call_timeout_s
        )
        keys = UniqueKeys(clock, ip)
        tracer = Sender(
            self._pool, self.routes, self._heartbeats, clock, inner_group(producer_group), settings
        )
        self.tracing = Tracing(Producer(tracer, keys, settings), trace, clock, keys, self.namespace, settings)
        send_trace = self.tracing.of_sends(producer_group)
        sender = Sender(
            self._pool, self.routes, self._heartbeats, clock, producer_group, settings, send_trace
        )
        self.producer = Producer(sender, keys, settings, self.namespace)
        states = TransactionStates()
        ends = TransactionEnds(self._pool, self.routes, producer_group, settings.retry_pause_s, send_trace)
        self._checks = TransactionChecks(
            transaction_checker, states, ends, self.routes, self.namespace, settings
        )
        self.transactions = TransactionProducer(
            self.producer,
            ends,
            states,
            keys,
            self.check_running,
            has_checker=self._checks.has_checker,
            close_timeout_s=settings.close_timeout_s,
        )
        requests = BrokerRequests(self._members, self._pending, self._checks, addresses, self._run)
        table.update(requests.table)
        self.request_reply = RequestReply(
            self.producer, self._heartbeats, self._pending, self.client_id, self.namespace
        )
        self.cancelling = Cancelling(
            self._pool, self.routes, TimerSupport(self._heartbeats), clock, keys, producer_group
        )
        self.search = Search(self._pool, self.routes, self.request_reply)
        self.message_traces = MessageTraces(self.search)
        self.group_offsets = GroupOffsets(
            self._pool, self.routes, self.namespace, clock, settings.call_timeout_s
        )
        self._running = False
        self._closing: asyncio.Task[None] | None = None

    def _lost(self, connection: Connection) -> None:
        if self._running:
            self._heartbeats.lost(connection)
            for member in self._members.values():
                member.connection_lost(connection.address)

    def start(self) -> None:
        """Begin the timers. Nothing is connected before it is needed."""
        self._running = True
        self._closing = None
        self.routes.start()
        self._heartbeats.start()
        self.tracing.start()
        if self._checks.has_checker:
            # Brokers ask producers that they have heard of, whether these send anything or not.
            self.routes.know_all_brokers()
            self._heartbeats.add_producer(self._producer_group)

    async def close(self) -> None:
        """Let what is under way end, leave all groups, close all connections.

        Once begun this goes on to its end, though who asked for it is cancelled.
        """
        if self._closing is None:
            if not self._running:
                return
            self._running = False
            self._pending.close()
            name = f"pymq closing {self.client_id}"
            self._closing = asyncio.get_running_loop().create_task(self._close(), name=name)
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._name_server_pool.close)
            parts.push_async_callback(self._pool.close)
            parts.push_async_callback(self.routes.close)
            parts.push_async_callback(self._heartbeats.close)
            parts.push_async_callback(self._end_tasks)
            parts.push_async_callback(self.tracing.close, asyncio.get_running_loop().time())
            leaving = [self.leave(member) for member in list(self._members.values())]
            await asyncio.gather(
                self.producer.flush(), self.transactions.close(), self._checks.close(), *leaving
            )

    async def _end_tasks(self) -> None:
        await end_tasks(*self._tasks)

    def check_running(self) -> None:
        """Raise ClientClosed unless the client is started and not closed."""
        if not self._running:
            raise ClientClosed("the client is not started, or closed")

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- consumers ----------------------------------------------------------------------------------

    async def join(self, member: GroupMember) -> None:
        """Let a member join its group. Raises GroupTaken, FilterRefused, ClientClosed."""
        self.check_running()
        await self._filter_check.check(member.describe())
        self.check_running()
        while (former := self._members.get(member.group)) is not None and former.is_closing:
            await self.leave(former)
            self.check_running()
        if former is not None:
            raise GroupTaken(f"this client has a consumer in group {member.group} already")
        self._members[member.group] = member
        try:
            await member.start()
        except BaseException as error:
            await self.leave(member)
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
                self.check_running()  # what it waited for has ended with the client
            raise

    async def leave(self, member: GroupMember) -> None:
        """Let a member leave its group. One who is cancelled here leaves that to go on by itself."""
        member.begin_close()
        task = asyncio.get_running_loop().create_task(self._leave(member))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.shield(task)

    async def _leave(self, member: GroupMember) -> None:
        try:
            await member.close()
        finally:
            if self._members.get(member.group) is member:
                del self._members[member.group]

    def member(
        self,
        group: str,
        subscriptions: dict[str, str | Sql],
        *,
        broadcast: bool,
        order: Order,
        suspend_s: float,
        allocation: str | Allocation,
        start: Start,
        max_retries: int | None,
        prefetch: int,
        prefetch_bytes: int,
        flow: FlowControl,
        consume_timeout_s: float,
        trace: bool | str | None,
        offsets_folder: str | None,
    ) -> GroupMember:
        """The parts of a consumer, `subscriptions` being tag expressions, or Sql, by topic.

        Raises MessageInvalid, ConfigError or TagExpressionError when something about them is wrong.
        """
        group = self.namespace.wrap(group)
        check_group(group)
        check_consumer_options(
            subscriptions,
            max_retries=max_retries,
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            flow=flow,
            consume_timeout_s=consume_timeout_s,
        )
        consume_trace = self.tracing.of_consumer(trace, group, consume_timeout_s)
        subscriptions = {self.namespace.wrap(topic): each for topic, each in subscriptions.items()}
        settings = self._settings
        now_ms = self._clock.now_ms()
        wanted = [subscription(topic, each, now_ms) for topic, each in subscriptions.items()]
        if not broadcast:
            wanted.append(subscription(RETRY_TOPIC_PREFIX + group, ALL_TAGS, now_ms))
        figures = ConsumeFigures(self._clock)
        delivery = self._delivery(
            group,
            order,
            figures,
            broadcast=broadcast,
            suspend_s=suspend_s,
            max_retries=max_retries,
            consume_timeout_s=consume_timeout_s,
        )
        return GroupMember(
            self._pool,
            self.routes,
            self._heartbeats,
            Rebalance(
                self._pool,
                self.routes,
                self._heartbeats,
                self._clock,
                group,
                self.client_id,
                allocation_named(allocation),
                settings.call_timeout_s,
            ),
            self._offset_store(group, offsets_folder, broadcast=broadcast),
            StartOffset(self._pool, self.routes, start, settings.call_timeout_s),
            delivery,
            figures,
            self._clock,
            settings,
            group,
            wanted,
            broadcast=broadcast,
            room=Room(
                flow=flow,
                prefetch=prefetch,
                prefetch_bytes=prefetch_bytes,
                is_ordered=delivery.is_ordered,
            ),
            consume_timeout_s=consume_timeout_s,
            trace=consume_trace,
        )

    def _offset_store(self, group: str, folder: str | None, *, broadcast: bool) -> OffsetStore:
        """Where a consumer's offsets are kept: by the brokers, or, where it broadcasts, in a folder here."""
        settings = self._settings
        if broadcast:
            folder = folder or home(".rocketmq_offsets")
            return LocalOffsets(self._disk, f"{folder}/{self._offsets_name}/{group}")
        return BrokerOffsets(
            self._pool, self.routes, group, settings.call_timeout_s, settings.close_timeout_s
        )

    def _delivery(
        self,
        group: str,
        order: Order,
        figures: ConsumeFigures,
        *,
        broadcast: bool,
        suspend_s: float,
        max_retries: int | None,
        consume_timeout_s: float,
    ) -> Delivery:
        """How a consumer's messages are given out and settled. Raises ConfigError for an unknown order."""
        settings = self._settings
        if max_retries is None:
            max_retries = UNLIMITED_RETRIES if order == "ordered" else DEFAULT_MAX_RETRIES
        send_back = SendBack(
            self._pool, self.routes, self._clock, group, max_retries, settings.send_back_timeout_s
        )
        if order == "ordered":
            locks = HeldLocks(self._pool, self.routes, self._clock, group, self.client_id, settings)
            return OrderedDelivery(
                None if broadcast else locks,
                send_back,
                self._clock,
                settings,
                self.request_reply,
                figures,
                suspend_s=suspend_s,
                max_retries=max_retries,
                consume_timeout_s=consume_timeout_s,
            )
        if order == "concurrent":
            return ConcurrentDelivery(
                send_back,
                self._clock,
                settings,
                self.request_reply,
                figures,
                broadcast=broadcast,
                consume_timeout_s=consume_timeout_s,
            )
        raise ConfigError(f"order={order!r}: expected 'concurrent' or 'ordered'")
