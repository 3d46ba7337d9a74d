"""Heartbeats: what this client's groups are, told to every broker (semantics.md §3.1, §13)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pymq.client.repeating import Repeating, end_tasks
from pymq.client.route_cache import RouteCache
from pymq.client.settings import Settings
from pymq.errors import CallTimeout, PymqError
from pymq.protocol.bodies import ConsumerData, HeartbeatData, ProducerData
from pymq.protocol.command import Command
from pymq.protocol.headers.groups import HeartBeatRequest, UnregisterClientRequest
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.heartbeats")

_AGAIN_S = 3.0
_RECONNECT_S = 1.0
_DOUBT_S = 0.2


class Heartbeats:
    """Tells brokers about this client every 30 s, and at once when something has changed.

    A broker forgets a client when its connection ends, so it is told again on the next one. A broker that
    does not answer a heartbeat in time loses its connection: the next request opens a fresh one.
    """

    def __init__(self, pool: Pool, routes: RouteCache, client_id: str, settings: Settings) -> None:
        self._pool = pool
        self._routes = routes
        self._client_id = client_id
        self._period_s = settings.heartbeat_s
        self._timeout_s = settings.call_timeout_s
        self._close_timeout_s = settings.close_timeout_s
        self._producers: set[str] = set()
        self._consumers: dict[str, Callable[[], ConsumerData]] = {}
        self._greeted: set[str] = set()
        self._away: set[str] = set()
        self._introducing: asyncio.Task[None] | None = None
        self._all_due_at = 0.0
        self._beats = Repeating("heartbeats", settings.heartbeat_s, self._beat)
        routes.on_change(lambda topic: self._beats.soon())

    def start(self) -> None:
        """Begin."""
        self._beats.start()

    async def close(self) -> None:
        """Stop, and leave the producer groups."""
        await self._beats.close()
        if self._introducing is not None:
            await end_tasks(self._introducing)
        await asyncio.gather(
            *[self._leave(UnregisterClientRequest(self._client_id, group)) for group in self._producers]
        )
        self._producers.clear()

    def add_producer(self, group: str) -> None:
        """A producer of this group sends from now on."""
        if group not in self._producers:
            self._producers.add(group)
            self._greeted.clear()
            self.all_soon()

    async def introduced(self, within_s: float) -> None:
        """Wait until the brokers have heard of all groups, up to `within_s`; not for those known to be away.

        Those who ask at once share one round.
        """
        if self._introducing is None:
            new = [a for a in self._targets() if a not in self._greeted and a not in self._away]
            if not new:
                return
            self._introducing = asyncio.get_running_loop().create_task(self._send_all(new))
            self._introducing.add_done_callback(self._introduction_ended)
        await asyncio.wait((self._introducing,), timeout=within_s)

    async def introduce(self, broker_name: str) -> None:
        """Tell one broker, which is there, unless it knows."""
        address = self._routes.address(broker_name)
        if address is not None and address not in self._greeted:
            await self.send(address)

    def _introduction_ended(self, task: asyncio.Task[None]) -> None:
        self._introducing = None
        if not task.cancelled():
            task.exception()

    async def add_consumer(self, group: str, describe: Callable[[], ConsumerData]) -> None:
        """A consumer joins `group`: when this returns, every broker that can be reached lists it."""
        self._consumers[group] = describe
        await self._send_all(self._targets())

    async def remove_consumer(self, group: str) -> None:
        """A consumer leaves `group`; the brokers that can be reached tell the other members."""
        if self._consumers.pop(group, None) is not None:
            await self._leave(UnregisterClientRequest(self._client_id, consumer_group=group))

    def all_soon(self) -> None:
        """Tell all brokers now, without waiting for it."""
        self._all_due_at = 0.0
        self._beats.soon()

    def doubt(self, address: str) -> None:
        """A broker left a request unanswered: see whether its connection is still alive."""
        self._greeted.discard(address)
        self._beats.soon(_DOUBT_S)

    def lost(self, connection: Connection) -> None:
        """A connection has ended, and with it what its broker knew."""
        if connection.address in self._greeted:
            self._greeted.discard(connection.address)
            self._beats.soon(_RECONNECT_S)

    async def send(self, address: str) -> bool:
        """Tell one broker now; whether it answered well."""
        body = self._body()
        if body is None:
            return True
        try:
            await self._pool.call(address, HeartBeatRequest(), body, timeout_s=self._timeout_s)
        except PymqError as error:
            log.info("heartbeat: %s", error)
            self._away.add(address)
            if isinstance(error, CallTimeout):
                self._pool.drop(address)
            return False
        self._greeted.add(address)
        self._away.discard(address)
        return True

    async def greet(self, connection: Connection, timeout_s: float) -> Command:
        """Tell the broker at the end of a connection, for the sake of its answer. Raises TransportError."""
        body = self._body() or HeartbeatData(self._client_id, [], []).encode()
        return await connection.call(HeartBeatRequest(), body, timeout_s=timeout_s)

    def _body(self) -> bytes | None:
        if not self._producers and not self._consumers:
            return None
        return HeartbeatData(
            self._client_id,
            [ProducerData(group) for group in sorted(self._producers)],
            [describe() for _, describe in sorted(self._consumers.items())],
        ).encode()

    def _targets(self) -> list[str]:
        return self._routes.addresses(masters_only=not self._consumers)

    async def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        targets = self._targets()
        self._greeted.intersection_update(targets)
        self._away.intersection_update(targets)
        if now >= self._all_due_at:
            self._all_due_at = now + self._period_s
        else:
            targets = [address for address in targets if address not in self._greeted]
        await self._send_all(targets)

    async def _send_all(self, targets: list[str]) -> None:
        if not all(await asyncio.gather(*[self.send(address) for address in targets])):
            self._beats.soon(_AGAIN_S)

    async def _leave(self, header: UnregisterClientRequest) -> None:
        async def tell(address: str) -> None:
            try:
                await self._pool.call(address, header, timeout_s=self._close_timeout_s)
            except PymqError as error:
                log.info("leaving a group: %s", error)

        # Brokers without a connection have forgotten this client already; silent ones will.
        targets = [
            address
            for address in self._routes.addresses(masters_only=False)
            if self._pool.connected(address) and not self._pool.is_silent(address)
        ]
        await asyncio.gather(*[tell(address) for address in targets])
