"""What a slave takes over from its master besides the log, and when."""

from __future__ import annotations

import asyncio
import json
import logging
import selectors
from typing import Any

import pytest

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.replication.copied_tables import CopiedDelayOffsets, CopiedOffsets
from pymq.broker.replication.metadata import FIRST_S, CopiedTable, MasterTables, Source
from pymq.errors import ConnectFailed
from pymq.protocol.headers.administration import (
    GetAllConsumerOffsetRequest,
    GetAllTopicConfigRequest,
    GetBrokerRuntimeInfoRequest,
)
from tests.sim import SimClock
from tests.store.making import open_store
from tests.store.sim_disk import SimDisk


class Master:
    """Answers of a master, as a pool gives them."""

    def __init__(self) -> None:
        self.log_end: object = 100
        self.asked: list[str] = []
        self.is_there = True

    async def call(self, address: str, header: object) -> Any:
        if not self.is_there:
            raise ConnectFailed(address, "it is away")
        self.asked.append(type(header).__name__)
        body = f"{type(header).__name__} {len(self.asked)}".encode()
        if isinstance(header, GetBrokerRuntimeInfoRequest):
            table = {} if self.log_end is None else {"commitLogMaxOffset": str(self.log_end)}
            body = json.dumps({"table": table}).encode()
        reply = type("Answer", (), {})()
        reply.body = body
        return reply


class Taken(CopiedTable):
    """A table that notes what it takes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def take(self, body: bytes) -> None:
        self.bodies.append(body)


class _Jump(selectors.SelectSelector):
    """Does not wait, but adds up for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.jumped_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """As a selector's, at once."""
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.jumped_s += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop whose time jumps to its next timer."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """Seconds, jumps included."""
        return super().time() + self._jump.jumped_s


class World:
    """A slave's tables."""

    def __init__(self) -> None:
        self.master, self.topics, self.offsets = Master(), Taken(), Taken()
        self.log_end = 0
        sources = [
            Source("topics", GetAllTopicConfigRequest(), self.topics),
            Source("consumer offsets", GetAllConsumerOffsetRequest(), self.offsets, needs_log=True),
        ]
        self.tables = MasterTables(self.master, sources, lambda end: self.log_end >= end)  # type: ignore[arg-type]
        self.tables.master_address = "master:1"


async def test_offsets_wait_for_the_log_to_which_they_point_and_topics_do_not() -> None:
    world = World()
    world.log_end = 99
    await world.tables.copy()
    assert len(world.topics.bodies) == 1
    assert world.offsets.bodies == []
    assert world.master.asked[-1] == "GetBrokerRuntimeInfoRequest", "the log's end as it is later"
    world.log_end = 100
    assert world.tables.take_waiting()
    assert len(world.offsets.bodies) == 1


async def test_a_slave_whose_log_is_not_copied_takes_nothing_until_it_is() -> None:
    world = World()
    world.log_end = -1
    await world.tables.copy()
    assert world.topics.bodies == world.offsets.bodies == []
    running = asyncio.ensure_future(world.tables.run())
    await asyncio.sleep(0)
    world.log_end = 100
    async with asyncio.timeout(FIRST_S / 2):
        while not world.topics.bodies:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()


async def test_offsets_that_wait_are_not_put_off_by_newer_ones() -> None:
    world = World()
    await world.tables.copy()
    (first,) = [name for name in world.master.asked if "Offset" in name]
    world.master.log_end = 200
    await world.tables.copy()
    world.log_end = 100
    assert world.tables.take_waiting()
    assert world.offsets.bodies == [f"{first} 2".encode()]


