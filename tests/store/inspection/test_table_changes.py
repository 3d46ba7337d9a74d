"""What a check says of the changes beside a large table's file, and that they count in what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymq.broker.table_changes import TableChanges
from pymq.protocol.bodies.topic_config import DataVersion, TopicConfig, TopicConfigSerializeWrapper
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.survey import survey
from pymq.store.inspection.table_check import read_table, topic_names
from pymq.system_disk import SystemDisk
from tests.store.golden_store import unpack
from tests.store.inspection.damaging import checked


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def changed_tables(root: Path) -> Path:
    """A folder whose topics.json lacks two made topics and a deleted one, as after a kill."""
    disk, version = SystemDisk(), DataVersion(7, 1_700_000_000_000)
    names = [f"T{number}" for number in range(5)]
    table = TopicConfigSerializeWrapper(version, {name: TopicConfig(name) for name in names})
    (root / "config" / "topics.json").write_bytes(table.encode())
    changes = TableChanges(str(root / "config" / "topics.json.changes"), disk)
    for name in ("Made", "MadeToo"):
        part = TopicConfigSerializeWrapper(version, {name: TopicConfig(name)})
        changes.append(version, part, ["T1"] if name == "Made" else [])
    return root / "config" / "topics.json.changes"


def of_changes(root: Path) -> list[tuple[str, bool]]:
    found = checked(root)[1]
    return [(p.text, p.is_note) for p in found if p.path.endswith(".changes")]


def test_changes_beside_a_table_count_as_they_do_for_a_broker(root: Path) -> None:
    changed_tables(root)
    assert of_changes(root) == []
    table = read_table(StoreFolder(str(root), SystemDisk()), "topics")
    assert sorted(table.value.topic_config_table) == ["Made", "MadeToo", "T0", "T2", "T3", "T4"]
    [topics] = [each for each in survey(StoreFolder(str(root), SystemDisk())).tables if "topics" in each.name]
    assert (topics.entries, topics.changes) == (6, 2)


@pytest.mark.parametrize(
    ("line", "text", "is_note"),
    [
        (1, "line 1 cannot be read: to which table these are the changes", False),
        (2, "line 2 cannot be read: what changed there is left out", False),
        (3, "the last line is torn: nobody was told of what it says", True),
    ],
)
def test_a_damaged_file_of_changes_is_told_with_the_line(
    root: Path, line: int, text: str, is_note: bool
) -> None:
    path = changed_tables(root)
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = lines[line - 1][:-3]
    path.write_bytes(b"\n".join(lines))
    assert (text, is_note) in of_changes(root)


def test_changes_that_no_broker_starts_with_are_told(root: Path) -> None:
    path = changed_tables(root)
    path.write_bytes(path.read_bytes().replace(b'"readQueueNums":16', b'"readQueueNums":[]', 1))
    [(text, is_note)] = of_changes(root)
    assert text.startswith("line 2 holds no entries (")
    assert text.endswith("no broker starts before it is removed")
    assert not is_note


def test_changes_to_a_table_that_somebody_else_has_written_since_are_a_note(root: Path) -> None:
    changed_tables(root)
    other = TopicConfigSerializeWrapper(
        DataVersion(9, 1), {"T1": TopicConfig("T1"), "Made": TopicConfig("Made", 2)}
    )
    (root / "config" / "topics.json").write_bytes(other.encode())
    [(text, is_note)] = of_changes(root)
    assert text == "the changes are to another topics.json: a start takes what this one lacks"
    assert is_note
    table = read_table(StoreFolder(str(root), SystemDisk()), "topics").value.topic_config_table
    assert sorted(table) == ["Made", "MadeToo", "T1"]
    assert table["Made"].read_queue_nums == 2, "what the other wrote counts"


def test_messages_of_a_topic_that_is_among_the_changes_only_are_not_those_of_a_deleted_one(
    root: Path,
) -> None:
    changed_tables(root)
    path = root / "config" / "topics.json.changes"
    table = read_table(StoreFolder(str(root), SystemDisk()), "topics")
    assert topic_names(table) == frozenset({"Made", "MadeToo", "T0", "T2", "T3", "T4"})
    path.unlink()
    table = read_table(StoreFolder(str(root), SystemDisk()), "topics")
    assert topic_names(table) == frozenset({"T0", "T1", "T2", "T3", "T4"})
