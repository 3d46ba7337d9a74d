"""Queue units that were damaged long before the last start: a reader gets all messages, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pymq.disk import Job
from pymq.errors import StoreBroken
from pymq.protocol.message import MessageRecord
from pymq.protocol.tag_filter import tags_code
from pymq.store.consumequeue import CQ_STORE_UNIT
from pymq.store.messagestore import GetStatus, MessageStore
from pymq.system_disk import SystemDisk
from tests.store.damage import FIRST_LOG, filled, queue_path, serves, write
from tests.store.making import open_store, put, read_queue, records
from tests.store.sim_disk import SimDisk

COUNT = 900
"""Round-robin in three queues, of 8 KB units each: nothing but the window's records would be looked at."""
SETTINGS: dict[str, Any] = {"consume_queue_segment_bytes": 8000}
OF_QUEUE = COUNT // 3

Damage = Callable[[SimDisk, int], None]


@pytest.fixture(autouse=True)
def no_start_looks_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery reads no more than a little before the trusted offset, as with a log of many GiB."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)


def unit_of(disk: SimDisk, number: int, topic: str = "T1") -> tuple[int, int, int]:
    return CQ_STORE_UNIT.unpack_from(disk.contents[queue_path(topic)].buffer, number * 20)


def set_unit(disk: SimDisk, number: int, *unit: int) -> None:
    write(disk, queue_path("T1"), number * 20, CQ_STORE_UNIT.pack(*unit))


def point_nowhere(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, unit_of(disk, number)[0] + 1, *unit_of(disk, number)[1:])


def point_to_a_record_of_the_same_number(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, *unit_of(disk, number, "T2"))


def point_to_another_of_the_queue(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, *unit_of(disk, number - 7 if number else 9))


def point_behind_the_log(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, 1 << 40, *unit_of(disk, number)[1:])


def point_before_the_log(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, -5, *unit_of(disk, number)[1:])


def be_too_long(disk: SimDisk, number: int) -> None:
    physical, size, code = unit_of(disk, number)
    set_unit(disk, number, physical, size + 30, code)


def be_too_short(disk: SimDisk, number: int) -> None:
    physical, size, code = unit_of(disk, number)
    set_unit(disk, number, physical, size - 1, code)


def have_a_negative_size(disk: SimDisk, number: int) -> None:
    physical, _, code = unit_of(disk, number)
    set_unit(disk, number, physical, -1, code)


def have_no_tags_code(disk: SimDisk, number: int) -> None:
    physical, size, _ = unit_of(disk, number)
    set_unit(disk, number, physical, size, 1 << 40)


def be_zeros(disk: SimDisk, number: int) -> None:
    set_unit(disk, number, 0, 0, 0)


def several(disk: SimDisk, number: int) -> None:
    start = min(number, OF_QUEUE - 5)
    for at, damage in enumerate((point_nowhere, be_zeros, be_too_long, point_behind_the_log, be_zeros)):
        damage(disk, start + at)


def a_page_of_zeros(disk: SimDisk, number: int) -> None:
    write(disk, queue_path("T1"), 4096 if number else 0, bytes(6000 - 4096 if number else 4096))


def a_stretch_of_zeros(disk: SimDisk, number: int) -> None:
    """Where the search for the end of the units does not come by."""
    write(disk, queue_path("T1"), 70 * 20, bytes(50 * 20))


def a_page_of_another_queue(disk: SimDisk, number: int) -> None:
    start, end = (4096, 6000) if number else (0, 4096)
    write(disk, queue_path("T1"), start, disk.contents[queue_path("T2")].buffer[start:end])


DAMAGES = [
    point_nowhere, point_to_a_record_of_the_same_number, point_to_another_of_the_queue, point_behind_the_log,
    point_before_the_log, be_too_long, be_too_short, have_a_negative_size, have_no_tags_code, be_zeros,
    several, a_page_of_zeros, a_stretch_of_zeros, a_page_of_another_queue,
]  # fmt: skip