async def test_what_was_told_of_a_queue_that_starts_anew_is_not_taken_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    await world.tables.copy()
    world.tables.void_offsets()  # the log comes to a message with the number 0
    world.log_end = 100
    assert world.tables.take_waiting()
    assert world.offsets.bodies == []

    call = world.master.call

    async def void_meanwhile(address: str, header: object) -> Any:
        if isinstance(header, GetBrokerRuntimeInfoRequest):
            world.tables.void_offsets()
        return await call(address, header)

    monkeypatch.setattr(world.master, "call", void_meanwhile)
    await world.tables.copy()
    assert world.offsets.bodies == []
    monkeypatch.setattr(world.master, "call", call)
    running = asyncio.ensure_future(world.tables.run())
    async with asyncio.timeout(FIRST_S * 10):
        while not world.offsets.bodies:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()


def test_a_slave_asks_three_seconds_after_its_start_and_then_every_ten() -> None:
    async def story() -> list[int]:
        world, loop = World(), asyncio.get_running_loop()
        begin, asked_at = loop.time(), list[int]()
        call = world.master.call

        async def noted(address: str, header: object) -> Any:
            if isinstance(header, GetAllTopicConfigRequest):
                asked_at.append(round(loop.time() - begin))
            return await call(address, header)

        world.master.call = noted  # type: ignore[method-assign]
        world.log_end = 1000
        running = asyncio.ensure_future(world.tables.run())
        await asyncio.sleep(40)
        running.cancel()
        return asked_at

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        assert runner.run(story()) == [3, 13, 23, 33]


async def test_a_slave_that_runs_takes_them_as_soon_as_the_log_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pymq.broker.replication.metadata._LOOK_S", 0.005)
    world = World()
    running = asyncio.ensure_future(world.tables.run())
    world.tables.soon()
    async with asyncio.timeout(60):
        while "GetBrokerRuntimeInfoRequest" not in world.master.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert world.offsets.bodies == []
        world.log_end = 100
        while not world.offsets.bodies:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()


async def test_a_master_that_does_not_tell_its_logs_end_is_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    world.master.log_end = None
    for _ in range(3):
        await world.tables.copy()
    assert world.offsets.bodies == []
    assert caplog.text.count("no offsets are copied") == 1
    assert len(world.topics.bodies) == 3


async def test_a_master_that_is_away_costs_nothing_that_was_taken(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.log_end = 1000
    await world.tables.copy()
    world.master.is_there = False
    await world.tables.copy()
    await world.tables.copy()
    assert (len(world.topics.bodies), len(world.offsets.bodies)) == (1, 1)
    assert caplog.text.count("topics of master master:1: it is away") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"offsetTable":{"T@g":{0:5,1:7}}}',  # 4.3.2, 4.9.4: fastjson leaves the quotes off
        b'{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1},"offsetTable":{"T@g":{0:5,1:7}},'
        b'"groupTopicMap":{}}',  # 5.3.3
    ],
)
def test_consumer_offsets_of_every_version_are_read(body: bytes) -> None:
    offsets = ConsumerOffsetTable()
    CopiedOffsets(offsets).take(body)
    assert (offsets.query("g", "T", 0), offsets.query("g", "T", 1)) == (5, 7)
    assert offsets.changed


@pytest.mark.parametrize(
    "body",
    [
        b'{"offsetTable":{3:12}}',
        b'{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1},"offsetTable":{3:12}}',
    ],
)
def test_delay_offsets_of_every_version_are_read(body: bytes) -> None:
    offsets = DelayOffsetTable(open_store(SimDisk(), "/s", SimClock()))
    CopiedDelayOffsets(offsets).take(body)
    assert offsets.get(3) == 12
    assert offsets.snapshot().offset_table == {3: 12}, "in the file, for the day when it is a master"


async def test_what_becomes_due_while_the_master_answers_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pymq.broker.replication.metadata._HURRY_S", 0.001)
    world = World()
    call = world.master.call

    async def slow_call(address: str, header: object) -> Any:
        if not world.topics.bodies:
            world.tables.soon()  # a message of an unknown topic comes now
        reply = await call(address, header)
        await asyncio.sleep(0.02)
        return reply

    monkeypatch.setattr(world.master, "call", slow_call)
    running = asyncio.ensure_future(world.tables.run())
    world.tables.soon()
    async with asyncio.timeout(30):
        while len(world.topics.bodies) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()
