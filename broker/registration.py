"""How name servers know this broker (wire.md §7.3).

One task for each name server: it registers at once and then every registerNameServerPeriod with the whole
table, tells of topics that have changed the moment they do (those only: nothing here grows with the square of
their number), and — once a name server was lost — tries every second until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.topics import TopicTable
from pymq.errors import BodyError, ResponseError, TransportError
from pymq.protocol.bodies.register import RegisterBrokerBody, body_crc32
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.bodies.topic_config import PERM_READ, PERM_WRITE, TopicConfigSerializeWrapper
from pymq.protocol.headers.naming import (
    QueryDataVersionRequest,
    QueryDataVersionResponse,
    RegisterBrokerRequest,
    UnregisterBrokerRequest,
)
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.broker.registration")

RETRY_S = 1.0
"""Between attempts at a name server that is away."""

UNREGISTER_TIMEOUT_S = 3.0


class Identity(msgspec.Struct, frozen=True):
    """By what a broker is known. Addresses are `host:port`."""

    cluster: str
    name: str
    id: int
    address: str
    ha_address: str


class Registration:
    """Keeps this broker registered with all its name servers.

    `applied_order` is called with the topics of the name servers' ordered-topic config.
    """

    def __init__(
        self,
        config: BrokerConfig,
        identity: Identity,
        topics: TopicTable,
        make_pool: Callable[[Callable[[Connection], None]], Pool],
    ) -> None:
        self._config = config
        self._identity = identity
        self._topics = topics
        self._pool = make_pool(self._connection_lost)
        self._timeout_s = config.register_broker_timeout_mills / 1000
        self._period_s = min(60.0, max(10.0, config.register_name_server_period / 1000))
        self._links = {address: _Link(address) for address in config.namesrv_addresses}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Register with all name servers; those that are away are tried again in the background."""
        for link in self._links.values():
            await self._register(link)
            self._tasks.append(asyncio.ensure_future(self._keep(link)))

    async def close(self) -> None:
        """Take the broker out of all name servers that can be reached."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._unregister(link) for link in self._links.values() if link.registered))
        await self._pool.close()

    def topic_changed(self, topic: str) -> None:
        """Tell all name servers of a topic in the loop's next turn, and of all that change until then.

        A consumer asks for the route of the topic that its first message has made, and tools for that of
        the retry topic that its first heartbeat has made: Apache, too, has told the name servers by then.
        """
        for link in self._links.values():
            link.changed.add(topic)
            if link.registered:
                link.wake.set()

    async def register_topic(self, topic: str) -> None:
        """Tell all name servers of one topic, and wait for their answers: a route asked for now is right."""
        config = self._topics.get(topic)
        if config is None:
            return
        body = self._body([topic])
        links = [link for link in self._links.values() if link.registered]
        for link in links:
            link.changed.discard(topic)
        await asyncio.gather(*(self._send(link, body) for link in links))

    @property
    def registered_with(self) -> list[str]:
        """The name servers that know this broker now."""
        return [link.address for link in self._links.values() if link.registered]

    # -- one name server ----------------------------------------------------------------------------

    async def _keep(self, link: _Link) -> None:
        while True:
            due = False
            if not (link.registered and link.changed):
                due = await link.is_quiet_for(self._period_s if link.registered else RETRY_S)
            if not link.registered:
                await self._register(link)
            elif link.changed:
                await self._send(link, self._body(link.take_changed()))
            elif due and await self._is_outdated(link):
                await self._register(link)

    def _connection_lost(self, connection: Connection) -> None:
        link = self._links.get(connection.address)
        if link is not None and link.registered:
            link.registered = False
            log.warning("name server %s was lost; registering again as soon as it is back", link.address)
            link.wake.set()

    async def _is_outdated(self, link: _Link) -> bool:
        """Whether to register again: always, unless forceRegister=false and the name server is up to date."""
        if self._config.force_register:
            return True
        header = QueryDataVersionRequest(
            self._identity.name, self._identity.address, self._identity.cluster, self._identity.id
        )
        try:
            reply = await self._pool.call(
                link.address, header, self._topics.data_version.encode(), timeout_s=self._timeout_s
            )
            return reply.read(QueryDataVersionResponse).changed
        except (TransportError, ResponseError):
            return True

    async def _register(self, link: _Link) -> None:
        link.take_changed()
        await self._send(link, self._body(self._topics.names()))

    def _body(self, topics: Iterable[str]) -> bytes:
        table = {name: config for name in topics if (config := self._topics.get(name)) is not None}
        permission = self._config.broker_permission
        if permission != PERM_READ | PERM_WRITE:
            table = {name: msgspec.structs.replace(topic, perm=permission) for name, topic in table.items()}
        wrapper = TopicConfigSerializeWrapper(self._topics.data_version, table)
        return RegisterBrokerBody(wrapper).encode(compressed=self._config.compressed_register)

    async def _send(self, link: _Link, body: bytes) -> None:
        identity = self._identity
        header = RegisterBrokerRequest(
            identity.name,
            identity.address,
            identity.cluster,
            identity.ha_address,
            identity.id,
            self._config.compressed_register,
            body_crc32(body),
        )
        try:
            reply = await self._pool.call(link.address, header, body, timeout_s=self._timeout_s)
        except (TransportError, ResponseError) as error:
            if link.registered or not link.complained:
                log.warning(
                    "name server %s: not registered: %s; trying again every second", link.address, error
                )
            link.registered = False
            link.complained = True
            return
        if not link.registered:
            log.info("registered with name server %s as %s", link.address, identity.address)
        link.registered = True
        link.complained = False
        if reply.body:
            self._apply_order(link, reply.body)

    def _apply_order(self, link: _Link, body: bytes) -> None:
        try:
            self._topics.apply_order(KVTable.decode(body).table)
        except BodyError as error:
            log.warning("name server %s: its ordered-topic config cannot be read: %s", link.address, error)

    async def _unregister(self, link: _Link) -> None:
        identity = self._identity
        header = UnregisterBrokerRequest(identity.name, identity.address, identity.cluster, identity.id)
        link.registered = False
        try:
            await self._pool.call(link.address, header, timeout_s=UNREGISTER_TIMEOUT_S)
        except (TransportError, ResponseError) as error:
            log.warning("name server %s: not told that this broker stops: %s", link.address, error)


class _Link:
    """What is known of one name server; `changed`: the topics that it must still be told of."""

    __slots__ = ("address", "changed", "complained", "registered", "wake")

    def __init__(self, address: str) -> None:
        self.address = address
        self.registered = False
        self.complained = False
        self.changed: set[str] = set()
        self.wake = asyncio.Event()

    async def is_quiet_for(self, seconds: float) -> bool:
        """Wait for a reason to tell it something: False as soon as there is one, True after `seconds`."""
        self.wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return True
        return False

    def take_changed(self) -> set[str]:
        """The topics to tell of; what changes from here on counts anew."""
        changed, self.changed = self.changed, set()
        return changed
