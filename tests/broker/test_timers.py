"""Timed messages come when they are due, once, in order; cancelled ones do not."""

from __future__ import annotations

import pytest

from pymq.protocol.tag_filter import tags_code
from pymq.store.timer_journal import HOUR_MS
from tests.broker.timing import DAY_MS, TimedWorld


@pytest.fixture
async def world() -> TimedWorld:
    """A new broker's timers; the test's loop has no turn while a test runs."""
    return TimedWorld()


@pytest.mark.parametrize(
    "delay_ms", [1, 999, 1000, 59_999, 60_000, 60_001, HOUR_MS, 2 * HOUR_MS, 2 * HOUR_MS + 1, 3 * DAY_MS]
)
async def test_a_message_comes_to_the_millisecond(world: TimedWorld, delay_ms: int) -> None:
    world.after(delay_ms, b"x")
    world.clock.advance(delay_ms - 1)
    assert world.run() == []
    world.clock.advance(1)
    assert world.run() == [b"x"]


async def test_what_is_delivered_tells_where_it_comes_from(world: TimedWorld) -> None:
    due = world.clock.now_ms() + 5_000
    world.send(due, b"first", "orders", 3)
    world.send(due, b"x", "orders", 3)
    stored = world.clock.now_ms()
    assert world.run_for(5_000) == [b"first", b"x"]
    delivered = world.delivered()[1]
    assert (delivered.topic, delivered.queue_id, delivered.born_timestamp) == ("orders", 3, 2)
    assert delivered.read_properties() == {
        "TAGS": "a",
        "TIMER_OUT_MS": str(due),
        "REAL_TOPIC": "orders",
        "REAL_QID": "3",
        "TIMER_ENQUEUE_MS": str(stored),
        "TIMER_DEQUEUE_MS": str(due),
        "PYMQ_TIMER_OFFSET": "1",
    }
    assert world.store.units("orders", 3, 0, 1)[0][2] == tags_code("a")


async def test_messages_come_in_the_order_of_their_times_then_as_stored(world: TimedWorld) -> None:
    now = world.clock.now_ms()
    times = [7_000, 3_000, 61_000, 3_000, 2 * HOUR_MS, 61_000, 1]
    for number, delay in enumerate(times):
        world.send(now + delay, b"%d" % number)
    world.clock.advance(3 * HOUR_MS)
    assert world.run() == [b"6", b"1", b"3", b"0", b"2", b"5", b"4"]


async def test_what_became_due_while_the_broker_was_down_comes_at_once(world: TimedWorld) -> None:
    for hours in (30, 5, 1, 40):
        world.after(hours * HOUR_MS, b"%d" % hours)
    world.stop()
    world.clock.advance(31 * HOUR_MS)
    world.begin()
    assert world.run() == [b"1", b"5", b"30"]
    world.clock.advance(9 * HOUR_MS)
    assert world.run() == [b"40"]


async def test_nothing_comes_early_when_the_clock_is_put_back(world: TimedWorld) -> None:
    world.after(2_000, b"before")
    world.clock.advance(-10_000)
    world.after(1_000, b"after")
    assert world.run_for(900) == []
    assert world.run_for(100) == [b"after"]
    assert world.run_for(10_900) == []
    assert world.run_for(200) == [b"before"]


async def test_a_clock_that_jumps_over_hours_leaves_nothing_out(world: TimedWorld) -> None:
    for minutes in range(0, 600, 7):
        world.after(minutes * 60_000 + 1, b"%d" % minutes)
    world.clock.advance(5 * HOUR_MS)
    assert len(world.run()) == len(range(0, 300, 7))
    world.clock.advance(-4 * HOUR_MS)
    world.after(1_000, b"again")
    world.clock.advance(1_000)
    assert world.run() == [b"again"]
    world.clock.advance(10 * HOUR_MS)
    assert len(world.run()) == len(range(0, 600, 7)) - len(range(0, 300, 7))


