"""The parts of one client, put together: connections, routes, heartbeats, a producer, consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from pymq.client.failures import ClientClosed, GroupTaken
from pymq.client.group_member import GroupMember
from pymq.client.heartbeats import Heartbeats
from pymq.client.name_servers import NameServers, parse_addresses
from pymq.client.offset_store import BrokerOffsets, LocalOffsets, OffsetStore
from pymq.client.outgoing import check_group
from pymq.client.producer import Producer
from pymq.client.rebalance import Rebalance
from pymq.client.received import RETRY_TOPIC_PREFIX
from pymq.client.repeating import end_tasks
from pymq.client.route_cache import RouteCache
from pymq.client.send_back import SendBack
from pymq.client.sender import Sender
from pymq.client.served import BrokerRequests
from pymq.client.settings import Settings
from pymq.client.start_offset import Start, StartOffset
from pymq.clock import Clock
from pymq.config import home
from pymq.disk import Disk
from pymq.network import Network
from pymq.protocol.bodies import SubscriptionData
from pymq.protocol.message_ids import UniqueKeys
from pymq.protocol.tag_filter import ALL_TAGS, java_hash, parse_tags
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

DEFAULT_INSTANCE_NAME = "DEFAULT"
_NONCE_BITS = 48


class ClientInstance:
    """What Apache calls MQClientInstance: one identity with its connections and timers.

    Attributes:
        client_id: `ip@pid#number`, or `ip@name` with an instance name (semantics.md §13).
        producer: sends.
        routes: where topics and brokers are.
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
    ) -> None:
        check_group(producer_group)
        addresses = parse_addresses(name_servers)
        ip = network.own_address()
        own_name = f"{clock.pid}#{clock.random.getrandbits(_NONCE_BITS)}"
        self.client_id = f"{ip}@{instance_name or own_name}"
        self._offsets_name = f"{ip}@{instance_name or DEFAULT_INSTANCE_NAME}"
        self._clock = clock
        self._disk = disk
        self._settings = settings
        self._members: dict[str, GroupMember] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        requests = BrokerRequests(self._members, addresses, self._run)
        self._name_server_pool = Pool(network, {})
        self._pool = Pool(network, requests.table, offer_msgpack=True, on_close=self._lost)
        first = clock.random.randrange(len(addresses))
        servers = NameServers(self._name_server_pool, addresses, first, settings.call_timeout_s)
        self.routes = RouteCache(servers, settings)
        self._heartbeats = Heartbeats(self._pool, self.routes, self.client_id, settings)
        keys = UniqueKeys(clock, ip)
        sender = Sender(self._pool, self.routes, self._heartbeats, clock, producer_group, settings)
        self.producer = Producer(sender, keys, settings)
        self._running = False

    def _lost(self, connection: Connection) -> None:
        if self._running:
            self._heartbeats.lost(connection)

    def start(self) -> None:
        """Begin the timers. Nothing is connected before it is needed."""
        self._running = True
        self.routes.start()
        self._heartbeats.start()

    async def close(self) -> None:
        """Let what is under way end, leave all groups, close all connections."""
        if not self._running:
            return
        self._running = False
        async with contextlib.AsyncExitStack() as parts:
            parts.push_async_callback(self._name_server_pool.close)
            parts.push_async_callback(self._pool.close)
            parts.push_async_callback(self.routes.close)
            parts.push_async_callback(self._heartbeats.close)
            parts.push_async_callback(self._end_tasks)
            await self.producer.flush()
            await asyncio.gather(*[self.leave(member) for member in list(self._members.values())])

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
        """Let a member join its group. Raises GroupTaken, ClientClosed."""
        self.check_running()
        if member.group in self._members:
            raise GroupTaken(f"this client has a consumer in group {member.group} already")
        self._members[member.group] = member
        try:
            await member.start()
        except BaseException:
            await self.leave(member)
            raise

    async def leave(self, member: GroupMember) -> None:
        """Let a member leave its group."""
        try:
            await member.close()
        finally:
            if self._members.get(member.group) is member:
                del self._members[member.group]

    def member(
        self,
        group: str,
        subscriptions: dict[str, str],
        *,
        broadcast: bool,
        start: Start,
        max_retries: int,
        prefetch: int,
        prefetch_bytes: int,
        consume_timeout_s: float,
        offsets_folder: str | None,
    ) -> GroupMember:
        """The parts of a consumer, `subscriptions` being tag expressions by topic.

        Raises MessageInvalid, ConfigError or TagExpressionError when something about them is wrong.
        """
        check_group(group)
        settings = self._settings
        now_ms = self._clock.now_ms()
        wanted = [_subscription(topic, tags, now_ms) for topic, tags in subscriptions.items()]
        if not broadcast:
            wanted.append(_subscription(RETRY_TOPIC_PREFIX + group, ALL_TAGS, now_ms))
        offsets: OffsetStore
        if broadcast:
            folder = offsets_folder or home(".rocketmq_offsets")
            offsets = LocalOffsets(self._disk, f"{folder}/{self._offsets_name}/{group}")
        else:
            offsets = BrokerOffsets(
                self._pool, self.routes, group, settings.call_timeout_s, settings.close_timeout_s
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
                settings.call_timeout_s,
            ),
            offsets,
            StartOffset(self._pool, self.routes, start, settings.call_timeout_s),
            SendBack(self._pool, self.routes, group, max_retries, settings.send_back_timeout_s),
            self._clock,
            settings,
            group,
            wanted,
            broadcast=broadcast,
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            consume_timeout_s=consume_timeout_s,
        )


def _subscription(topic: str, expression: str, version_ms: int) -> SubscriptionData:
    tags = parse_tags(expression)
    if tags is None:
        return SubscriptionData(topic, ALL_TAGS, sub_version=version_ms)
    codes = {java_hash(tag) for tag in tags}
    return SubscriptionData(topic, " || ".join(sorted(tags)), set(tags), codes, version_ms)
