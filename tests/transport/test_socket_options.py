"""Backlog and buffer sizes reach the sockets; the system doubles the sizes that it is asked for."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pymq.network import SocketOptions, SystemNetwork, ipv4_address, listening_address

SND, RCV = (socket.SOL_SOCKET, socket.SO_SNDBUF), (socket.SOL_SOCKET, socket.SO_RCVBUF)


async def test_buffer_sizes_are_set_on_both_sides() -> None:
    network = SystemNetwork().with_options(
        SocketOptions(
            backlog=3,
            accepted_send_bytes=20_000,
            accepted_receive_bytes=30_000,
            opened_send_bytes=40_000,
            opened_receive_bytes=50_000,
        )
    )
    accepted: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()
    opened: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

    class Peer(asyncio.Protocol):
        def __init__(self, made: asyncio.Future[asyncio.BaseTransport]) -> None:
            self.made = made

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.made.set_result(transport)

    listener = network.listen("127.0.0.1", 0)
    await listener.serve(lambda: Peer(accepted))
    await network.connect("127.0.0.1", listener.port, lambda: Peer(opened), 5)
    sizes = []
    for transport in (await accepted, await opened):
        socket_ = transport.get_extra_info("socket")
        sizes += [socket_.getsockopt(*SND), socket_.getsockopt(*RCV)]
        transport.close()
    listener.close()
    factor = sizes[0] // 20_000
    assert factor in (1, 2)
    assert sizes == [factor * size for size in (20_000, 30_000, 40_000, 50_000)]


@pytest.mark.parametrize(("host", "address"), [("10.0.0.1", "10.0.0.1"), ("localhost", "127.0.0.1")])
def test_a_host_has_its_ipv4_address(host: str, address: str) -> None:
    assert ipv4_address(host) == address
    assert listening_address(host) == address


@pytest.mark.parametrize("host", ["", "my host", "a\0b", "1.2.3", "::1", "-", "n" * 64])
def test_what_has_no_ipv4_address_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ipv4_address(host)
