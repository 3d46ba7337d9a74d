"""What a check says of messages that the log lost, and which of their units a repair makes good."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from pymq.dry_disk import dry_disk
from pymq.store.consumequeue import BLANK_UNIT_SIZE
from pymq.store.inspection.problems import Problem
from pymq.store.inspection.repair import Repair, repair
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.inspection.damaging import checked, log_file, overwrite, problems, queue_file
from tests.store.making import open_store, put, read_queue

COUNT = 10


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def lose(root: Path, numbers: Iterable[int]) -> None:
    """Ten messages of T/0, some of them damaged in the log, which a start of a broker has passed over."""
    store = open_store(SystemDisk(), str(root))
    offsets = [put(store, "T", 0, b"%d" % number).physical_offset for number in range(COUNT)]
    put(store, "U", 0, b"the last of the log")
    store.close()
    for number in numbers:
        path, position = log_file(root, offsets[number])
        overwrite(path, position + 88, b"?")
    open_store(SystemDisk(), str(root)).close()


def blank(root: Path, numbers: Iterable[int], physical_offset: int = 500) -> bytes:
    """Leave the units as earlier versions did; gives the queue's file as it was."""
    path = queue_file(root, "T", 0)
    before = path.read_bytes()
    for number in numbers:
        overwrite(path, 20 * number, struct.pack(">qiq", physical_offset, BLANK_UNIT_SIZE, 0))
    return before


def of_queue(found: list[Problem]) -> list[str]:
    return [problem.text for problem in found if problem.part == "consumequeue"]


def mend(root: Path, *, dry: bool = False) -> list[str]:
    disk = dry_disk(SystemDisk()) if dry else SystemDisk()
    return repair(str(root), disk, SimClock(), Repair())


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        ([0], "message 0 is lost: its unit is its neighbour's"),
        ([0, 1], "messages 0 to 1 are lost: their units are their neighbour's"),
        ([9], "message 9 is lost: its unit is its neighbour's"),
        ([7, 8, 9], "messages 7 to 9 are lost: their units are their neighbour's"),
        ([4, 5], ""),
        ([4, 6, 9], "message 9 is lost: its unit is its neighbour's"),
    ],
    ids=str,
)
def test_lost_messages_are_notes(root: Path, lost: list[int], text: str) -> None:
    lose(root, lost)
    summary, found = checked(root)
    assert all(problem.is_note for problem in found)
    assert of_queue(found) == ([text] if text else [])
    lacks = [problem.text for problem in found if "T/0 lacks message" in problem.text]
    assert len(lacks) == (2 if 6 in lost else 4 in lost), "those in between are missed by the log's next"
    assert summary.units == COUNT + 1 - len(lost)
    assert mend(root) == []


def test_a_copy_instead_of_the_unit_of_a_message_that_is_there_is_a_problem(root: Path) -> None:
    lose(root, [])
    path = queue_file(root, "T", 0)
    overwrite(path, 20 * 5, path.read_bytes()[20 * 4 : 20 * 5])
    [problem] = problems(root)
    assert problem.text.startswith("unit 5 points to ")
    assert mend(root) == ["queue T/0: units put right"]
    assert problems(root) == []


@pytest.mark.parametrize("lost", [[5], [4, 5, 6], [0, 1], [9], [2, 7, 8, 9]], ids=str)
def test_blank_units_are_problems_that_a_repair_mends(
    root: Path, lost: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(root, lost)
    before = blank(root, lost)
    found = problems(root)
    assert [problem.offset for problem in found] == [n for n in lost if n - 1 not in lost]
    assert all("for no message, and an Apache 4.9.4 broker would get stuck" in p.text for p in found)
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)  # however long ago that was
    changes = mend(root, dry=True)
    began = "messages 0 to 9 instead of messages 2 to 9" if 0 in lost else "units put right"
    assert changes == [f"queue T/0: {began}"]
    assert problems(root) == found
    assert mend(root) == changes
    assert queue_file(root, "T", 0).read_bytes() == before
    assert problems(root) == []


def test_blank_units_of_a_queue_without_any_message_are_told_with_what_to_do(root: Path) -> None:
    lose(root, range(COUNT))
    [problem] = problems(root)
    assert problem.text.startswith("units 0 to 9 stand for no message, and an Apache 4.9.4 broker would get")
    assert "`pymq store repair` lets the log go on in a new file" in problem.text
    assert (problem.path, problem.position) == (str(queue_file(root, "T", 0)), 0)
    changes = mend(root, dry=True)
    assert changes[0] == f"commitlog/{65536:020d}: made, 65,536 bytes"
    assert changes[1].startswith("commit log: ends at 65,628 instead of ")
    assert len(changes) == 2
    assert problems(root) == [problem]
    assert mend(root) == changes
    assert mend(root) == []
    _, found = checked(root)
    assert of_queue(found) == ["messages 0 to 9 are lost: their units lead nowhere"]
    assert all(problem.is_note for problem in found)
    store = open_store(SystemDisk(), str(root))
    put(store, "T", 0, b"one again")
    store.close()
    assert problems(root) == []
    store = open_store(SystemDisk(), str(root))
    assert [record.queue_offset for record in read_queue(store, "T", 0)] == [COUNT]
    store.close()


def test_what_apache_itself_leaves_below_a_minimum_is_no_problem(root: Path) -> None:
    store = open_store(SystemDisk(), str(root))
    for number in range(40):
        put(store, "T", 0, b"%02d" % number * 1500)
    store.close()
    log_file(root, 0)[0].unlink()
    for path in sorted((root / "consumequeue/T/0").iterdir()):
        path.unlink()
    open_store(SystemDisk(), str(root)).close()
    first = sorted((root / "consumequeue/T/0").iterdir())[0].read_bytes()
    assert first[:20] == struct.pack(">qiq", 0, BLANK_UNIT_SIZE, 0)
    assert problems(root) == []
