"""Answers wait until their messages are on the disk: nothing goes out before, all goes out in the end."""

from __future__ import annotations

import asyncio

import pytest

from pymq.broker.acknowledgements import Acknowledgements, Gate, Held
from pymq.errors import StoreBroken, StoreError
from pymq.protocol import command as remoting
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.command import Command
from pymq.protocol.framing import FrameReader
from pymq.protocol.headers.messaging import OffsetResponse, SendMessageRequestV2
from pymq.store.messagestore import MessageStore
from pymq.store.watermark import Watermark
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, DispatchTable, Request, Row
from tests.broker.asking import send_header
from tests.sim import SimClock
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk
from tests.transport.peers import Wire, ask, until

TIMEOUT_MS = 5000


class Client:
    """A connection of a client, and what it was written."""

    def __init__(self, table: DispatchTable) -> None:
        self.wire = Wire()
        self.connection = Connection(table, is_server=True)
        self.connection.connection_made(self.wire)
        self._frames = FrameReader()

    def send(self, *opaques: int) -> None:
        """Send so many messages in one piece."""
        self.connection.data_received(
            b"".join(ask(header=send_header("T"), opaque=each, body=b"m%d" % each) for each in opaques)
        )

    def answers(self) -> list[Command]:
        """What has come since the last look."""
        self._frames.feed(b"".join(self.wire.writes))
        self.wire.writes.clear()
        return [remoting.decode(*frame) for frame in self._frames]

    def codes(self) -> dict[int, int]:
        """Opaque → code of the answers that have come since the last look."""
        return {answer.opaque: answer.code for answer in self.answers()}


class World:
    """A store whose flushes are held back until `run_jobs`, and what serves sends on it."""

    def __init__(self, *, timeout_ms: int = TIMEOUT_MS, tells_slave: bool = True) -> None:
        self.disk, self.clock = SimDisk(), SimClock()
        self.store: MessageStore = open_store(self.disk, "/s", self.clock)
        self.disk.hold_jobs = True
        self.waiting = Acknowledgements(self.store, self.clock, sync_flush_timeout_ms=timeout_ms)
        self.commands: list[Command] = []
        """What was asked."""
        self._tells_slave = tells_slave
        self._table = {int(RequestCode.SEND_MESSAGE_V2): Row(SendMessageRequestV2, self._send)}

    def _send(self, request: Request[SendMessageRequestV2]) -> None:
        self.commands.append(request.command)
        result = put(self.store, body=request.body)
        answer = Answer(0, OffsetResponse(result.queue_offset))
        self.waiting.when_safe(result.end_offset, request, answer, tells_slave=self._tells_slave)

    def client(self) -> Client:
        """One more client."""
        return Client(self._table)

    @property
    def durable(self) -> bytes:
        """What a power cut would leave of the log."""
        return self.disk.contents["/s/commitlog/" + "0" * 20].durable


