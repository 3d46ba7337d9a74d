"""While a client does not read, a server does not read from it: memory is bounded."""

from __future__ import annotations

import asyncio

import pytest

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import (
    UpdateConsumerOffsetRequest,
)
from pymq.transport import connection as connections
from pymq.transport.connection import UNREAD_LIMIT_BYTES, WRITE_BUFFER_BYTES
from pymq.transport.dispatch import Answer, HandlerResult, Request
from tests.transport.peers import ASK_HANDLER, ECHO, Peers, ask, serving, until

COMMIT = UpdateConsumerOffsetRequest(consumer_group="g", topic="T", queue_id=0, commit_offset=1)


async def test_a_peer_that_does_not_read_is_not_read_from(peers: Peers) -> None:
    answered = 0

    def handler(request: Request[Header]) -> HandlerResult:
        nonlocal answered
        answered += 1
        return Answer(body=bytes(100_000))

    server, port = await peers.server(serving(handler))
    peer = await peers.raw(port, read_limit=1024)
    questions = 2000
    for n in range(questions):
        peer.send(ask(opaque=n, header=ASK_HANDLER))
    await until(lambda: server.connections and server.connections[0].writing_paused)
    await asyncio.sleep(0.05)
    [connection] = server.connections
    transport = connection._transport
    assert transport is not None
    assert transport.get_write_buffer_size() <= 2 * WRITE_BUFFER_BYTES + 2 * 100_200
    before = answered
    assert before < questions
    await asyncio.sleep(0.05)
    assert answered == before
    for n in range(questions):  # it reads again: all come, in order
        assert (await peer.expect()).opaque == n
    assert answered == questions


async def test_a_client_goes_on_reading_while_its_server_does_not(peers: Peers) -> None:
    accepted, port = await peers.raw_server()
    connection = await peers.pool(ECHO).connection(f"127.0.0.1:{port}")
    peer = await accepted.get()
    for _ in range(200):
        connection.oneway(COMMIT, bytes(100_000))
    await until(lambda: connection.writing_paused)
    peer.send(ask(opaque=1))
    await until(lambda: connection.heard == 1)
    for _ in range(200):
        assert (await peer.expect()).code == RequestCode.UPDATE_CONSUMER_OFFSET
    assert (await peer.expect()).is_response


async def test_who_waits_for_a_slow_reader_is_woken_when_it_has_caught_up(peers: Peers) -> None:
    woken: list[int] = []
    server, port = await peers.server(serving(lambda request: Answer(body=bytes(15_000_000))))
    peer = await peers.raw(port, read_limit=1024)
    peer.send(ask(header=ASK_HANDLER))
    await until(lambda: server.connections and server.connections[0].writing_paused)
    [connection] = server.connections

    def fail() -> None:
        woken.append(0)
        raise ValueError("boom")

    connection.when_writable(fail)
    connection.when_writable(lambda: woken.append(1))
    assert woken == []
    assert len((await peer.expect()).body) == 15_000_000
    await until(lambda: woken == [0, 1])
    connection.when_writable(lambda: woken.append(2))
    assert woken == [0, 1, 2]


async def test_a_server_that_talks_to_a_peer_that_never_reads_cuts_it_off(
    peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    server, port = await peers.server()
    await peers.raw(port, read_limit=1024)
    await until(lambda: server.connections)
    [connection] = server.connections
    sent = 0
    while not connection.closed and sent < 2 * UNREAD_LIMIT_BYTES:
        connection.oneway(COMMIT, bytes(4_000_000))
        sent += 4_000_000
        await asyncio.sleep(0)
    assert connection.closed
    await until(lambda: not server.connections)
    assert [record for record in caplog.records if "does not read" in record.getMessage()]


async def test_closing_does_not_wait_for_ever_for_a_peer_that_never_reads(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    server, port = await peers.server(serving(lambda request: Answer(body=bytes(15_000_000))))
    peer = await peers.raw(port, read_limit=1024)
    peer.send(ask(header=ASK_HANDLER))
    await until(lambda: server.connections and server.connections[0].writing_paused)
    server.connections[0].close()
    await until(lambda: not server.connections)
