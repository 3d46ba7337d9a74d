"""How name servers know this broker (wire.md §7.3).

One task for each name server, and nobody else speaks to it: it registers at once and then every
registerNameServerPeriod with the whole table, tells of topics that have changed the moment they do (those
only: nothing here grows with the square of their number), and — once a name server was lost — tries every
second until it is back.

A name server ignores the topics of a registration whose data version it has seen already. So what is told
must hold every topic that has changed up to its version: that is why one task tells it all, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.identity import Identity
from pymq.broker.name_server_link import NameServerLink
from pymq.broker.topics import TopicTable
from pymq.errors import BodyError, PymqError, ResponseError, TransportError
from pymq.protocol.bodies.register import RegisterBrokerBody, body_crc32
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.bodies.topic_config import PERM_READ, PERM_WRITE, TopicConfigSerializeWrapper
from pymq.protocol.headers.naming import (
    QueryDataVersionRequest,
    QueryDataVersionResponse,
    RegisterBrokerRequest,
    RegisterBrokerResponse,
    UnregisterBrokerRequest,
)
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.broker.registration")

SHORTEST_PERIOD_S, LONGEST_PERIOD_S = 10.0, 60.0
"""What registerNameServerPeriod is held to."""

MASTERLESS_PERIOD_S = 3.0
"""How often a slave registers while its master is not known: Apache's takes up to a minute to find it."""

START_WAIT_S = 3.0
"""How long the start waits for name servers that give no answer."""

UNREGISTER_TIMEOUT_S = 3.0


class Registration:
    """Keeps this broker registered with all its name servers, and takes the ordered topics from them."""

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
        period_s = config.register_name_server_period / 1000
        self._period_s = min(LONGEST_PERIOD_S, max(SHORTEST_PERIOD_S, period_s))
        self._links = {address: NameServerLink(address) for address in config.namesrv_addresses}
        self._tasks: list[asyncio.Task[None]] = []
        self._applying_order = False
        self.on_answer: Callable[[RegisterBrokerResponse], None] | None = None
        """For a slave: gets what name servers know of its master."""

    async def start(self) -> None:
        """Register with all name servers at once; those that are away are tried again in the background.

        Returns when each has answered or failed, after START_WAIT_S at the latest.
        """
        links = self._links.values()
        self._tasks = [asyncio.ensure_future(self._keep(link)) for link in links]
        first = [asyncio.ensure_future(link.tried.wait()) for link in links]
        try:
            if first:
                await asyncio.wait(first, timeout=START_WAIT_S)
        finally:
            for waiting in first:
                waiting.cancel()
        for link in links:
            if not link.tried.is_set():
                log.warning("name server %s: no answer yet; starting without it", link.address)

    async def close(self) -> None:
        """Take the broker out of all name servers that can be reached."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links.values():
            link.let_go()
        await asyncio.gather(*(self._unregister(link) for link in self._links.values() if link.registered))
        await self._pool.close()

    def topic_changed(self, topic: str) -> None:
        """Tell all name servers of a topic in the loop's next turn, and of all that change until then.

        A consumer asks for the route of the topic that its first message has made, and tools for that of
        the retry topic that its first heartbeat has made: Apache, too, has told the name servers by then.
        Only `order`, which came from them, can wait until there is something else to tell: two name servers
        that do not agree about it would have no end of telling.
        """
        for link in self._links.values():
            link.changed(topic, hurry=not self._applying_order)

    async def register_topic(self, topic: str) -> None:
        """Wait until the name servers know of a topic's last change: a route that is asked for now is right.

        Those that are away are not waited for.
        """
        told = [link.told_of(topic) for link in self._links.values() if link.registered]
        await asyncio.gather(*(event.wait() for event in told if event is not None))

    # -- one name server ----------------------------------------------------------------------------

    async def _keep(self, link: NameServerLink) -> None:
        while True:
            try:
                await link.has_work()
                await self._tell(link)
            except Exception:
                log.exception("name server %s: registering failed; it goes on", link.address)
                link.failed()

    async def _tell(self, link: NameServerLink) -> None:
        """Do what is due: register with the whole table, or tell of the topics that have changed."""
        if link.registered and not link.is_due:
            await self._send(link, whole=False)
        elif link.registered and not await self._is_outdated(link):
            link.next_whole(self._period_s)
        else:
            await self._send(link, whole=True)

    def _connection_lost(self, connection: Connection) -> None:
        link = self._links.get(connection.address)
        if link is not None and link.registered:
            log.warning("name server %s was lost; registering again as soon as it is back", link.address)
            link.lost()

    async def _is_outdated(self, link: NameServerLink) -> bool:
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
        except PymqError:
            return True

    def _body(self, topics: Iterable[str]) -> bytes:
        table = {name: config for name in topics if (config := self._topics.get(name)) is not None}
        permission = self._config.broker_permission
        if permission != PERM_READ | PERM_WRITE:
            table = {name: msgspec.structs.replace(topic, perm=permission) for name, topic in table.items()}
        wrapper = TopicConfigSerializeWrapper(self._topics.data_version, table)
        return RegisterBrokerBody(wrapper).encode(compressed=self._config.compressed_register)

    async def _send(self, link: NameServerLink, *, whole: bool) -> None:
        """Tell the whole table, or of the topics that have changed since they were told last."""
        with link.take_changed() as changed:
            body = self._body(self._topics.names() if whole else changed)
            try:
                reply = await self._pool.call(
                    link.address, self._header(body), body, timeout_s=self._timeout_s
                )
            except PymqError as error:
                if link.registered or not link.complained:
                    log.warning(
                        "name server %s: not registered: %s; trying again every second", link.address, error
                    )
                link.complained = True
                link.failed()
                return
            if not link.registered:
                log.info("registered with name server %s as %s", link.address, self._identity.address)
            link.registered = True
            link.complained = False
            if whole:
                link.next_whole(self._period_s)
                self._take_order(link, reply.body)
            if self.on_answer is not None:
                answer = reply.read(RegisterBrokerResponse)
                self.on_answer(answer)
                if not answer.ha_server_addr:
                    link.next_whole(MASTERLESS_PERIOD_S)
            link.tried.set()

    def _header(self, body: bytes) -> RegisterBrokerRequest:
        identity = self._identity
        return RegisterBrokerRequest(
            identity.name,
            identity.address,
            identity.cluster,
            identity.ha_address,
            identity.id,
            self._config.compressed_register,
            body_crc32(body),
        )

    def _take_order(self, link: NameServerLink, body: bytes) -> None:
        """Set `order` on the topics that any name server lists; one that lists none says nothing about it."""
        try:
            link.ordered = frozenset(KVTable.decode(body).table) if body else None
        except BodyError as error:
            log.warning("name server %s: its ordered-topic config cannot be read: %s", link.address, error)
            return
        lists = [known.ordered for known in self._links.values() if known.ordered is not None]
        if not lists:
            return
        self._applying_order = True
        try:
            self._topics.apply_order(frozenset().union(*lists))
        finally:
            self._applying_order = False

    async def _unregister(self, link: NameServerLink) -> None:
        identity = self._identity
        header = UnregisterBrokerRequest(identity.name, identity.address, identity.cluster, identity.id)
        link.registered = False
        try:
            await self._pool.call(link.address, header, timeout_s=UNREGISTER_TIMEOUT_S)
        except (TransportError, ResponseError) as error:
            log.warning("name server %s: not told that this broker stops: %s", link.address, error)
