"""Opening a store whose queues, checkpoint or file lengths are damaged: built again, mended or refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from pymq.errors import StoreCorrupt
from pymq.store.consumequeue import CQ_STORE_UNIT
from tests.store.damage import FIRST_LOG, filled, flip, killed, queue_path, serves, write
from tests.store.making import open_store, put, read_queue
from tests.store.sim_disk import SimDisk

# -- the queues


def lose_folder(disk: SimDisk) -> None:
    disk.remove_folder("/s/consumequeue/T1")


def lose_all(disk: SimDisk) -> None:
    disk.remove_folder("/s/consumequeue")


def lose_last_file(disk: SimDisk) -> None:
    disk.remove_file(max(path for path in disk.contents if "consumequeue/T1" in path))


def lose_first_file(disk: SimDisk) -> None:
    disk.remove_file(queue_path("T1"))


def cut_last_file(disk: SimDisk) -> None:
    disk.resize_file(max(path for path in disk.contents if "consumequeue/T1" in path), 27)


def cut_first_file(disk: SimDisk) -> None:
    disk.resize_file(queue_path("T1"), 200)


def lengthen_a_file(disk: SimDisk) -> None:
    disk.resize_file(queue_path("T1"), 1000)


def make_a_hole(disk: SimDisk) -> None:
    write(disk, queue_path("T1"), 100, bytes(60))


def empty_a_file(disk: SimDisk) -> None:
    write(disk, queue_path("T1"), 0, bytes(400))


def point_elsewhere(disk: SimDisk) -> None:
    unit = disk.contents[queue_path("T1")].buffer[200:220]
    write(disk, queue_path("T1"), 80, unit)
    write(disk, queue_path("T1"), 120, CQ_STORE_UNIT.pack(1, 77, 3))


def point_behind_the_log(disk: SimDisk) -> None:
    write(disk, queue_path("T1"), 60, CQ_STORE_UNIT.pack(1 << 40, 250, 0))


def add_units_of_nothing(disk: SimDisk) -> None:
    path = max(path for path in disk.contents if "consumequeue/T1" in path)
    end = len(disk.contents[path].data().rstrip(b"\0")) // 20 * 20 + 20
    write(disk, path, end, CQ_STORE_UNIT.pack(1 << 40, 250, 0) + CQ_STORE_UNIT.pack(40, 250, 0))


QUEUE_DAMAGES = [
    lose_folder, lose_all, lose_last_file, lose_first_file, cut_last_file, cut_first_file, lengthen_a_file,
    make_a_hole, empty_a_file, point_elsewhere, point_behind_the_log, add_units_of_nothing,
]  # fmt: skip


@pytest.mark.parametrize("is_clean", [True, False])
@pytest.mark.parametrize("damage", QUEUE_DAMAGES)
def test_damaged_queues_are_built_again_beside_a_fresh_checkpoint(
    damage: Callable[[SimDisk], None], is_clean: bool
) -> None:
    disk = SimDisk()
    sent = filled(disk, 130, commit_log_segment_bytes=4096)
    damage(disk)
    disk = disk.kill() if is_clean else killed(disk)
    for _ in range(2):
        store = open_store(disk, "/s", commit_log_segment_bytes=4096)
        serves(store, sent)
        assert put(store, "T1", body=b"more").queue_offset == sum(topic == "T1" for topic, _ in sent)
        sent.append(("T1", b"more"))
        store.close()


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_deleted_topic_does_not_come_back(is_clean: bool) -> None:
    disk = SimDisk()
    sent = filled(disk, 30)
    store = open_store(disk, "/s")
    put(store, "T0", body=b"not flushed")
    assert store.delete_topic("T0") == 1
    if is_clean:
        store.close()
    store = open_store(disk.kill(), "/s")
    assert store.max_offset("T0", 0) == 0
    serves(store, [(topic, body) for topic, body in sent if topic != "T0"])


def test_an_end_in_the_middle_of_a_rebuilding_is_made_good_at_the_next_start() -> None:
    disk = SimDisk()
    sent = filled(disk, 130)
    lose_folder(disk)
    steps = itertools.count()

    class End(BaseException):
        pass

    def before(action: str, path: str) -> None:
        if next(steps) == 40:
            raise End

    disk.before = before
    with pytest.raises(End):
        open_store(disk, "/s")
    assert next(steps) > 40
    disk.before = None
    for seed in range(5):
        store = open_store(disk.crash(seed), "/s")
        serves(store, sent)


# -- the checkpoint


@pytest.mark.parametrize("is_clean", [True, False])
@pytest.mark.parametrize("damage", ["gone", "short", "mark", "times", "zeros"])
def test_without_a_sound_checkpoint_everything_is_read(is_clean: bool, damage: str) -> None:
    disk = SimDisk()
    sent = filled(disk, 130, commit_log_segment_bytes=4096)
    lose_folder(disk)
    path = "/s/checkpoint"
    if damage == "gone":
        disk.remove_file(path)
    elif damage == "short":
        disk.resize_file(path, 20)
    elif damage == "mark":
        flip(disk, path, 300)
    elif damage == "times":
        flip(disk, path, 0, 7)
    else:
        write(disk, path, 0, bytes(4096))
    store = open_store(disk.kill() if is_clean else killed(disk), "/s", commit_log_segment_bytes=4096)
    serves(store, sent)


# -- files of a wrong length


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_log_whose_last_file_was_cut_is_lengthened_and_ends_with_its_last_whole_record(
    is_clean: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    sent = [put(store, body=b"%d" % i * 100) for i in range(10)]
    store.close()
    disk.resize_file(FIRST_LOG, sent[6].physical_offset + 50)
    store = open_store(disk if is_clean else killed(disk), "/s")
    assert store.commit_log_max_offset == sent[5].end_offset
    assert len(read_queue(store, "T", 0)) == 6
    assert disk.file_size(FIRST_LOG) == 65536
    assert any(FIRST_LOG in r.message and "lengthened" in r.message for r in caplog.records)
    assert any(r.levelname == "ERROR" and str(sent[-1].end_offset) in r.message for r in caplog.records)


def test_a_file_that_only_a_human_can_mend_is_refused_with_its_name_and_what_to_do() -> None:
    disk = SimDisk()
    filled(disk, 100, commit_log_segment_bytes=4096)
    second = f"/s/commitlog/{4096:020d}"
    disk.resize_file(second, 4000)
    with pytest.raises(StoreCorrupt, match=rf"{second} has 4000 bytes.* put back"):
        open_store(disk, "/s", commit_log_segment_bytes=4096)
    disk.remove_file(second)
    with pytest.raises(StoreCorrupt, match="is missing: put it back"):
        open_store(disk, "/s", commit_log_segment_bytes=4096)


def test_another_configured_size_is_refused_with_the_size_that_the_store_has() -> None:
    disk = SimDisk()
    sent = filled(disk, 10)
    with pytest.raises(StoreCorrupt, match=r"mappedFileSizeCommitLog=65536, set it to that"):
        open_store(disk, "/s", commit_log_segment_bytes=131072)
    with pytest.raises(StoreCorrupt, match=r"mappedFileSizeConsumeQueue=400, set it to that"):
        open_store(disk, "/s", consume_queue_segment_bytes=4000)
    serves(open_store(disk, "/s"), sent)


# -- numbers that were damaged in the log


def rebuilt(disk: SimDisk) -> SimDisk:
    """Without queues and checkpoint."""
    disk.remove_folder("/s/consumequeue")
    disk.remove_file("/s/checkpoint")
    return disk


@pytest.mark.parametrize("wrong", [0, 3, 8, 9, 100, 1 << 40, (1 << 63) - 1])
def test_a_record_with_a_damaged_number_costs_the_queue_no_more_than_itself_and_its_neighbour(
    wrong: int,
) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    sent = [put(store, body=b"%d" % i) for i in range(20)]
    store.close()
    write(disk, FIRST_LOG, sent[7].physical_offset + 20, wrong.to_bytes(8, "big"))
    for number in range(2):
        store = open_store(disk if number else rebuilt(disk), "/s")
        found = {r.queue_offset: r.body for r in read_queue(store, "T", 0)}
        assert store.max_offset("T", 0) == 20 + number
        assert {n for n in range(20) if found.get(n) == b"%d" % n} >= set(range(20)) - {7, 8, wrong}
        assert put(store).queue_offset == 20 + number
        store.close()


def test_a_topic_that_was_deleted_and_made_again_is_built_as_it_was_last() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    for i in range(50):
        put(store, body=b"old %d" % i)
    store.delete_topic("T")
    new = [b"new %d" % i for i in range(5)]
    for body in new:
        put(store, body=body)
    store.close()
    store = open_store(rebuilt(disk), "/s")
    assert [r.body for r in read_queue(store, "T", 0)] == new


@pytest.mark.parametrize(("old", "new"), [(5, 5), (2, 5), (5, 4), (20, 30)])
@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_message_of_a_topic_made_again_costs_no_other(damaged: int, old: int, new: int) -> None:
    """Nothing of the former topic comes back either."""
    disk = SimDisk()
    store = open_store(disk, "/s")
    for number in range(old):
        put(store, body=b"old %d" % number)
    store.delete_topic("T")
    sent = [put(store, body=b"new %d" % number) for number in range(new)]
    put(store, "other")
    store.close()
    flip(disk, FIRST_LOG, sent[damaged].physical_offset + 88)
    disk.remove_folder("/s/consumequeue")
    for number in range(2):
        store = open_store(disk, "/s")
        expected = [b"new %d" % n for n in range(new) if n != damaged] + [b"more"] * number
        assert [r.body for r in read_queue(store, "T", 0)] == expected
        assert put(store, body=b"more").queue_offset == new + number
        store.close()
