"""Connections by address: shared, opened again, and dropped when the peer has gone without a word."""

from __future__ import annotations

import asyncio

import pytest

from pymq.errors import CallTimeout, ConnectFailed, ConnectionLost, ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import OffsetResponse
from pymq.transport import pool as pools
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request
from pymq.transport.pool import Pool
from tests.transport.peers import ASK, ASK_HANDLER, Peers, serving, until

DEAD = "127.0.0.1:1"


async def test_a_call_gives_the_answer_and_who_gave_it(peers: Peers) -> None:
    _, port = await peers.server()
    address = f"127.0.0.1:{port}"
    reply = await peers.pool().call(address, ASK, b"body")
    assert (reply.address, reply.code, reply.remark, reply.body) == (address, 0, "", b"body")
    assert reply.read(OffsetResponse).offset == ASK.queue_id


async def test_a_refusal_is_raised_unless_it_is_expected(peers: Peers) -> None:
    def handler(request: Request[Header]) -> Answer:
        return Answer(17, remark="no such topic")

    _, port = await peers.server(serving(handler))
    address = f"127.0.0.1:{port}"
    pool = peers.pool()
    with pytest.raises(ResponseError, match="no such topic") as refused:
        await pool.call(address, ASK_HANDLER)
    assert (refused.value.code, refused.value.address) == (17, address)
    assert (await pool.call(address, ASK_HANDLER, accept=(0, 17))).code == 17


async def test_those_who_ask_at_once_share_one_connection(peers: Peers) -> None:
    server, port = await peers.server()
    pool = peers.pool()
    await asyncio.gather(*(pool.call(f"127.0.0.1:{port}", ASK) for _ in range(20)))
    assert len(server.connections) == 1


async def test_one_who_gives_up_connecting_does_not_take_it_from_the_others(peers: Peers) -> None:
    server, port = await peers.server()
    pool = peers.pool()
    first = asyncio.ensure_future(pool.call(f"127.0.0.1:{port}", ASK))
    second = asyncio.ensure_future(pool.call(f"127.0.0.1:{port}", ASK))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).code == 0
    assert first.cancelled()
    assert len(server.connections) == 1


async def test_a_lost_connection_is_opened_again_by_the_next_call(peers: Peers) -> None:
    ended: list[Connection] = []
    server, port = await peers.server()
    address = f"127.0.0.1:{port}"
    pool = peers.pool(on_close=ended.append)
    await pool.call(address, ASK)
    first = pool.connected(address)
    server.connections[0].close()
    await until(lambda: pool.connected(address) is None)
    assert (await pool.call(address, ASK)).code == 0
    assert ended == [first]


async def test_a_dropped_connection_is_replaced_at_once(peers: Peers) -> None:
    server, port = await peers.server()
    address = f"127.0.0.1:{port}"
    pool = peers.pool()
    await pool.call(address, ASK)
    pool.drop(address)
    assert pool.connected(address) is None
    assert (await pool.call(address, ASK)).code == 0
    await until(lambda: len(server.connections) == 1)


async def test_a_peer_that_hangs_up_at_once_is_tried_again_by_the_next_call(peers: Peers) -> None:
    refusing = True

    class Refusing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    def accept() -> asyncio.Protocol:
        return Refusing() if refusing else Connection(serving(None), is_server=True)

    listening = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    address = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    pool = peers.pool()
    for _ in range(5):
        with pytest.raises((ConnectFailed, ConnectionLost)):
            await pool.call(address, ASK)
    refusing = False
    assert (await pool.call(address, ASK)).code == 0
    await pool.close()
    listening.close()


