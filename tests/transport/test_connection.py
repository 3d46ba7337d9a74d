"""Requests are answered: serialisations, errors, late answers, and what ends with a connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Sequence

import pytest

from pymq.errors import HeaderError, PymqError, ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import FLAG_ONEWAY, Serialization
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import (
    OffsetResponse,
    PullMessageResponse,
)
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, HandlerResult, Request
from tests.transport.peers import ASK_HANDLER, ECHO, Peers, Wire, ask, serving, until


@pytest.mark.parametrize("serialization", list(Serialization))
async def test_a_request_is_answered_in_its_serialisation(serialization: Serialization, peers: Peers) -> None:
    _, port = await peers.server()
    peer = await peers.raw(port)
    peer.send(ask(9, opaque=77, body=b"hello", serialization=serialization))
    answer = await peer.expect()
    assert (answer.code, answer.opaque, answer.is_response) == (0, 77, True)
    assert (answer.serialization, answer.body) == (serialization, b"hello")
    assert answer.read(OffsetResponse).offset == 9


def test_the_answers_to_what_arrived_together_go_out_in_one_write() -> None:
    wire = Wire()
    connection = Connection(ECHO, is_server=True)
    connection.connection_made(wire)
    whole = b"".join(ask(n, opaque=n, body=b"x" * n) for n in range(50))
    connection.data_received(whole[:-1])
    assert len(wire.writes) == 1
    connection.data_received(whole[-1:])
    assert len(wire.writes) == 2


def test_the_peer_is_known_by_address_and_by_its_packed_host() -> None:
    connection = Connection(ECHO, is_server=True)
    connection.connection_made(Wire())
    assert connection.address == "10.1.2.3:4567"
    assert connection.born_host == bytes([10, 1, 2, 3]) + (4567).to_bytes(4, "big")


async def test_a_body_of_slices_is_joined_as_it_was_when_it_was_given(peers: Peers) -> None:
    store = bytearray(b"....abcdef")
    held: list[Request[Header]] = []

    def handler(request: Request[Header]) -> HandlerResult:
        if held:
            return Answer(body=[memoryview(store)[4:7], memoryview(store)[7:10], b"!"])
        held.append(request)
        return None

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(opaque=1, header=ASK_HANDLER), ask(opaque=2, header=ASK_HANDLER))
    assert (await peer.expect()).body == b"abcdef!"
    body: Sequence[memoryview] = (memoryview(store)[4:7], memoryview(store)[7:10])
    held[0].reply(Answer(body=body))
    store[4:] = b"------"
    later = await peer.expect()
    assert (later.opaque, later.body) == (1, b"abcdef")


@pytest.mark.parametrize("serialization", list(Serialization))
async def test_a_oneway_request_gets_nothing_whatever_becomes_of_it(
    serialization: Serialization, peers: Peers
) -> None:
    def handler(request: Request[Header]) -> HandlerResult:
        raise ValueError("boom")

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    unknown = ask(flag=FLAG_ONEWAY, serialization=serialization).replace(b'"code":30', b'"code":99')
    peer.send(
        ask(flag=FLAG_ONEWAY, serialization=serialization),
        unknown,
        ask(flag=FLAG_ONEWAY, header=ASK_HANDLER, serialization=serialization),
        ask(opaque=3, serialization=serialization),
    )
    assert (await peer.expect()).opaque == 3


@pytest.mark.parametrize(
    ("error", "code", "remark"),
    [
        (ValueError("boom"), 1, "ValueError: boom"),
        (ResponseError(ResponseCode.NO_PERMISSION, "not you"), 16, "not you"),
        (HeaderError("field `x`"), 1, "field `x`"),
        (PymqError("no"), 1, "no"),
    ],
)
@pytest.mark.parametrize("waits", [False, True])
async def test_an_error_of_a_handler_is_the_answer_and_the_connection_stays(
    error: Exception, code: int, remark: str, waits: bool, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    async def later() -> Answer:
        await asyncio.sleep(0)
        raise error

    def handler(request: Request[Header]) -> HandlerResult:
        if waits:
            return later()
        raise error

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    with caplog.at_level(logging.INFO):
        peer.send(ask(opaque=1, header=ASK_HANDLER))
        answer = await peer.expect()
    assert (answer.code, answer.remark, answer.opaque) == (code, remark, 1)
    crashed = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(crashed) == isinstance(error, ValueError)
    peer.send(ask(opaque=2))
    assert (await peer.expect()).opaque == 2


async def test_an_awaitable_handler_answers_when_it_is_done_and_holds_nobody_up(peers: Peers) -> None:
    go = asyncio.Event()

    async def handler(request: Request[Header]) -> Answer:
        await go.wait()
        return Answer(header=OffsetResponse(offset=99))

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(opaque=1, header=ASK_HANDLER), ask(opaque=2))
    assert (await peer.expect()).opaque == 2
    go.set()
    late = await peer.expect()
    assert (late.opaque, late.read(OffsetResponse).offset) == (1, 99)


async def test_a_handler_may_reply_later_and_never_to_a_closed_connection(peers: Peers) -> None:
    held: list[Request[Header]] = []

    def handler(request: Request[Header]) -> HandlerResult:
        held.append(request)
        return None

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(opaque=1, header=ASK_HANDLER), ask(opaque=2, header=ASK_HANDLER))
    await until(lambda: len(held) == 2)
    held[1].reply(Answer())
    assert (await peer.expect()).opaque == 2
    peer.close()
    await until(lambda: held[0].connection.closed)
    held[0].reply(Answer())


async def test_replies_of_one_turn_go_out_in_one_write() -> None:
    held: list[Request[Header]] = []
    wire = Wire()
    connection = Connection(serving(held.append), is_server=True)
    connection.connection_made(wire)
    connection.data_received(b"".join(ask(opaque=n, header=ASK_HANDLER) for n in range(20)))
    for request in held:
        request.reply(Answer())
    await asyncio.sleep(0)
    assert len(held) == 20
    assert len(wire.writes) == 1


async def test_what_a_client_asked_before_it_left_is_done_to_its_end(peers: Peers) -> None:
    done: list[str] = []

    async def handler(request: Request[Header]) -> None:
        await asyncio.sleep(0.01)
        done.append("all")

    _, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(flag=FLAG_ONEWAY, header=ASK_HANDLER))
    peer.close()
    await until(lambda: done)


async def test_a_stopped_server_leaves_no_handler_running(peers: Peers) -> None:
    ends: list[str] = []

    async def handler(request: Request[Header]) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ends.append("cancelled")

    server, port = await peers.server(serving(handler))
    peer = await peers.raw(port)
    peer.send(ask(header=ASK_HANDLER), ask(opaque=2))
    await peer.expect()
    await server.close()
    assert ends == ["cancelled"]
    assert await peer.command() is None


async def test_a_connection_that_ends_leaves_nothing_behind(peers: Peers) -> None:
    server, port = await peers.server()
    peer = await peers.raw(port)
    peer.send(ask())
    await peer.expect()
    ended = weakref.ref(server.connections[0])
    peer.close()
    await until(lambda: not server.connections)
    await asyncio.sleep(0.01)
    gc.collect()
    assert ended() is None


async def test_an_error_of_the_one_who_hears_of_the_end_hurts_nobody(peers: Peers) -> None:
    def fail(connection: Connection) -> None:
        raise ValueError("boom")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server, port = await peers.server(on_close=fail)
    peer = await peers.raw(port)
    peer.send(ask())
    await peer.expect()
    peer.close()
    await until(lambda: not server.connections)
    again = await peers.raw(port)
    again.send(ask())
    assert (await again.expect()).code == 0


def test_slices_follow_their_head() -> None:
    wire = Wire()
    answer = Answer(header=PullMessageResponse(0, 5, 1, 9), body=[b"ab", memoryview(b"cd")])
    connection = Connection(serving(lambda request: answer), is_server=True)
    connection.connection_made(wire)
    connection.data_received(ask(header=ASK_HANDLER))
    [written] = wire.writes
    assert written.endswith(b"abcd")
