"""Timed messages are put again before retention takes their file of the log."""

from __future__ import annotations

from collections import Counter

import pytest

from pymq.store.timer_journal import HOUR_MS, TIMER_TOPIC
from tests.broker.timing import TimedWorld


@pytest.fixture
async def world() -> TimedWorld:
    """A new broker's timers; the test's loop has no turn while a test runs."""
    return TimedWorld()


async def test_waiting_messages_are_put_again_before_their_file_goes(world: TimedWorld) -> None:
    due = world.clock.now_ms() + 50 * HOUR_MS
    for number in range(200):
        world.send(due + number, b"%d" % number * 20, unique_key=f"K{number}")
    world.cancel(due + 7, "K7")
    for number in range(30):
        world.after(1000 + number, b"soon")
    assert len(world.run_for(2000)) == 30
    first_end = 16384
    while not world.rolls.roll() or world.rolls._until < first_end:
        world.rolls._until = first_end
    moved = [r for r in world.records() if r.topic == TIMER_TOPIC and "TIMER_ROLL_TIMES\x011" in r.properties]
    assert moved
    assert all(int(r.read_properties()["PYMQ_TIMER_OFFSET"]) == n for n, r in enumerate(moved))
    world.kill()
    world.begin()
    assert world.run_for(1000) == []
    world.clock.advance(50 * HOUR_MS)
    assert Counter(world.run()) == Counter(b"%d" % number * 20 for number in range(200) if number != 7)


async def test_retention_waits_for_that_and_then_deletes(world: TimedWorld) -> None:
    """With all of the store's real cleaning, over some rounds: nothing is lost, and the log stays short."""
    due = world.clock.now_ms() + 100 * HOUR_MS
    for number in range(100):
        world.send(due + number, b"%d" % number, unique_key=f"K{number}")
    world.cancel(due + 3, "K3")
    for _ in range(6):
        for _ in range(60):
            world.store.put("noise", 0, b"n" * 400, "", born_host=b"\0" * 8)
        world.clock.advance(12 * HOUR_MS)
        world.disk.modified.update(dict.fromkeys(world.disk.contents, 0))  # fileReservedTime is over
        world.store.clean_soon()
        for _ in range(200):
            world.clock.advance(1000)
            world.run()
            world.store.tick()
            world.roll()
    assert world.store.commit_log_min_offset > 0
    world.kill()
    world.begin()
    world.clock.advance(100 * HOUR_MS)
    got = [body for body in world.run() if not body.startswith(b"n")]
    assert Counter(got) == Counter(b"%d" % number for number in range(100) if number != 3)


async def test_messages_are_put_again_while_the_disk_counts_as_full(world: TimedWorld) -> None:
    world.after(50 * HOUR_MS, b"x")
    world.store.refuse_while_full("no room")
    end = world.store.commit_log_max_offset
    assert not world.rolls.may_go(end)
    world.roll()
    assert world.rolls.may_go(end)
    assert len([r for r in world.records() if "TIMER_ROLL_TIMES" in r.properties]) == 1
    world.store.refuse_while_full("")
    world.clock.advance(50 * HOUR_MS)
    assert world.run() == [b"x"]


async def test_a_file_of_the_log_stays_until_the_records_put_again_are_on_the_disk(
    world: TimedWorld,
) -> None:
    world.after(50 * HOUR_MS, b"x")
    end = world.store.commit_log_max_offset
    world.disk.hold_jobs = True
    assert not world.rolls.may_go(end)
    world.roll()
    assert not world.rolls.may_go(end)
    world.disk.run_jobs()
    world.store.flush_now()
    world.disk.run_jobs()
    assert world.rolls.may_go(end)


async def test_a_delivered_message_keeps_its_file_until_the_delivery_is_on_the_disk(
    world: TimedWorld,
) -> None:
    world.after(1_000, b"x")
    end = world.store.commit_log_max_offset
    world.store.flush_now()
    assert world.run_for(1_000) == [b"x"]
    world.disk.hold_jobs = True
    assert not world.rolls.may_go(end)
    world.disk.run_jobs()
    assert world.rolls.may_go(end)


async def test_a_log_without_timed_messages_is_held_by_nothing(world: TimedWorld) -> None:
    world.store.put("noise", 0, b"n", "", born_host=b"\0" * 8)
    end = world.store.commit_log_max_offset
    assert world.rolls.may_go(end)
    world.after(1_000, b"x")
    assert world.rolls.may_go(end)


async def test_a_message_put_again_behind_its_cancellation_stays_cancelled_without_it(
    world: TimedWorld,
) -> None:
    """Its cancellation is over when its minute is, and goes with its file before the message does."""
    due = world.clock.now_ms() + 10 * HOUR_MS
    world.send(due, b"x", unique_key="K1")
    world.rolls._until = world.store.commit_log_max_offset
    world.cancel(due, "K1")
    for _ in range(60):
        world.store.put("noise", 0, b"n" * 400, "", born_host=b"\0" * 8)
    world.rolls.roll()  # only the message
    world.clock.advance(11 * HOUR_MS)
    assert world.run() == []
    world.disk.modified.update(dict.fromkeys(world.disk.contents, 0))  # fileReservedTime is over
    world.store.clean_soon()
    for _ in range(5):
        world.clock.advance(1000)
        world.store.tick()
        world.roll()
    assert world.store.min_offset(TIMER_TOPIC, 0) == 2, "the cancellation is gone, the message not"
    world.kill()
    world.lose_journal()
    world.begin()
    assert world.run() == []


async def test_what_is_due_and_not_delivered_keeps_its_file(world: TimedWorld) -> None:
    """It is not put again, but needs its record all the same."""
    world.after(1_000, b"x")
    world.clock.advance(2_000)
    world.rolls._until = world.store.commit_log_max_offset
    assert not world.rolls.roll()
    assert world.run() == [b"x"]
    assert world.rolls.roll()


async def test_a_cancellation_is_put_again_as_long_as_its_minute_lasts() -> None:
    world = TimedWorld(now_ms=HOUR_MS * 400_000)
    now = world.clock.now_ms()
    world.send(now + 50_000, b"x", unique_key="K1")
    world.cancel(now + 10_000, "K1")
    world.clock.advance(20_000)
    world.run()
    world.rolls._until = world.store.commit_log_max_offset
    world.rolls.roll()
    again = [r.read_properties() for r in world.records() if "TIMER_ROLL_TIMES" in r.properties]
    assert ["TIMER_DEL_UNIQKEY" in properties for properties in again] == [False, True]
    world.clock.advance(40_000)
    assert world.run() == []


@pytest.mark.parametrize("harm", [None, TimedWorld.lose_journal])
async def test_what_was_put_again_is_not_put_again_after_a_kill(world: TimedWorld, harm: object) -> None:
    for number in range(5):
        world.after(50 * HOUR_MS + number, b"%d" % number)
    end = world.store.commit_log_max_offset
    for _ in range(3):
        world.rolls._until = end
        while not world.rolls.roll():
            pass
        world.kill()
        if callable(harm):
            harm(world)
        world.begin()
    assert len([r for r in world.records() if "TIMER_ROLL_TIMES" in r.properties]) == 5
    world.clock.advance(51 * HOUR_MS)
    assert world.run() == [b"%d" % number for number in range(5)]