async def test_a_connection_lost_while_it_opens_is_not_kept(peers: Peers) -> None:
    class Fleeting(SystemNetwork):
        async def connect(self, *args: object) -> asyncio.BaseProtocol:
            protocol = await super().connect(*args)  # type: ignore[arg-type]
            assert isinstance(protocol, Connection)
            protocol.abort()
            await asyncio.sleep(0.01)
            return protocol

    _, port = await peers.server()
    address = f"127.0.0.1:{port}"
    pool = Pool(Fleeting(), {})
    with pytest.raises(ConnectFailed, match="closed the connection as soon as it was open"):
        await pool.connection(address)
    assert pool.connected(address) is None


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (DEAD, "cannot connect to 127.0.0.1:1: connection refused"),
        ("nowhere", "'nowhere' is not host:port"),
        ("127.0.0.1:99999", "'127.0.0.1:99999' is not host:port"),
        ("127.0.0.1:", "'127.0.0.1:' is not host:port"),
        ("a..b:5", "cannot connect to a..b:5"),
    ],
)
async def test_a_peer_that_cannot_be_reached_is_named(address: str, text: str, peers: Peers) -> None:
    pool = peers.pool()
    for _ in range(2):
        with pytest.raises(ConnectFailed) as failed:
            await pool.call(address, ASK)
        assert text in str(failed.value)
        assert failed.value.address == address


async def test_connecting_counts_against_the_time_limit_of_a_call() -> None:
    class Stuck(SystemNetwork):
        async def connect(self, *args: object) -> asyncio.BaseProtocol:
            await asyncio.sleep(100)
            raise AssertionError

    pool = Pool(Stuck(), {})
    with pytest.raises(ConnectFailed, match=r"connecting to 127\.0\.0\.1:1 took longer than 0\.02 s"):
        await pool.call(DEAD, ASK, timeout_s=0.02)
    await pool.close()


async def test_closing_ends_those_who_wait_for_a_connection_or_an_answer(peers: Peers) -> None:
    class Stuck(SystemNetwork):
        async def connect(self, *args: object) -> asyncio.BaseProtocol:
            await asyncio.sleep(100)
            raise AssertionError

    stuck = Pool(Stuck(), {})
    waiting = asyncio.ensure_future(stuck.call(DEAD, ASK, timeout_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await stuck.close()
    with pytest.raises(ConnectFailed, match="the client is closed"):
        await waiting
    with pytest.raises(ConnectFailed, match="the client is closed"):
        await stuck.call(DEAD, ASK)

    _, port = await peers.server(serving(lambda request: None))
    pool = peers.pool()
    asking = asyncio.ensure_future(pool.call(f"127.0.0.1:{port}", ASK_HANDLER, timeout_s=60))
    await until(lambda: (open_ := pool.connected(f"127.0.0.1:{port}")) and open_.pending_calls())
    await pool.close()
    with pytest.raises(ConnectionLost):
        await asking


async def test_a_peer_that_went_silent_is_connected_to_anew(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "HALF_DEAD_S", 0.05)
    accepted, port = await peers.raw_server()
    address = f"127.0.0.1:{port}"
    pool = peers.pool()
    first = await pool.connection(address)
    with pytest.raises(CallTimeout):
        await pool.call(address, ASK, timeout_s=0.01)
    assert pool.connected(address) is first  # too short a wait to tell
    assert not pool.is_silent(address)
    with pytest.raises(CallTimeout):
        await pool.call(address, ASK, timeout_s=0.05)
    assert pool.connected(address) is None
    assert await pool.connection(address) is not first
    await until(lambda: accepted.qsize() == 2)
    assert pool.is_silent(address), "a connection alone says nothing"


async def test_a_peer_is_silent_until_it_answers(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "HALF_DEAD_S", 0.05)
    answers = [None, Answer()]
    _, port = await peers.server(serving(lambda request: answers.pop(0)))
    address = f"127.0.0.1:{port}"
    pool = peers.pool()
    await pool.connection(address)  # connecting takes its part of the time
    with pytest.raises(CallTimeout):
        await pool.call(address, ASK_HANDLER, timeout_s=0.05)
    assert pool.is_silent(address)
    await pool.call(address, ASK_HANDLER, timeout_s=5)
    assert not pool.is_silent(address)


async def test_a_peer_that_answers_others_is_not_taken_for_dead(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "HALF_DEAD_S", 0.05)
    _, port = await peers.server(serving(lambda request: None))
    address = f"127.0.0.1:{port}"
    pool = peers.pool()
    slow = asyncio.ensure_future(pool.call(address, ASK_HANDLER, timeout_s=0.1))
    await pool.call(address, ASK)
    await asyncio.sleep(0.02)
    await pool.call(address, ASK)
    with pytest.raises(CallTimeout):
        await slow
    assert pool.connected(address) is not None
