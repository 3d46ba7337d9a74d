"""A slave from its start to its stop: it finds its master, copies the log, and follows its tables."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.replication.comparison import compare
from pymq.broker.replication.metadata import MasterTables, Source
from pymq.broker.replication.slave import ReplicationSlave
from pymq.clock import Clock
from pymq.network import Network, split_address
from pymq.protocol.headers.naming import RegisterBrokerResponse
from pymq.store.replica import Replica
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.broker.replication")


class SlaveLife:
    """Runs the two tasks of a slave.

    The master is where the name servers say (semantics.md §9), or at haMasterAddress where that is set.
    """

    def __init__(
        self,
        config: BrokerConfig,
        replica: Replica,
        sources: Sequence[Source],
        knows_topic: Callable[[str], bool],
        find_topics: Callable[[], None],
        forget_offsets: Callable[[str, int], None],
        network: Network,
        clock: Clock,
    ) -> None:
        """`knows_topic`: whether a topic's configuration is here already, or is none of those to ask for.

        `find_topics` makes those whose messages are here: a master may go before it was asked for them.
        `forget_offsets` forgets what groups have consumed of a queue, by topic and id.
        """
        self._is_fixed = len(config.ha_master_address) >= 6  # as Apache has it: shorter is none
        self._replica = replica
        self._knows_topic = knows_topic
        self._find_topics = find_topics
        self._forget_offsets = forget_offsets
        replica.on_anew.append(self._begins_anew)
        self._may_miss_topics = True
        self._pool = Pool(network, {})
        self.tables = MasterTables(self._pool, sources, self._has_log, self._master_is_away)
        self.replication = ReplicationSlave(
            replica,
            self._compare,
            network,
            clock,
            segment_bytes=config.mapped_file_size_commit_log,
            heartbeat_s=config.ha_send_heartbeat_interval / 1000,
            housekeeping_s=config.ha_housekeeping_interval / 1000,
        )
        self._tasks: list[asyncio.Task[None]] = []
        if self._is_fixed:
            self.replication.set_master(config.ha_master_address)
            self.tables.master_address = _beside(config.ha_master_address)

    def start(self) -> None:
        """Begin; what is not known yet comes by `registered`."""
        self._tasks = [
            asyncio.ensure_future(self.replication.run()),
            asyncio.ensure_future(self.tables.run()),
        ]

    async def close(self) -> None:
        """Hang up on the master."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close()

    def registered(self, answer: RegisterBrokerResponse) -> None:
        """A name server has answered: it tells where the master is, if there is one."""
        if answer.master_addr and answer.master_addr != self.tables.master_address:
            log.info("the master is %s", answer.master_addr)
            self.tables.master_address = answer.master_addr
            self.tables.void_offsets()  # another master's may be further than this one's log
        if answer.ha_server_addr and not self._is_fixed:
            self.replication.set_master(answer.ha_server_addr)

    def dispatched(self, topic: str, queue_id: int, offset: int, tags_code: int) -> None:
        """A message came: of a topic that is not known here, the configuration is asked for at once."""
        if not self._knows_topic(topic):
            self._may_miss_topics = True
            self.tables.soon()

    def _begins_anew(self, topic: str, queue_id: int) -> None:
        """Its topic was deleted and made again: as on the master, no group has consumed anything of it."""
        self._forget_offsets(topic, queue_id)
        self.tables.void_offsets()

    def _master_is_away(self) -> None:
        if self._may_miss_topics:
            self._may_miss_topics = False
            self._find_topics()

    def _has_log(self, end: int) -> bool:
        """Whether the master's log has been copied up to a physical offset."""
        return self.replication.is_connected and self._replica.end >= end

    async def _compare(self) -> None:
        address = self.tables.master_address or _beside(self.replication.master_ha_address)
        await compare(self._pool, address, self._replica.newest_record())


def _beside(ha_address: str) -> str:
    """Where the broker of a replication port listens: one port below it (store.md §9)."""
    try:
        host, port = split_address(ha_address)
    except ValueError:
        return ""
    return f"{host}:{port - 1}"
