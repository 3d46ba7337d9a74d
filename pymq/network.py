"""The network as one small interface: listen, connect, and what this machine is called.

The real one stands on asyncio; tests and the simulator supply their own.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from typing import Protocol

import msgspec

from pymq.errors import ConnectFailed, PortInUse

ANY_ADDRESS = "0.0.0.0"
"""Stands for all of this machine's IPv4 addresses."""

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener(Protocol):
    """A port that is taken. Connections wait at it until `serve` is called."""

    @property
    def port(self) -> int:
        """The port bound; the one picked, where 0 was asked for."""
        ...

    async def serve(self, factory: ProtocolFactory) -> None:
        """Accept connections, those that wait first."""
        ...

    def close(self) -> None:
        """Give the port back. Connections that were accepted stay."""
        ...


class SocketOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What sockets are given. Sizes in bytes; 0 leaves them to the system."""

    backlog: int = 1024
    """Connections that may wait at a listening port."""
    accepted_send_bytes: int = 0
    """SO_SNDBUF of connections that others open."""
    accepted_receive_bytes: int = 0
    """SO_RCVBUF of connections that others open."""
    opened_send_bytes: int = 0
    """SO_SNDBUF of connections that this side opens."""
    opened_receive_bytes: int = 0
    """SO_RCVBUF of connections that this side opens."""


DEFAULT_OPTIONS = SocketOptions()


class Network(Protocol):
    """What a part needs of the network."""

    def listen(self, host: str, port: int) -> Listener:
        """Take `host:port`; port 0 picks a free one. Raises PortInUse."""
        ...

    async def connect(
        self, host: str, port: int, factory: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseProtocol:
        """Open a connection. Raises ConnectFailed, also when it takes longer than `timeout_s`."""
        ...

    def with_options(self, options: SocketOptions) -> Network:
        """The same network, whose sockets get these options."""
        ...

    def own_address(self) -> str:
        """The address by which others reach this machine (semantics.md §13)."""
        ...

    def host_name(self) -> str:
        """The machine's name."""
        ...


class _SocketListener:
    def __init__(self, listening: socket.socket, backlog: int) -> None:
        self._socket = listening
        self._backlog = backlog
        self._server: asyncio.Server | None = None
        self.port: int = listening.getsockname()[1]

    async def serve(self, factory: ProtocolFactory) -> None:
        self._server = await asyncio.get_running_loop().create_server(
            factory, sock=self._socket, backlog=self._backlog
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        else:
            self._socket.close()


class SystemNetwork:
    """The machine's network, through the running event loop."""

    def __init__(self, options: SocketOptions = DEFAULT_OPTIONS) -> None:
        self._options = options

    def with_options(self, options: SocketOptions) -> Network:
        """The same network, whose sockets get these options."""
        return SystemNetwork(options)

    def listen(self, host: str, port: int) -> Listener:
        """Take `host:port`; port 0 picks a free one. Raises PortInUse."""
        if not 0 <= port < 65536:
            raise PortInUse(host, port, "there is no such port")  # getaddrinfo would cut it to 16 bits
        try:
            family, kind, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind)
        except (OSError, UnicodeError) as error:
            raise PortInUse(host, port, _reason(error)) from None
        options = self._options
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What is accepted inherits them; set later, they could not widen a connection's window.
            _set_buffers(listening, options.accepted_send_bytes, options.accepted_receive_bytes)
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(options.backlog)
        except OSError as error:
            listening.close()
            taken = error.errno == errno.EADDRINUSE
            raise PortInUse(host, port, "the port is in use" if taken else _reason(error)) from None
        return _SocketListener(listening, options.backlog)

    async def connect(
        self, host: str, port: int, factory: ProtocolFactory, timeout_s: float
    ) -> asyncio.BaseProtocol:
        """Open a connection. Raises ConnectFailed, also when it takes longer than `timeout_s`."""
        loop = asyncio.get_running_loop()
        address = f"{host}:{port}"
        try:
            async with asyncio.timeout(timeout_s):
                transport, protocol = await loop.create_connection(factory, host, port)
        except TimeoutError:
            raise ConnectFailed(
                address, f"connecting to {address} took longer than {timeout_s:g} s"
            ) from None
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(address, f"cannot connect to {address}: {_reason(error)}") from None
        options = self._options
        _set_buffers(
            transport.get_extra_info("socket"), options.opened_send_bytes, options.opened_receive_bytes
        )
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


class _HasOptions(Protocol):
    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """As of a socket."""
        ...


def _set_buffers(socket_: _HasOptions, send_bytes: int, receive_bytes: int) -> None:
    """Set what is not 0; the system takes what it can of it."""
    if send_bytes:
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    if receive_bytes:
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)


def _reason(error: Exception) -> str:
    """What went wrong in the system's own words; asyncio's repeat the address."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()
    return (getattr(error, "strerror", None) or str(error)).lower()


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


def ipv4_address(host: str) -> str:
    """The IPv4 address of a host; asks the resolver unless it is one already. Raises ValueError."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", host) or re.fullmatch(r"[\d.]+", host):
            raise ValueError(f"{host!r} is neither an address nor a host name") from None
        return _resolved(host)
    if address.version != 4:
        raise ValueError(f"{host} is an IPv6 address")
    return host


def _resolved(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{host!r} has no IPv4 address: {_reason(error)}") from None
    return str(found[0][4][0])


def listening_address(host: str) -> str:
    """The address to listen on: an IPv4 one for a name, all for an empty text. Raises ValueError."""
    if not host:
        return ANY_ADDRESS
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        return ipv4_address(host)


def split_address(address: str) -> tuple[str, int]:
    """`host:port` as its parts; IPv6 hosts may stand in brackets. Raises ValueError."""
    host, _, port = address.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)
