"""Delayed messages come when they are due, once, in order, whatever happens to the broker in between."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymq.broker.delays import Delays
from pymq.errors import ConfigError, MessageIllegal
from pymq.protocol.tag_filter import tags_code
from pymq.store.consumequeue import CQ_STORE_UNIT, CQ_STORE_UNIT_SIZE
from pymq.store.tags_codes import SCHEDULE_TOPIC
from tests.broker.delaying import DELAYS_MS, OFFSETS_FILE, World
from tests.broker.standing_loop import in_a_loop
from tests.store.sim_files import Content


@pytest.fixture
async def world() -> World:
    """A new broker's delays; the test's loop has no turn while a test runs."""
    return World()


async def test_a_message_comes_to_the_millisecond(world: World) -> None:
    world.send(1, b"x", "orders", 3)
    world.clock.advance(999)
    assert world.run() == []
    world.clock.advance(1)
    assert world.run() == [b"x"]
    (delivered,) = world.delivered()
    (waiting,) = (record for record in world.records() if record.topic == SCHEDULE_TOPIC)
    assert (delivered.topic, delivered.queue_id) == ("orders", 3)
    assert delivered.properties == waiting.properties
    assert delivered.read_properties() == {
        "TAGS": "a", "DELAY": "1", "REAL_TOPIC": "orders", "REAL_QID": "3"
    }  # fmt: skip
    assert world.store.units("orders", 3, 0, 1)[0][2] == tags_code("a")
    assert world.store.units(SCHEDULE_TOPIC, 0, 0, 1)[0][2] == waiting.store_timestamp + 1000


async def test_a_level_above_the_last_is_the_last(world: World) -> None:
    world.send(99, b"x")
    assert world.store.max_offset(SCHEDULE_TOPIC, 3) == 1
    assert world.records()[0].read_properties()["DELAY"] == "4"
    assert world.run_for(59_900) == []
    assert world.run_for(100) == [b"x"]


async def test_what_became_due_while_the_broker_was_down_comes_at_once(world: World) -> None:
    world.send(3, b"x")
    world.stop()
    world.clock.advance(3_600_000)
    world.begin()
    assert world.run() == [b"x"]


async def test_a_level_set_shorter_delivers_what_waits_too_long_now_at_once(world: World) -> None:
    world.send(4, b"x")
    world.stop()
    world.levels = "1s 2s 5s 10s"
    world.begin()
    assert world.run() == [b"x"]


async def test_a_level_that_is_no_more_still_delivers_in_time(world: World) -> None:
    world.send(4, b"x")
    world.stop()
    world.levels = "1s"
    world.begin()
    assert world.run_for(59_900) == []
    assert world.run_for(100) == [b"x"]


async def test_nothing_comes_early_when_the_clock_is_put_back(world: World) -> None:
    world.send(2, b"before")
    world.clock.advance(-10_000)
    world.send(1, b"after")
    assert world.run_for(10_900) == []
    assert world.run_for(2_000) == [b"after", b"before"]


async def test_a_full_disk_delays_and_loses_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for body in (b"a", b"b"):
        world.send(1, body)
    world.store.refuse_while_full("no room")
    assert world.run_for(2_000) == []
    assert world.offsets.get(1) == 0
    assert caplog.text.count("no room") == 1
    world.store.refuse_while_full("")
    assert world.run_for(100) == [b"a", b"b"]


async def test_a_full_disk_is_told_once_whatever_it_says(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pymq.broker.delays")
    world.send(1, b"a")
    world.send(1, b"b")
    for _ in range(2):
        for n in range(12):
            world.store.refuse_while_full(f"no room in file {n % 2}")
            assert world.run_for(100) == []
            assert world.run_for(1_000 if n == 11 else 0) == []
        world.store.refuse_while_full("")
        assert world.run_for(100)
        world.send(1, b"c")
    assert caplog.text.count("delay level 1 waits before message") == 2
    assert caplog.text.count("delay level 1: delivered again") == 2


async def test_a_delayed_message_larger_than_a_limit_lowered_since_is_delivered(world: World) -> None:
    world.send(1, b"large" * 100)
    world.send(1, b"small")
    world.stop()
    world.max_message_bytes = 100
    world.begin()
    assert world.run_for(1_000) == [b"large" * 100, b"small"]
    with pytest.raises(MessageIllegal, match="maxMessageSize"):
        world.send(1, b"large" * 100)


async def test_a_message_that_cannot_be_stored_now_lets_other_levels_pass(world: World) -> None:
    world.send(1, b"a", topic="a/b")
    world.send(2, b"b")
    assert world.run_for(3_000) == [b"b"]
    assert (world.offsets.get(1), world.offsets.get(2)) == (0, 1)


async def test_half_messages_and_damaged_ones_are_left_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.send(1, b"half", topic="RMQ_SYS_TRANS_HALF_TOPIC")
    damaged = world.store.commit_log_max_offset
    world.send(1, b"damaged")
    world.send(1, b"whole")
    world.disk.contents["/store/commitlog/" + "0" * 20].buffer[damaged + 4] ^= 1  # its magic
    assert world.run_for(1_000) == [b"whole"]
    assert caplog.text.count("left out") == 2


def unit_at(level: int, number: int) -> slice:
    """Where a unit stands in the file of the level's queue."""
    return slice(number * CQ_STORE_UNIT_SIZE, (number + 1) * CQ_STORE_UNIT_SIZE)