async def turn() -> None:
    """Let the loop come to the end of its turn, and write what is due then."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_nothing_is_answered_before_it_is_durable() -> None:
    world = World()
    client = world.client()
    client.send(1)
    await turn()
    assert len(world.disk.jobs) == 1, "the flush starts at once"
    assert client.answers() == []
    assert b"m1" not in world.durable

    world.disk.run_jobs()
    await turn()

    assert b"m1" in world.durable
    [answer] = client.answers()
    assert (answer.code, answer.read(OffsetResponse).offset) == (ResponseCode.SUCCESS, 0)
    assert len(world.waiting) == 0


async def test_all_senders_of_one_turn_share_a_flush_and_a_connections_answers_share_a_write() -> None:
    world = World()
    clients = [world.client() for _ in range(3)]
    for client in clients:
        client.send(*range(10))
    await turn()
    assert len(world.disk.jobs) == 1
    syncs_before = world.disk.syncs

    world.disk.run_jobs()
    await turn()

    assert world.disk.syncs - syncs_before == 1
    assert [len(client.wire.writes) for client in clients] == [1, 1, 1]
    assert all(client.codes() == dict.fromkeys(range(10), 0) for client in clients)
    assert world.disk.jobs == []


async def test_who_comes_while_the_disk_works_shares_the_next_flush() -> None:
    world = World()
    client = world.client()
    client.send(1)
    await turn()
    for opaque in (2, 3, 4):
        client.send(opaque)
        await turn()
    assert len(world.disk.jobs) == 1

    world.disk.run_jobs()
    await turn()
    assert client.codes() == {1: 0}
    assert len(world.disk.jobs) == 1

    world.disk.run_jobs()
    await turn()
    assert client.codes() == {2: 0, 3: 0, 4: 0}
    assert world.disk.jobs == []


async def test_who_waits_too_long_is_told_so_and_where_the_message_is() -> None:
    world = World()
    client = world.client()
    client.send(1)
    await turn()
    world.clock.advance(2000)
    client.send(2)
    await turn()
    world.clock.advance(TIMEOUT_MS - 2001)
    world.waiting.expire()
    await turn()
    assert client.answers() == []

    world.clock.advance(1)
    world.waiting.expire()
    await turn()
    [late] = client.answers()
    assert (late.opaque, late.code) == (1, ResponseCode.FLUSH_DISK_TIMEOUT)
    assert late.read(OffsetResponse).offset == 0

    world.disk.run_jobs()
    world.disk.run_jobs()
    await turn()
    assert client.codes() == {2: 0}, "and the late one is not answered twice"


async def test_the_time_limit_rings_by_itself() -> None:
    world = World(timeout_ms=20)
    client = world.client()
    client.send(1)
    await turn()
    world.clock.advance(20)
    await until(lambda: client.wire.writes)
    assert client.codes() == {1: ResponseCode.FLUSH_DISK_TIMEOUT}


@pytest.mark.parametrize("error", [StoreBroken, StoreError])
async def test_a_failed_sync_refuses_those_who_wait_and_is_never_tried_again(error: type[StoreError]) -> None:
    world = World()
    client = world.client()
    client.send(1, 2)
    await turn()
    world.disk.failing["sync"] = error

    world.disk.run_jobs()
    world.disk.failing.clear()
    await turn()

    answers = client.answers()
    assert [answer.code for answer in answers] == [ResponseCode.SERVICE_NOT_AVAILABLE] * 2
    assert "injected failure of sync" in (answers[0].remark or "")
    assert not world.store.is_writable
    syncs = world.disk.syncs
    world.waiting.flush_soon()
    await turn()
    world.disk.run_jobs()
    assert world.disk.syncs == syncs
    with pytest.raises(StoreBroken):
        put(world.store)


async def test_a_store_that_broke_in_the_same_turn_leaves_nobody_waiting() -> None:
    world = World()
    client = world.client()
    client.send(1)
    world.disk.failing["sync"] = StoreBroken
    world.disk.hold_jobs = False
    world.store.flush_now()
    result = world.store.commit_log_max_offset
    request = Request(client.connection, Command(code=310, opaque=2), send_header("T"))
    world.waiting.when_safe(result, request, Answer())
    await turn()
    assert client.codes() == dict.fromkeys((1, 2), ResponseCode.SERVICE_NOT_AVAILABLE)


async def test_a_client_that_left_is_dropped_and_hinders_nobody() -> None:
    world = World()
    gone, stays = world.client(), world.client()
    gone.send(1)
    stays.send(2)
    await turn()
    gone.connection.connection_lost(None)
    world.disk.run_jobs()
    await turn()
    assert gone.wire.writes == []
    assert stays.codes() == {2: 0}
    assert len(world.waiting) == 0


async def test_a_stop_flushes_then_answers_then_is_over() -> None:
    world = World()
    client = world.client()
    client.send(1)
    await turn()
    client.send(2)
    closing = asyncio.ensure_future(world.waiting.close())
    await turn()
    assert not closing.done()
    world.disk.run_jobs()
    await turn()
    assert not closing.done(), "the second waits for a flush of its own"
    world.disk.run_jobs()
    await asyncio.wait_for(closing, 30)
    await turn()
    assert client.codes() == {1: 0, 2: 0}


async def test_a_stop_with_nobody_waiting_is_over_at_once() -> None:
    world = World()
    await asyncio.wait_for(world.waiting.close(), 30)


class TwoGates:
    """The gates of a broker that waits for its disk and for a slave, one behind the other."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.flushed, self.acked = Watermark(), Watermark()
        self.passed: list[tuple[int, int]] = []
        """End offsets and codes of what is through."""
        self.slave = Gate(
            self.acked,
            self.clock,
            timeout_ms=3000,
            late=ResponseCode.FLUSH_SLAVE_TIMEOUT,
            onward=lambda held: self.passed.append((held.end_offset, held.answer.code)),
        )
        self.disk = Gate(
            self.flushed,
            self.clock,
            timeout_ms=5000,
            late=ResponseCode.FLUSH_DISK_TIMEOUT,
            onward=self.slave.hold,
        )
        client = World().client()
        for end_offset in (10, 20, 30):
            asked = Command(code=310, opaque=1)
            self.disk.hold(Held(end_offset, self.clock.monotonic(), client.connection, asked, Answer()))

    def wait(self, ms: int) -> None:
        """Let time pass."""
        self.clock.advance(ms)
        self.disk.expire()
        self.slave.expire()


async def test_two_conditions_are_two_gates_in_a_row() -> None:
    gates = TwoGates()
    gates.flushed.advance(10)
    assert gates.passed == []
    gates.acked.advance(20)
    assert gates.passed == [(10, 0)]
    gates.flushed.advance(30)
    assert gates.passed == [(10, 0), (20, 0)], "the slave had the second already"
    gates.acked.advance(30)
    assert gates.passed == [(10, 0), (20, 0), (30, 0)]


async def test_who_is_late_at_both_gates_has_the_slaves_status() -> None:
    gates = TwoGates()
    gates.flushed.advance(10)
    gates.acked.advance(20)
    gates.wait(5000)
    assert gates.passed == [
        (10, ResponseCode.SUCCESS),
        (20, ResponseCode.FLUSH_DISK_TIMEOUT),
        (30, ResponseCode.FLUSH_SLAVE_TIMEOUT),
    ]
