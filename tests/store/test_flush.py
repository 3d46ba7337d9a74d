"""When the store flushes, and who is told."""

from __future__ import annotations

import struct

import pytest

from pymq.errors import StoreBroken
from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk


def wait(store: MessageStore, clock: SimClock, ms: int) -> None:
    """Let time pass as the owner does: a tick whenever the store asked for one."""
    until = clock.monotonic() + ms / 1000
    while True:
        pause = store.tick()
        if clock.monotonic() + pause > until:
            clock.advance(round((until - clock.monotonic()) * 1000))
            return
        clock.advance(max(1, round(pause * 1000)))


def times(disk: SimDisk) -> tuple[int, ...]:
    """The first two longs of the checkpoint."""
    return struct.unpack_from(">qq", disk.read_bytes("/s/checkpoint") or bytes(16))


def test_four_dirty_pages_go_to_the_disk_within_half_a_second_and_less_within_ten() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    put(store, body=bytes(4 * 4096))
    wait(store, clock, 501)
    assert store.remaining_to_flush == 0
    put(store)
    wait(store, clock, 1000)
    assert store.remaining_to_flush > 0
    wait(store, clock, 9500)
    assert store.remaining_to_flush == 0


def test_the_checkpoint_moves_when_queues_and_log_are_flushed() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    stored_at = put(store).store_timestamp
    wait(store, clock, 30_000)
    assert times(disk) == (0, 0)
    wait(store, clock, 31_000)
    assert times(disk) == (stored_at, stored_at)
    store.close()
    content = disk.contents["/s/checkpoint"]
    assert (content.size, times(disk)) == (4096, (stored_at, stored_at))


def test_puts_during_a_flush_share_the_next_one() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    disk.hold_jobs = True
    told: list[tuple[int, bool]] = []
    for i in range(5):
        result = put(store, body=bytes(10))
        store.flushed.reached(result.end_offset, lambda ok, i=i: told.append((i, ok)), 5000)  # type: ignore[misc]
        store.flush_now()
    assert len(disk.jobs) == 1
    disk.run_jobs()
    assert told == [(0, True)]
    assert len(disk.jobs) == 1, "one flush for the four others"
    disk.run_jobs()
    assert told == [(i, True) for i in range(5)]
    assert disk.jobs == []


def test_a_flush_that_takes_too_long_is_told_in_time() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    disk.hold_jobs = True
    told: list[bool] = []
    store.flushed.reached(put(store).end_offset, told.append, 5000)
    store.flush_now()
    wait(store, clock, 4990)
    assert told == []
    wait(store, clock, 20)
    assert told == [False]


def test_a_flush_spans_files_and_full_files_are_let_go() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    for _ in range(5):
        put(store, body=bytes(60000))
    store.flush_now()
    assert store.remaining_to_flush == 0
    logs = [content for path, content in disk.contents.items() if "/commitlog/" in path]
    assert all(content.durable == content.buffer[:] for content in logs)
    assert len([path for path in disk.held if "/commitlog/" in path]) == 1


@pytest.mark.parametrize("is_flush_under_way", [False, True])
def test_a_stop_brings_all_queues_to_the_disk_at_once(is_flush_under_way: bool) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    disk.hold_jobs = True
    for i in range(200):
        put(store, f"T{i}")
    if is_flush_under_way:
        clock.advance(61_000)
        store.tick()
        assert len(disk.jobs) > 1
    disk.synced_at_once.clear()
    syncs_before = disk.syncs
    store.close()
    assert disk.synced_at_once == [200]
    assert disk.syncs - syncs_before <= 202, "what waited is not done twice"
    queues = [content for path, content in disk.contents.items() if "/consumequeue/" in path]
    assert all(content.durable == content.buffer[:] for content in queues)
    assert not disk.exists("/s/abort")


def test_an_error_that_a_flush_meets_while_the_store_stops_is_no_clean_end() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    put(store)
    disk.hold_jobs = True
    store.flush_now()
    job, _ = disk.jobs.pop()
    disk.failing["sync"] = StoreBroken
    with pytest.raises(StoreBroken):
        job()  # what it tells the owner comes too late
    disk.failing.clear()
    store.close()
    assert disk.exists("/s/abort")
