"""The broker: its parts made in order, each given just what it uses, then started; stopped in reverse."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import msgspec

from pymq.broker.arrivals import Arrivals
from pymq.broker.broker_config import BrokerConfig, check_supported
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.disk_watch import DiskWatch
from pymq.broker.figures import SAMPLE_PERIOD_S, Figures
from pymq.broker.live_clients import LiveClients
from pymq.broker.ports import Ports, take_ports
from pymq.broker.processors.broker_info import BrokerInfoProcessor
from pymq.broker.processors.group_requests import GroupProcessor
from pymq.broker.processors.memberships import MembershipProcessor
from pymq.broker.processors.offset_requests import OffsetProcessor
from pymq.broker.processors.pulls import PullProcessor
from pymq.broker.processors.sends import SendProcessor
from pymq.broker.processors.topic_requests import TopicProcessor
from pymq.broker.registration import Identity, Registration
from pymq.broker.saved_tables import SavedTable, Table
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.clock import Clock
from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.network import Network, split_address
from pymq.protocol.codes import RequestCode
from pymq.protocol.message_ids import pack_host
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig
from pymq.transport.connection import Connection
from pymq.transport.dispatch import DispatchTable, merge
from pymq.transport.pool import Pool
from pymq.transport.server import Server

log = logging.getLogger("pymq.broker")

CLIENT_SCAN_S = 10.0
"""How often clients without heartbeats are looked for (wire.md §1.5)."""


class Broker:
    """Serves one broker as long as the context lasts.

    Entering raises ConfigError (not supported yet), PortInUse, StoreLocked, StoreError.

    Attributes:
        port: listenPort, once entered.
        address: `host:port` by which clients reach it, once entered.
    """

    def __init__(self, config: BrokerConfig, *, clock: Clock, disk: Disk, network: Network) -> None:
        check_supported(config)
        self._config = msgspec.structs.replace(config, broker_name=config.broker_name or network.host_name())
        self._clock = clock
        self._disk = disk
        self._network = network.with_options(config.socket_options)
        self._running = AsyncExitStack()
        self.port = config.listen_port
        self.address = ""

    async def __aenter__(self) -> Self:
        """Open the store, listen, register."""
        async with AsyncExitStack() as starting:
            await self._start(starting)
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Unregister, close all connections, save the tables, close the store."""
        await self._running.aclose()

    async def _start(self, starting: AsyncExitStack) -> None:
        config, clock, disk = self._config, self._clock, self._disk
        ports = take_ports(self._network, config.bind_address, config.listen_port)
        starting.callback(ports.close)
        identity = self._identity(ports)
        disk.start(asyncio.get_running_loop().call_soon_threadsafe)
        starting.callback(disk.stop)

        store = MessageStore(_store_config(config), disk, clock, pack_host(*split_address(identity.address)))
        store.open()
        starting.callback(store.close)
        disk_watch = DiskWatch(config, disk, store.refuse_while_full)
        disk_watch.start()
        self._every(starting, config.clean_resource_interval / 1000, disk_watch.judge)
        starting.callback(asyncio.ensure_future(_flush_in_time(store)).cancel)
        arrivals = Arrivals(config.pull_thread_pool_queue_capacity)
        starting.callback(arrivals.close)
        store.on_dispatch.append(arrivals.notify)

        topics, groups = TopicTable(config, clock), SubscriptionGroups(config, clock)
        offsets = ConsumerOffsetTable()
        saved_topics = self._saved("topics", topics, starting)
        saved_groups = self._saved("subscriptionGroup", groups, starting)
        saved_offsets = self._saved("consumerOffset", offsets, starting)
        topics.on_change.append(lambda _: saved_topics.changed())
        groups.on_change.append(lambda _: saved_groups.changed())
        _find_lost_topics(topics, store)

        clients, figures = LiveClients(clock), Figures(clock)
        registration = Registration(config, identity, topics, self._name_server_pool)
        topics.on_change.append(registration.topic_changed)
        members = MembershipProcessor(config, clients, groups, topics)
        clients.on_change.append(members.notify_changed)
        clients.on_heartbeat.append(lambda group: arrivals.wake_group(group.name))
        table = merge(
            SendProcessor(config, topics, groups, store, clock, figures).table,
            PullProcessor(config, topics, groups, offsets, clients, arrivals, store, figures).table,
            OffsetProcessor(offsets, store).table,
            members.table,
            TopicProcessor(
                config, topics, store, arrivals, registration.register_topic, saved_topics.save
            ).table,
            GroupProcessor(config, groups, offsets, topics, clients, store, saved_groups.save).table,
            BrokerInfoProcessor(config, figures, store, disk, clock).table,
        )

        def connection_closed(connection: Connection) -> None:
            arrivals.forget(connection)
            clients.connection_closed(connection)

        def save_offsets() -> None:
            if offsets.changed:
                saved_offsets.changed()

        starting.callback(save_offsets)
        self._every(starting, config.flush_consumer_offset_interval / 1000, save_offsets)
        self._every(starting, CLIENT_SCAN_S, clients.expire)
        self._every(starting, SAMPLE_PERIOD_S, figures.sample)
        await self._serve(starting, ports, table, connection_closed)
        self.port, self.address = ports.main.port, identity.address
        starting.push_async_callback(registration.close)
        await registration.start()

    def _saved(self, name: str, table: Table, starting: AsyncExitStack) -> SavedTable:
        """Load a table from its file, and have it saved when the broker stops."""
        folder = os.path.join(self._config.store_path_root_dir, "config")
        self._disk.make_folder(folder)
        saved = SavedTable(os.path.join(folder, f"{name}.json"), table, self._disk)
        saved.load()
        starting.push_async_callback(saved.close)
        return saved

    async def _serve(
        self,
        starting: AsyncExitStack,
        ports: Ports,
        table: DispatchTable,
        connection_closed: Callable[[Connection], None],
    ) -> None:
        """Answer on the main port and, but for pulls, on the VIP channel (wire.md §1.5)."""
        server = Server(
            self._network,
            on_close=connection_closed,
            idle_timeout_s=self._config.server_channel_max_idle_time_seconds,
        )
        starting.push_async_callback(server.close)
        await server.serve(ports.main, table)
        vip = {code: row for code, row in table.items() if code != RequestCode.PULL_MESSAGE}
        await server.serve(ports.vip, vip)
        await ports.ha.serve(_NoReplication)

    def _identity(self, ports: Ports) -> Identity:
        """By what this broker is registered, and a log line that says why its address is what it is."""
        config = self._config
        if config.broker_ip1:
            host, reason = config.broker_ip1, "set by brokerIP1"
        elif config.bind_address not in ("", "0.0.0.0", "::"):
            host, reason = config.bind_address, "the address that it is bound to; brokerIP1 is not set"
        else:
            host, reason = self._network.own_address(), "the first of this machine's; brokerIP1 is not set"
        identity = Identity(
            config.broker_cluster_name,
            config.broker_name,
            config.broker_id,
            f"{host}:{ports.main.port}",
            f"{config.broker_ip2 or host}:{ports.ha.port}",
        )
        log.info(
            "broker %s of cluster %s, id %d, tells clients its address %s (%s)",
            identity.name,
            identity.cluster,
            identity.id,
            identity.address,
            reason,
        )
        if _is_loopback(host):
            for address in config.namesrv_addresses:
                if not _is_loopback(split_address(address)[0]):
                    log.warning(
                        "a loopback address is registered with name server %s: clients on other machines "
                        "will not reach this broker; set brokerIP1",
                        address,
                    )
        return identity

    def _name_server_pool(self, on_close: Callable[[Connection], None]) -> Pool:
        return Pool(
            self._network,
            {},
            connect_timeout_s=self._config.connect_timeout_millis / 1000,
            on_close=on_close,
        )

    @staticmethod
    def _every(starting: AsyncExitStack, period_s: float, action: Callable[[], None]) -> None:
        async def repeat() -> None:
            while True:
                await asyncio.sleep(period_s)
                try:
                    action()
                except Exception:
                    log.exception("a periodic task failed; it goes on")

        starting.callback(asyncio.ensure_future(repeat()).cancel)


