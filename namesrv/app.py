"""The name server: its parts, put together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from pymq.clock import Clock
from pymq.config import absolute
from pymq.disk import Disk
from pymq.namesrv.kv_config import KVConfig
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.namesrv.requests import BrokerRequests, KVConfigRequests, RouteRequests
from pymq.namesrv.route_table import RouteTable
from pymq.namesrv.settings_requests import SettingsRequests
from pymq.network import Network
from pymq.transport.connection import Connection
from pymq.transport.dispatch import merge
from pymq.transport.server import Server

log = logging.getLogger("pymq.namesrv")

EXPIRY_SCAN_S = 10.0
"""How often silent brokers are looked for (wire.md §7.3)."""

ANY_ADDRESS = {"", "0.0.0.0", "::"}


class NameServer:
    """Serves one name server as long as the context lasts.

    Entering raises PortInUse, and ConfigError or StoreError when the stored KV config cannot be read.

    Attributes:
        port: the port it listens on, once entered.
    """

    def __init__(self, config: NamesrvConfig, *, clock: Clock, disk: Disk, network: Network) -> None:
        self.port = config.listen_port
        self._config = config
        self._network = network.with_options(config.socket_options)
        self._routes = RouteTable(clock)
        self._kv_config = KVConfig(absolute(config.kv_config_path), disk)
        self._table = merge(
            BrokerRequests(self._routes, self._kv_config).table,
            RouteRequests(self._routes, self._kv_config, config).table,
            KVConfigRequests(self._kv_config).table,
            SettingsRequests(config, disk).table,
        )
        self._server = Server(
            self._network,
            on_close=self._connection_closed,
            idle_timeout_s=config.server_channel_max_idle_time_seconds,
        )
        self._running = AsyncExitStack()

    @property
    def address(self) -> str:
        """`host:port` by which clients reach it."""
        host = self._config.bind_address
        return f"{self._network.own_address() if host in ANY_ADDRESS else host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Load what is stored and listen."""
        await self._kv_config.load()
        async with AsyncExitStack() as starting:
            starting.push_async_callback(self._server.close)
            self.port = await self._server.listen(
                self._config.bind_address, self._config.listen_port, self._table
            )
            scan = asyncio.create_task(self._expire_brokers(), name="namesrv-expiry")
            starting.callback(scan.cancel)
            self._running = starting.pop_all()
        log.info("name server listens on %s:%d", self._config.bind_address, self.port)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and close all connections."""
        await self._running.aclose()

    def _connection_closed(self, connection: Connection) -> None:
        for broker in self._routes.connection_closed(connection):
            log.warning("broker %s forgotten: its connection %s ended", broker, connection.address)

    async def _expire_brokers(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_SCAN_S)
            for live in self._routes.expire():
                log.warning("broker %s forgotten: silent for too long", live.identity)
                if isinstance(live.connection, Connection):
                    live.connection.close()