def queue_of(world: World, level: int) -> Content:
    """The first file of a level's queue."""
    return world.disk.contents[f"/store/consumequeue/{SCHEDULE_TOPIC}/{level - 1}/{'0' * 20}"]


NOWHERE = CQ_STORE_UNIT.pack(1 << 40, 200, 0)


def restarted(world: World) -> None:
    """A later life: what recovery looks at is behind it, readers look at the rest."""
    world.stop()
    world.clock.advance(5_000)
    world.begin()


@pytest.mark.parametrize(
    "damage", ["nowhere", "another level's", "a later message's", "the one before's", "the one behind's"]
)
async def test_a_damaged_unit_is_mended_and_its_message_delivered(world: World, damage: str) -> None:
    for number in range(6):
        world.send(1, b"one%d" % number)
        world.send(2, b"two%d" % number)
    restarted(world)
    queue = queue_of(world, 1)
    units = {
        "nowhere": NOWHERE,
        "another level's": queue_of(world, 2).buffer[unit_at(2, 3)],
        "a later message's": queue.buffer[unit_at(1, 5)],
        "the one before's": queue.buffer[unit_at(1, 2)],
        "the one behind's": queue.buffer[unit_at(1, 4)],
    }
    queue.buffer[unit_at(1, 3)] = units[damage]
    bodies = world.run() + world.run_for(300)
    assert [body for body in bodies if body < b"two"] == [b"one%d" % n for n in range(6)]
    assert [body for body in bodies if body > b"two"] == [b"two%d" % n for n in range(6)]


async def test_a_level_waits_while_its_unit_is_being_mended_and_the_others_go_on(world: World) -> None:
    for number in range(3):
        world.send(1, b"one%d" % number)
    world.send(2, b"two")
    restarted(world)
    queue_of(world, 1).buffer[unit_at(1, 1)] = NOWHERE
    world.disk.hold_jobs = True
    assert sorted(world.run() + world.run_for(5_000)) == [b"one0", b"two"]
    world.disk.hold_jobs = False
    world.disk.run_jobs()
    assert world.run_for(200) == [b"one1", b"one2"]


async def test_a_message_that_the_log_has_lost_blocks_no_level(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    places = [0, *(world.send(1, b"%d" % number) for number in range(3))]
    restarted(world)
    world.disk.contents["/store/commitlog/" + "0" * 20].buffer[places[1] : places[1] + 8] = bytes(8)
    queue_of(world, 1).buffer[unit_at(1, 1)] = NOWHERE
    assert world.run() + world.run_for(300) == [b"0", b"2"]
    assert "message 1 is gone" in caplog.text


async def test_a_disk_that_cannot_search_blocks_no_level(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        world.send(1, b"%d" % number)
    restarted(world)
    queue_of(world, 1).buffer[unit_at(1, 1)] = NOWHERE
    monkeypatch.setattr("pymq.store.healing.Healer.heal", lambda *_: False)
    assert world.run() + world.run_for(3_000) == [b"0", b"2"]
    assert caplog.text.count("left out") == 1


async def test_a_damaged_unit_repeats_no_delivery_after_a_kill(world: World) -> None:
    for number in range(6):
        world.send(1, b"%d" % number)
        world.clock.advance(500)
        world.run()
    assert len(world.delivered()) >= 4
    world.kill()
    world.begin()
    queue_of(world, 1).buffer[unit_at(1, 1)] = NOWHERE
    world.offsets.set(1, 0)  # as if the file had been older still
    world.offsets.pass_delivered()
    world.run_for(3_000)
    assert Counter(record.body for record in world.delivered()) == Counter(b"%d" % n for n in range(6))


async def test_offsets_are_saved_only_when_the_deliveries_are_on_the_disk(world: World) -> None:
    world.send(1, b"x")
    world.run_for(1_000)
    world.disk.hold_jobs = True
    world.offsets.save_soon()
    assert world.saved().offset_table == {}
    world.disk.run_jobs()
    assert world.saved().offset_table == {1: 1}
    assert world.saved().commit_log_offset == world.store.commit_log_max_offset


async def test_an_offset_beyond_the_queue_is_corrected(world: World) -> None:
    world.send(1, b"x")
    world.run_for(1_000)
    world.stop()
    world.disk.write_atomically(OFFSETS_FILE, '{"offsetTable":{1:77,2:5}}')
    world.begin()
    world.send(1, b"y")
    assert world.run_for(1_000) == [b"y"]


@pytest.mark.parametrize("offsets", ['{"offsetTable":{1:1}}', "{}"])
async def test_a_crash_of_apaches_broker_repeats_nothing(world: World, offsets: str) -> None:
    """Its file is some seconds old, or not there yet, and does not say where the log ended."""
    for number in range(300):
        world.send(1 + number % 2, b"%d" % number)
        world.clock.advance(10)
        world.run()
    world.kill()
    world.disk.write_atomically(OFFSETS_FILE, offsets)
    world.begin()
    world.run_for(3_000)
    assert Counter(record.body for record in world.delivered()) == Counter(b"%d" % n for n in range(300))


async def test_a_resent_copy_of_a_delivered_message_moves_no_level(world: World) -> None:
    """As in a batch, where properties of an earlier life may stand."""
    world.send(1, b"x", "orders", 0)
    world.send(1, b"x", "orders", 1)
    imposter = world.records()[0].properties.replace("REAL_QID\x010", "REAL_QID\x017")
    world.store.put("orders", 0, b"x", imposter, born_host=b"\0" * 8, born_timestamp=1)
    world.kill()
    world.begin()
    assert world.run_for(1_000) == [b"x", b"x"]


async def test_millions_that_wait_cost_no_memory_each() -> None:
    world = World(segment_bytes=4 << 20, units=10_000)

    def send(count: int) -> None:
        for _ in range(count):
            world.send(4, b"x")

    send(100)
    tracemalloc.start()
    try:
        send(4_000)
        world.delays.deliver_due()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 4_000 * 24, "no room for a number each"


@pytest.mark.parametrize("levels", ["5x", "1s,2s", "s", "-1s"])
async def test_levels_that_cannot_be_read_are_told(world: World, levels: str) -> None:
    with pytest.raises(ConfigError, match="messageDelayLevel"):
        Delays(levels, world.store, world.offsets, world.clock)


# -- any story

_steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 5), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from((1, 99, 1000, 2500, 61_000, -1500))),
        st.tuples(st.sampled_from(("run", "slice", "save", "stop", "kill", "hold", "jobs"))),
    ),
    max_size=60,
)


