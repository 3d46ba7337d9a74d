"""Damage in the commit log: it costs the damaged messages; what must be cut off is told, and a copy kept."""

from __future__ import annotations

import logging

import pytest

from pymq.disk import Done, Job
from pymq.store.checkpoint import Checkpoint
from pymq.store.commitlog import CommitLog
from pymq.store.messagestore import MessageStore
from pymq.store.reservation import Reservation
from pymq.store.results import PutResult
from tests.sim import SimClock
from tests.store.damage import FIRST_LOG, flip, write
from tests.store.making import open_store, put, read_queue, small_config
from tests.store.sim_disk import SimDisk


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def put_many(store: MessageStore, count: int) -> list[PutResult]:
    return [put(store, f"T{i % 3}", body=b"%d " % i * 150) for i in range(count)]


def pass_seconds(store: MessageStore, clock: SimClock, seconds: int) -> None:
    for _ in range(2 * seconds):
        clock.advance(500)
        store.tick()


def lost_files(disk: SimDisk) -> dict[str, bytes]:
    """What was kept of the log, by the files' names."""
    names = disk.list_folder("/s/lost")
    return {name: disk.contents[f"/s/lost/{name}"].data() for name in names}


# -- damage before what is known to be on the disk


def flushed_and_killed(count: int) -> tuple[SimDisk, SimClock, list[PutResult]]:
    """The log is flushed, the process killed long before the checkpoint's first mark."""
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    sent = put_many(store, count)
    pass_seconds(store, clock, 12)
    assert store.remaining_to_flush == 0
    assert Checkpoint("/s/checkpoint", disk).mark is None
    return disk.kill(), clock, sent


