"""One damaged bit in a unit or a record costs no other message, and gives no number twice."""

from __future__ import annotations

from typing import Any

import pytest

from pymq.store.consumequeue import CQ_STORE_UNIT
from pymq.store.messagestore import MessageStore
from tests.store.damage import FIRST_LOG, flip, killed, queue_path, write
from tests.store.making import open_store, put, read_queue, records
from tests.store.sim_disk import SimDisk

SETTINGS: dict[str, Any] = {"consume_queue_segment_bytes": 8000}
SMALL_LOGS = SETTINGS | {"commit_log_segment_bytes": 8192}


def bodies(store: MessageStore, topic: str = "T") -> list[bytes]:
    return [record.body for record in read_queue(store, topic, 0)]


def numbered(count: int) -> list[bytes]:
    return [b"m %d" % number for number in range(count)]


def filled_beside_another(count: int, behind: int = 0, **settings: int) -> SimDisk:
    """A closed store: a message of topic "other" before each one of T, and some behind them all."""
    disk = SimDisk()
    store = open_store(disk, "/s", **(SETTINGS | settings))
    for body in numbered(count):
        put(store, "other", body=bytes(100))
        put(store, "T", body=body)
    for _ in range(behind):
        put(store, "other", body=bytes(100))
    store.close()
    return disk


# -- where in the log a unit says that its record stands


