"""The network as one small interface: listen, connect, and what this machine is called.

The real one stands on asyncio; tests and the simulator supply their own.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Protocol

from pymq.errors import ConnectFailed, PortInUse

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener(Protocol):
    """A port that is listened on."""

    @property
    def port(self) -> int:
        """The port bound; the one picked, where 0 was asked for."""
        ...

    def close(self) -> None:
        """Stop accepting. Connections that are open stay."""
        ...


class Network(Protocol):
    """What a part needs of the network."""

    async def listen(self, host: str, port: int, factory: ProtocolFactory) -> Listener:
        """Accept connections on `host:port`. Raises PortInUse when the port cannot be bound."""
        ...

    async def connect(
        self, host: str, port: int, factory: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseProtocol:
        """Open a connection. Raises ConnectFailed, also when it takes longer than `timeout_s`."""
        ...

    def own_address(self) -> str:
        """The address by which others reach this machine (semantics.md §13)."""
        ...

    def host_name(self) -> str:
        """The machine's name."""
        ...


class _AsyncioListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._server.close()


class SystemNetwork:
    """The machine's network, through the running event loop."""

    async def listen(self, host: str, port: int, factory: ProtocolFactory) -> Listener:
        """Accept connections on `host:port`. Raises PortInUse when the port cannot be bound."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(factory, host, port, backlog=1024, reuse_address=True)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = "the port is in use" if taken else (error.strerror or str(error))
            raise PortInUse(host, port, reason) from None
        return _AsyncioListener(server)

    async def connect(
        self, host: str, port: int, factory: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseProtocol:
        """Open a connection. Raises ConnectFailed, also when it takes longer than `timeout_s`."""
        loop = asyncio.get_running_loop()
        address = f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout_s):
                _, protocol = await loop.create_connection(factory, host, port)
        except TimeoutError:
            raise ConnectFailed(
                address, f"connecting to {address} took longer than {timeout_s:g} s"
            ) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConnectFailed(address, f"cannot connect to {address}: {reason}") from None
        return protocol

    def own_address(self) -> str:
        """The first IPv4 address that is neither loopback nor 192.168, else the last IPv4, else 127.0.0.1."""
        found = _interface_addresses()
        for address in found:
            if not address.startswith(("127.", "192.168.")):
                return address
        return found[-1] if found else "127.0.0.1"

    def host_name(self) -> str:
        """The machine's name."""
        return socket.gethostname()


def _interface_addresses() -> list[str]:
    """IPv4 addresses of this machine but for loopback ones. Asks the routing table, sends nothing."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: picks the outgoing interface
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    try:
        infos = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
    except OSError:
        infos = []
    found += [str(info[4][0]) for info in infos]
    return [address for address in dict.fromkeys(found) if not address.startswith(("127.", "0."))]


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as its parts; IPv6 hosts may stand in brackets. Raises ValueError."""
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


def pack_host(host: str, port: int) -> bytes:
    """A host as it stands in a stored message: 4 or 16 address bytes and the port as 4 bytes (wire.md §6).

    `::1` and `::ffff:a.b.c.d` become IPv4: a record with an IPv6 host is unreadable to 4.3 clients.
    Raises ValueError when `host` is no IP address.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    if ip.version == 6:
        if ip.is_loopback:
            ip = ipaddress.IPv4Address("127.0.0.1")
        elif ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
    return ip.packed + port.to_bytes(4, "big")
