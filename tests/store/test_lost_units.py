"""Messages that the log lost: their units are copies of a neighbour's, which readers pass over."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pymq.protocol.message import MessageRecord
from pymq.protocol.tag_filter import tags_code
from pymq.store.checkpoint import Checkpoint
from pymq.store.consumequeue import BLANK_UNIT_SIZE, CQ_STORE_UNIT
from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.damage import FIRST_LOG, flip, queue_path, write
from tests.store.making import open_store, put, read_queue, records
from tests.store.sim_disk import SimDisk

PER_FILE = 100
SETTINGS: dict[str, Any] = {"consume_queue_segment_bytes": 20 * PER_FILE}
COLD = SETTINGS | {"access_message_in_memory_max_ratio": 0}
"""Memory holds nothing, as the store thinks."""

Unit = tuple[int, int, int]


@pytest.fixture(autouse=True)
def no_start_looks_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery reads no more than a little before the trusted offset, as with a log of many GiB."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)


def all_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole log is in the window that each start looks at."""
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 4 << 20)


def stored(count: int, *, per_message: int = 1, **settings: int) -> tuple[SimDisk, list[int]]:
    """A closed store of numbered messages with alternating tags; the physical offsets of queue T/0."""
    disk, offsets = SimDisk(), []
    store = open_store(disk, "/s", **(SETTINGS | settings))
    for number in range(count):
        offsets.append(put(store, body=b"%d" % number, tags="ab"[number % 2]).physical_offset)
        for _ in range(per_message - 1):
            put(store, "U", body=b"other")
    put(store, "U", body=b"the log's end, which any start looks at")
    store.close()
    return disk, offsets


def unit_of(disk: SimDisk, number: int) -> Unit:
    base = number // PER_FILE * PER_FILE
    data = disk.contents[queue_path(base=20 * base)].buffer
    return CQ_STORE_UNIT.unpack_from(data, (number - base) * 20)


def set_unit(disk: SimDisk, number: int, *unit: int) -> None:
    base = number // PER_FILE * PER_FILE
    write(disk, queue_path(base=20 * base), (number - base) * 20, CQ_STORE_UNIT.pack(*unit))


def forget_places(disk: SimDisk, *offsets: int) -> None:
    """These records do not know any more where they stand: who reads them does not believe them."""
    for offset in offsets:
        flip(disk, FIRST_LOG, offset + 28, 7)


def mistake_mark(disk: SimDisk) -> None:
    """As if Apache had written the checkpoint since: it knows no mark."""
    checkpoint = Checkpoint("/s/checkpoint", disk)
    checkpoint.load()
    checkpoint.mark = None
    checkpoint.write_job()()


def served(store: MessageStore, **how: Any) -> list[int]:
    return [record.queue_offset for record in read(store, **how)]


def read(
    store: MessageStore, offset: int = 0, max_num: int = 32, tags: str = "", lazily: bool = False
) -> list[MessageRecord]:
    """What a consumer gets from an offset on; each pull gets it on."""
    codes = frozenset((tags_code(tags),)) if tags else None
    found: list[MessageRecord] = []
    while offset < store.max_offset("T", 0):
        result = store.get("T", 0, offset, max_num, codes, lazily=lazily)
        if result.unread is not None:
            errors: list[Any] = []
            store.fetch(result, errors.append)
            assert errors == [None]
        assert result.next_begin_offset > offset
        found += records(result)
        offset = result.next_begin_offset
    return found


def neighbours(count: int, lost: set[int]) -> list[int]:
    """Whose unit each number has."""
    owners = []
    for number in range(count):
        before = [n for n in range(number, -1, -1) if n not in lost]
        behind = [n for n in range(number, count) if n not in lost]
        owners.append((before or behind)[0])
    return owners


LOST = [{5}, {0}, {0, 1, 2}, {19}, {17, 18, 19}, {5, 6, 7, 9, 11}, {0, 2, 18, 19}, set(range(1, 20))]


