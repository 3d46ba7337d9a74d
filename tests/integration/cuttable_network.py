"""A network that a client can be cut off from."""

from __future__ import annotations

import asyncio

from pymq.errors import ConnectFailed
from pymq.network import DEFAULT_OPTIONS, Listener, Network, ProtocolFactory, SocketOptions, SystemNetwork
from pymq.transport.connection import Connection

HOST = "127.0.0.1"


class CuttableNetwork:
    """A network whose connections can all be lost at once, and which then is not there any more."""

    def __init__(self, options: SocketOptions = DEFAULT_OPTIONS) -> None:
        self._network = SystemNetwork(options)
        self._open: list[asyncio.BaseProtocol] = []
        self.is_cut = False

    def with_options(self, options: SocketOptions) -> Network:
        """As Network.with_options: the same one here, which is what can be cut."""
        return self

    def listen(self, host: str, port: int) -> Listener:
        """As Network.listen."""
        return self._network.listen(host, port)

    async def connect(
        self, host: str, port: int, factory: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseProtocol:
        """As Network.connect."""
        protocol = await self._network.connect(host, port, factory, timeout_s)
        self._open.append(protocol)
        if self.is_cut:
            self.cut()
            raise ConnectFailed(f"{host}:{port}", "cut off")
        return protocol

    def own_address(self) -> str:
        """As Network.own_address."""
        return HOST

    def host_name(self) -> str:
        """As Network.host_name."""
        return "cuttable"

    def cut(self) -> None:
        """Lose all connections, for good."""
        self.is_cut = True
        for protocol in self._open:
            assert isinstance(protocol, Connection)
            protocol.abort()
