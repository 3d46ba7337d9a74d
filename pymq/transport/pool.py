"""Connections by address, and the one generic call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from pymq.errors import CallTimeout, ConnectFailed, ResponseError, TransportError
from pymq.network import Network, split_address
from pymq.protocol.command import Command
from pymq.protocol.header import H, Header
from pymq.transport.connection import Connection
from pymq.transport.dispatch import DispatchTable

log = logging.getLogger("pymq.transport")

CONNECT_TIMEOUT_S = 3.0
"""wire.md §1.5."""

HALF_DEAD_S = 1.0
"""A call that waited at least this long while nothing at all came from the peer ends its connection, so that
the next call opens a new one: the peer may be gone without a word (wire.md §1.5)."""

SUCCESS = (0,)


class Reply(msgspec.Struct):
    """A peer's answer. `address` is who gave it."""

    command: Command
    address: str

    @property
    def code(self) -> int:
        """The response code (wire.md §3)."""
        return self.command.code

    @property
    def remark(self) -> str:
        """The peer's explanation, may be empty."""
        return self.command.remark or ""

    @property
    def body(self) -> bytes:
        """The answer's body."""
        return self.command.body

    def read(self, cls: type[H]) -> H:
        """The answer's header fields as `cls`. Raises HeaderError."""
        return self.command.read(cls)


class Pool:
    """One connection for each address, opened when it is first needed and again after it was lost.

    `table` serves the requests that peers send over these connections (a broker tells its clients things).
    """

    def __init__(
        self,
        network: Network,
        table: DispatchTable,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        offer_msgpack: bool = False,
        on_close: Callable[[Connection], None] | None = None,
    ) -> None:
        self._network = network
        self._table = table
        self._connect_timeout_s = connect_timeout_s
        self._offer_msgpack = offer_msgpack
        self._on_close = on_close
        self._open: dict[str, Connection] = {}
        self._opening: dict[str, asyncio.Task[Connection]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        self._silent: set[str] = set()
        self._closed = False

    def connected(self, address: str) -> Connection | None:
        """The open connection to `address`, if there is one."""
        connection = self._open.get(address)
        return None if connection is None or connection.closed else connection

    def is_silent(self, address: str) -> bool:
        """Whether the last call to `address` ended with nothing heard from it, not even a connection.

        It may be there all the same: a stopped process still accepts connections. Who only says goodbye need
        not wait for it once more.
        """
        return address in self._silent

    async def connection(self, address: str) -> Connection:
        """The connection to `address`, opened if need be; those who ask at once share one attempt.

        Raises ConnectFailed.
        """
        connection = self.connected(address)
        if connection is not None:
            return connection
        if self._closed:
            raise self._is_closed(address)
        opening = self._opening.get(address)
        if opening is None:
            opening = asyncio.ensure_future(self._connect(address))
            self._opening[address] = opening
            opening.add_done_callback(lambda task: self._opened(address, task))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if opening.cancelled() and not (waiter and waiter.cancelling()):  # by `close`
                raise self._is_closed(address) from None
            raise

    def _is_closed(self, address: str) -> ConnectFailed:
        return ConnectFailed(address, f"not connecting to {address}: the client is closed")

    async def _connect(self, address: str) -> Connection:
        try:
            host, port = split_address(address)
        except ValueError as error:
            raise ConnectFailed(address, str(error)) from None
        connection = Connection(
            self._table, offer_msgpack=self._offer_msgpack, on_close=self._lost, tasks=self._tasks
        )
        try:
            await self._network.connect(host, port, lambda: connection, self._connect_timeout_s)
        except BaseException:
            connection.abort()
            raise
        if connection.closed:
            raise ConnectFailed(address, f"{address} closed the connection as soon as it was open")
        connection.address = address
        self._open[address] = connection
        return connection

    def _opened(self, address: str, task: asyncio.Task[Connection]) -> None:
        self._opening.pop(address, None)
        if not task.cancelled():
            task.exception()  # seen here, so that a waiter that left does not make asyncio complain

    def _lost(self, connection: Connection) -> None:
        if self._open.get(connection.address) is connection:
            del self._open[connection.address]
        if self._on_close is not None:
            self._on_close(connection)

    async def call(
        self,
        address: str,
        header: Header,
        body: bytes = b"",
        *,
        timeout_s: float = 3.0,
        accept: Collection[int] = SUCCESS,
    ) -> Reply:
        """Ask `address` and wait for the answer; connecting counts against `timeout_s` too.

        Raises ResponseError when the answer's code is not in `accept`; ConnectFailed, ConnectionLost or
        CallTimeout when no answer came.
        """
        connection = self.connected(address)
        if connection is None:
            loop = asyncio.get_running_loop()
            started = loop.time()
            try:
                async with asyncio.timeout(timeout_s):
                    connection = await self.connection(address)
            except TimeoutError:
                self._silent.add(address)
                raise ConnectFailed(
                    address, f"connecting to {address} took longer than {timeout_s:g} s"
                ) from None
            timeout_s = max(0.001, timeout_s - (loop.time() - started))
        heard = connection.heard
        try:
            command = await connection.call(header, body, timeout_s=timeout_s)
        except CallTimeout:
            if connection.heard == heard and timeout_s >= HALF_DEAD_S:
                self._silent.add(address)
                log.warning("%s: silent for %g s; connection closed", address, timeout_s)
                connection.abort()
            raise
        if self._silent:
            self._silent.discard(address)
        if command.code not in accept:
            raise ResponseError(command.code, command.remark or "", address)
        return Reply(command, address)

    async def oneway(self, address: str, header: Header, body: bytes = b"") -> None:
        """Tell `address` something. Raises ConnectFailed or ConnectionLost; later losses are silent."""
        (await self.connection(address)).oneway(header, body)

    def drop(self, address: str) -> None:
        """Close the connection to `address`, if there is one."""
        connection = self._open.get(address)
        if connection is not None:
            connection.close()

    async def close(self) -> None:
        """Close all connections; waiting calls end with ConnectionLost."""
        self._closed = True
        for opening in list(self._opening.values()):
            opening.cancel()
        for connection in list(self._open.values()):
            connection.close()
        for _ in range(100):
            if not self._open:
                break
            await asyncio.sleep(0.005)
        for connection in list(self._open.values()):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)


__all__ = ["Pool", "Reply", "TransportError"]
