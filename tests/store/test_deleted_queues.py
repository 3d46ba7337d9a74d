"""Deleting queues: the owner only moves their folder away, a thread deletes the files, no crash undoes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pymq.errors import MessageIllegal, StoreBroken, StoreError, StoreFull
from pymq.store.deleted_queues import DELETED
from pymq.store.messagestore import MessageStore
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.making import open_store, put, read_queue
from tests.store.sim_disk import SimDisk

QUEUES = "/s/consumequeue"
FIRST_LOG = f"/s/commitlog/{0:020d}"


def below(disk: SimDisk, path: str) -> list[str]:
    """The files that there are in a folder."""
    return sorted(name for name in disk.contents if name.startswith(path + "/"))


def expired(disk: SimDisk, topic: str = "T") -> MessageStore:
    """A store whose log holds no message of three queues of `topic`, of two files each, any more."""
    store = open_store(disk, "/s")
    for number in range(75):
        put(store, topic, number % 3)
    while store.commit_log_max_offset < 70_000:
        put(store, "other", body=bytes(1000))
    store.close()
    disk.remove_file(FIRST_LOG)
    return open_store(disk, "/s")


def steps_of(disk: SimDisk, action: Callable[[], object]) -> list[str]:
    """What the owner does to the disk meanwhile, while its threads do nothing."""
    steps: list[str] = []
    disk.hold_jobs = True
    disk.before = lambda step, _: steps.append(step)
    action()
    disk.before = None
    return steps


@pytest.mark.parametrize("queues", [1, 40])
def test_the_owner_only_renames_a_folder_however_many_queues_are_deleted(queues: int) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    for number in range(50 * queues):
        put(store, "T", number % queues)
    syncs = disk.syncs
    assert steps_of(disk, lambda: store.delete_topic("T")) == ["make folder", "rename"]
    assert disk.syncs == syncs
    assert not below(disk, f"{QUEUES}/T")
    assert len(below(disk, QUEUES)) >= queues
    while disk.jobs:
        disk.run_jobs()
    assert not below(disk, QUEUES)


def test_the_owner_only_renames_the_folder_of_an_expired_queue() -> None:
    disk = SimDisk()
    store = expired(disk)
    assert steps_of(disk, lambda: store.delete_expired_queue("T", 1)) == ["make folder", "rename"]
    assert steps_of(disk, lambda: store.delete_expired_queue("T", 2)) == ["rename"]
    assert {path.split("/")[-2] for path in below(disk, f"{QUEUES}/T")} == {"0"}
    while disk.jobs:
        disk.run_jobs()
    assert not below(disk, f"{QUEUES}/{DELETED}")
    for seed in range(20):
        left = open_store(disk.crash(seed), "/s")
        assert [number for topic, number in left.queues() if topic == "T"] == [0]
        left.close()


def test_a_topic_made_again_before_the_files_are_deleted_keeps_its_own() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    for round_ in range(3):
        for number in range(50):
            put(store, body=b"%d" % (100 * round_ + number))
        disk.hold_jobs = True
        if round_ < 2:
            store.delete_topic("T")
    while disk.jobs:
        disk.run_jobs()
    bodies = [b"%d" % number for number in range(200, 250)]
    assert [r.body for r in read_queue(store, "T", 0)] == bodies
    assert len(below(disk, QUEUES)) == 3
    for seed in range(20):
        left = open_store(disk.crash(seed), "/s")
        assert [r.body for r in read_queue(left, "T", 0)][:50] == bodies[: left.max_offset("T", 0)]
        left.close()
    store.close()
    assert [r.body for r in read_queue(open_store(disk, "/s"), "T", 0)] == bodies


@pytest.mark.parametrize("end", ["kill", "power cut"])
def test_a_crash_before_the_files_are_deleted_brings_no_queue_back_and_leaves_no_file(end: str) -> None:
    for seed in range(20):
        disk = SimDisk()
        store = open_store(disk, "/s")
        for number in range(60):
            put(store, f"t{number % 4}", number % 3)
        disk.hold_jobs = True
        told: list[StoreError | None] = []
        store.delete_topic("t1", told.append)
        store.delete_topic("t2", told.append)
        while len(told) < 2:
            jobs, disk.jobs = disk.jobs, []
            for job, done in jobs:  # what deletes files hangs
                if "DeletedQueues" in getattr(job, "__qualname__", ""):
                    disk.jobs.append((job, done))
                else:
                    job()
                    done(None)
        assert len(disk.jobs) == 2
        disk = disk.kill() if end == "kill" else disk.crash(seed)
        store = open_store(disk, "/s")
        assert {topic for topic, _ in store.queues()} == {"t0", "t3"}
        assert not below(disk, f"{QUEUES}/{DELETED}")
        put(store, "t1", body=b"new")
        store.delete_topic("t0")
        assert [r.body for r in read_queue(store, "t1", 0)] == [b"new"]


def test_what_a_crash_left_is_deleted_beside_what_is_deleted_meanwhile() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    for topic in ("a", "b", "c"):
        put(store, topic)
    disk.hold_jobs = True
    store.delete_topic("a")
    store.delete_topic("b")
    disk = disk.kill()
    disk.hold_jobs = True
    store = open_store(disk, "/s")
    store.delete_topic("c")
    assert len(below(disk, f"{QUEUES}/{DELETED}")) == 3
    while disk.jobs:
        disk.run_jobs()
    assert not below(disk, f"{QUEUES}/{DELETED}")


def test_a_disk_without_room_for_another_name_lets_a_topic_be_deleted() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store)
    disk.failing["rename"] = StoreFull
    assert store.delete_topic("T") == 1
    assert not below(disk, QUEUES)
    assert put(store).queue_offset == 0


def test_closing_leaves_nothing_of_what_was_deleted(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store)
    put(store, "stays")
    disk.hold_jobs = True
    store.delete_topic("T")
    store.close()
    assert disk.list_folder(QUEUES) == ["stays"]
    assert not caplog.records


def test_a_failure_of_the_disk_while_files_are_deleted_ends_the_storing() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store)
    disk.hold_jobs = True
    store.delete_topic("T")
    disk.failing["remove folder"] = StoreBroken
    disk.run_jobs()
    with pytest.raises(StoreBroken):
        put(store)


def test_no_topic_is_called_as_the_folder_of_the_deleted_ones() -> None:
    with pytest.raises(MessageIllegal):
        put(open_store(SimDisk(), "/s"), DELETED)


def test_who_waits_for_a_deletion_is_told_though_a_later_flush_of_all_overtakes_its_own() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    put(store)
    put(store, "other")
    disk.hold_jobs = True
    store.flush_now()
    [log_flush] = disk.jobs
    told: list[StoreError | None] = []
    store.delete_topic("T", told.append)
    for _ in range(3):  # the queues are flushed and flushed again, the log is not
        disk.jobs.remove(log_flush)
        disk.run_jobs()
        disk.jobs.append(log_flush)
        put(store, "other")
        clock.advance(60_000)
        store.tick()
    assert not told
    while disk.jobs:
        disk.run_jobs()
    assert told == [None]


def test_on_a_real_disk(tmp_path: Path) -> None:
    disk, root = SystemDisk(), str(tmp_path / "s")
    disk.start(lambda told: None)
    store = open_store(disk, root)
    for round_ in range(3):
        for number in range(100):
            put(store, queue_id=number % 5, body=b"%d" % round_)
        if round_ < 2:
            assert store.delete_topic("T") == 5
    assert [r.body for r in read_queue(store, "T", 4)] == [b"2"] * 20
    disk.drain()
    assert not list((tmp_path / "s/consumequeue" / DELETED).iterdir())
    assert len(list((tmp_path / "s/consumequeue/T").iterdir())) == 5
    store.close()
    disk.stop()
    assert [path.name for path in (tmp_path / "s/consumequeue").iterdir()] == ["T"]
    disk = SystemDisk()
    folder = disk.hold_folder(str(tmp_path / "s/consumequeue/T/0"))
    disk.rename_folder(str(tmp_path / "s/consumequeue/T"), str(tmp_path / "s/consumequeue/U"))
    folder.remove(f"{0:020d}")
    folder.remove("missing")
    folder.sync()
    folder.release()
    assert not list((tmp_path / "s/consumequeue/U/0").iterdir())
    disk.sync_folder(str(tmp_path / "s/consumequeue/T"))
