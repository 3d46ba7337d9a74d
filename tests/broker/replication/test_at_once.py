"""What senders wait for goes out at once, and not when a turn of the loop ends: there is more to do in it.

The other end is a plain socket that is read while the loop stands still.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
import uvloop

from pymq.broker.replication.slave import MasterLink
from pymq.protocol.ha_frames import BLOCK_HEAD, encode_block_head, encode_report
from tests.broker.replication.test_streams import World, until
from tests.sim import SimClock
from tests.store.making import put

_PATIENCE_S = 5.0
"""How long a socket is read when nothing comes, which is a failure."""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        found.settimeout(_PATIENCE_S)
        yield found


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in the loop that brokers have."""

    async def told() -> None:
        await story()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(told())


class Replica:
    """A slave's store, that is asked to build its index while `master` waits for the report."""

    def __init__(self, master: Callable[[], socket.socket]) -> None:
        self.end = 0
        self.heard = b""
        self._master = master

    def append(self, physical_offset: int, data: bytes) -> None:
        self.end = physical_offset + len(data)

    def build_index(self) -> None:
        self.heard = self._master().recv(64)

    def forget_part(self) -> None: ...


def test_a_slave_has_reported_before_it_builds_its_index(listening: socket.socket) -> None:
    async def story() -> None:
        replica = Replica(lambda: master)
        _, link = await asyncio.get_running_loop().create_connection(
            lambda: MasterLink(replica, SimClock(), 65536), *listening.getsockname()
        )
        master, _ = listening.accept()
        with master:
            master.settimeout(_PATIENCE_S)
            assert master.recv(64) == encode_report(0)
            master.sendall(encode_block_head(0, 100) + bytes(100))
            await until(lambda: replica.heard != b"")
            assert replica.heard == encode_report(100)
            link.close()

    run(story)


def test_a_block_is_on_its_way_when_send_returns() -> None:
    async def story() -> None:
        async with AsyncExitStack() as running:
            world = World(running)
            await world.start()
            with socket.create_connection(("127.0.0.1", world.listener.port)) as slave:
                slave.settimeout(_PATIENCE_S)
                slave.sendall(encode_report(0))
                await until(lambda: len(world.master.slaves) == 1)
                put(world.store, body=b"now")
                world.master.send()
                head = BLOCK_HEAD.unpack(slave.recv(BLOCK_HEAD.size))
                assert head == (0, world.store.commit_log_max_offset)

    run(story)


async def test_what_is_due_fits_into_one_block() -> None:
    async with AsyncExitStack() as running:
        world = World(running)
        await world.start()
        raw = await world.raw()
        raw.report(0)
        await until(lambda: len(world.master.slaves) == 1)
        world.master.send()
        while world.store.commit_log_max_offset < world.master.block_due:
            put(world.store, body=bytes(200))
        end = world.store.commit_log_max_offset
        world.master.send()
        assert 16 << 10 < end <= 32 << 10 < world.master.block_due
        await until(lambda: len(raw.data) == end)
