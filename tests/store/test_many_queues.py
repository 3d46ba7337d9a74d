"""What many queues cost: bounded mappings, and no work that grows with queues that have no part in it."""

from __future__ import annotations

import os.path
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import pymq
from pymq.disk import MappedFile
from pymq.errors import StoreBroken, StoreError
from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.making import open_store, put, read_queue
from tests.store.sim_disk import SimDisk, SimFile

QUEUES = 4
FEW, MANY = 20, 80
"""Topics."""
RATIO = MANY // FEW * 1.25
"""What is allowed to work on all queues; quadratic work would be sixteen times as much."""
_OURS = os.path.dirname(pymq.__file__)


def filled(disk: SimDisk, topics: int, clock: SimClock | None = None, **settings: int) -> MessageStore:
    """A store with a message in each queue."""
    store = open_store(disk, "/s", clock, commit_log_segment_bytes=1 << 20, **settings)
    for number in range(topics):
        for queue_id in range(QUEUES):
            put(store, f"t{number}", queue_id, b"first %d" % number)
    return store


def settled(store: MessageStore, clock: SimClock) -> None:
    """All of it is flushed, and the checkpoint says so."""
    clock.advance(60_000)
    store.tick()


def work(action: Callable[[], object]) -> int:
    """How many lines of pymq's own code an action runs through: a clock that never differs."""
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        if event == "call" and not frame.f_code.co_filename.startswith(_OURS):
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


ONE_QUEUE: dict[str, Callable[[MessageStore], object]] = {
    "put": lambda store: put(store, "t7", 1),
    "first put of a topic": lambda store: put(store, "new"),
    "get": lambda store: store.get("t7", 1, 0, 32),
    "tick with nothing to flush": lambda store: store.tick(),
    "delete a topic": lambda store: store.delete_topic("t7"),
    "min offset": lambda store: store.min_offset("t7", 1),
    "offset by time": lambda store: store.offset_by_time("t7", 1, 0),
}

ALL_QUEUES: dict[str, Callable[[MessageStore], object]] = {
    "put to each": lambda store: [put(store, topic, number) for topic, number in list(store.queues())],
    "flush": lambda store: [put(store, topic, number) for topic, number in store.queues()] and store.tick(),
    "close": lambda store: store.close(),
    "delete each topic": lambda store: [store.delete_topic(name) for name in {t for t, _ in store.queues()}],
}


def _work_at(topics: int, action: Callable[[MessageStore], object], *, warm_up: bool) -> int:
    clock = SimClock()
    store = filled(SimDisk(), topics, clock, mapped_consume_queue_segments=16)
    settled(store, clock)
    if warm_up:  # what is made at the first use only
        action(store)
        settled(store, clock)
        put(store, "t7", 1)
    settled(store, clock)
    return work(lambda: action(store))


@pytest.mark.parametrize("what", ONE_QUEUE)
def test_what_is_done_to_one_queue_takes_no_longer_beside_more_others(what: str) -> None:
    few, many = (_work_at(topics, ONE_QUEUE[what], warm_up=True) for topics in (FEW, MANY))
    assert many <= 1.1 * few + 10, f"{few} steps, {many} beside four times as many queues"


@pytest.mark.parametrize("what", ALL_QUEUES)
def test_what_is_done_to_all_queues_takes_only_so_much_longer_as_there_are_more(what: str) -> None:
    few, many = (_work_at(topics, ALL_QUEUES[what], warm_up=False) for topics in (FEW, MANY))
    assert many <= RATIO * few, f"{few} steps, {many} with four times as many queues"


@pytest.mark.parametrize("is_clean", [True, False])
def test_opening_takes_only_so_much_longer_as_there_are_more_queues(is_clean: bool) -> None:
    steps = []
    for topics in (FEW, MANY):
        disk = SimDisk()
        store = filled(disk, topics)
        if is_clean:
            store.close()
        disk = disk.kill()
        steps.append(work(lambda disk=disk: open_store(disk, "/s", commit_log_segment_bytes=1 << 20)))  # type: ignore[misc]
    assert steps[1] <= RATIO * steps[0], steps


class CountingFile(SimFile):
    """Counts its reads past the mapping."""

    reads = 0

    def read(self, offset: int, size: int) -> bytes:
        CountingFile.reads += "/consumequeue/" in self.path
        return super().read(offset, size)


class CountingDisk(SimDisk):
    """A disk of such files."""

    def file(self, path: str, size: int) -> MappedFile:
        return CountingFile(self, path, size)


@pytest.mark.parametrize("is_clean", [True, False])
def test_opening_reads_a_short_queue_once_and_maps_none(is_clean: bool) -> None:
    disk = CountingDisk()
    store = filled(disk, FEW, consume_queue_segment_bytes=6000)
    for number in range(FEW * 3):
        put(store, f"t{number % FEW}", number % QUEUES)
    store.close()
    if not is_clean:
        disk.write_bytes("/s/abort", b"")
    CountingFile.reads = 0
    store = open_store(disk, "/s", commit_log_segment_bytes=1 << 20, consume_queue_segment_bytes=6000)
    assert CountingFile.reads == FEW * QUEUES
    assert not [path for path in disk.mapped if "/consumequeue/" in path]
    put(store, "t3", 3, b"new")  # what was read is not believed for ever
    assert [record.body for record in read_queue(store, "t3", 3)][-1] == b"new"
    store.close()


