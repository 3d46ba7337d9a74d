"""What the name server knows of brokers and topics, and for how long (wire.md §7). Pure: no IO, no network.

Everything here is told by brokers and lost with them: a broker that is silent for two minutes, or whose
connection ends, is forgotten; with the last broker of a name go the name's queues.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from pymq.clock import Clock
from pymq.protocol.bodies import (
    MASTER_ID,
    PERM_READ,
    PERM_WRITE,
    BrokerData,
    ClusterInfo,
    DataVersion,
    QueueData,
    RegisterBrokerBody,
    TopicConfig,
    TopicRouteData,
)

BROKER_EXPIRY_MS = 120_000
"""A broker that did not register for this long is forgotten (wire.md §7.3)."""


@dataclass(frozen=True, slots=True)
class BrokerIdentity:
    """Who a broker says it is."""

    cluster: str
    name: str
    id: int
    address: str

    def __str__(self) -> str:
        """For the log."""
        return f"{self.name}:{self.id} at {self.address} (cluster {self.cluster})"


@dataclass(slots=True)
class BrokerLive:
    """What is known of a live broker."""

    identity: BrokerIdentity
    seen: float
    """When it last registered: seconds of the clock's monotonic time."""
    data_version: DataVersion
    connection: Hashable
    ha_server_addr: str


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration did. Addresses are for a slave whose master is known and live, else None."""

    is_new: bool
    """Whether this broker was not known at this address, or as something else."""
    master_addr: str | None = None
    ha_server_addr: str | None = None


class RouteTable:
    """Topic → broker name → queues; broker name → addresses; address → live broker."""

    def __init__(self, clock: Clock, *, expiry_ms: int = BROKER_EXPIRY_MS) -> None:
        self._clock = clock
        self._expiry_s = expiry_ms / 1000
        self._topics: dict[str, dict[str, QueueData]] = {}
        self._brokers: dict[str, BrokerData] = {}
        self._clusters: dict[str, set[str]] = {}
        self._live: dict[str, BrokerLive] = {}
        self._filter_servers: dict[str, list[str]] = {}

    # -- brokers come and go ------------------------------------------------------------------------

    def register(
        self, broker: BrokerIdentity, ha_server_addr: str, body: RegisterBrokerBody, connection: Hashable
    ) -> Registered:
        """A broker tells its address and its topics. Topics missing from the body stay as they were.

        Args:
            connection: on what the broker registered; its end is the broker's end.
        """
        first = self._place(broker)
        known = self._live.get(broker.address)
        if broker.id == MASTER_ID and (first or known is None or known.data_version != body.data_version):
            for topic in body.topics.values():
                self._set_queues(broker.name, topic)
        self._live[broker.address] = BrokerLive(
            broker, self._clock.monotonic(), body.data_version, connection, ha_server_addr
        )
        if body.filter_server_list:
            self._filter_servers[broker.address] = body.filter_server_list
        else:
            self._filter_servers.pop(broker.address, None)
        is_new = known is None or known.identity != broker
        master = self._master_of(broker)
        if master is None:
            return Registered(is_new)
        return Registered(is_new, master.identity.address, master.ha_server_addr)

    def _place(self, broker: BrokerIdentity) -> bool:
        """Put the address under its name and id. True when that id of the name had no address."""
        self._clusters.setdefault(broker.cluster, set()).add(broker.name)
        data = self._brokers.setdefault(broker.name, BrokerData(broker.name, broker.cluster))
        if data.cluster != broker.cluster:
            self._leave_cluster(data.cluster, broker.name)
            data.cluster = broker.cluster
        for other, address in list(data.broker_addrs.items()):
            if address == broker.address and other != broker.id:  # a slave became master, or the reverse
                del data.broker_addrs[other]
        first = broker.id not in data.broker_addrs
        data.broker_addrs[broker.id] = broker.address
        return first

    def _set_queues(self, broker_name: str, topic: TopicConfig) -> None:
        queues = self._topics.setdefault(topic.topic_name, {})
        queues[broker_name] = QueueData(
            broker_name, topic.read_queue_nums, topic.write_queue_nums, topic.perm, topic.topic_sys_flag
        )

    def _master_of(self, broker: BrokerIdentity) -> BrokerLive | None:
        if broker.id == MASTER_ID:
            return None
        return self._live.get(self._brokers[broker.name].broker_addrs.get(MASTER_ID, ""))

    def query_data_version(
        self, broker: BrokerIdentity, data_version: DataVersion, connection: Hashable
    ) -> tuple[bool, DataVersion | None]:
        """Whether a broker has to register again, and the version known of it.

        An unchanged broker counts as seen, on this connection: it will not register on it.
        """
        live = self._live.get(broker.address)
        if live is None:
            return True, None
        if live.data_version != data_version:
            return True, live.data_version
        live.seen = self._clock.monotonic()
        live.connection = connection
        return False, live.data_version

    def unregister(self, broker: BrokerIdentity) -> bool:
        """A broker says farewell. False when that address was not known."""
        known = self._live.get(broker.address)
        self._forget(broker)
        return known is not None

    def connection_closed(self, connection: Hashable) -> list[BrokerIdentity]:
        """Forget the brokers that registered on `connection`, and give them."""
        return self._forget_all(live for live in self._live.values() if live.connection is connection)

    def expire(self) -> list[BrokerLive]:
        """Forget the brokers that were silent for too long, and give them: their connections are dead."""
        deadline = self._clock.monotonic() - self._expiry_s
        expired = [live for live in self._live.values() if live.seen < deadline]
        self._forget_all(expired)
        return expired

    def _forget_all(self, brokers: Iterable[BrokerLive]) -> list[BrokerIdentity]:
        identities = [live.identity for live in brokers]
        for identity in identities:
            self._forget(identity)
        return identities

    def _forget(self, broker: BrokerIdentity) -> None:
        self._live.pop(broker.address, None)
        self._filter_servers.pop(broker.address, None)
        data = self._brokers.get(broker.name)
        # The id may have gone to another address meanwhile: a late farewell must not remove that.
        if data is None or data.broker_addrs.get(broker.id) != broker.address:
            return
        del data.broker_addrs[broker.id]
        if data.broker_addrs:
            return
        del self._brokers[broker.name]
        self._leave_cluster(data.cluster, broker.name)
        for topic, queues in list(self._topics.items()):
            if queues.pop(broker.name, None) is not None and not queues:
                del self._topics[topic]

    def _leave_cluster(self, cluster: str, broker_name: str) -> None:
        names = self._clusters.get(cluster, set())
        names.discard(broker_name)
        if not names:
            self._clusters.pop(cluster, None)

    # -- what clients ask ---------------------------------------------------------------------------

    def route(self, topic: str) -> TopicRouteData | None:
        """Where a topic is; None unless both queues and a broker are known. Brokers are sorted by name."""
        queues = self._topics.get(topic)
        if not queues:
            return None
        names = sorted(queues)
        brokers = [self._brokers[name] for name in names if name in self._brokers]
        if not brokers:
            return None
        addresses = [address for data in brokers for address in data.broker_addrs.values()]
        filter_servers = {at: self._filter_servers[at] for at in addresses if at in self._filter_servers}
        return TopicRouteData([queues[name] for name in names], brokers, filter_servers)

    def cluster_info(self) -> ClusterInfo:
        """All brokers."""
        clusters = {cluster: sorted(names) for cluster, names in self._clusters.items()}
        return ClusterInfo(dict(self._brokers), clusters)

    def topics(self) -> list[str]:
        """All topics, sorted."""
        return sorted(self._topics)

    def topics_of_cluster(self, cluster: str) -> list[str]:
        """The topics with queues on a broker of the cluster, sorted; none for an unknown cluster."""
        names = self._clusters.get(cluster, set())
        return sorted(topic for topic, queues in self._topics.items() if not names.isdisjoint(queues))

    def topics_by_flag(self, wanted: Callable[[int], bool]) -> list[str]:
        """The topics whose topicSysFlag, on the broker that told of them first, is wanted; sorted."""
        return sorted(
            topic
            for topic, queues in self._topics.items()
            if wanted(next(iter(queues.values())).topic_sys_flag)
        )

    def system_names(self) -> list[str]:
        """The names of clusters and brokers: each is a topic too."""
        return sorted({*self._clusters, *self._brokers})

    def some_broker(self) -> str | None:
        """The address of some broker, a master if there is one."""
        addresses = [address for data in self._brokers.values() for address in data.broker_addrs.items()]
        return min(addresses)[1] if addresses else None

    # -- what administrators change -----------------------------------------------------------------

    def wipe_write_perm(self, broker_name: str) -> int:
        """Take the write permission from a broker until it registers a change. Gives how many topics."""
        return self._change_perm(broker_name, lambda perm: perm & ~PERM_WRITE)

    def add_write_perm(self, broker_name: str) -> int:
        """Give back what `wipe_write_perm` took. Gives how many topics.

        Apache sets exactly read and write, and so loses TBW102's inherit bit: no topic could be created by
        sending until the broker registers a change. Here it stays.
        """
        return self._change_perm(broker_name, lambda perm: perm | PERM_READ | PERM_WRITE)

    def _change_perm(self, broker_name: str, change: Callable[[int], int]) -> int:
        found = [queues[broker_name] for queues in self._topics.values() if broker_name in queues]
        for queue in found:
            queue.perm = change(queue.perm)
        return len(found)

    def delete_topic(self, topic: str, cluster: str | None = None) -> None:
        """Forget a topic's queues: all, or those on a cluster's brokers. Unknown ones are fine."""
        if cluster is None:
            self._topics.pop(topic, None)
            return
        queues = self._topics.get(topic, {})
        for name in self._clusters.get(cluster, set()):
            queues.pop(name, None)
        if not queues:
            self._topics.pop(topic, None)
