"""Calls and their answers, in both directions; msgpack between two pymq peers."""

from __future__ import annotations

import asyncio

import pytest

from pymq.errors import CallTimeout, ConnectionLost
from pymq.protocol.command import AGREE_MSGPACK, Serialization
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import (
    GetMaxOffsetRequest,
    OffsetResponse,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, HandlerResult, Request, merge, row
from tests.transport.peers import ASK, ASK_HANDLER, ECHO, Peers, Wire, ask, serving, until

COMMIT = UpdateConsumerOffsetRequest(consumer_group="g", topic="T", queue_id=0, commit_offset=1)


async def test_calls_are_matched_with_their_answers_in_any_order(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    pool = peers.pool()
    connection = await pool.connection(f"127.0.0.1:{port}")
    calls = [asyncio.ensure_future(connection.call(ASK, bytes([n]))) for n in range(3)]
    peer = await accepted.get()
    asked = [await peer.expect() for _ in calls]
    for request in reversed(asked):
        peer.send(ask(opaque=request.opaque, flag=1, body=request.body))
    assert [(await call).body for call in calls] == [b"\0", b"\1", b"\2"]
    assert connection.pending_calls() == 0


async def test_an_answer_to_an_unknown_call_is_dropped(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    pool = peers.pool()
    call = asyncio.ensure_future(pool.call(f"127.0.0.1:{port}", ASK, accept=(30,)))
    peer = await accepted.get()
    request = await peer.expect()
    peer.send(ask(opaque=request.opaque + 100, flag=1), ask(opaque=request.opaque, flag=1, body=b"mine"))
    assert (await call).body == b"mine"


async def test_a_call_that_is_not_answered_ends_at_its_time_limit(peers: Peers) -> None:
    _, port = await peers.server(serving(lambda request: None))
    connection = await peers.pool().connection(f"127.0.0.1:{port}")
    with pytest.raises(CallTimeout, match=r"127\.0\.0\.1:\d+ did not answer request 31 within 0\.02 s"):
        await connection.call(ASK_HANDLER, timeout_s=0.02)
    assert connection.pending_calls() == 0
    assert (await connection.call(ASK)).code == 0


async def test_a_cancelled_call_leaves_nothing_behind(peers: Peers) -> None:
    held: list[Request[Header]] = []
    _, port = await peers.server(serving(held.append))
    connection = await peers.pool().connection(f"127.0.0.1:{port}")
    call = asyncio.ensure_future(connection.call(ASK_HANDLER))
    await until(lambda: held)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert connection.pending_calls() == 0
    held[0].reply(Answer())
    assert (await connection.call(ASK)).code == 0


async def test_a_lost_connection_ends_all_calls_at_once(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    connection = await peers.pool().connection(f"127.0.0.1:{port}")
    calls = [asyncio.ensure_future(connection.call(ASK, timeout_s=60)) for _ in range(3)]
    peer = await accepted.get()
    await peer.expect()
    peer.close()
    for call in calls:
        with pytest.raises(ConnectionLost):
            await call
    with pytest.raises(ConnectionLost, match="is closed"):
        await connection.call(ASK)
    with pytest.raises(ConnectionLost, match="is closed"):
        connection.oneway(COMMIT)


@pytest.mark.parametrize("garbage", [b"\xff" * 20, b"\0\0\0\x08\0\0\0\4abcd"])
async def test_a_server_that_breaks_the_format_leaves_no_call_hanging(garbage: bytes, peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    call = asyncio.ensure_future(peers.pool().call(f"127.0.0.1:{port}", ASK, timeout_s=60))
    peer = await accepted.get()
    await peer.expect()
    peer.send(garbage)
    with pytest.raises(ConnectionLost):
        await call


async def test_calls_of_one_turn_go_out_in_one_write() -> None:
    wire = Wire()
    connection = Connection({})
    connection.connection_made(wire)
    loop = asyncio.get_running_loop()
    for n in range(10):
        connection.start_call(ASK, bytes(n), loop.create_future())
        connection.oneway(COMMIT)
    assert wire.writes == []
    await asyncio.sleep(0)
    assert len(wire.writes) == 1


async def test_what_was_written_before_closing_still_goes_out(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    connection = await peers.pool().connection(f"127.0.0.1:{port}")
    connection.oneway(COMMIT, bytes(3_000_000))
    connection.close()
    peer = await accepted.get()
    assert len((await peer.expect()).body) == 3_000_000
    assert await peer.command() is None


async def test_a_call_that_cannot_be_written_leaves_nothing_behind() -> None:
    connection = Connection({})
    connection.connection_made(Wire())
    with pytest.raises(UnicodeEncodeError):
        await connection.call(GetMaxOffsetRequest(topic="\ud800", queue_id=1))
    assert connection.pending_calls() == 0


async def test_a_server_asks_its_client_over_the_same_connection(peers: Peers) -> None:
    server, port = await peers.server()
    told: list[int] = []

    def hear(request: Request[UpdateConsumerOffsetRequest]) -> HandlerResult:
        told.append(request.header.commit_offset)
        return Answer()

    pool = peers.pool(merge([row(GetMaxOffsetRequest, ECHO[30].handler), row(type(COMMIT), hear)]))
    await pool.call(f"127.0.0.1:{port}", ASK)
    [connection] = server.connections
    connection.oneway(COMMIT)
    answer = await connection.call(GetMaxOffsetRequest(topic="T", queue_id=3))
    assert answer.read(OffsetResponse).offset == 3
    assert told == [1]


async def test_two_pymq_peers_agree_on_msgpack_at_the_first_two_way_request(peers: Peers) -> None:
    seen: list[tuple[int, int, bool]] = []

    def handler(request: Request[UpdateConsumerOffsetRequest]) -> HandlerResult:
        command = request.command
        offered = command.field(AGREE_MSGPACK[0]) is not None
        seen.append((command.serialization, command.code, offered))
        return Answer()

    _, port = await peers.server(merge([row(UpdateConsumerOffsetRequest, handler)]))
    connection = await peers.pool(offer_msgpack=True).connection(f"127.0.0.1:{port}")
    connection.oneway(COMMIT)
    first = await connection.call(COMMIT)
    second = await connection.call(COMMIT)
    connection.oneway(COMMIT)
    await connection.call(COMMIT)
    assert seen == [(0, 15, False), (0, 15, True), (100, 15, False), (100, 15, False), (100, 15, False)]
    assert (first.serialization, first.field("pymqSerialize")) == (0, "MSGPACK")
    assert (second.serialization, second.field("pymqSerialize")) == (100, None)


async def test_msgpack_is_agreed_on_whatever_the_first_answer_is(peers: Peers) -> None:
    _, port = await peers.server()
    connection = await peers.pool(offer_msgpack=True).connection(f"127.0.0.1:{port}")
    assert (await connection.call(ASK_HANDLER)).code == 3
    assert (await connection.call(ASK)).serialization == 100


async def test_msgpack_is_agreed_on_though_other_answers_come_first(peers: Peers) -> None:
    held: list[Request[Header]] = []
    server, port = await peers.server(serving(held.append))
    connection = await peers.pool(ECHO, offer_msgpack=True).connection(f"127.0.0.1:{port}")
    first = asyncio.ensure_future(connection.call(ASK_HANDLER))
    await until(lambda: held)
    await server.connections[0].call(ASK)
    assert (await connection.call(ASK)).serialization == 0
    held[0].reply(Answer())
    assert (await first).serialization == 0
    assert (await connection.call(ASK)).serialization == 100


async def test_requests_of_a_server_are_json_whatever_was_agreed_on(peers: Peers) -> None:
    server, port = await peers.server()
    kinds: list[int] = []

    def hear(request: Request[Header]) -> HandlerResult:
        kinds.append(request.command.serialization)
        return Answer()

    pool = peers.pool(merge([row(type(COMMIT), hear)]), offer_msgpack=True)
    for _ in range(2):
        await pool.call(f"127.0.0.1:{port}", ASK)
        await server.connections[0].call(COMMIT)
    assert kinds == [0, 0]


async def test_msgpack_is_never_sent_to_a_peer_that_did_not_agree(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    pool = peers.pool(offer_msgpack=True)
    connection = await pool.connection(f"127.0.0.1:{port}")
    peer = await accepted.get()
    for n in range(3):
        call = asyncio.ensure_future(connection.call(ASK))
        request = await peer.expect()
        assert request.serialization == Serialization.JSON
        assert (request.field("pymqSerialize") is not None) == (n == 0)
        peer.send(ask(opaque=request.opaque, flag=1))  # as Apache does: the field is not given back
        await call


async def test_only_the_answer_to_the_offer_agrees_on_msgpack(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    connection = await peers.pool(offer_msgpack=True).connection(f"127.0.0.1:{port}")
    peer = await accepted.get()
    agree = dict([AGREE_MSGPACK])
    offering = asyncio.ensure_future(connection.call(ASK))
    offer = await peer.expect()
    for stray in (-1, None):  # an answer that nobody waits for, and one to a request that offered nothing
        other = asyncio.ensure_future(connection.call(ASK))
        request = await peer.expect()
        assert request.serialization == Serialization.JSON
        peer.send(ask(opaque=stray or request.opaque, flag=1, extra=agree))
        if stray:
            peer.send(ask(opaque=request.opaque, flag=1))
        await other
    peer.send(ask(opaque=offer.opaque, flag=1, extra=agree))
    await offering
    connection.oneway(ASK)
    assert (await peer.expect()).serialization == Serialization.MSGPACK


async def test_only_those_who_offer_it_get_the_field_back(peers: Peers) -> None:
    _, port = await peers.server()
    peer = await peers.raw(port)
    peer.send(ask(opaque=1), ask(opaque=2, extra=dict([AGREE_MSGPACK])))
    for _ in range(2):
        answer = await peer.expect()
        assert answer.field("pymqSerialize") is None  # it was not on the first request
