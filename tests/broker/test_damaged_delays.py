"""Delayed messages come once each, never early, and as they were sent, also where the store was damaged."""

from __future__ import annotations

from collections import Counter

import pytest

from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.tags_codes import SCHEDULE_TOPIC
from tests.broker.delaying import OFFSETS_FILE, World
from tests.store.damage import flip
from tests.store.making import BORN_HOST

LOG = f"/store/commitlog/{0:020d}"


@pytest.fixture(autouse=True)
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """What recovery looks at is behind the messages of a test."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)


@pytest.fixture
async def world() -> World:
    """A new broker's delays; the test's loop has no turn while a test runs."""
    return World(segment_bytes=65536)


def flip_due_time(world: World, level: int, number: int, bit: int) -> None:
    """Flip a bit of the time that the unit of a level's message tells."""
    position = number * CQ_STORE_UNIT_SIZE + 19 - bit // 8
    flip(world.disk, f"/store/consumequeue/{SCHEDULE_TOPIC}/{level - 1}/{0:020d}", position, bit % 8)


async def test_a_damaged_body_is_not_delivered(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.send(1, b"pay 100 euros")
    world.send(1, b"whole")
    at = bytes(world.disk.contents[LOG].buffer[:2000]).index(b"pay 100")
    flip(world.disk, LOG, at + 4)
    assert world.run_for(3000) == [b"whole"]
    assert "message 0 is gone, damaged" in caplog.text


@pytest.mark.parametrize("bit", [0, 9, 10, 14, 15, 16, 17, 33, 40, 62])
async def test_a_message_comes_in_time_though_its_unit_tells_another(world: World, bit: int) -> None:
    world.send(4, b"in a minute")
    world.stop()
    flip_due_time(world, 4, 0, bit)
    world.begin()
    assert world.run_for(59_900) == []
    assert world.run_for(100) == [b"in a minute"]


@pytest.mark.parametrize("position", [1, 2, 3, 5, 34, 87])
async def test_another_topics_damaged_record_hides_no_delivery(world: World, position: int) -> None:
    saved = world.disk.read_bytes(OFFSETS_FILE)
    for number in range(10):
        world.send(1, b"%d" % number)
    place = world.store.put("other", 0, b"z" * 100, "", born_host=BORN_HOST).physical_offset
    assert len(world.run_for(2000)) == 10
    for _ in range(20):
        world.store.put("other", 0, b"z" * 100, "", born_host=BORN_HOST)
    world.stop()
    flip(world.disk, LOG, place + position)
    if saved is None:
        world.disk.remove_file(OFFSETS_FILE)
    world.begin()
    world.run_for(2000)
    assert set(Counter(r.body for r in world.delivered() if r.topic == "orders").values()) == {1}
