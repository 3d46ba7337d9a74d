"""Master and slave over real connections: what is copied, what counts as acknowledged, who is hung up on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import uvloop

from pymq.broker.replication.master import ReplicationMaster, Terms
from pymq.broker.replication.slave import LogsDiffer, ReplicationSlave
from pymq.network import SystemNetwork
from pymq.protocol.ha_frames import Block, BlockReader, encode_report
from tests.sim import SimClock
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk
from tests.store.test_replica import Pair, fill, log_bytes

MIB = 1 << 20


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what the loop and the sockets bring about."""
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - the sockets' doing
            await asyncio.sleep(0.001)


class RawSlave:
    """What a slave sends, by hand, and what it gets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.blocks: list[Block] = []
        self.is_closed = False
        self._writer = writer
        self._reading = asyncio.ensure_future(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        blocks = BlockReader(16 * MIB)
        try:
            while data := await reader.read(65536):
                self.blocks += blocks.feed(data)
        except ConnectionError:
            pass
        self.is_closed = True

    def report(self, *offsets: int) -> None:
        """Say where the log ends."""
        self._writer.write(b"".join(map(encode_report, offsets)))

    @property
    def data(self) -> bytes:
        """All that came."""
        return b"".join(block.data for block in self.blocks)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._reading


class World:
    """A master's store that is served, and slaves."""

    def __init__(self, running: AsyncExitStack) -> None:
        self.disk, self.clock = SimDisk(), SimClock()
        self.network = SystemNetwork()
        self.pair = Pair()
        self.pair.clock = self.clock
        self.pair.disk = self.disk
        self.pair.master = self.store = open_store(self.disk, "/m", self.clock)
        self.pair.slave = self.slave_store = open_store(self.disk, "/s", self.clock)
        self.master = ReplicationMaster(self.store.blocks(), self.clock, Terms())
        self.listener = self.network.listen("127.0.0.1", 0)
        self._running = running

    async def start(self) -> None:
        """Serve."""
        await self.listener.serve(self.master.connected)
        self._running.callback(self.listener.close)
        self._running.callback(self.master.close)

    async def raw(self) -> RawSlave:
        """A connection of a slave."""
        raw = RawSlave(*await asyncio.open_connection("127.0.0.1", self.listener.port))
        self._running.push_async_callback(raw.close)
        return raw

    def slave(
        self, compare: Callable[[], None] = lambda: None, segment_bytes: int = 65536
    ) -> ReplicationSlave:
        """A slave of its own store, that runs."""

        async def check() -> None:
            compare()

        slave = ReplicationSlave(
            self.slave_store.replica(),
            check,
            self.network,
            self.clock,
            segment_bytes=segment_bytes,
            retry_s=0.01,
        )
        slave.set_master(f"127.0.0.1:{self.listener.port}")
        task = asyncio.ensure_future(slave.run())
        self._running.push_async_callback(asyncio.wait, [task])
        self._running.callback(task.cancel)
        return slave

    def has_all(self) -> bool:
        """The slave is where the master is, and the master knows."""
        end = self.store.commit_log_max_offset
        return self.slave_store.commit_log_max_offset == end == self.master.acknowledged.position


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with AsyncExitStack() as running:
        world = World(running)
        await world.start()
        yield world


async def test_a_slave_copies_all_and_then_what_comes(world: World) -> None:
    fill(world.store, 300)
    world.slave()
    await until(world.has_all)
    world.pair.check()
    for _ in range(20):
        put(world.store, body=b"live")
        world.master.send_soon()
        await until(world.has_all)
    fill(world.store, 100, 2)  # nobody announces these
    await until(world.has_all)
    world.pair.check()


async def test_connections_that_break_anywhere_leave_the_same_log(world: World) -> None:
    fill(world.store, 300)
    world.slave()
    for _ in range(50):
        await asyncio.sleep(0.002)
        for link in world.master.slaves:
            link.close()
    await until(lambda: world.slave_store.commit_log_max_offset == world.store.commit_log_max_offset)
    world.pair.check()


async def test_the_first_report_asks_and_acknowledges_nothing(world: World) -> None:
    """Apache takes it for an acknowledgement: a slave with another log confirms what it does not have."""
    fill(world.store, 20)
    end = world.store.commit_log_max_offset
    raw = await world.raw()
    raw.report(end)
    await until(lambda: len(world.master.slaves) == 1)
    raw.report(end)
    await asyncio.sleep(0.02)
    assert world.master.acknowledged.position == 0
    after = put(world.store).end_offset
    await until(lambda: len(raw.data) == after - end)
    raw.report(after)
    await until(lambda: world.master.acknowledged.position == after)


async def test_a_new_slave_gets_the_whole_log(world: World) -> None:
    fill(world.store, 300)
    raw = await world.raw()
    raw.report(0)
    end = world.store.commit_log_max_offset
    await until(lambda: len(raw.data) == end)
    assert raw.data == log_bytes(world.disk, "/m", end)
    for block in raw.blocks:
        assert len(block.data) <= 32 << 10
        assert block.physical_offset // 65536 == (block.physical_offset + len(block.data) - 1) // 65536


@pytest.mark.parametrize(
    ("request_", "reason"),
    [(lambda end: end + 1, "beyond the end"), (lambda end: end - 1, "within a message")],
)
async def test_a_position_that_is_none_of_this_log_is_refused(
    world: World, request_: Callable[[int], int], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.store, 20)
    raw = await world.raw()
    raw.report(request_(world.store.commit_log_max_offset))
    await until(lambda: raw.is_closed)
    assert raw.blocks == []
    assert reason in caplog.text
    assert "move its store folder away" in caplog.text