@pytest.mark.parametrize("window", [100, 2000, 4 << 20])
@pytest.mark.parametrize("number", [0, 1, 5, 9])
def test_a_place_that_is_wrong_by_one_bit_costs_no_message(
    number: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", window)
    original = filled_beside_another(10, behind=5)
    before = original.contents[queue_path()].data()
    for bit in range(63):
        disk = original.crash(0)
        flip(disk, queue_path(), number * 20 + 7 - bit // 8, bit % 8)
        store = open_store(disk, "/s", **SETTINGS)
        assert bodies(store) == numbered(10), f"bit {bit}"
        store.close()
        assert disk.contents[queue_path()].data() == before, f"bit {bit}"


def test_a_start_leaves_units_alone_whose_records_it_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the first unit of the window must not hang on the one that it probes first."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 3000)
    disk = filled_beside_another(100, behind=1)
    before = disk.contents[queue_path()].data()
    physical = CQ_STORE_UNIT.unpack_from(before, 99 * 20)[0]
    write(disk, queue_path(), 0, CQ_STORE_UNIT.pack(physical - 50, 94, 0))
    store = open_store(disk, "/s", **SETTINGS)
    assert disk.contents[queue_path()].data()[20:2000] == before[20:2000]
    assert bodies(store) == numbered(100)


def test_passing_damaged_records_takes_no_units_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first unit lies, and seems to stand behind the damaged record: those behind it are before it."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 3000)
    disk = filled_beside_another(100, behind=1)
    before = disk.contents[queue_path()].data()
    damaged = CQ_STORE_UNIT.unpack_from(before, 92 * 20)[0]
    flip(disk, FIRST_LOG, damaged + 88)
    for number in (0, 1):
        write(disk, queue_path(), number * 20, CQ_STORE_UNIT.pack(damaged + 1, 94, 0))
    store = open_store(disk, "/s", **SETTINGS)
    assert bodies(store) == [body for body in numbered(100) if body != b"m 92"]


# -- the size in a queue's last unit


@pytest.mark.parametrize("is_clean", [True, False])
@pytest.mark.parametrize(("window", "behind"), [(100, 0), (100, 5), (4 << 20, 5)])
def test_an_idle_queues_last_message_outlives_a_bit_in_its_units_size(
    window: int, behind: int, is_clean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", window)
    original = filled_beside_another(3, behind)
    for bit in range(32):
        disk = original.crash(0)
        flip(disk, queue_path(), 40 + 11 - bit // 8, bit % 8)
        store = open_store(disk if is_clean else killed(disk), "/s", **SETTINGS)
        assert bodies(store) == numbered(3), f"bit {bit}"
        assert put(store).queue_offset == 3, f"bit {bit}"


def test_a_last_unit_too_long_that_names_no_message_has_the_queues_built_again() -> None:
    disk = filled_beside_another(3, behind=5)
    physical, _, code = CQ_STORE_UNIT.unpack_from(disk.contents[queue_path()].buffer, 40)
    write(disk, queue_path(), 40, CQ_STORE_UNIT.pack(physical + 1, 1 << 20, code))
    store = open_store(disk, "/s", **SETTINGS)
    assert bodies(store) == numbered(3)
    assert put(store).queue_offset == 3


# -- the queue's minimum


@pytest.mark.parametrize("file_bytes", [5120, 8192])
@pytest.mark.parametrize("window", [100, 4 << 20])
def test_a_unit_that_seems_to_lie_before_the_logs_start_moves_no_minimum(
    window: int, file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", window)
    settings = SETTINGS | {"commit_log_segment_bytes": file_bytes}
    original = filled_beside_another(150, behind=2, **settings)
    original.remove_file(FIRST_LOG)  # as retention does
    store = open_store(original, "/s", **settings)
    low = store.min_offset("T", 0)
    assert 0 < low < 50
    assert bodies(store) == numbered(150)[low:]
    store.close()
    data = original.contents[queue_path()].data()
    flips = 0
    for number in range(low, 150):
        place = CQ_STORE_UNIT.unpack_from(data, number * 20)[0]
        for bit in range(16):
            if place ^ 1 << bit < file_bytes:
                flips += 1
                disk = original.crash(0)
                flip(disk, queue_path(), number * 20 + 7 - bit // 8, bit % 8)
                store = open_store(disk, "/s", **settings)
                assert store.min_offset("T", 0) == low, f"unit {number}"
                assert bodies(store) == numbered(150)[low:], f"unit {number}"
    assert flips > 20


def test_the_minimum_rises_as_before_where_all_units_are_right() -> None:
    disk = filled_beside_another(150, **SMALL_LOGS)
    data = disk.contents[queue_path()].data()
    places = [CQ_STORE_UNIT.unpack_from(data, number * 20)[0] for number in range(150)]
    for start in (8192, 16384, 24576):
        disk.remove_file(f"/s/commitlog/{start - 8192:020d}")
        store = open_store(disk, "/s", **SMALL_LOGS)
        assert store.min_offset("T", 0) == next(n for n in range(150) if places[n] >= start)
        store.close()


# -- the log's last record


@pytest.mark.parametrize("way", ["clean", "killed"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_a_damaged_last_message_is_not_given_again(count: int, way: str) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", **SETTINGS)
    sent = [put(store, body=body) for body in numbered(3)]
    store.close()
    for last in sent[3 - count :]:
        flip(disk, FIRST_LOG, last.physical_offset + 88)
    if way == "killed":
        disk = killed(disk)
    left = numbered(3 - count)
    for new in range(3):
        store = open_store(disk, "/s", **SETTINGS)
        assert store.max_offset("T", 0) == 3 + new
        assert bodies(store) == [*left, *(b"new %d" % n for n in range(new))]
        assert put(store, body=b"new %d" % new).queue_offset == 3 + new
        assert [r.body for r in records(store.get("T", 0, 3, 32))] == [b"new %d" % n for n in range(new + 1)]
        store.close()


def test_the_number_of_what_was_never_known_to_be_on_the_disk_is_given_again() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", **SETTINGS)
    sent = [put(store, body=body) for body in numbered(3)]
    disk = disk.kill()
    flip(disk, FIRST_LOG, sent[-1].physical_offset + 88)
    store = open_store(disk, "/s", **SETTINGS)
    assert store.max_offset("T", 0) == 2


def test_units_that_an_earlier_cut_left_behind_a_queues_end_are_no_lost_messages() -> None:
    """Their pages outlived a power cut that took the page before them, and the log has others there now."""
    disk = filled_beside_another(3)
    store = open_store(disk, "/s", **SETTINGS)
    other = [put(store, "other", body=bytes(100)).physical_offset for _ in range(3)]
    disk = disk.kill()
    for number, place in enumerate(other, 3):
        write(disk, queue_path(), 20 * number, CQ_STORE_UNIT.pack(place + 7, 136, 0))
    store = open_store(disk, "/s", **SETTINGS)
    assert store.max_offset("T", 0) == 3
    assert put(store).queue_offset == 3
