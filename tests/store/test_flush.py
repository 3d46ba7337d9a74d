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
    reached: list[int] = []
    store.flushed.on_change.append(lambda: reached.append(store.flushed.position))
    ends = []
    for _ in range(5):
        ends.append(put(store, body=bytes(10)).end_offset)
        store.flush_now()
    assert len(disk.jobs) == 1
    disk.run_jobs()
    assert reached == ends[:1]
    assert len(disk.jobs) == 1, "one flush for the four others"
    disk.run_jobs()
    assert reached == [ends[0], ends[4]]
    assert disk.jobs == []


def test_the_next_flush_is_under_way_before_those_who_waited_are_told() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    disk.hold_jobs = True
    under_way: list[int] = []
    store.flushed.on_change.append(lambda: under_way.append(len(disk.jobs)))
    for _ in range(2):
        put(store)
        store.flush_now()
    disk.run_jobs()
    assert under_way == [1], "the disk works while answers are written"


def test_dirty_pages_are_counted_as_pages_and_the_end_of_a_file_counts_for_all() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, flush_commit_log_least_pages=2)
    put(store, body=bytes(4000))
    wait(store, clock, 1000)
    assert store.remaining_to_flush > 0, "not even one page has been filled"
    put(store, body=bytes(4096))
    wait(store, clock, 501)
    assert store.remaining_to_flush == 0
    put(store, body=bytes(50_000))
    wait(store, clock, 501)
    assert store.remaining_to_flush == 0
    put(store, body=bytes(10_000))  # in the next file, of which it fills less than the blank left behind
    assert store.commit_log_max_offset > 65536
    wait(store, clock, 501)
    assert store.remaining_to_flush == 0


def test_without_least_pages_all_is_flushed_each_interval_and_nothing_costs_nothing() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, flush_commit_log_least_pages=0, flush_interval_commit_log=100)
    put(store)
    wait(store, clock, 101)
    assert store.remaining_to_flush == 0
    syncs = disk.syncs
    wait(store, clock, 900)
    assert disk.syncs == syncs


def test_with_sync_flush_each_interval_flushes_what_nobody_waits_for() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, sync_flush=True)
    put(store)
    wait(store, clock, 501)
    assert store.remaining_to_flush == 0


def test_an_untimed_flush_comes_as_soon_as_enough_is_dirty() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, flush_commit_log_timed=False)
    put(store, body=bytes(4 * 4096 - 200))
    assert store.remaining_to_flush > 0, "less than flushCommitLogLeastPages"
    put(store, body=bytes(200))
    assert store.remaining_to_flush == 0
    disk.hold_jobs = True
    for _ in range(3):
        put(store, body=bytes(4 * 4096))
    assert len([job for job in disk.jobs if "_log_flushed" in repr(job[1])]) == 1
    timed = open_store(SimDisk(), "/s", clock)
    put(timed, body=bytes(8 * 4096))
    assert timed.remaining_to_flush > 0


def test_queues_are_flushed_each_second_with_two_pages_and_all_of_them_each_minute() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=40_000)
    for _ in range(410):
        put(store, "busy", body=b"")
    put(store, "calm")

    def durable(topic: str) -> bool:
        content = disk.contents[f"/s/consumequeue/{topic}/0/{0:020d}"]
        return content.durable[20:24] != bytes(4) or content.durable[8:12] != bytes(4)

    wait(store, clock, 1001)
    assert (durable("busy"), durable("calm")) == (True, False)
    wait(store, clock, 60_000)
    assert durable("calm")


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
