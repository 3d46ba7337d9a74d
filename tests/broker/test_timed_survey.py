"""`pymq store ls` tells of timed messages that wait: Apache's 4.9.4 broker would never deliver them."""

from __future__ import annotations

import pytest

from pymq.cli.store_output import survey_lines, time_text
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.survey import Survey, survey
from pymq.store.timer_journal import HOUR_MS
from tests.broker.timing import JOURNAL, TimedWorld


@pytest.fixture
async def world() -> TimedWorld:
    """A new broker's timers; the test's loop has no turn while a test runs."""
    return TimedWorld()


def look(world: TimedWorld) -> Survey:
    """What `ls` finds, without a change to any file."""
    before = {path: content.data() for path, content in world.disk.contents.items()}
    found = survey(StoreFolder("/store", world.disk))
    assert {path: content.data() for path, content in world.disk.contents.items()} == before
    return found


async def test_it_counts_what_waits_with_and_without_the_journal(world: TimedWorld) -> None:
    now = world.clock.now_ms()
    for hours in range(1, 11):
        world.send(now + hours * HOUR_MS, b"%d" % hours, unique_key=f"K{hours}")
    world.cancel(now + 9 * HOUR_MS, "K9")
    world.clock.advance(3 * HOUR_MS)
    assert len(world.run()) == 3
    world.rolls._until = world.store.commit_log_max_offset
    while not world.rolls.roll():
        pass
    world.stop()
    found = look(world)
    assert found.timed is not None
    assert (found.timed.count, found.timed.first_due, found.timed.last_due) == (
        6, now + 4 * HOUR_MS, now + 10 * HOUR_MS,
    )  # fmt: skip
    lines = survey_lines(found, False)
    note = next(line for line in lines if "rmq_sys_wheel_timer, due" in line)
    assert note.startswith("Note: 6 timed messages in rmq_sys_wheel_timer, due")
    assert time_text(now + 10 * HOUR_MS) in note
    assert "never deliver" in lines[lines.index(note) + 1]
    assert max(map(len, lines)) <= 120
    world.disk.remove_folder(JOURNAL)
    again = look(world)
    assert again.timed == found.timed


async def test_it_counts_what_a_killed_broker_had_not_saved(world: TimedWorld) -> None:
    now = world.clock.now_ms()
    world.send(now + HOUR_MS, b"x")
    world.saves.save_soon()
    world.send(now + 2 * HOUR_MS, b"y")
    world.kill()
    found = look(world)
    assert found.timed is not None
    assert (found.timed.count, found.timed.last_due) == (2, now + 2 * HOUR_MS)


async def test_nothing_that_waits_is_nothing_to_tell(world: TimedWorld) -> None:
    world.after(1000, b"x")
    world.clock.advance(1000)
    assert world.run() == [b"x"]
    world.stop()
    found = look(world)
    assert found.timed is None
    assert not [line for line in survey_lines(found, False) if "due" in line]