async def test_a_full_disk_delays_and_loses_nothing(
    world: TimedWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pymq.broker.timers")
    for body in (b"a", b"b", b"c"):
        world.after(1_000, body)
    world.store.refuse_while_full("no room")
    assert world.run_for(3_000) == []
    assert caplog.text.count("no room") == 1
    world.store.refuse_while_full("")
    assert world.run_for(200) == [b"a", b"b", b"c"]
    assert caplog.text.count("delivered again") == 1


async def test_a_message_that_cannot_be_stored_now_lets_others_pass(world: TimedWorld) -> None:
    world.send(world.clock.now_ms() + 1_000, b"a", "a/b")
    world.after(1_000, b"b")
    assert world.run_for(2_000) == [b"b"]


async def test_damaged_messages_are_left_out(world: TimedWorld, caplog: pytest.LogCaptureFixture) -> None:
    damaged = world.store.commit_log_max_offset
    world.after(1_000, b"damaged")
    world.after(1_000, b"whole")
    world.disk.contents["/store/commitlog/" + "0" * 20].buffer[damaged + 4] ^= 1  # its magic
    assert world.run_for(1_000) == [b"whole"]
    assert caplog.text.count("left out") == 1


# -- cancelling


async def test_a_cancelled_message_does_not_come(world: TimedWorld) -> None:
    due = world.clock.now_ms() + 90_000
    world.send(due, b"x", unique_key="K1")
    world.send(due, b"y", unique_key="K2")
    world.send(due, b"z", "other", unique_key="K1")
    world.clock.advance(89_999)
    world.cancel(due, "K1")
    world.clock.advance(60_001)
    assert world.run() == [b"y", b"z"]
    world.stop()
    world.clock.advance(HOUR_MS)
    world.begin()
    assert world.run() == []


@pytest.mark.parametrize("ahead_ms", [500, HOUR_MS * 5])
async def test_a_bare_key_cancels_as_well(world: TimedWorld, ahead_ms: int) -> None:
    """As brokers before 5.3.2 had it."""
    due = world.clock.now_ms() + ahead_ms
    world.send(due, b"x", unique_key="K1")
    world.timers.put(due, "orders", 0, b"0", "TIMER_DEL_UNIQKEY\x01K1", born_host=b"\0" * 8)
    world.clock.advance(ahead_ms)
    assert world.run() == []


async def test_a_cancellation_may_be_stored_before_and_after_a_restart(world: TimedWorld) -> None:
    due = world.clock.now_ms() + 10 * HOUR_MS
    for number in range(6):
        world.send(due + number, b"%d" % number, unique_key=f"K{number}")
    world.cancel(due, "K0")
    world.stop()
    world.begin()
    world.cancel(due + 1, "K1")
    world.kill()
    world.begin()
    world.clock.advance(10 * HOUR_MS - 1000)
    world.run()
    world.cancel(due + 2, "K2")
    world.kill()
    world.begin()
    world.cancel(due + 3, "K3")
    assert world.run_for(61_000, 500) == [b"4", b"5"]


async def test_a_kill_among_cancelled_messages_brings_none_of_them_back(world: TimedWorld) -> None:
    due = world.clock.now_ms() + 30_000
    for number in range(10):
        world.send(due + number * 10_000, b"%d" % number, unique_key=f"K{number}")
        if number % 2:
            world.cancel(due + number * 10_000, f"K{number}")
    world.saves.save_soon()
    got = []
    for _ in range(20):
        got += world.run_for(10_000, 1_000)
        world.kill()
        world.begin()
    assert got == [b"0", b"2", b"4", b"6", b"8"]


async def test_a_cancellation_counts_until_all_of_its_minute_is_delivered() -> None:
    world = TimedWorld(now_ms=HOUR_MS * 400_000)
    due = world.clock.now_ms() + 60_000  # the minute's end
    for number in range(80):
        world.send(due, b"%d" % number, unique_key=f"K{number}")
    world.cancel(due - 50_000, "K79")
    world.clock.advance(60_000)
    assert world.run() == [b"%d" % number for number in range(79)]
