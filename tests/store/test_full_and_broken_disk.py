"""A full disk refuses and passes; a broken one refuses until a restart (design.md §4)."""

from __future__ import annotations

import pytest

from pymq.errors import StoreBroken, StoreError, StoreFull
from pymq.protocol.message import RECORD_FIXED_SIZE
from tests.sim import SimClock
from tests.store.making import BORN_HOST, open_store, put, read_queue
from tests.store.sim_disk import SimDisk, SimFile


@pytest.mark.parametrize("capacity", range(0, 400_000, 37 * 4096))
@pytest.mark.parametrize(("hold_jobs", "queue_file"), [(False, 400), (True, 400), (True, 40_000)])
def test_a_full_disk_refuses_puts_loses_nothing_and_passes(
    capacity: int, hold_jobs: bool, queue_file: int
) -> None:
    disk, clock = SimDisk(capacity), SimClock()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=queue_file)
    disk.hold_jobs = hold_jobs
    stored = 0
    refused = 0
    for i in range(2000 if queue_file == 400 else 5000):
        try:
            put(store, "T", i % 5, b"%d" % i * (100 if queue_file == 400 else 1))
            stored += 1
        except StoreFull:
            refused += 1
            clock.advance(50)
        if i % 50 == 0:
            disk.assert_all_written_was_reserved()
        if i % 97 == 0:
            disk.run_jobs()
    assert refused
    disk.assert_all_written_was_reserved()
    assert sum(len(read_queue(store, *key)) for key in store.queues()) == stored
    disk.capacity = 10_000_000
    clock.advance(1000)
    put(store, "T", 0, b"room again")
    store.close()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=queue_file)
    assert read_queue(store, "T", 0)[-1].body == b"room again"
    assert sum(len(read_queue(store, *key)) for key in store.queues()) == stored + 1


def test_the_blank_record_at_the_end_of_a_file_has_its_room_too() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", reserve_ahead_bytes=1)
    page_end = 15 * 4096
    put(store, body=bytes(page_end - 4 - RECORD_FIXED_SIZE - 1))
    put(store, body=bytes(5000))
    assert store.commit_log_max_offset > 65536
    disk.assert_all_written_was_reserved()


def test_a_refused_put_leaves_neither_record_nor_unit() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    put(store)
    end = store.commit_log_max_offset
    disk.capacity = 0
    with pytest.raises(StoreFull):
        put(store, "T", 0, bytes(40000))
    with pytest.raises(StoreFull):
        put(store, "NewQueue")
    assert (store.commit_log_max_offset, store.max_offset("T", 0), store.max_offset("NewQueue", 0)) == (
        end,
        1,
        0,
    )
    assert store.is_writable, "full passes"


def test_a_full_disk_is_not_asked_again_for_each_put() -> None:
    disk, clock = SimDisk(0), SimClock()
    store = open_store(disk, "/s", clock)
    with pytest.raises(StoreFull):
        put(store)
    disk.capacity = 1 << 20
    with pytest.raises(StoreFull):
        put(store)
    clock.advance(100)
    put(store)


@pytest.mark.parametrize("action", ["sync", "reserve", "create"])
def test_a_broken_disk_refuses_until_a_restart_and_recovers_then(action: str) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    kept = put(store, body=b"kept")
    told: list[bool] = []
    store.flushed.on_change.append(lambda: told.append(store.flushed.failure is not None))
    disk.failing[action] = StoreBroken
    if action == "sync":
        store.flush_now()
    else:
        with pytest.raises(StoreBroken):
            store.put("T", 1, bytes(60000), "", born_host=BORN_HOST)
    disk.failing.clear()
    assert told == [True], "who waits for the disk is told at once"
    assert store.flushed.position < kept.end_offset
    assert not store.is_writable
    for _ in range(2):
        with pytest.raises(StoreBroken):
            put(store)
    assert [r.body for r in read_queue(store, "T", 0)] == [b"kept"], "reading goes on"
    store.close()
    assert disk.exists("/s/abort"), "not a clean end"
    store = open_store(disk, "/s", clock)
    put(store, body=b"more")
    assert [r.body for r in read_queue(store, "T", 0)] == [b"kept", b"more"]


@pytest.mark.parametrize("step", ["hold", "map"])
def test_a_broken_disk_is_broken_whichever_step_of_a_put_meets_it(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store, body=bytes(60_000))

    def broken(*_: object, **__: object) -> None:
        raise StoreBroken(f"cannot {step}")

    with monkeypatch.context() as breaking:
        breaking.setattr(SimFile, step, broken)
        with pytest.raises(StoreBroken):
            put(store, body=bytes(60_000))
    assert not store.is_writable
    with pytest.raises(StoreBroken, match=f"cannot {step}"):
        put(store)


def test_an_error_of_a_background_reservation_is_an_error_of_the_store() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    disk.hold_jobs = True
    while not disk.jobs:
        put(store, body=bytes(100))
    disk.failing["reserve"] = StoreBroken
    disk.run_jobs()
    with pytest.raises(StoreBroken):
        put(store)


def test_a_disk_judged_full_refuses_puts_until_it_is_judged_otherwise() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    put(store, body=b"before")
    store.refuse_while_full("9 of 10 used")
    assert not store.is_writable
    with pytest.raises(StoreFull, match="9 of 10 used"):
        put(store)
    assert [r.body for r in read_queue(store, "T", 0)] == [b"before"], "reading goes on"
    store.refuse_while_full("")
    put(store, body=b"after")
    store.refuse_while_full("9 of 10 used")
    store.close()
    assert not disk.exists("/s/abort"), "a full disk hinders no clean end"
    store.refuse_while_full("")
    with pytest.raises(StoreError, match="closed"):
        put(store)


def test_a_disk_that_is_full_and_broken_stays_broken_when_it_has_room_again() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store)
    store.refuse_while_full("full")
    disk.failing["sync"] = StoreBroken
    store.flush_now()
    store.refuse_while_full("")
    with pytest.raises(StoreBroken):
        put(store)