def _let_all_come(world: World) -> None:
    """Let all pass that may still wait."""
    world.disk.hold_jobs = False
    world.disk.run_jobs()
    world.run()
    world.clock.advance(DELAYS_MS[-1] + 90_000)  # and by what the clock may have been put back
    world.run()


@settings(max_examples=150, deadline=None)
@given(_steps)
def test_whatever_happens_each_comes_once_in_order_and_never_early(steps: list[tuple[object, ...]]) -> None:
    def story() -> None:
        world = World()
        due: dict[bytes, int] = {}
        of_level: dict[int, list[bytes]] = {}
        for number, (step, *values) in enumerate(steps):
            if step == "send":
                level, queue_id = int(str(values[0])), int(str(values[1]))
                body = b"%d" % number
                world.send(level, body, queue_id=queue_id)
                level = min(level, len(DELAYS_MS))
                due[body] = world.clock.now_ms() + DELAYS_MS[level - 1]
                of_level.setdefault(level, []).append(body)
            elif step == "wait":
                world.clock.advance(int(str(values[0])))
            elif step == "run":
                world.run()
            elif step == "slice":
                world.delays.deliver_due()
            elif step == "save":
                world.offsets.save_soon()
            elif step == "hold":
                world.disk.hold_jobs = True
            elif step == "jobs":
                world.disk.run_jobs()
            else:
                world.disk.hold_jobs = False
                world.disk.run_jobs()
                world.stop() if step == "stop" else world.kill()
                world.begin()
        _let_all_come(world)
        delivered = world.delivered()
        assert Counter(record.body for record in delivered) == Counter(due.keys())
        assert all(record.store_timestamp >= due[record.body] for record in delivered)
        for bodies in of_level.values():
            assert [record.body for record in delivered if record.body in set(bodies)] == bodies

    in_a_loop(story)


@pytest.mark.parametrize("seed", range(40))
def test_after_power_cuts_the_log_holds_each_delivery_once(seed: int) -> None:
    """What was on the disk before a cut is delivered; a copy that the cut took is made again, no other."""

    def story() -> None:
        world = World()
        luck = world.clock.random
        luck.seed(seed)
        safe: set[bytes] = set()
        sent: list[tuple[int, bytes]] = []
        for number in range(400):
            dice = luck.random()
            if dice < 0.5:
                body = b"%d" % number
                sent.append((world.send(luck.choice((1, 1, 2, 3)), body), body))
            elif dice < 0.8:
                world.clock.advance(luck.choice((10, 300, 900)))
                world.run()
            elif dice < 0.9:
                world.offsets.save_soon()
            elif dice < 0.95:
                world.store.tick()
            elif dice > 0.98:
                safe |= {body for end, body in sent if end <= world.store.flushed.position}
                sent.clear()
                world.cut(luck.randrange(1 << 30))
                world.begin()
        safe |= {body for _, body in sent}
        _let_all_come(world)
        there = Counter(record.body for record in world.delivered())
        assert safe <= there.keys()
        assert set(there.values()) <= {1}
        waited = {record.body for record in world.records() if record.topic == SCHEDULE_TOPIC}
        assert there.keys() == waited

    in_a_loop(story)