def test_what_opening_has_read_of_a_queue_is_forgotten_where_it_is_mended() -> None:
    disk = SimDisk()
    store = filled(disk, FEW, consume_queue_segment_bytes=6000)
    store.close()
    queue = disk.contents["/s/consumequeue/t7/2/" + "0" * 20]
    before = queue.data()
    queue.buffer[:20] = (1 << 40).to_bytes(8, "big") + bytes(12)
    store = open_store(disk, "/s", commit_log_segment_bytes=1 << 20, consume_queue_segment_bytes=6000)
    assert queue.data() == before
    assert [record.body for record in read_queue(store, "t7", 2)] == [b"first 7"]
    store.close()


def test_mappings_and_open_files_are_bounded_and_every_queue_is_served() -> None:
    disk = SimDisk()
    store = filled(disk, 50, mapped_consume_queue_segments=8)
    for _ in range(3):
        for topic, queue_id in store.queues():
            put(store, topic, queue_id, b"more")
            assert len([path for path in disk.mapped if "consumequeue" in path]) <= 8
            assert disk.writers <= 1
    disk.assert_all_written_was_reserved()
    for number in range(50):
        for queue_id in range(QUEUES):
            bodies = [record.body for record in read_queue(store, f"t{number}", queue_id)]
            assert bodies == [b"first %d" % number, *[b"more"] * 3]
    store.close()
    assert disk.writers == 0
    assert not disk.mapped


def test_queues_that_are_used_again_and_again_take_the_place_of_those_that_are_not() -> None:
    disk = SimDisk()
    store = filled(disk, 50, mapped_consume_queue_segments=8)
    hot = [f"/s/consumequeue/t{number}/0/{0:020d}" for number in range(40, 48)]
    assert not disk.mapped.issuperset(hot)
    for _ in range(4):
        for number in range(40, 48):
            put(store, f"t{number}", 0)
    assert disk.mapped.issuperset(hot)


def test_a_queue_that_is_not_mapped_goes_on_in_its_next_file() -> None:
    disk = SimDisk()
    store = filled(disk, 10, mapped_consume_queue_segments=2)
    for round_ in range(45):  # twenty units fill a file
        for number in range(10):
            put(store, f"t{number}", 0, b"%d" % round_)
    for number in range(10):
        assert [r.body for r in read_queue(store, f"t{number}", 0)][1:] == [b"%d" % n for n in range(45)]
    disk.assert_all_written_was_reserved()
    store = open_store(disk.kill(), "/s", commit_log_segment_bytes=1 << 20)
    assert store.max_offset("t9", 0) == 46


def test_a_unit_that_cannot_be_written_ends_the_storing() -> None:
    disk = SimDisk()
    store = filled(disk, 10, mapped_consume_queue_segments=2)
    disk.failing["pwrite"] = StoreBroken
    with pytest.raises(StoreBroken):
        put(store, "t3")
    disk.failing.clear()
    for _ in range(2):
        with pytest.raises(StoreBroken):  # its number is taken: the log has that message
            put(store, "t3")
    store = open_store(disk.kill(), "/s", commit_log_segment_bytes=1 << 20)
    assert store.max_offset("t3", 0) == 2, "the record was there, recovery gave it its unit"
    assert put(store, "t3").queue_offset == 2


def test_a_deletion_is_told_of_when_no_crash_can_undo_it_and_holds_up_nobody() -> None:
    disk = SimDisk()
    store = filled(disk, 10)
    disk.hold_jobs = True
    told: list[StoreError | None] = []
    syncs = disk.syncs
    store.delete_topic("t3", told.append)
    store.delete_topic("t4", told.append)
    assert (disk.syncs, told) == (syncs, []), "nothing waits for the disk"
    put(store, "t5")
    while len(told) < 2:
        assert disk.jobs
        disk.run_jobs()
    assert told == [None, None]
    for seed in range(5):
        left = open_store(disk.crash(seed), "/s", commit_log_segment_bytes=1 << 20)
        assert {topic for topic, _ in left.queues()} == {f"t{n}" for n in range(10) if n not in (3, 4)}
        left.close()


def test_who_waits_for_a_deletion_is_told_when_the_store_closes_or_breaks() -> None:
    told: list[StoreError | None] = []
    disk = SimDisk()
    store = filled(disk, 3)
    disk.hold_jobs = True
    store.delete_topic("t1", told.append)
    store.delete_topic("unknown", told.append)
    assert told == [None]
    store.close()
    assert told == [None, None]
    disk = SimDisk()
    store = filled(disk, 3)
    disk.failing["sync"] = StoreBroken
    store.delete_topic("t1", told.append)
    assert isinstance(told[2], StoreBroken)