COLD = SETTINGS | {"access_message_in_memory_max_ratio": 0}
"""Memory holds nothing, as the store thinks."""


def read_lazily(store: MessageStore, topic: str) -> list[MessageRecord]:
    """All messages of a queue, as a consumer's pulls get them."""
    found: list[MessageRecord] = []
    offset, pulls = store.min_offset(topic, 0), 0
    while offset < store.max_offset(topic, 0):
        pulls += 1
        assert pulls < 2000, f"no way past {offset}"
        result = store.get(topic, 0, offset, 32, lazily=True)
        if result.unread is not None:
            errors: list[Any] = []
            store.fetch(result, errors.append)
            if errors != [None]:
                result = store.get(topic, 0, offset, 32)
        found += records(result)
        offset = result.next_begin_offset
    return found


@pytest.mark.parametrize("settings", [SETTINGS, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("number", [0, 150, OF_QUEUE - 1])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_gets_all_messages_in_order(damage: Damage, number: int, settings: dict[str, Any]) -> None:
    disk = SimDisk()
    sent = filled(disk, COUNT, **SETTINGS)
    before = disk.contents[queue_path("T1")].data()
    damage(disk, number)
    store = open_store(disk, "/s", **settings)
    assert [r.body for r in read_lazily(store, "T1")] == [body for topic, body in sent if topic == "T1"]
    serves(store, sent)
    put(store, "T1", body=b"more")
    sent.append(("T1", b"more"))
    store.close()
    if damage is not have_no_tags_code:  # which nobody looks at who wants all
        assert disk.contents[queue_path("T1")].data()[: OF_QUEUE * 20] == before[: OF_QUEUE * 20]
    store = open_store(disk.crash(0), "/s", **settings)
    serves(store, sent)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_with_a_filter_gets_all_messages_that_it_wants(damage: Damage) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", **SETTINGS)
    for number in range(COUNT):
        put(store, f"T{number % 3}", body=b"%d" % number, tags="AB"[number // 3 % 2])
    store.close()
    damage(disk, 151)
    store = open_store(disk, "/s", **SETTINGS)
    found: list[MessageRecord] = []
    offset = 0
    while offset < OF_QUEUE:
        result = store.get("T1", 0, offset, 32, frozenset((tags_code("B"),)))
        assert result.next_begin_offset > offset
        found += records(result)
        offset = result.next_begin_offset
    assert [r.queue_offset for r in found if r.queue_offset % 2] == list(range(1, OF_QUEUE, 2))


def test_a_reader_that_begins_amid_damaged_units_gets_what_follows() -> None:
    disk = SimDisk()
    filled(disk, COUNT, **SETTINGS)
    a_stretch_of_zeros(disk, 0)
    store = open_store(disk, "/s", **SETTINGS)
    assert [r.queue_offset for r in records(store.get("T1", 0, 100, 32))] == list(range(100, 132))
    assert len(read_queue(store, "T1", 0)) == OF_QUEUE


@pytest.mark.parametrize("position", [28, 88], ids=["own place", "body"])
@pytest.mark.parametrize("settings", [SETTINGS, COLD], ids=["warm", "cold"])
def test_a_unit_without_a_sound_record_in_the_log_is_passed_over(
    caplog: pytest.LogCaptureFixture, position: int, settings: dict[str, Any]
) -> None:
    disk = SimDisk()
    sent = filled(disk, COUNT, **SETTINGS)
    lost = unit_of(disk, 50)[0]
    write(disk, FIRST_LOG, lost + position, b"\xff")
    store = open_store(disk, "/s", **settings)
    with caplog.at_level(logging.WARNING):
        found = read_lazily(store, "T1")
    of_queue = [body for topic, body in sent if topic == "T1"]
    assert [r.body for r in found] == of_queue[:50] + of_queue[51:]
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "T1/0" in caplog.text
    store.close()
    assert unit_of(disk, 50) == unit_of(disk, 49)
    store = open_store(disk.crash(0), "/s", **settings)
    assert [r.body for r in read_queue(store, "T1", 0)] == [r.body for r in found]


def test_one_line_tells_of_what_was_mended(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    filled(disk, COUNT, **SETTINGS)
    several(disk, 150)
    store = open_store(disk, "/s", **SETTINGS)
    with caplog.at_level(logging.WARNING):
        read_queue(store, "T1", 0)
        read_queue(store, "T1", 0)
    assert [r.getMessage() for r in caplog.records] == [
        "queue T1/0: 5 damaged units are mended by the commit log, of messages 150 to 154"
    ]


def test_records_of_a_former_topic_of_the_same_name_do_not_come_back() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", **SETTINGS)
    for number in range(50):
        put(store, "T1", body=b"old %d" % number)
    store.delete_topic("T1")
    for number in range(OF_QUEUE):
        put(store, "T1", body=b"new %d" % number)
    store.close()
    lost = unit_of(disk, 0)[0]
    write(disk, FIRST_LOG, lost + 28, b"\xff")
    be_zeros(disk, 1)
    store = open_store(disk, "/s", **SETTINGS)
    assert [r.body for r in read_queue(store, "T1", 0)] == [b"new %d" % n for n in range(1, OF_QUEUE)]


@pytest.mark.parametrize(
    ("former", "has_units"),
    [(1, True), (3, True), (3, False), (50, True), (50, False), (OF_QUEUE + 5, True)],
)
@pytest.mark.parametrize("damaged", [[0], [0, 1], [0, 2]], ids=str)
def test_damaged_first_messages_of_a_topic_made_again_are_not_those_of_the_former_one(
    damaged: list[int], former: int, has_units: bool
) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", **SETTINGS)
    for number in range(former):
        put(store, "T1", body=b"old %d" % number)
    store.delete_topic("T1")
    for number in range(OF_QUEUE):
        put(store, "T1", body=b"new %d" % number)
        put(store, "T2", body=b"other")
    store.close()
    for number in damaged:
        write(disk, FIRST_LOG, unit_of(disk, number)[0] + 28, b"\xff")
        if not has_units:
            be_zeros(disk, number)
    for _ in range(2):
        store = open_store(disk, "/s", **SETTINGS)
        left = [b"new %d" % n for n in range(OF_QUEUE) if n not in damaged]
        assert [r.body for r in read_queue(store, "T1", 0)] == left
        store.close()


def test_the_first_unit_that_the_log_still_holds_is_mended_too() -> None:
    disk = SimDisk()
    sent = filled(disk, COUNT, **SETTINGS)
    disk.remove_file(FIRST_LOG)
    first = next(n for n in range(OF_QUEUE) if unit_of(disk, n)[0] >= 65536)
    be_zeros(disk, first)
    be_zeros(disk, first + 1)
    store = open_store(disk, "/s", **SETTINGS)
    of_queue = [body for topic, body in sent if topic == "T1"]
    assert [r.body for r in read_queue(store, "T1", 0)] == of_queue[first:]


# -- while it goes on


def waiting_store(disk: SimDisk, damage: Damage, number: int = 150) -> MessageStore:
    """A store with a damaged unit, and a disk whose threads do nothing yet."""
    filled(disk, COUNT, **SETTINGS)
    damage(disk, number)
    store = open_store(disk, "/s", **SETTINGS)
    disk.hold_jobs = True
    return store


def test_the_reader_gets_what_stands_before_then_waits_and_is_woken() -> None:
    disk = SimDisk()
    store = waiting_store(disk, point_nowhere)
    heard: list[tuple[str, int, int, int]] = []
    store.on_dispatch.append(lambda *what: heard.append(what))
    before = store.get("T1", 0, 140, 32)
    assert [r.queue_offset for r in records(before)] == list(range(140, 150))
    assert before.next_begin_offset == 150
    assert len(disk.jobs) == 1
    waits = store.get("T1", 0, 150, 32)
    assert (waits.status, waits.next_begin_offset) == (GetStatus.OFFSET_FOUND_NULL, 150)
    assert len(disk.jobs) == 1, "one search is enough"
    assert heard == []
    disk.run_jobs()
    assert heard[0] == ("T1", 0, 150, 0)
    assert [r.queue_offset for r in records(store.get("T1", 0, 150, 4))] == [150, 151, 152, 153]


def test_a_long_search_is_done_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymq.store.unit_search._SLICE", 2000)
    monkeypatch.setattr("pymq.store.scan._CHUNK", 1000)
    disk = SimDisk()
    store = waiting_store(disk, a_page_of_another_queue, 0)
    jobs: list[Job] = []
    while store.get("T1", 0, 100, 1).status is GetStatus.OFFSET_FOUND_NULL:
        [(job, done)] = disk.jobs
        disk.jobs.clear()
        jobs.append(job)
        job()
        done(None)
    assert len(jobs) > 5
    assert len(read_queue(store, "T1", 0)) == OF_QUEUE


def test_a_queue_that_is_deleted_meanwhile_stays_deleted() -> None:
    disk = SimDisk()
    store = waiting_store(disk, be_zeros)
    assert store.get("T1", 0, 150, 1).status is GetStatus.OFFSET_FOUND_NULL
    store.delete_topic("T1")
    put(store, "T1", body=b"new")
    disk.run_jobs()
    assert [r.body for r in read_queue(store, "T1", 0)] == [b"new"]


def test_a_store_that_is_closed_meanwhile_is_closed_cleanly() -> None:
    disk = SimDisk()
    store = waiting_store(disk, be_zeros)
    assert store.get("T1", 0, 150, 1).status is GetStatus.OFFSET_FOUND_NULL
    store.close()
    disk.hold_jobs = False
    store = open_store(disk, "/s", **SETTINGS)
    assert len(read_queue(store, "T1", 0)) == OF_QUEUE


def test_a_log_that_cannot_be_read_is_told_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = SimDisk()
    store = waiting_store(disk, be_zeros)
    for _ in range(3):
        assert store.get("T1", 0, 150, 1).status is GetStatus.OFFSET_FOUND_NULL
        [(_, done)] = disk.jobs
        disk.jobs.clear()
        done(StoreBroken("the disk cannot read"))
    assert [r.levelname for r in caplog.records if "cannot read" in r.getMessage()] == ["ERROR"]
    disk.hold_jobs = False
    assert len(read_queue(store, "T1", 0)) == OF_QUEUE
    assert put(store, "T1").queue_offset == OF_QUEUE


async def test_a_real_disk_is_searched_beside_the_loop(tmp_path: Path) -> None:
    disk, root = SystemDisk(), str(tmp_path / "s")
    store = open_store(disk, root, **SETTINGS)
    for number in range(COUNT):
        put(store, f"T{number % 3}", body=b"%d" % number)
    store.close()
    with (tmp_path / "s/consumequeue/T1/0" / f"{0:020d}").open("r+b") as file:
        file.seek(70 * 20)
        file.write(bytes(50 * 20))
    disk.start(asyncio.get_running_loop().call_soon_threadsafe)
    try:
        store = open_store(disk, root, **COLD)
        can_go_on = asyncio.Event()
        store.on_dispatch.append(lambda *_: can_go_on.set())
        assert store.get("T1", 0, 70, 32, lazily=True).status is GetStatus.OFFSET_FOUND_NULL
        assert not can_go_on.is_set()
        put(store, "T2", body=b"meanwhile")
        can_go_on.clear()
        async with asyncio.timeout(60):
            await can_go_on.wait()
        assert [r.body for r in read_queue(store, "T1", 0)] == [b"%d" % n for n in range(1, COUNT, 3)]
        store.close()
    finally:
        disk.stop()
    store = open_store(SystemDisk(), root, **SETTINGS)
    assert len(read_queue(store, "T1", 0)) == OF_QUEUE
    store.close()