@pytest.mark.parametrize("settings", [SETTINGS, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("lost", LOST, ids=str)
def test_a_reader_makes_copies_once_and_passes_over_them_from_then_on(
    lost: set[int], settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    forget_places(disk, *(offsets[number] for number in lost))
    left = [number for number in range(20) if number not in lost]
    store = open_store(disk, "/s", **settings)
    assert served(store, lazily=True) == left
    assert "the commit log has no messages for" in caplog.text
    assert [unit_of(disk, number) for number in range(20)] == [before[n] for n in neighbours(20, lost)]
    caplog.clear()
    disk.hold_jobs = True
    for offset in range(20):
        expected = [number for number in left if number >= offset]
        assert served(store, offset=offset) == expected
        assert served(store, offset=offset, max_num=1) == expected
        assert served(store, offset=offset, tags="b") == [number for number in expected if number % 2]
    assert not disk.jobs, "nothing is searched again"
    disk.hold_jobs = False
    assert put(store).queue_offset == 20
    store.close()
    store = open_store(disk.crash(0), "/s", **settings)
    assert served(store, lazily=True) == [*left, 20]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_recovery_makes_copies(lost: set[int], caplog: pytest.LogCaptureFixture) -> None:
    """Where the mark says that the log was on the disk, a start passes damaged bytes."""
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    for number in lost:
        flip(disk, FIRST_LOG, offsets[number] + 88)
    with pytest.MonkeyPatch.context() as patch:
        all_is_looked_at(patch)
        open_store(disk, "/s", **SETTINGS).close()
    assert [unit_of(disk, number) for number in range(20)] == [before[n] for n in neighbours(20, lost)]
    caplog.clear()
    left = [number for number in range(20) if number not in lost]
    for is_lost_mark in (False, True, False):
        if is_lost_mark:
            mistake_mark(disk)
        store = open_store(disk, "/s", **SETTINGS)
        assert served(store) == left
        assert store.max_offset("T", 0) == 20, "no number is given twice"
        store.close()
        assert [unit_of(disk, number) for number in range(20)] == [before[n] for n in neighbours(20, lost)]
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


def test_a_queue_that_is_built_again_has_copies() -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    lost = {0, 1, 7, 8, 19}
    for number in lost:
        flip(disk, FIRST_LOG, offsets[number] + 88)
    open_store(disk, "/s", **SETTINGS).close()
    disk.remove_folder("/s/consumequeue/T")
    store = open_store(disk, "/s", **SETTINGS)
    assert [unit_of(disk, number) for number in range(19)] == [before[n] for n in neighbours(19, lost)]
    assert served(store) == [number for number in range(20) if number not in lost]
    assert store.max_offset("T", 0) == 19, "of the last one nobody knows"


@pytest.mark.parametrize("max_num", [1, 32])
def test_a_reader_may_begin_anywhere_in_a_long_stretch_of_lost_messages(max_num: int) -> None:
    count = 4 * PER_FILE
    disk, offsets = stored(count)
    lost = range(50, count - 50)
    forget_places(disk, *(offsets[number] for number in lost))
    store = open_store(disk, "/s", **SETTINGS)
    left = [*range(50), *range(count - 50, count)]
    assert served(store) == left
    for offset in (49, 50, 51, PER_FILE - 1, PER_FILE, 2 * PER_FILE + 13, count - 51, count - 50):
        found = served(store, offset=offset, max_num=max_num)
        assert found == [number for number in left if number >= offset]


def test_a_message_that_others_copied_is_lost_later_too(caplog: pytest.LogCaptureFixture) -> None:
    disk, offsets = stored(20)
    forget_places(disk, offsets[5], offsets[6])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    forget_places(disk, offsets[4])
    store = open_store(disk, "/s", **SETTINGS)
    caplog.clear()
    for offset in (6, 0):
        assert served(store, offset=offset) == [n for n in range(offset, 20) if n not in (4, 5, 6)]
    assert [unit_of(disk, number) for number in (4, 5, 6)] == [unit_of(disk, 3)] * 3
    assert len([record for record in caplog.records if record.levelno > logging.INFO]) == 1


@pytest.mark.parametrize("number", range(3, 9))
def test_a_damaged_unit_amid_copies_is_mended(number: int) -> None:
    disk, offsets = stored(20)
    forget_places(disk, offsets[4], offsets[5], offsets[6])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    before = [unit_of(disk, n) for n in range(20)]
    left = [n for n in range(20) if n not in (4, 5, 6)]
    for garbage in ((1, 77, 3), (0, 0, 0), (before[number][0], 77, 3), before[12]):
        for offset in (0, 5, number):
            set_unit(disk, number, *garbage)
            store = open_store(disk, "/s", **SETTINGS)
            assert served(store, offset=offset) == [n for n in left if n >= offset]
            store.close()
            assert served(open_store(disk.kill(), "/s", **SETTINGS)) == left
            assert [unit_of(disk, n) for n in range(20)] == before


@pytest.mark.parametrize("number", range(3, 9))
def test_a_start_mends_a_damaged_unit_amid_copies_in_its_window(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, offsets = stored(20)
    all_is_looked_at(monkeypatch)
    for lost in (4, 5, 6):
        flip(disk, FIRST_LOG, offsets[lost] + 88)
    open_store(disk, "/s", **SETTINGS).close()
    before = [unit_of(disk, n) for n in range(20)]
    caplog.clear()
    for garbage in ((1, 77, 3), (before[number][0], 77, 3), before[12]):
        set_unit(disk, number, *garbage)
        open_store(disk, "/s", **SETTINGS).close()
        assert [unit_of(disk, n) for n in range(20)] == before
    told = [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING]
    assert [line for line in told if "calls itself number 12" not in line] == []


@pytest.mark.parametrize(("lost", "number"), [(range(10, 50), 30), (range(40), 20)])
def test_of_a_stretch_longer_than_a_search_looks_at_only_the_damaged_unit_is_mended(
    lost: range, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, offsets = stored(60)
    forget_places(disk, *(offsets[n] for n in lost))
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    before = [unit_of(disk, n) for n in range(60)]
    set_unit(disk, number, 1, 77, 3)
    monkeypatch.setattr("pymq.store.unit_search._NEIGHBOURS", 4)
    caplog.clear()
    store = open_store(disk, "/s", **SETTINGS)
    assert served(store, offset=number) == list(range(lost.stop, 60))
    assert f"has no messages for 1 damaged units, of {number} to {number}" in caplog.text
    assert [unit_of(disk, n) for n in range(60)] == before


@pytest.mark.parametrize("lost", [range(3, 15), range(15)], ids=str)
def test_copies_of_this_life_are_passed_over_too(lost: range, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory holds the newest, whose units would be believed."""
    disk = SimDisk()
    monkeypatch.setattr(disk, "memory_bytes", lambda: 1000)
    store = open_store(disk, "/s", access_message_in_memory_max_ratio=100, **SETTINGS)
    offsets = [put(store, body=b"%02d" % number).physical_offset for number in range(20)]
    forget_places(disk, *(offsets[number] for number in lost))
    left = [number for number in range(20) if number not in lost]
    assert store.commit_log_max_offset - offsets[14] < 1000 < store.commit_log_max_offset - offsets[3]
    assert served(store) == left
    for offset in range(20):
        assert served(store, offset=offset) == [number for number in left if number >= offset]


def test_a_damaged_unit_of_a_message_that_is_there_is_mended_beside_leading_copies() -> None:
    disk, offsets = stored(20)
    forget_places(disk, offsets[0], offsets[1], offsets[4])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    before = [unit_of(disk, n) for n in range(20)]
    assert before[0] == before[1] == before[2]
    for number in (0, 1, 2, 3):
        set_unit(disk, number, 1 << 40, 100, 0)
        store = open_store(disk, "/s", **SETTINGS)
        assert served(store) == [2, 3, *range(5, 20)]
        store.close()
        assert [unit_of(disk, n) for n in range(20)] == before


@pytest.mark.parametrize("again", [0, 1, 2, 4, 5, 6])
def test_a_lost_message_that_can_be_read_after_all_has_its_unit_again(
    again: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, n) for n in range(20)]
    lost = {0, 1, 2, 4, 5, 6}
    forget_places(disk, *(offsets[number] for number in lost))
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    forget_places(disk, offsets[again])  # once more: that was the bit
    all_is_looked_at(monkeypatch)
    lost.remove(again)
    caplog.clear()
    for _ in range(2):
        store = open_store(disk, "/s", **SETTINGS)
        assert served(store) == [number for number in range(20) if number not in lost]
        store.close()
        for number in range(20):
            owner = before.index(unit_of(disk, number))
            assert owner == number or number in lost, "one that is there has its own"
            assert not set(range(min(owner, number) + 1, max(owner, number))) - lost, (
                "a lost one its neighbour's"
            )
            assert owner not in lost
    told = [record.getMessage() for record in caplog.records if record.levelno > logging.WARNING]
    assert all("bytes at" in line for line in told), "of the others, which the walk comes by"


def test_copies_leave_with_the_log_file_that_has_their_message() -> None:
    disk, offsets = stored(60, commit_log_segment_bytes=4096)
    edge = next(number for number in range(60) if offsets[number] >= 4096)
    path = f"/s/commitlog/{4096:020d}"
    for number in (edge, edge + 1):
        flip(disk, path, offsets[number] - 4096 + 28, 7)
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    assert served(store) == [number for number in range(60) if number not in (edge, edge + 1)]
    store.close()
    assert unit_of(disk, edge + 1) == unit_of(disk, edge - 1)
    disk.remove_file(FIRST_LOG)
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    assert store.min_offset("T", 0) == edge + 2
    assert served(store, offset=edge + 2) == list(range(edge + 2, 60))


def test_what_was_lost_before_the_log_begins_lies_below_the_minimum_as_with_apache() -> None:
    disk, offsets = stored(60, commit_log_segment_bytes=4096)
    disk.remove_file(FIRST_LOG)
    disk.remove_folder("/s/consumequeue/T")
    edge = next(number for number in range(60) if offsets[number] >= 4096)
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    assert (store.min_offset("T", 0), store.max_offset("T", 0)) == (edge, 60)
    assert [unit_of(disk, number) for number in (0, edge - 1)] == [(0, BLANK_UNIT_SIZE, 0)] * 2


# -- the books that recovery keeps without a mark


def test_copies_do_not_make_up_for_a_unit_that_is_missing() -> None:
    """Records are equally long: a copy in the second file, of a message lost in the first, counts nothing."""
    disk = SimDisk()
    settings: dict[str, Any] = SETTINGS | {"commit_log_segment_bytes": 4096}
    store = open_store(disk, "/s", **settings)
    of_u = [put(store, "U", body=b"%03d" % number).physical_offset for number in range(40)]
    lost = put(store, "T", body=b"%03d" % 0)
    assert lost.end_offset < 4096
    while of_u[-1] < 4096 + 500:
        of_u.append(put(store, "U", body=b"%03d" % len(of_u)).physical_offset)
    for number in range(1, 20):
        put(store, "T", body=b"%03d" % number)
    store.close()
    flip(disk, FIRST_LOG, lost.physical_offset + 28, 7)
    store = open_store(disk, "/s", **settings)
    assert served(store) == list(range(1, 20))
    store.close()
    assert unit_of(disk, 0) == unit_of(disk, 1)
    disk.remove_file(FIRST_LOG)
    write(disk, queue_path("U"), 20 * (len(of_u) - 1), bytes(20))
    mistake_mark(disk)
    store = open_store(disk, "/s", **settings)
    assert store.max_offset("U", 0) == len(of_u)
    assert read_queue(store, "U", 0)[-1].physical_offset == of_u[-1]


def test_a_record_with_the_number_of_a_lost_message_does_not_take_its_place() -> None:
    disk, offsets = stored(20)
    flip(disk, FIRST_LOG, offsets[7] + 88)
    write(disk, FIRST_LOG, offsets[9] + 20, (7).to_bytes(8, "big"))
    for folder in ("/s/consumequeue/T", "/s/consumequeue/U"):
        disk.remove_folder(folder)
    store = open_store(disk, "/s", **SETTINGS)
    assert served(store) == [number for number in range(20) if number not in (7, 9)]


def test_a_queue_that_ends_in_copies_is_believed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, offsets = stored(20)
    forget_places(disk, *offsets[18:])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    mistake_mark(disk)
    caplog.clear()
    monkeypatch.setattr("pymq.store.recovery.Recovery._first_gap", lambda *_: None)
    store = open_store(disk, "/s", **SETTINGS)
    assert served(store) == list(range(18))
    assert store.max_offset("T", 0) == 20
    assert "unit of no message" not in caplog.text
    assert not [record for record in caplog.records if "build all" in record.getMessage()]


def test_copies_go_with_the_torn_message_that_they_repeat() -> None:
    disk, offsets = stored(20)
    unit = unit_of(disk, 17)
    for number in (18, 19):
        set_unit(disk, number, *unit)
    end = offsets[17] + 40
    write(disk, FIRST_LOG, end, bytes(65536 - end))
    write(disk, "/s/checkpoint", 0, bytes(4096))
    disk.write_bytes("/s/abort", b"")
    store = open_store(disk.kill(), "/s", **SETTINGS)
    assert store.commit_log_max_offset == offsets[17]
    assert served(store) == list(range(17))
    assert put(store).queue_offset == 17


# -- blank units, which earlier versions left


def blank(disk: SimDisk, *numbers: int) -> None:
    for number in numbers:
        set_unit(disk, number, unit_of(disk, number)[0], BLANK_UNIT_SIZE, 0)


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_blank_units_are_copies_once_they_were_met(lost: set[int], caplog: pytest.LogCaptureFixture) -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    forget_places(disk, *(offsets[number] for number in lost))
    blank(disk, *lost)
    store = open_store(disk, "/s", **SETTINGS)
    disk.hold_jobs = 19 not in lost  # those at the queue's end are copies already, which are searched for
    left = [number for number in range(20) if number not in lost]
    for _ in range(len(lost)):
        assert served(store, max_num=1) == left
    assert not disk.jobs, "that needs no search"
    assert [unit_of(disk, number) for number in range(20)] == [before[n] for n in neighbours(20, lost)]
    are_all_last = len(lost) == 20 - min(lost)  # a start looks at each queue's end
    assert ("are its neighbour's now" in caplog.text) != are_all_last
    caplog.clear()
    assert served(store) == left
    assert not caplog.records
    store.close()
    assert [unit_of(disk.crash(0), n) for n in range(20)] == [before[n] for n in neighbours(20, lost)]


@pytest.mark.parametrize("lost", LOST, ids=str)
def test_a_start_turns_the_blank_units_in_its_window_into_copies(
    lost: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    for number in lost:
        flip(disk, FIRST_LOG, offsets[number] + 88)
    all_is_looked_at(monkeypatch)
    open_store(disk, "/s", **SETTINGS).close()
    blank(disk, *lost)
    open_store(disk, "/s", **SETTINGS).close()
    assert [unit_of(disk, number) for number in range(20)] == [before[n] for n in neighbours(20, lost)]


def test_in_a_log_of_one_file_a_queue_without_any_message_keeps_blank_units_until_it_has_one() -> None:
    disk, offsets = stored(5)
    for offset in offsets:
        flip(disk, FIRST_LOG, offset + 88)
    with pytest.MonkeyPatch.context() as patch:
        all_is_looked_at(patch)
        store = open_store(disk, "/s", **SETTINGS)
    assert served(store) == []
    assert [unit_of(disk, number)[1] for number in range(5)] == [BLANK_UNIT_SIZE] * 5
    assert put(store).queue_offset == 5
    store.close()
    store = open_store(disk, "/s", **SETTINGS)
    assert served(store) == [5]
    assert [unit_of(disk, number) for number in range(5)] == [unit_of(disk, 5)] * 5
    assert served(store, offset=3) == [5]


def border(disk: SimDisk, base: int) -> Unit:
    """What stands for a lost message where a file of the log begins at `base`, behind another one."""
    size = int.from_bytes(disk.contents[f"/s/commitlog/{base:020d}"].data()[:4])
    return base - 1, size + 1, int.from_bytes(b"pymqlost")


FILES_OF_LOG = SETTINGS | {"commit_log_segment_bytes": 4096}


def lonely(count: int, *, other: int = 60) -> tuple[SimDisk, int]:
    """A closed store whose queue T/0 lost all of its messages; and where the log's last file begins."""
    disk = SimDisk()
    store = open_store(disk, "/s", **FILES_OF_LOG)
    sent = [put(store, body=b"%d" % number).physical_offset for number in range(count)]
    for number in range(other):
        end = put(store, "U", body=b"%d" % number).end_offset
    store.close()
    forget_places(disk, *sent)
    return disk, end - end % 4096


@pytest.mark.parametrize("way", ["read", "start", "rebuild", "earlier version"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_queue_without_any_message_has_units_across_a_border_of_the_log(
    count: int, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, base = lonely(count)
    if way in ("start", "rebuild"):
        all_is_looked_at(monkeypatch)
    if way == "rebuild":
        mistake_mark(disk)
        write(disk, queue_path("U"), 0, bytes(20))
    if way == "earlier version":
        for number in range(count):
            set_unit(disk, number, 0, BLANK_UNIT_SIZE, 0)
    store = open_store(disk, "/s", **FILES_OF_LOG)
    assert served(store) == []
    assert [unit_of(disk, number) for number in range(count)] == [border(disk, base)] * count
    assert base > 0
    store.close()
    for life in range(3):
        caplog.clear()
        store = open_store(disk, "/s", **FILES_OF_LOG)
        assert store.max_offset("T", 0) == count + life
        assert store.units("T", 0, 0, count) == [(-1, BLANK_UNIT_SIZE, 0)] * count
        assert put(store).queue_offset == count + life, "no number is given twice"
        for offset in range(count):
            assert served(store, offset=offset) == list(range(count, count + life + 1))
            assert served(store, offset=offset, max_num=1) == list(range(count, count + life + 1))
        store.close()
        assert [unit_of(disk, number) for number in range(count)] == [border(disk, base)] * count
        assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_the_numbers_of_a_queue_without_any_message_outlive_a_bit_in_its_units_and_the_marks_loss() -> None:
    disk, offsets = stored(3)
    for offset in offsets:
        flip(disk, FIRST_LOG, offset + 88)
    with pytest.MonkeyPatch.context() as patch:
        all_is_looked_at(patch)
        open_store(disk, "/s", **SETTINGS).close()
    assert [unit_of(disk, number)[1] for number in range(3)] == [BLANK_UNIT_SIZE] * 3
    for number in range(2):
        flip(disk, queue_path(), number * 20 + 11, 4)
    mistake_mark(disk)
    store = open_store(disk, "/s", **SETTINGS)
    assert store.max_offset("T", 0) == 3
    assert put(store).queue_offset == 3


def test_blank_units_between_others_at_a_border_go_there_too() -> None:
    disk, base = lonely(5)
    open_store(disk, "/s", **FILES_OF_LOG).close()
    store = open_store(disk, "/s", **FILES_OF_LOG)
    served(store)
    store.close()
    assert unit_of(disk, 2) == border(disk, base)
    set_unit(disk, 2, base - 1, BLANK_UNIT_SIZE, 0)
    store = open_store(disk, "/s", **FILES_OF_LOG)
    assert served(store) == []
    assert [unit_of(disk, number) for number in range(5)] == [border(disk, base)] * 5


def test_a_queue_without_any_message_expires_with_the_log_files_before_its_border() -> None:
    disk, base = lonely(2)
    store = open_store(disk, "/s", **FILES_OF_LOG)
    served(store)
    assert not store.delete_expired_queue("T", 0)
    store.close()
    for start in range(0, base, 4096):
        disk.remove_file(f"/s/commitlog/{start:020d}")
    store = open_store(disk, "/s", **FILES_OF_LOG)
    assert store.min_offset("T", 0) == store.max_offset("T", 0) == 2
    assert not store.delete_expired_queue("U", 0)
    assert store.delete_expired_queue("T", 0)
    assert put(store).queue_offset == 0


# -- units that were written over by their neighbours'


@pytest.mark.parametrize("settings", [SETTINGS, COLD], ids=["warm", "cold"])
@pytest.mark.parametrize("window", [100, 4 << 20])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_unit_that_became_its_neighbours_costs_no_message(
    step: int, window: int, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", window)
    original, _ = stored(20, per_message=2)
    before = [unit_of(original, number) for number in range(20)]
    for first in range(1, 19):
        for count in (1, 3):
            numbers = range(first, min(first + count, 19))
            neighbour = before[first - 1] if step < 0 else before[numbers[-1] + 1]
            disk = original.crash(0)
            for number in numbers:
                set_unit(disk, number, *neighbour)
            store = open_store(disk, "/s", **settings)
            assert served(store, offset=first, tags="b")[:1] == [first + 1 - first % 2], f"{numbers}"
            assert served(store, lazily=True) == list(range(20)), f"{numbers}"
            assert [unit_of(disk, number) for number in range(20)] == before
            store.close()


def test_only_the_first_reader_has_a_lost_message_searched_for() -> None:
    disk, offsets = stored(20, per_message=2)
    forget_places(disk, offsets[5], offsets[6], offsets[12])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    store.close()
    store = open_store(disk, "/s", **SETTINGS)
    left = [number for number in range(20) if number not in (5, 6, 12)]
    searches = []
    fetch = disk.fetch_soon

    def counted(job: Any, done: Any) -> None:
        searches.append(job)
        fetch(job, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "fetch_soon", counted)
        for _ in range(3):
            assert served(store) == left
            assert len(searches) == 2, "one for each stretch"
            assert served(store, max_num=1) == left


def test_where_old_files_have_gone_a_queue_without_any_message_has_them_below_its_minimum() -> None:
    disk, offsets = stored(60, commit_log_segment_bytes=4096)
    disk.remove_file(FIRST_LOG)
    disk.remove_folder("/s/consumequeue/T")
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    low = store.min_offset("T", 0)
    store.close()
    for number in range(low, 60):
        base = offsets[number] - offsets[number] % 4096
        flip(disk, f"/s/commitlog/{base:020d}", offsets[number] - base + 28, 7)
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    assert records(store.get("T", 0, low, 32)) == []
    gone = 4095, 1, int.from_bytes(b"pymqlost")
    assert {unit_of(disk, number) for number in range(60)} == {gone}
    store.close()
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, **SETTINGS)
    assert store.min_offset("T", 0) == store.max_offset("T", 0) == 60
    assert put(store).queue_offset == 60
    assert served(store, offset=60) == [60]


# -- who else reads units


def test_units_tell_of_lost_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, offsets = stored(20)
    before = [unit_of(disk, number) for number in range(20)]
    forget_places(disk, offsets[0], offsets[5], offsets[6])
    store = open_store(disk, "/s", **SETTINGS)
    served(store)
    gone = (-1, BLANK_UNIT_SIZE, 0)
    expected = [gone if number in (0, 5, 6) else before[number] for number in range(20)]
    for offset in range(20):
        assert store.units("T", 0, offset, 30) == expected[offset:]
        assert store.units("T", 0, offset, 1) == [expected[offset]]


def test_a_copy_that_was_interrupted_before_it_had_its_size_is_made_again() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    sent = [put(store, body=b"%d" % number * 100) for number in range(10)]
    disk = disk.kill()
    flip(disk, FIRST_LOG, sent[3].physical_offset + 100)
    start = sent[3].physical_offset
    disk.make_folder("/s/lost")
    disk.make_file(f"/s/lost/{start:020d}-{clock.now_ms()}")
    before = disk.contents[FIRST_LOG].data()[start : sent[-1].end_offset]
    open_store(disk, "/s", clock)
    [name] = disk.list_folder("/s/lost")
    assert disk.contents[f"/s/lost/{name}"].data() == before