def _find_lost_topics(topics: TopicTable, store: MessageStore) -> None:
    """Make the topics whose messages the store has, but which a crash kept from being saved."""
    last_queue: dict[str, int] = {}
    newest_ms: dict[str, int] = {}
    for topic, queue_id in store.queues():
        if topics.get(topic) is None:
            stored_ms = store.store_time(topic, queue_id, store.max_offset(topic, queue_id) - 1)
            last_queue[topic] = max(queue_id, last_queue.get(topic, 0))
            newest_ms[topic] = max(stored_ms, newest_ms.get(topic, -1))
    for topic, queue_id in last_queue.items():
        topics.found(topic, queue_id, newest_ms[topic])


async def _flush_in_time(store: MessageStore) -> None:
    """Call the store's `tick` as often as it says."""
    while True:
        try:
            pause_s = store.tick()
        except StoreError as error:
            log.error("flushing: %s", error)
            pause_s = 1.0
        await asyncio.sleep(max(0.001, pause_s))


class _NoReplication(asyncio.Protocol):
    """What answers on the replication port as long as this version has no replication: it hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        log.warning("%s: a slave asked for replication, which this version does not serve yet", peer)
        transport.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _store_config(config: BrokerConfig) -> StoreConfig:
    """The store's share of the configuration."""
    return StoreConfig(
        root=config.store_path_root_dir,
        commit_log_path=config.store_path_commit_log,
        commit_log_segment_bytes=config.mapped_file_size_commit_log,
        consume_queue_segment_bytes=config.mapped_file_size_consume_queue,
        max_message_bytes=config.max_message_size,
        flush_interval_commit_log=config.flush_interval_commit_log,
        flush_commit_log_least_pages=config.flush_commit_log_least_pages,
        flush_commit_log_thorough_interval=config.flush_commit_log_thorough_interval,
        flush_interval_consume_queue=config.flush_interval_consume_queue,
        flush_consume_queue_least_pages=config.flush_consume_queue_least_pages,
        flush_consume_queue_thorough_interval=config.flush_consume_queue_thorough_interval,
        max_transfer_bytes_in_memory=config.max_transfer_bytes_on_message_in_memory,
        max_transfer_count_in_memory=config.max_transfer_count_on_message_in_memory,
        max_transfer_bytes_in_disk=config.max_transfer_bytes_on_message_in_disk,
        max_transfer_count_in_disk=config.max_transfer_count_on_message_in_disk,
        access_message_in_memory_max_ratio=config.access_message_in_memory_max_ratio,
        check_crc_on_recover=config.check_crc_on_recover,
        message_delay_level=config.message_delay_level,
    )
