"""The broker: its parts made in order, each given just what it uses, then started; stopped in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.arrivals import Arrivals
from pymq.broker.broker_config import BrokerConfig, BrokerRole, FlushDiskType, check_supported
from pymq.broker.consumer_filters import ConsumerFilterTable
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.delayed_puts import DelayedPuts
from pymq.broker.delays import Delays
from pymq.broker.disk_watch import DiskWatch
from pymq.broker.figures import SAMPLE_PERIOD_S, Figures
from pymq.broker.identity import identity_of
from pymq.broker.live_clients import LiveClients
from pymq.broker.moved_offsets import MovedOffsets
from pymq.broker.part_settings import check_terms, replication_terms, retention_rules, store_config
from pymq.broker.ports import Ports, take_ports
from pymq.broker.processors.broker_info import BrokerInfoProcessor
from pymq.broker.processors.cleaning_requests import CleaningProcessor
from pymq.broker.processors.consumer_calls import ConsumerCallProcessor
from pymq.broker.processors.end_transaction import EndTransactionProcessor
from pymq.broker.processors.group_progress import ProgressProcessor
from pymq.broker.processors.group_requests import GroupProcessor
from pymq.broker.processors.memberships import MembershipProcessor
from pymq.broker.processors.offset_requests import OffsetProcessor
from pymq.broker.processors.pulls import PULL_CODES, PullProcessor
from pymq.broker.processors.queries import QueryProcessor
from pymq.broker.processors.queue_lock_requests import QueueLockProcessor
from pymq.broker.processors.recalls import RecallProcessor
from pymq.broker.processors.replies import ReplyProcessor
from pymq.broker.processors.send_backs import SendBackProcessor
from pymq.broker.processors.sends import SendProcessor
from pymq.broker.processors.topic_requests import TopicProcessor
from pymq.broker.queue_locks import QueueLocks
from pymq.broker.registration import Registration
from pymq.broker.replication.copied_tables import (
    CopiedDelayOffsets,
    CopiedGroups,
    CopiedOffsets,
    CopiedTopics,
    sources,
)
from pymq.broker.replication.master import ReplicationMaster
from pymq.broker.replication.slave_life import SlaveLife
from pymq.broker.replication.slave_refusals import refusals
from pymq.broker.replication.status import SAMPLE_S, MasterStatus, SlaveStatus, StatusProcessor
from pymq.broker.resets import Resets
from pymq.broker.saved_tables import Entries, SavedTable, Table
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.timer_rolls import TimerRolls
from pymq.broker.timer_saves import TimerSaves
from pymq.broker.timers import Timers
from pymq.broker.topics import TopicTable
from pymq.broker.transactions.producers import Producers
from pymq.broker.transactions.transactions import Transactions
from pymq.clock import Clock
from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.network import Network, split_address
from pymq.protocol.message_ids import pack_host
from pymq.store.messagestore import MessageStore
from pymq.store.timer_journal import TimerJournal
from pymq.transport.connection import Connection
from pymq.transport.dispatch import DispatchTable, merge
from pymq.transport.pool import Pool
from pymq.transport.server import Server

log = logging.getLogger("pymq.broker")

QUEUE_LOCK_SCAN_S = 1.0
"""How often queue locks are looked for that have ended."""
FILTER_SCAN_S = 10.0
"""How often filters are looked for that nobody uses any more."""
CLIENT_SCAN_S = 10.0
"""How often clients without heartbeats are looked for (wire.md §1.5)."""


class _Tables(NamedTuple):
    """What a broker knows beside its messages, and what saves it."""

    topics: TopicTable
    groups: SubscriptionGroups
    offsets: ConsumerOffsetTable
    saved_topics: SavedTable
    saved_groups: SavedTable
    saved_offsets: SavedTable


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
        identity = identity_of(config, ports, self._network)
        disk.start(asyncio.get_running_loop().call_soon_threadsafe)
        starting.callback(disk.stop)

        own_host = pack_host(*split_address(identity.address))
        store = self._open_store(own_host, starting)
        arrivals = Arrivals(config.pull_thread_pool_queue_capacity)
        starting.callback(arrivals.close)
        store.on_dispatch.append(arrivals.notify)

        tables = self._load_tables(starting)
        topics, groups, offsets, saved_topics, saved_groups, saved_offsets = tables
        is_slave = config.broker_role is BrokerRole.SLAVE
        if not is_slave:
            _find_lost_topics(topics, store)
            store.on_new_queue.append(lambda topic, queue_id: topics.found(topic, queue_id, clock.now_ms()))
        delay_offsets = DelayOffsetTable(store)
        delays = self._delays(store, delay_offsets, starting)
        timers = self._timers(store, starting)

        delayed = DelayedPuts(delays, timers, timer_wheel_enable=config.timer_wheel_enable)

        clients, figures = LiveClients(clock), Figures(clock)
        transactions = Transactions(
            store, offsets, topics, delayed, Producers(clients), clock, check_terms(config), own_host=own_host
        )
        transactions.progress.on_change.append(saved_offsets.changed)
        self._begin_transactions(transactions, starting)
        resets = Resets(clients, clock)
        clients.on_change.append(resets.members_changed)
        registration = Registration(config, identity, topics, self._name_server_pool)
        master = ReplicationMaster(store.blocks(), clock, replication_terms(config))
        starting.callback(master.close)
        replication: MasterStatus | SlaveStatus = MasterStatus(store, master)
        if is_slave:
            slave = self._begin_slave(tables, delay_offsets, store, registration, starting)
            replication = SlaveStatus(store, slave.replication, clock)
        topics.on_change.append(registration.topic_changed)
        filters = self._filters(clients, starting)
        members = MembershipProcessor(config, clients, groups, topics, filters)
        clients.on_change.append(members.notify_changed)
        clients.on_heartbeat.append(lambda group: arrivals.wake_group(group.name))
        locks = QueueLocks(clock)
        locks.on_change.append(self._saved("queueLocks", locks, starting).changed)
        queue_locks = QueueLockProcessor(locks, clients, members.notify_changed)
        moved = MovedOffsets(identity.name, own_host, store, clock)
        acknowledgements = _acknowledgements(config, store, clock, master)
        sends = SendProcessor(
            config, topics, groups, store, clock, figures, delayed, transactions, acknowledgements
        )
        send_backs = SendBackProcessor(config, topics, groups, store, clock, delays, acknowledgements)
        ends = EndTransactionProcessor(config, transactions, store, acknowledgements)
        table = merge(
            sends.table,
            send_backs.table,
            ends.table,
            RecallProcessor(config, topics, timers, clock, acknowledgements).table,
            ReplyProcessor(
                config, sends, clients, store, clock, figures, acknowledgements, identity.address
            ).table,
            PullProcessor(
                config, topics, groups, offsets, resets, clients, filters, arrivals, store, figures, moved
            ).table,
            OffsetProcessor(offsets, resets, store).table,
            QueryProcessor(config, store).table,
            members.table,
            queue_locks.table,
            TopicProcessor(
                config, topics, offsets, store, arrivals, registration.register_topic, saved_topics.save
            ).table,
            GroupProcessor(
                groups,
                offsets,
                topics,
                clients,
                saved_groups.save,
                saved_offsets.save,
                registration.register_topic,
                members.notify_changed,
            ).table,
            ProgressProcessor(
                identity.name,
                identity.address,
                topics,
                groups,
                offsets,
                clients,
                store,
                clock,
                saved_offsets.save,
            ).table,
            ConsumerCallProcessor(
                identity.name, topics, offsets, resets, clients, store, saved_offsets.save
            ).table,
            CleaningProcessor(topics, store, arrivals).table,
            BrokerInfoProcessor(config, figures, store, delay_offsets, disk, clock).table,
            StatusProcessor(replication).table,
        )

        def connection_closed(connection: Connection) -> None:
            arrivals.forget(connection)
            clients.connection_closed(connection)

        self._save_now_and_then(offsets, saved_offsets, starting)
        self._every(starting, CLIENT_SCAN_S, clients.expire)
        self._every(starting, CLIENT_SCAN_S, resets.expire)
        self._every(starting, QUEUE_LOCK_SCAN_S, queue_locks.expire)
        self._every(starting, SAMPLE_PERIOD_S, figures.sample)
        self._every(starting, SAMPLE_S, replication.sample)
        if is_slave:
            table |= merge(refusals())
        await self._serve(starting, ports, table, connection_closed)
        await ports.ha.serve(_NoReplication if is_slave else master.connected)
        if acknowledgements is not None:
            starting.push_async_callback(acknowledgements.close)
        starting.callback(sends.stop)
        starting.callback(send_backs.stop)
        starting.callback(ends.stop)
        self.port, self.address = ports.main.port, identity.address
        starting.push_async_callback(registration.close)
        await registration.start()

    def _open_store(self, own_host: bytes, starting: AsyncExitStack) -> MessageStore:
        """The store, with what flushes it and what watches its disk; closed when the broker stops."""
        config, disk = self._config, self._disk
        store = MessageStore(store_config(config), disk, self._clock, own_host)
        store.open()
        starting.callback(store.close)
        disk_watch = DiskWatch(config, retention_rules(config), disk, store.refuse_while_full)
        disk_watch.start()
        store.on_deleted.append(lambda _: disk_watch.judge())
        self._every(starting, config.clean_resource_interval / 1000, disk_watch.judge)
        starting.callback(asyncio.ensure_future(_flush_in_time(store)).cancel)
        return store

    def _load_tables(self, starting: AsyncExitStack) -> _Tables:
        """What the store's folder tells of topics, groups and their offsets; saved when the broker stops."""
        config, clock = self._config, self._clock
        topics, groups = TopicTable(config, clock), SubscriptionGroups(config, clock)
        offsets = ConsumerOffsetTable()
        saved_topics = self._saved("topics", topics, starting, topics)
        saved_groups = self._saved("subscriptionGroup", groups, starting, groups)
        saved_offsets = self._saved("consumerOffset", offsets, starting)
        topics.on_change.append(saved_topics.changed)
        groups.on_change.append(saved_groups.changed)
        return _Tables(topics, groups, offsets, saved_topics, saved_groups, saved_offsets)

    def _begin_transactions(self, transactions: Transactions, starting: AsyncExitStack) -> None:
        """On a master, ask how transactions ended until the broker stops; a slave only follows."""
        progress = transactions.progress
        progress.on_mark.append(self._saved("transactions", progress, starting).changed)
        if self._config.broker_role is BrokerRole.SLAVE:
            progress.forget_mark()
        else:
            transactions.start()
            starting.push_async_callback(transactions.close)

    def _begin_slave(
        self,
        tables: _Tables,
        delay_offsets: DelayOffsetTable,
        store: MessageStore,
        registration: Registration,
        starting: AsyncExitStack,
    ) -> SlaveLife:
        """Follow the master that the name servers tell of, until the broker stops."""
        topics, offsets = tables.topics, tables.offsets

        def topics_deleted(names: list[str]) -> None:
            for name in names:
                offsets.remove_topic(name)
            slave.tables.void_offsets()

        def groups_deleted(names: list[str]) -> None:
            for name in names:
                offsets.remove_group(name)
            slave.tables.void_offsets()

        cleaned = None

        def level() -> None:
            nonlocal cleaned
            if topics.data_version != cleaned:  # not every ten seconds: there may be many queues
                cleaned = topics.data_version
                _delete_unused(topics, store)

        slave = SlaveLife(
            self._config,
            store.replica(),
            sources(
                CopiedTopics(topics, tables.saved_topics.changed, topics_deleted),
                CopiedGroups(tables.groups, tables.saved_groups.changed, groups_deleted),
                CopiedOffsets(offsets, level),
                CopiedDelayOffsets(delay_offsets),
            ),
            lambda topic: topics.get(topic) is not None or topics.is_system(topic),
            lambda: _find_lost_topics(topics, store),
            offsets.remove_queue,
            self._network,
            self._clock,
        )
        store.on_dispatch.append(slave.dispatched)
        registration.on_answer = slave.registered
        starting.push_async_callback(slave.close)
        slave.start()
        return slave

    def _save_now_and_then(
        self, offsets: ConsumerOffsetTable, saved: SavedTable, starting: AsyncExitStack
    ) -> None:
        """Consumers commit all the time: their offsets are saved now and then, and when the broker stops."""

        def save() -> None:
            if offsets.changed:
                saved.changed()

        starting.callback(save)
        self._every(starting, self._config.flush_consumer_offset_interval / 1000, save)

    def _delays(self, store: MessageStore, offsets: DelayOffsetTable, starting: AsyncExitStack) -> Delays:
        """The delay levels, being delivered until the broker stops; then their offsets are saved."""
        saved = self._saved("delayOffset", offsets, starting)
        offsets.on_change.append(saved.changed)
        delays = Delays(self._config.message_delay_level, store, offsets, self._clock)
        if self._config.broker_role is BrokerRole.SLAVE:
            return delays
        delays.start()
        offsets.save_soon()
        starting.push_async_callback(offsets.settle)
        starting.callback(delays.stop)
        self._every(starting, self._config.flush_delay_offset_interval / 1000, offsets.save_soon)
        return delays

    def _timers(self, store: MessageStore, starting: AsyncExitStack) -> Timers:
        """Timed messages, being delivered until the broker stops; then their journal is saved."""
        config, disk, clock = self._config, self._disk, self._clock
        journal = TimerJournal(os.path.join(config.store_path_root_dir, "timerjournal"), disk)
        saves = TimerSaves(store, journal, disk)
        max_delay_ms = config.timer_max_delay_sec * 1000
        timers = Timers(store, journal, saves, clock, max_delay_ms=max_delay_ms)
        if config.broker_role is BrokerRole.SLAVE:
            journal.clear()  # the master may cut off what it tells of: it is built again for a new master
            return timers
        timers.start()
        saves.save_soon()
        starting.push_async_callback(saves.settle)
        starting.callback(timers.stop)
        rolls = TimerRolls(store, timers, saves, clock)
        store.may_delete.append(rolls.may_go)
        starting.callback(rolls.stop)
        self._every(starting, config.flush_delay_offset_interval / 1000, saves.save_soon)
        return timers

    def _filters(self, clients: LiveClients, starting: AsyncExitStack) -> ConsumerFilterTable:
        """The SQL92 filters of groups, which follow their heartbeats."""
        filters = ConsumerFilterTable(self._config, self._clock)
        filters.on_change.append(self._saved("consumerFilter", filters, starting).changed)
        clients.on_heartbeat.append(filters.heartbeat)
        clients.on_empty.append(filters.group_left)
        self._every(starting, FILTER_SCAN_S, filters.clean)
        return filters

    def _saved(
        self, name: str, table: Table, starting: AsyncExitStack, entries: Entries | None = None
    ) -> SavedTable:
        """Load a table from its file, and have it saved when the broker stops."""
        folder = os.path.join(self._config.store_path_root_dir, "config")
        self._disk.make_folder(folder, sync=True)
        saved = SavedTable(os.path.join(folder, f"{name}.json"), table, self._disk, entries=entries)
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
        vip = {code: row for code, row in table.items() if code not in PULL_CODES}
        await server.serve(ports.vip, vip)

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


