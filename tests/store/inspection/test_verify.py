"""Whatever is damaged in a store is found, with its place; a whole store has nothing wrong."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.verify import verify
from pymq.system_disk import SystemDisk
from tests.store.golden_store import facts, unpack
from tests.store.inspection.damaging import (
    LOG_FILE_BYTES,
    checked,
    flip,
    log_file,
    overwrite,
    places,
    problems,
    queue_file,
)
from tests.store.making import open_store, put

FACTS = facts()
MESSAGES: list[dict[str, Any]] = FACTS["messages"]
END = FACTS["commitLog"]["maxOffset"]
PLAIN = [m for m in MESSAGES if (m["topic"], m["queueId"]) == ("PlainTopic", 2)]
INDEX = [file["file"] for file in FACTS["indexFiles"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def test_nothing_is_wrong_in_the_golden_store_and_nothing_is_changed(root: Path) -> None:
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()
    }
    summary, found = checked(root)
    assert found == []
    assert (summary.records, summary.units, summary.index_entries) == (233, 233, 553)
    assert summary.commit_log_max_offset == END
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
    assert after == before


def test_progress_comes_to_the_whole(root: Path) -> None:
    folder = StoreFolder(str(root), SystemDisk())
    told: list[int] = []
    verify(folder, lambda _: None, told.append)
    assert sum(told) == folder.data_bytes()


def test_a_store_of_our_own_has_nothing_wrong(tmp_path: Path) -> None:
    store = open_store(SystemDisk(), str(tmp_path / "store"))
    for i in range(300):
        put(store, f"T{i % 3}", i % 4, b"x" * (i * 7 % 900), tags=f"t{i % 5}")
    store.close()
    summary, found = checked(tmp_path / "store")
    assert found == []
    assert summary.records == summary.units == 300


@pytest.mark.parametrize("lost", [[7], [7, 8, 9], [-1], [-3, -2, -1]], ids=str)
def test_what_recovery_healed_is_no_fault(tmp_path: Path, lost: list[int]) -> None:
    """Entries of the index still lead to where the lost messages were, be it the end of a file."""
    root = tmp_path / "store"
    store = open_store(SystemDisk(), str(root), max_index_num=1000)
    offsets: list[int] = []
    while not offsets or offsets[-1] < 3 * LOG_FILE_BYTES:
        properties = f"KEYS\x01k{len(offsets)} all"
        offsets.append(store.put("T", 0, b"x" * 900, properties, born_host=bytes(8)).physical_offset)
    store.close()
    in_first = [offset for offset in offsets if offset < LOG_FILE_BYTES]
    for number in lost:
        path, position = log_file(root, in_first[number])
        overwrite(path, position, struct.pack(">i", 0x7FFFFFFF))
    assert problems(root)
    open_store(SystemDisk(), str(root), max_index_num=1000).close()
    summary, found = checked(root)
    assert [problem for problem in found if not problem.is_note] == []
    assert len(found) == 1, "a note of what the queue lacks"
    assert summary.index_entries == 2 * len(offsets), "they are still there"


# -- the commit log


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (0, "impossible length"),
        (3, "the record says 233 bytes, its parts have 232"),
        (4, "no record begins here: magic is 0xDBA320A7"),
        (11, "its body has CRC 430FF988, the record says 430FF989"),
        (35, "the record says that it stands at"),
        (90, "its body has CRC"),
    ],
)
def test_a_damaged_record_is_found_and_what_is_behind_it_is_still_checked(
    root: Path, position: int, reason: str
) -> None:
    damaged = MESSAGES[0]
    flip(*log_file(root, position))
    found = problems(root)
    assert (Path(found[0].path).name, found[0].position, found[0].offset) == ("0" * 20, 0, 0)
    assert f"{damaged['size']} bytes are no message: " in found[0].text
    assert reason in found[0].text
    assert checked(root)[0].records == 232
    # Its unit points to no message any more, and so do its index entries.
    unit = next(p for p in found if p.part == "consumequeue")
    assert unit.path == str(queue_file(root, "PlainTopic", 2))
    assert "unit 0 points to 0: " in unit.text
    assert any("entries 1 to 3 point from 0 on to where no message begins" in p.text for p in found)


def test_a_hole_in_the_middle_of_the_log_is_one_line(root: Path) -> None:
    lost = [m for m in MESSAGES if 10_000 <= m["phyOffset"] < 15_000]
    overwrite(*log_file(root, lost[0]["phyOffset"]), bytes(lost[-1]["phyOffset"] - lost[0]["phyOffset"]))
    found = problems(root)
    size = lost[-1]["phyOffset"] - lost[0]["phyOffset"]
    text = f"{size:,} bytes are no message: no record begins here: magic is 0x00000000"
    first = lost[0]["phyOffset"]
    assert [(p.position, p.text) for p in found if p.part == "commitlog" and "bytes" in p.text] == [
        (first, text)
    ]
    assert checked(root)[0].records == 233 - len(lost) + 1


def test_a_file_that_is_nothing_but_zeros_is_named(root: Path) -> None:
    path, _ = log_file(root, 65536)
    path.write_bytes(bytes(65536))
    texts = [(p.path, p.text) for p in problems(root)]
    assert (str(path), "65,536 bytes are no message: nothing but zeros up to the end of the file") in texts


def test_a_missing_log_file_is_named(root: Path) -> None:
    log_file(root, 65536)[0].unlink()
    found = problems(root)
    assert found[0].path == str(log_file(root, 131072)[0])
    assert found[0].text == f"the file before it, {65536:020d}, is missing"


def test_a_blank_that_says_another_length_is_found(root: Path) -> None:
    flip(*log_file(root, 65240 + 3))
    assert places(root) == [("commitlog/" + "0" * 20, 65240)]
    assert "the file's blank end says 297 bytes, 296 are left" in problems(root)[0].text


def test_a_torn_end_is_found_and_where_recovery_will_cut(root: Path) -> None:
    torn = MESSAGES[-1]
    path, position = log_file(root, torn["phyOffset"])
    overwrite(path, position + torn["size"] - 20, bytes(20))
    (root / "abort").touch()
    shutil.rmtree(root / "consumequeue" / torn["topic"] / str(torn["queueId"]))
    found = [p for p in problems(root) if p.part == "commitlog"]
    assert [(p.position, p.offset) for p in found] == [(position, torn["phyOffset"])]
    assert found[0].text.startswith(f"the log ends at {torn['phyOffset']:,} with a torn message: ")
    summary = checked(root)[0]
    assert (summary.commit_log_max_offset, summary.was_closed_cleanly) == (torn["phyOffset"], False)


def test_what_apache_leaves_behind_the_end_is_only_a_note(root: Path) -> None:
    overwrite(*log_file(root, END), b"old bytes")
    summary, found = checked(root)
    assert (summary.problems, [p.is_note for p in found]) == (0, [True])


# -- consume queues


@pytest.mark.parametrize(
    ("field", "data", "text"),
    [
        (0, struct.pack(">q", 464), "unit 3 points to 464, the message of this number stands at "),
        (0, struct.pack(">q", 2**40), "unit 3 points behind the message of this number, which stands at "),
        (8, struct.pack(">i", 999), "unit 3 says 999 bytes, its message at "),
        (12, struct.pack(">q", 5), "unit 3 has tags code 5: the message's tags 'TagA' have 2598919"),
    ],
)
def test_a_unit_that_contradicts_its_message_is_found(root: Path, field: int, data: bytes, text: str) -> None:
    path = queue_file(root, "PlainTopic", 2)
    overwrite(path, 3 * 20 + field, data)
    found = problems(root)
    assert [(p.path, p.position) for p in found] == [(str(path), 60 + (0 if "behind" in text else field))]
    assert found[0].text.startswith(text)


def test_a_hole_in_a_queue_is_one_line(root: Path) -> None:
    path = queue_file(root, "PlainTopic", 2)
    overwrite(path, 3 * 20, bytes(5 * 20))
    found = [p for p in problems(root) if p.path == str(path)]
    assert [(p.position, p.text) for p in found] == [
        (
            60,
            f"units 3 to 7 are missing: the messages from {PLAIN[3]['phyOffset']:,} on are not found",
        )
    ]


def test_units_behind_the_last_message_are_found(root: Path) -> None:
    path = queue_file(root, "OrderTopic", 0)
    overwrite(path, 15 * 20, struct.pack(">qiq", END, 100, 0) + struct.pack(">qiq", 0, 232, 0))
    assert [(p.path, p.position, p.text) for p in problems(root)] == [
        (str(path), 300, f"units 15 to 16 point to {END:,}, behind the end of the commit log ({END:,})")
    ]


def test_bytes_behind_the_end_of_a_queue_are_found(root: Path) -> None:
    path = queue_file(root, "OrderTopic", 0)
    overwrite(path, 17 * 20 + 4, b"\1")
    assert [(p.path, p.position) for p in problems(root)] == [(str(path), 17 * 20 + 4)]


def test_a_missing_queue_is_one_line(root: Path) -> None:
    shutil.rmtree(root / "consumequeue" / "OrderTopic" / "1")
    texts = [p.text for p in problems(root)]
    assert texts == [
        "15 messages of the log belong to OrderTopic/1: there is no such queue",
        "group cg_order stands at 15 in OrderTopic/1, which ends at 0",
    ]


def test_a_deleted_topic_is_only_a_note(tmp_path: Path) -> None:
    store = open_store(SystemDisk(), str(tmp_path / "store"))
    for topic in ("Gone", "Again", "Again", "Stays"):
        put(store, topic)
    store.delete_topic("Gone")
    store.delete_topic("Again")
    put(store, "Again")
    store.close()
    config = tmp_path / "store" / "config"
    config.mkdir()
    (config / "topics.json").write_text('{"topicConfigTable":{"Stays":{"topicName":"Stays"}}}')
    summary, found = checked(tmp_path / "store")
    assert summary.problems == 0, found
    assert sorted(p.text for p in found) == [
        "1 messages of the log belong to Gone/0: its topic was deleted",
        "Again/0 begins anew with number 0: the topic was deleted and made again",
    ]


def test_a_queue_file_of_another_size_is_named(root: Path) -> None:
    path = queue_file(root, "OrderTopic", 0)
    path.write_bytes(path.read_bytes()[:-1])
    assert (str(path.relative_to(root)), -1) in places(root)
    assert any(p.text == "has 399 bytes, the other files have 400" for p in problems(root))


@pytest.mark.parametrize("name", ["notes.txt", ".DS_Store", "123"])
def test_a_foreign_file_is_named(root: Path, name: str) -> None:
    (root / "commitlog" / name).touch()
    assert places(root) == [(f"commitlog/{name}", -1)]


# -- the index


def test_each_part_of_an_index_file_is_checked(root: Path) -> None:
    path = root / "index" / INDEX[1]
    entries = 40 + 4 * 50
    for position, expected in (
        (23, "the header says that the file begins with the message at "),
        (35, "the header counts "),
        (40 + 3, "slot 0 begins with entry "),
        (entries + 20 * 7 + 19, "entry 7 continues its slot's chain with "),
        (entries + 20 * 7 + 3, "entry 7 has hash "),
        (entries + 20 * 7 + 15, "entry 7 says 1 s after the file's begin, its message has 0 s"),
        (entries + 20 * 7 + 10, "entry 7 points to "),
    ):
        flip(path, position)
        found = [(p.path, p.text) for p in problems(root)]
        assert any(where == str(path) and text.startswith(expected) for where, text in found), (
            position,
            found,
        )
        flip(path, position)
    assert problems(root) == []


def test_messages_that_the_index_lacks_are_one_line(root: Path) -> None:
    (root / "index" / INDEX[3]).unlink()
    found = problems(root)
    assert [p.part for p in found] == ["index"]
    assert found[0].text.endswith("have keys without an entry: not found by key")
    assert "from 230,580 to 246,228" in found[0].text


# -- checkpoint and tables


def test_a_missing_or_impossible_checkpoint_is_found(root: Path) -> None:
    path = root / "checkpoint"
    overwrite(path, 8, struct.pack(">q", MESSAGES[-1]["storeTimestamp"] + 1))
    assert places(root) == [("checkpoint", 8)]
    path.write_bytes(path.read_bytes()[:100])
    assert ("checkpoint", -1) in places(root)
    path.unlink()
    assert places(root) == [("checkpoint", -1)]


@pytest.mark.parametrize("torn", [b"", b'{"topicConfigTable":{', bytes(100)])
def test_a_torn_table_and_that_its_backup_serves(root: Path, torn: bytes) -> None:
    (root / "config" / "topics.json").write_bytes(torn)
    [text] = [p.text for p in problems(root)]
    assert text.endswith(": a broker starts from its .bak")
    (root / "config" / "topics.json.bak").write_bytes(b"{")
    assert problems(root)[-1].text == "neither it nor its .bak can be read: no broker starts"


@pytest.mark.parametrize(
    ("table", "text", "expected"),
    [
        ("consumerOffset", '{"offsetTable":{"PlainTopic@g":{2:31}}}', "group g stands at 31 in PlainTopic/2"),
        (
            "consumerOffset",
            '{"offsetTable":{"PlainTopic":{2:1}}}',
            "the entry 'PlainTopic' is no topic@group",
        ),
        ("delayOffset", '{"offsetTable":{1:3}}', "level 1 is delivered up to 3, its queue ends at 2"),
        ("topics", '{"topicConfigTable":{"A":{"topicName":"B","perm":9}}}', "the entry A is about B"),
        ("subscriptionGroup", '{"subscriptionGroupTable":{"A":{"groupName":"B"}}}', "the entry A is about B"),
        (
            "consumerFilter",
            '{"filterDataByTopic":{"t":{"topic":"t","groupFilterData":{"g":{"topic":"t","consumerGroup":"g",'
            '"expression":"a = = 1","expressionType":"SQL92"}}}}}',
            "the filter of group g on topic t is not used: SQL92 filter, character 5: ",
        ),
        (
            "consumerFilter",
            '{"filterDataByTopic":{"t":{"topic":"t","groupFilterData":{"g":{"topic":"u","consumerGroup":"g",'
            '"expression":"a = 1","expressionType":"SQL92"}}}}}',
            "the entry t/g is about u/g",
        ),
    ],
)
def test_a_table_that_contradicts_the_store_is_found(
    root: Path, table: str, text: str, expected: str
) -> None:
    path = root / "config" / f"{table}.json"
    path.write_text(text)
    assert any(p.path == str(path) and p.text.startswith(expected) for p in problems(root))


# -- everywhere


def unprotected(offset: int) -> bool:
    """Whether the format cannot show a changed bit at this physical offset: no checksum covers it."""
    for message in MESSAGES:
        position = offset - message["phyOffset"]
        if 0 <= position < message["size"]:
            return not 88 <= position < 88 + int(message["bodyLength"])
    return True  # blanks, and what is behind the end


@pytest.mark.parametrize("part", ["commitlog", "consumequeue", "index"])
def test_a_flipped_bit_is_found_wherever_the_format_can_show_it(root: Path, part: str) -> None:
    luck = random.Random(part)
    files = sorted(path for path in (root / part).rglob("*") if path.is_file())
    for _ in range(25):
        path = luck.choice(files)
        data = path.read_bytes()
        position = luck.choice([i for i in range(len(data)) if data[i]])
        flip(path, position, 1 << luck.randrange(8))
        hidden = part == "commitlog" and unprotected(int(path.name) + position)
        assert problems(root) or hidden, (path, position)
        path.write_bytes(data)