async def test_a_report_beyond_the_end_is_hung_up_on_and_acknowledges_nothing(world: World) -> None:
    fill(world.store, 20)
    raw = await world.raw()
    raw.report(0)
    await until(lambda: len(raw.data) == world.store.commit_log_max_offset)
    raw.report(world.store.commit_log_max_offset + 1)
    await until(lambda: raw.is_closed)
    assert world.master.acknowledged.position == 0


async def test_a_silent_slave_is_given_up_after_housekeeping(world: World) -> None:
    raw = await world.raw()
    raw.report(0)
    await until(lambda: len(world.master.slaves) == 1)
    world.clock.advance(20_000)
    await asyncio.sleep(0.02)
    assert not raw.is_closed
    world.clock.advance(1)
    await until(lambda: raw.is_closed)


async def test_an_idle_slave_hears_where_the_log_ends(world: World) -> None:
    fill(world.store, 5)
    raw = await world.raw()
    end = world.store.commit_log_max_offset
    raw.report(end)
    await until(lambda: len(world.master.slaves) == 1)
    world.clock.advance(5001)
    await until(lambda: raw.blocks == [Block(end, b"")])


async def test_a_slave_is_counted_on_only_while_it_is_there_and_near(world: World) -> None:
    end = world.store.commit_log_max_offset
    assert end >= world.master.reach
    raw = await world.raw()
    await asyncio.sleep(0.01)
    assert end >= world.master.reach  # it has asked for nothing yet
    raw.report(0)
    await until(lambda: end < world.master.reach)
    assert world.master.reach == 256 << 20
    await raw.close()
    await until(lambda: end >= world.master.reach)


async def test_a_slave_with_another_log_copies_nothing_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.store, 20)
    put(world.slave_store, body=b"other")
    mine = world.slave_store.commit_log_max_offset

    def differ() -> None:
        raise LogsDiffer("the logs differ at 0")

    caplog.set_level(logging.ERROR)
    world.slave(differ)
    await asyncio.sleep(0.05)
    assert world.slave_store.commit_log_max_offset == mine
    assert caplog.text.count("the logs differ at 0") == 1
    assert world.master.slaves == []


async def test_a_slave_reports_at_once_and_when_idle(world: World) -> None:
    fill(world.store, 5)
    world.slave()
    await until(world.has_all)
    (link,) = world.master.slaves
    assert link.reported == world.store.commit_log_max_offset


async def test_a_slave_that_hears_nothing_connects_anew(world: World) -> None:
    slave = world.slave()
    await until(lambda: slave.is_connected and len(world.master.slaves) == 1)
    (first,) = world.master.slaves
    slave_clock_jump = 20_001
    world.clock.advance(slave_clock_jump)  # the master's patience ends as well
    await until(lambda: len(world.master.slaves) == 1 and world.master.slaves[0] is not first)


async def test_a_slave_that_is_refused_again_and_again_is_told_of_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.store, 20)
    for minute in (1, 2):
        for _ in range(3):
            raw = await world.raw()
            raw.report(world.store.commit_log_max_offset - 1)
            await until(lambda raw=raw: raw.is_closed)  # type: ignore[misc]
        assert caplog.text.count("is hung up on") == minute
        world.clock.advance(60_000)
    raw = await world.raw()
    raw.report(world.store.commit_log_max_offset)
    await until(lambda: len(world.master.slaves) == 1)
    raw = await world.raw()
    raw.report(world.store.commit_log_max_offset - 1)
    await until(lambda: raw.is_closed)
    assert caplog.text.count("is hung up on") == 3, "it had followed meanwhile"


async def test_a_slave_that_connects_and_cannot_take_what_comes_says_so_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world.store, 20)
    put(world.store, body=bytes(30_000))
    world.slave_store = open_store(world.disk, "/other", world.clock, commit_log_segment_bytes=32768)
    caplog.set_level(logging.INFO)
    attempts: list[None] = []
    world.slave(lambda: attempts.append(None))
    await until(lambda: len(attempts) > 5)
    assert caplog.text.count("replicating from 127.0.0.1") >= 5
    assert caplog.text.count("mappedFileSizeCommitLog must be the same on both") == 1


def test_a_slave_that_catches_up_lets_others_have_their_turns() -> None:
    """uvloop reads on within one turn as long as something comes, which was megabytes."""

    async def longest_turn() -> int:
        async with AsyncExitStack() as running:
            world = World(running)
            sizes = {"commit_log_segment_bytes": 4 * MIB, "consume_queue_segment_bytes": 20_000}
            world.store = open_store(world.disk, "/big", world.clock, **sizes)
            world.slave_store = open_store(world.disk, "/copy", world.clock, **sizes)
            world.master = ReplicationMaster(world.store.blocks(), world.clock, Terms())
            for number in range(6000):
                put(world.store, body=b"%d " % number + bytes(1000))
            await world.start()
            world.slave(segment_bytes=4 * MIB)
            longest = before = 0
            while not world.has_all():
                await asyncio.sleep(0)
                end = world.slave_store.commit_log_max_offset
                longest, before = max(longest, end - before), end
            return longest

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(longest_turn()) <= MIB // 2