def _acknowledgements(
    config: BrokerConfig, store: MessageStore, clock: Clock, master: ReplicationMaster
) -> Acknowledgements | None:
    """Where sends wait before they are answered; None where they need not."""
    waits_for_disk = config.flush_disk_type is FlushDiskType.SYNC_FLUSH
    waits_for_slave = config.broker_role is BrokerRole.SYNC_MASTER
    if not (waits_for_disk or waits_for_slave):
        return None
    return Acknowledgements(
        store,
        clock,
        sync_flush_timeout_ms=config.sync_flush_timeout if waits_for_disk else None,
        slaves=master if waits_for_slave else None,
        slave_timeout_ms=config.slave_timeout,
    )


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


def _delete_unused(topics: TopicTable, store: MessageStore) -> None:
    """Delete the queues of topics that were deleted on the master: made anew, they would begin with those."""
    newest_ms: dict[str, int] = {}
    for topic, queue_id in store.queues():
        if topics.get(topic) is None and not topics.is_system(topic):
            stored_ms = store.store_time(topic, queue_id, store.max_offset(topic, queue_id) - 1)
            newest_ms[topic] = max(stored_ms, newest_ms.get(topic, -1))
    for topic, stored_ms in newest_ms.items():
        if 0 <= stored_ms < topics.saved_ms - 1:  # else it may have been made after the master was asked
            log.info("the queues of topic %s, deleted on the master, are deleted", topic)
            store.delete_topic(topic)


async def _flush_in_time(store: MessageStore) -> None:
    """Call the store's `tick` as often as it says."""
    while True:
        try:
            pause_s = store.tick()
        except StoreError as error:
            log.error("flushing: %s", error)
            pause_s = 1.0
        except Exception:  # else nothing would ever be flushed again, and nobody would know
            log.exception("flushing failed; it is tried again")
            pause_s = 1.0
        await asyncio.sleep(max(0.001, pause_s))


class _NoReplication(asyncio.Protocol):
    """What answers on a slave's replication port: it hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        log.warning("%s: a slave asked for replication, but this broker is a slave itself", peer)
        transport.close()