@pytest.mark.parametrize("damaged", [3, 0, 58])
def test_a_bit_costs_one_message_though_no_mark_was_written_since(
    damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    disk, clock, sent = flushed_and_killed(60)
    flip(disk, FIRST_LOG, sent[damaged].physical_offset + 100)
    for _ in range(2):
        store = open_store(disk, "/s", clock)
        found = {(r.topic, r.queue_offset) for q in range(3) for r in read_queue(store, f"T{q}", 0)}
        assert found == {(f"T{i % 3}", i // 3) for i in range(60) if i != damaged}
        assert store.commit_log_max_offset == sent[-1].end_offset
        disk = disk.kill()
    assert len(errors(caplog)) == 1, "told once"
    assert not lost_files(disk)


def test_the_log_ends_behind_its_damaged_last_message_loudly(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock, sent = flushed_and_killed(10)
    flip(disk, FIRST_LOG, sent[-1].physical_offset + 100)
    store = open_store(disk, "/s", clock)
    assert store.commit_log_max_offset == sent[-1].physical_offset
    assert f"before what was on the disk: up to {sent[-1].end_offset}" in errors(caplog)[0]
    disk = disk.kill()
    caplog.clear()
    assert open_store(disk, "/s", clock).commit_log_max_offset == sent[-1].physical_offset
    assert not errors(caplog), "from now on less is known to be there"


def test_how_far_the_log_is_flushed_is_written_once_a_second_and_not_synced() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    steps: list[str] = []
    disk.before = lambda action, path: steps.append(action) if path == "/s/checkpoint" else None
    reaches = set()
    for _ in range(50):
        put(store, body=bytes(1000))
        store.flush_now()
        clock.advance(100)
        store.tick()
        checkpoint = Checkpoint("/s/checkpoint", disk)
        checkpoint.load()
        assert checkpoint.reach <= store.flushed.position
        reaches.add(checkpoint.reach)
    assert len(reaches) in (5, 6)
    assert not steps


def test_apache_writing_the_checkpoint_ends_what_it_said_of_the_log() -> None:
    disk, _, sent = flushed_and_killed(60)
    checkpoint = Checkpoint("/s/checkpoint", disk)
    checkpoint.load()
    assert checkpoint.reach == sent[-1].end_offset
    write(disk, "/s/checkpoint", 0, (12345).to_bytes(8, "big"))
    checkpoint.load()
    assert (checkpoint.reach, checkpoint.is_damaged) == (0, False)


# -- what is cut off


def test_whole_messages_behind_the_end_are_kept_in_a_file(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, commit_log_segment_bytes=16384)
    sent = put_many(store, 60)
    disk = disk.kill()
    flip(disk, FIRST_LOG, sent[3].physical_offset + 100)
    paths = sorted(path for path in disk.contents if "/commitlog/" in path)
    log_before = b"".join(disk.contents[path].data() for path in paths)
    store = open_store(disk, "/s", clock, commit_log_segment_bytes=16384)
    start = sent[3].physical_offset
    assert store.commit_log_max_offset == start
    [(name, kept)] = lost_files(disk).items()
    assert name == f"{start:020d}-{clock.now_ms()}"
    assert kept == log_before[start : sent[-1].end_offset]
    [line] = errors(caplog)
    for part in (f" {start} ", f" {sent[4].physical_offset} ", f"/s/lost/{name}"):
        assert part in line
    disk.assert_all_written_was_reserved()


def test_messages_in_a_later_file_are_kept_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pymq.store.recovery._SEARCH_MAX", 1000)
    disk = SimDisk()
    sent = put_many(open_store(disk, "/s", commit_log_segment_bytes=16384), 60)
    disk = disk.kill()
    write(disk, FIRST_LOG, sent[3].physical_offset, bytes(16384 - sent[3].physical_offset))
    open_store(disk, "/s", commit_log_segment_bytes=16384)
    [kept] = lost_files(disk).values()
    assert len(kept) == sent[-1].end_offset - sent[3].physical_offset
    assert "from 16384 on" in errors(caplog)[0]


@pytest.mark.parametrize("torn", [True, False])
def test_of_a_torn_end_nothing_is_said_or_kept(torn: bool, caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    sent = put_many(open_store(disk, "/s"), 10)
    disk = disk.kill()
    if torn:
        write(disk, FIRST_LOG, sent[-1].physical_offset + 200, bytes(50))
    open_store(disk, "/s")
    assert not errors(caplog)
    assert not disk.exists("/s/lost")


def test_a_copy_takes_half_of_the_free_room_at_most(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    sent = put_many(open_store(disk, "/s", commit_log_segment_bytes=4 << 20), 8000)
    disk = disk.kill()
    disk.capacity -= disk.free - (2 << 20)
    flip(disk, FIRST_LOG, sent[3].physical_offset + 100)
    store = open_store(disk, "/s", commit_log_segment_bytes=4 << 20)
    assert store.commit_log_max_offset == sent[3].physical_offset
    [kept] = lost_files(disk).values()
    assert len(kept) <= 1 << 20
    assert "for want of room" in errors(caplog)[0]


def test_a_log_whose_files_are_gone_is_no_new_one(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock, _ = flushed_and_killed(60)
    for path in [path for path in disk.contents if "/commitlog/" in path]:
        disk.remove_file(path)
    store = open_store(disk, "/s", clock)
    assert "the queues knew of 60 messages" in errors(caplog)[0]
    assert put(store, "T0").queue_offset == 0


# -- what is gone rightly


@pytest.mark.parametrize("is_marked_late", [True, False])
def test_a_queue_goes_on_behind_its_last_message_though_that_has_expired(is_marked_late: bool) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, commit_log_segment_bytes=4096)
    for _ in range(5):
        put(store, "once")
    if is_marked_late:
        pass_seconds(store, clock, 70)
    put_many(store, 60)
    pass_seconds(store, clock, 12)
    disk = disk.kill()
    for base in (0, 4096):  # as retention does
        disk.remove_file(f"/s/commitlog/{base:020d}")
    for _ in range(2):
        store = open_store(disk, "/s", clock, commit_log_segment_bytes=4096)
        assert (store.min_offset("once", 0), store.max_offset("once", 0)) == (5, 5)
        assert store.max_offset("T0", 0) == 20
        disk = disk.kill()
    assert put(store, "once").queue_offset == 5


class SlowlyReserving(SimDisk):
    """The thread that reserves room does not get to it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Job] = []

    def reserve_soon(self, job: Job, done: Done) -> None:
        self.waiting.append(job)


def test_a_file_made_ahead_too_late_does_not_come_back_after_its_deletion() -> None:
    """As a gap between it and the files that are left it would stop the next start."""
    disk = SlowlyReserving()
    config = small_config("/s", commit_log_segment_bytes=4096)
    disk.make_folder(config.commit_log_folder)
    commit_log = CommitLog(config, disk, Reservation(disk, SimClock(), lambda error: None))
    for _ in range(12):
        commit_log.make_room(2000)
        commit_log.position += 2000
    while commit_log.removable(commit_log.end) is not None:
        for path in commit_log.forget_oldest():
            disk.remove_file(path)
    for job in disk.waiting:
        job()
    bases = [int(name) for name in disk.list_folder(config.commit_log_folder)]
    assert bases == list(range(bases[0], bases[-1] + 1, 4096))


# -- names that a killed process had not brought to the disk


def test_after_a_kill_the_names_of_queue_files_are_synced_before_a_mark_counts_on_them() -> None:
    disk = SimDisk()
    put(open_store(disk, "/s"))
    disk = disk.kill()
    steps: list[tuple[str, str]] = []
    disk.before = lambda action, path: steps.append((action, path))
    open_store(disk, "/s")
    mark = steps.index(("write", "/s/checkpoint"))
    for folder in ("/s/consumequeue", "/s/consumequeue/T", "/s/consumequeue/T/0"):
        assert ("sync folder", folder) in steps[:mark]
