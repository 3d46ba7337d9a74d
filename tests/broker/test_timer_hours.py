"""The timer journal: files by the hour, read in time, built again from the log when something is wrong."""

from __future__ import annotations

import tracemalloc

import pytest

from pymq.errors import StoreFull
from pymq.store.timer_journal import HOUR_MS
from tests.broker.timing import JOURNAL, TimedWorld


@pytest.fixture
async def world() -> TimedWorld:
    """A new broker's timers; the test's loop has no turn while a test runs."""
    return TimedWorld()


async def test_files_of_past_hours_go(world: TimedWorld) -> None:
    for hours in range(1, 5):
        world.after(hours * HOUR_MS, b"%d" % hours)
    world.saves.save_soon()
    assert len(world.hour_files()) == 4
    world.clock.advance(2 * HOUR_MS)
    assert world.run() == [b"1", b"2"]
    world.saves.save_soon()
    assert len(world.hour_files()) == 3
    world.clock.advance(HOUR_MS - 120_000)  # the next hour has begun, what is due in it waits
    world.run()
    world.saves.save_soon()
    assert len(world.hour_files()) == 2
    world.clock.advance(9 * HOUR_MS)
    world.run()
    world.saves.save_soon()
    assert world.hour_files() == []


def _remove_all(world: TimedWorld) -> None:
    world.disk.remove_folder(JOURNAL)


def _flip_a_bit(world: TimedWorld) -> None:
    content = world.disk.contents[f"{JOURNAL}/{world.hour_files()[0]}"]
    content.buffer[3] ^= 4


def _cut_short(world: TimedWorld) -> None:
    path = f"{JOURNAL}/{world.hour_files()[-1]}"
    world.disk.resize_file(path, world.disk.file_size(path) - 1)


def _remove_a_file(world: TimedWorld) -> None:
    world.disk.remove_file(f"{JOURNAL}/{world.hour_files()[0]}")


def _tear_the_mark(world: TimedWorld) -> None:
    world.disk.resize_file(f"{JOURNAL}/mark.json", 20)


@pytest.mark.parametrize(
    "harm", [TimedWorld.lose_journal, _flip_a_bit, _cut_short, _remove_a_file, _tear_the_mark]
)
async def test_a_journal_that_is_missing_or_damaged_is_built_again(
    world: TimedWorld, harm: object, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(40):
        world.after((number + 1) * 600_000, b"%d" % number, unique_key=f"K{number}")
    world.cancel(world.clock.now_ms() + 21 * 600_000, "K20")
    world.clock.advance(10 * 600_000)
    assert len(world.run()) == 10
    world.stop()
    assert callable(harm)
    harm(world)
    world.begin()
    assert "is built from 41 timed messages" in caplog.text
    assert world.run() == []
    world.stop()
    world.begin()  # what was built holds
    world.clock.advance(40 * 600_000)
    assert world.run() == [b"%d" % number for number in range(10, 40) if number != 20]


async def test_damage_that_is_met_while_it_runs_is_mended(
    world: TimedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        world.after(number * HOUR_MS + 1000, b"%d" % number)
    world.saves.save_soon()
    assert world.run_for(1000) == [b"0"]
    world.lose_journal()
    world.clock.advance(HOUR_MS)
    assert world.run() == [b"1"]
    assert "the timer journal is built again" in caplog.text
    world.stop()
    world.begin()
    world.clock.advance(9 * HOUR_MS)
    assert world.run() == [b"2", b"3", b"4", b"5"]


async def test_the_journal_is_written_only_when_the_log_is_on_the_disk(world: TimedWorld) -> None:
    world.after(5 * HOUR_MS, b"x")
    world.disk.hold_jobs = True
    world.saves.save_soon()
    assert world.journal.write not in [job for job, _ in world.disk.jobs]
    world.disk.run_jobs()  # the log's flush
    assert world.journal.write in [job for job, _ in world.disk.jobs]
    world.disk.run_jobs()
    assert len(world.hour_files()) == 1


async def test_a_journal_that_finds_no_room_is_written_later(
    world: TimedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    world.after(5 * HOUR_MS, b"x")
    world.disk.failing["write"] = StoreFull
    world.saves.save_soon()
    world.after(6 * HOUR_MS, b"y")
    world.saves.save_soon()
    assert caplog.text.count("was not written") == 1
    del world.disk.failing["write"]
    world.saves.save_soon()
    world.saves.save_soon()
    assert len(world.hour_files()) == 2
    world.stop()
    caplog.clear()
    world.begin()
    world.clock.advance(9 * HOUR_MS)
    assert world.run() == [b"x", b"y"]
    assert "is built" not in caplog.text


async def test_a_forwarded_copy_of_a_message_of_another_broker_settles_none(world: TimedWorld) -> None:
    """An application that consumes there and sends here with all properties of what it got."""
    world.after(60_000, b"x")
    world.saves.save_soon()
    forwarded = "TIMER_OUT_MS\x011\x02REAL_TOPIC\x01orders\x02PYMQ_TIMER_OFFSET\x010"
    world.store.put("orders", 0, b"other", forwarded, born_host=b"\0" * 8, born_timestamp=1)
    world.kill()
    world.begin()
    assert world.run_for(60_000, 1000) == [b"x"]


async def test_millions_that_wait_cost_no_memory_each() -> None:
    world = TimedWorld(segment_bytes=4 << 20, units=10_000)

    def send(count: int) -> None:
        for number in range(count):
            world.after(5 * HOUR_MS + number * 1000, b"x")
        world.saves.save_soon()

    tracemalloc.start()
    try:
        send(100)
        before = tracemalloc.get_traced_memory()[0]
        send(4_000)
        world.timers.deliver_due()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    disk_bytes = sum(world.disk.file_size(f"{JOURNAL}/{name}") for name in world.hour_files())
    assert disk_bytes > 4_000 * 10
    assert grown - disk_bytes < 4_000 * 24, "no room for a number each"


async def test_an_hours_file_is_read_in_slices_before_the_hour_begins() -> None:
    world = TimedWorld(segment_bytes=4 << 20, units=10_000, now_ms=HOUR_MS * 400_000)
    for number in range(5_000):
        world.send(HOUR_MS * 400_003 + 1 + number * 100, b"%d" % number)
    world.saves.save_soon()
    world.clock.advance(3 * HOUR_MS - 60_000)
    assert len(world.timers) == 0
    turns = 0
    while world.timers.deliver_due():
        turns += 1
    assert turns > 5
    assert len(world.timers) == 5_000
    world.clock.advance(60_000)
    assert world.run_for(10_000) == [b"%d" % number for number in range(100)]


async def test_an_hour_that_begins_while_its_file_is_read_comes_in_order() -> None:
    world = TimedWorld(segment_bytes=4 << 20, units=10_000, now_ms=HOUR_MS * 400_000)
    for number in reversed(range(3_000)):
        world.send(HOUR_MS * 400_003 + 1 + number, b"%d" % number)
    world.saves.save_soon()
    world.clock.advance(3 * HOUR_MS - 60_000)
    world.timers.deliver_due()
    world.timers.deliver_due()
    assert 0 <= len(world.timers) < 3_000
    world.clock.advance(100_000)
    assert world.run() == [b"%d" % number for number in range(3_000)]
