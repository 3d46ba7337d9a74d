"""Timed messages come once each, and as they were sent, also where a unit or a record was damaged."""

from __future__ import annotations

import pytest

from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.timer_journal import HOUR_MS, TIMER_TOPIC
from tests.broker.timing import TimedWorld
from tests.store.damage import flip
from tests.store.making import BORN_HOST

QUEUE = f"/store/consumequeue/{TIMER_TOPIC}/0/{0:020d}"
LOG = f"/store/commitlog/{0:020d}"


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """What recovery looks at is behind the messages of a test."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)


def new_world() -> TimedWorld:
    """All in one file of the log, but for what a test puts behind."""
    return TimedWorld(segment_bytes=65536)


def damage_unit(world: TimedWorld, number: int, bit: int) -> None:
    """Flip a bit of the physical offset in a timed message's unit."""
    position = number * CQ_STORE_UNIT_SIZE + 7 - bit // 8
    flip(world.disk, QUEUE, position, bit % 8)


def others(world: TimedWorld, count: int = 20) -> None:
    """Messages of another topic."""
    for _ in range(count):
        world.store.put("other", 0, b"x" * 500, "", born_host=BORN_HOST)


@pytest.mark.parametrize("bit", [0, 7, 30, 40])
@pytest.mark.parametrize("life", ["the same", "the next", "the next, without the journal"])
async def test_a_message_whose_unit_is_damaged_comes_in_time(life: str, bit: int) -> None:
    world = new_world()
    for number in range(20):
        world.after(60_000, b"%d" % number)
    others(world)
    if life != "the same":
        world.stop()
    damage_unit(world, 5, bit)
    if life == "the next, without the journal":
        world.lose_journal()
    if life != "the same":
        world.begin()
    assert sorted(world.run_for(61_000, 1000), key=int) == [b"%d" % number for number in range(20)]
    assert world.run_for(60_000, 1000) == []


async def test_what_was_delivered_comes_not_again_when_its_unit_is_damaged_and_the_journal_lost() -> None:
    world = new_world()
    for number in range(20):
        world.after(1000 + number % 2 * 60_000, b"%d" % number)
    assert len(world.run_for(2000)) == 10
    others(world)
    world.stop()
    for number in (3, 4, 5, 8):
        damage_unit(world, number, 3)
    world.lose_journal()
    world.begin()
    assert sorted(world.run_for(61_000, 1000), key=int) == [b"%d" % number for number in range(1, 20, 2)]


async def test_a_cancellation_counts_though_its_unit_is_damaged_and_its_minute_over() -> None:
    world = new_world()
    due = world.clock.now_ms() // 60_000 * 60_000 + 120_000
    world.send(due, b"unwanted", unique_key="K")
    world.cancel(due, "K")
    others(world)
    world.stop()
    damage_unit(world, 1, 0)
    world.begin()
    world.disk.hold_jobs = True  # the mending takes its time
    world.clock.advance(due - world.clock.now_ms())
    assert world.run() + world.run_for(1000) == []
    world.disk.hold_jobs = False
    world.disk.run_jobs()
    assert world.run_for(1000) == []


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("bit", [0, 40])
async def test_a_message_whose_unit_is_damaged_is_put_again_before_its_file_goes(
    number: int, bit: int
) -> None:
    world = new_world()
    for each in range(5):
        world.after(50 * HOUR_MS, b"%d" % each)
    others(world)
    world.stop()
    damage_unit(world, number, bit)
    world.begin()
    end = world.records()[4].physical_offset + 1
    assert not world.rolls.may_go(end)
    for _ in range(3):
        world.rolls.roll()
    again = [r.body for r in world.records(end) if "TIMER_ROLL_TIMES" in r.properties]
    assert sorted(again) == [b"%d" % each for each in range(5)]


async def test_nothing_is_passed_while_its_unit_is_being_mended() -> None:
    world = new_world()
    for each in range(5):
        world.after(50 * HOUR_MS, b"%d" % each)
    others(world)
    world.stop()
    damage_unit(world, 2, 40)
    world.begin()
    world.disk.hold_jobs = True
    world.rolls._until = 60_000
    for _ in range(30):
        assert not world.rolls.roll()
    assert world.saves.rolled_number == 2
    world.disk.hold_jobs = False
    world.disk.run_jobs()
    while not world.rolls.roll():
        pass
    assert world.saves.rolled_number >= 5


async def test_a_damaged_body_is_not_delivered(caplog: pytest.LogCaptureFixture) -> None:
    world = new_world()
    world.after(1000, b"pay 100 euros")
    world.after(1000, b"whole")
    at = bytes(world.disk.contents[LOG].buffer[:2000]).index(b"pay 100")
    flip(world.disk, LOG, at + 4)
    assert world.run_for(3000) == [b"whole"]
    assert "timed message 0 is gone or damaged; left out" in caplog.text


@pytest.mark.parametrize("position", [1, 2, 3, 5, 34, 87])
async def test_another_topics_damaged_record_hides_no_delivery(position: int) -> None:
    world = new_world()
    for number in range(10):
        world.after(1000, b"%d" % number)
    place = world.store.put("other", 0, b"z" * 100, "", born_host=BORN_HOST).physical_offset
    assert len(world.run_for(2000)) == 10
    others(world)
    world.stop()
    flip(world.disk, LOG, place + position)
    world.lose_journal()
    world.begin()
    assert world.run_for(2000) == []
