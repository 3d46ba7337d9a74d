"""Listening ports, idle connections, and what a stop leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from pymq.errors import PortInUse, PymqError
from pymq.network import SystemNetwork, split_address
from pymq.protocol.headers.messaging import GetMaxOffsetRequest
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, merge, row
from tests.transport.peers import ECHO, Peers, ask, serving, until


async def test_one_server_serves_another_table_on_another_port(peers: Peers) -> None:
    server, port = await peers.server()
    other = await server.listen("127.0.0.1", 0, {})
    for at, code in ((port, 0), (other, 3)):
        peer = await peers.raw(at)
        peer.send(ask())
        assert (await peer.expect()).code == code
    assert len(server.connections) == 2


async def test_a_port_in_use_is_said(peers: Peers) -> None:
    server, port = await peers.server()
    with pytest.raises(PortInUse) as refused:
        await server.listen("127.0.0.1", port, ECHO)
    assert str(refused.value) == f"cannot listen on 127.0.0.1:{port}: the port is in use"
    assert (refused.value.host, refused.value.port) == ("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("192.0.2.1", 0), ("a..b", 0)])
async def test_what_cannot_be_listened_on_is_one_error(host: str, port: int, peers: Peers) -> None:
    server, _ = await peers.server()
    with pytest.raises(PortInUse, match=f"cannot listen on {host}:{port}: ."):
        await server.listen(host, port, ECHO)


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(peers: Peers) -> None:
    ended: list[Connection] = []
    server, port = await peers.server(idle_timeout_s=1.5, on_close=ended.append)
    idle, busy = await peers.raw(port), await peers.raw(port)
    await until(lambda: len(server.connections) == 2)
    closed = asyncio.ensure_future(idle.command())
    while not closed.done():
        busy.send(ask())
        await busy.expect()
        await asyncio.sleep(0.01)
    assert await closed is None
    assert len(ended) == 1
    busy.send(ask())
    await busy.expect()


async def test_a_peer_that_never_reads_becomes_idle(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymq.transport.connection.LINGER_S", 0.01)
    table = serving(lambda request: Answer(body=bytes(20_000_000)))
    server, port = await peers.server(table, idle_timeout_s=0.12)
    peer = await peers.raw(port, read_limit=1024)
    peer.send(ask(header=GetMaxOffsetRequest(topic="T", queue_id=1)).replace(b'"code":30', b'"code":31'))
    await until(lambda: server.connections and server.connections[0].writing_paused)
    await until(lambda: not server.connections)


async def test_a_stopped_server_closes_what_is_open_and_accepts_nobody(peers: Peers) -> None:
    server, port = await peers.server()
    peer = await peers.raw(port)
    peer.send(ask())
    await peer.expect()
    await server.close()
    assert await peer.command() is None
    assert server.connections == []
    with pytest.raises(OSError, match=r".*"):
        await peers.raw(port)
    await server.close()


async def test_frames_over_the_server_s_own_limit_close_the_connection(peers: Peers) -> None:
    _, port = await peers.server(frame_max_length=1000)
    peer = await peers.raw(port)
    peer.send(ask(body=bytes(700)))
    assert len((await peer.expect()).body) == 700
    peer.send(ask(body=bytes(1000)))
    assert await peer.command() is None


async def test_two_rows_for_one_code_fail_when_the_table_is_made() -> None:
    one = row(GetMaxOffsetRequest, lambda request: Answer())
    with pytest.raises(PymqError, match="GET_MAX_OFFSET is claimed twice"):
        merge([one], [one])


def test_the_own_address_is_an_ipv4_address() -> None:
    address = SystemNetwork().own_address()
    parts = [int(part) for part in address.split(".")]
    assert len(parts) == 4
    assert all(0 <= part < 256 for part in parts)
    assert SystemNetwork().host_name()


@pytest.mark.parametrize(
    ("found", "own"),
    [
        (["192.168.1.5", "10.0.0.7", "172.16.0.1"], "10.0.0.7"),
        (["192.168.1.5", "192.168.2.5"], "192.168.2.5"),
        ([], "127.0.0.1"),
    ],
)
def test_the_own_address_is_chosen_as_apache_does(
    found: list[str], own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.network._interface_addresses", lambda: found)
    assert SystemNetwork().own_address() == own


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:9876", ("127.0.0.1", 9876)),
        (" broker-a:10911 ", ("broker-a", 10911)),
        ("[::1]:9876", ("::1", 9876)),
        ("::1:9876", ("::1", 9876)),
    ],
)
def test_addresses_are_host_and_port(text: str, parts: tuple[str, int]) -> None:
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "host", ":9876", "host:", "host:0", "host:65536", "host:x", "host:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(text)
