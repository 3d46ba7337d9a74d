"""Listening ports that serve a dispatch table, and the sweep that closes idle connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pymq.network import Listener, Network
from pymq.protocol.framing import FRAME_MAX_LENGTH
from pymq.transport.connection import Connection
from pymq.transport.dispatch import DispatchTable

log = logging.getLogger("pymq.transport")

IDLE_TIMEOUT_S = 120.0
"""A connection without any read or write for this long is closed (wire.md §1.5)."""

SWEEPS = 12


class Server:
    """Serves connections on any number of ports, all with one table each.

    `on_close` hears of every connection that ends.
    """

    def __init__(
        self,
        network: Network,
        *,
        on_close: Callable[[Connection], None] | None = None,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        frame_max_length: int = FRAME_MAX_LENGTH,
    ) -> None:
        self._network = network
        self._on_close = on_close
        self._sweep_s = idle_timeout_s / SWEEPS
        self._frame_max_length = frame_max_length
        self._listeners: list[Listener] = []
        self._idle: dict[Connection, int] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._stopped = False
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> list[Connection]:
        """The connections that are open."""
        return list(self._idle)

    async def listen(self, host: str, port: int, table: DispatchTable) -> int:
        """Serve `table` on `host:port` (0 picks a port); gives the port. Raises PortInUse."""
        listener = self._network.listen(host, port)
        await self.serve(listener, table)
        return listener.port

    async def serve(self, listener: Listener, table: DispatchTable) -> None:
        """Serve `table` on a port that was taken before. The listener is closed with this server."""

        def accept() -> Connection:
            return Connection(
                table,
                frame_max_length=self._frame_max_length,
                is_server=True,
                on_open=self._opened,
                on_close=self._closed,
                tasks=self._tasks,
            )

        self._listeners.append(listener)
        await listener.serve(accept)
        if self._sweeper is None:
            self._schedule_sweep()

    def _opened(self, connection: Connection) -> None:
        if self._stopped:
            connection.abort()  # it was under way when the port was closed
            return
        self._idle[connection] = 0

    def _closed(self, connection: Connection) -> None:
        self._idle.pop(connection, None)
        if self._on_close is not None:
            self._on_close(connection)

    def _schedule_sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def _sweep(self) -> None:
        for connection, idle in list(self._idle.items()):
            if connection.stirred():
                self._idle[connection] = 0
            elif idle + 1 >= SWEEPS:
                log.info("%s: idle for %g s; connection closed", connection.address, self._sweep_s * SWEEPS)
                connection.close()
            else:
                self._idle[connection] = idle + 1
        self._schedule_sweep()

    async def close(self) -> None:
        """Stop listening, close all connections, end the handlers that are still under way."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for listener in self._listeners:
            listener.close()
        for connection in list(self._idle):
            connection.close()
        for _ in range(50):
            if not self._idle:
                break
            await asyncio.sleep(0.01)
        for connection in list(self._idle):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
