"""A folder that Apache 4.9.4 wrote is opened, served, rebuilt and cut."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pymq.protocol.message import decode_record, encode_record
from pymq.protocol.message_ids import format_host
from pymq.store.messagestore import MessageStore
from pymq.system_disk import SystemDisk
from tests.store.golden_store import facts, open_golden, queue_files, unpack
from tests.store.making import put, read_queue

pytestmark = pytest.mark.once

FACTS = facts()
MESSAGES: list[dict[str, Any]] = FACTS["messages"]
END = FACTS["commitLog"]["maxOffset"]
LAST_FILE = 196608


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def assert_serves(store: MessageStore, messages: list[dict[str, Any]]) -> None:
    """Each of the messages is read from its queue, and no other."""
    expected: dict[tuple[str, int], list[int]] = {}
    for message in messages:
        if not message["sysFlag"] & 4:
            expected.setdefault((message["topic"], message["queueId"]), []).append(message["phyOffset"])
    found = {key: [r.physical_offset for r in read_queue(store, *key)] for key in store.queues()}
    assert {key: offsets for key, offsets in found.items() if offsets} == expected


def test_every_record_is_read_and_written_again_byte_for_byte(root: Path) -> None:
    store = open_golden(root, SystemDisk())
    assert len(MESSAGES) == 233
    for message in MESSAGES:
        stored = store.record_at(message["phyOffset"])
        assert stored is not None
        record = decode_record(stored, check_crc=True)
        assert (record.body_crc, record.read_properties()) == (message["bodyCRC"], message["properties"])
        assert format_host(record.born_host) == message["bornHost"]
        again = encode_record(
            record.topic.encode(),
            record.body,
            record.properties.encode(),
            record.queue_id,
            record.queue_offset,
            record.physical_offset,
            record.flag,
            record.sys_flag,
            record.born_timestamp,
            record.born_host,
            record.store_timestamp,
            record.store_host,
            record.reconsume_times,
            record.prepared_transaction_offset,
        )
        assert again == stored
    store.close()


def test_it_is_served_as_it_is_and_a_clean_open_changes_no_queue(root: Path) -> None:
    before = queue_files(root)
    store = open_golden(root, SystemDisk())
    assert store.commit_log_max_offset == END
    for topic, queues in FACTS["queues"].items():
        for queue_id, bounds in queues.items():
            assert store.min_offset(topic, int(queue_id)) == bounds["min"]
            assert store.max_offset(topic, int(queue_id)) == bounds["max"]
    assert_serves(store, MESSAGES)
    store.close()
    assert queue_files(root) == before


@pytest.mark.parametrize(
    ("abort", "lost"), [(False, ""), (False, "."), (True, ""), (True, "PlainTopic"), (True, ".")]
)
def test_queues_are_built_again_byte_for_byte(root: Path, abort: bool, lost: str) -> None:
    before = queue_files(root)
    if abort:
        (root / "abort").touch()
        (root / "checkpoint").unlink()
    if lost:
        shutil.rmtree(root / "consumequeue" / lost)
    store = open_golden(root, SystemDisk())
    assert_serves(store, MESSAGES)
    store.close()
    written = {name: data for name, data in queue_files(root).items() if data.strip(b"\0") or name in before}
    assert written == before


def test_the_log_goes_on_where_apache_stopped(root: Path) -> None:
    store = open_golden(root, SystemDisk())
    result = put(store, "PlainTopic", 2, b"from here")
    assert (result.physical_offset, result.queue_offset) == (END, 30)
    many = [put(store, "PlainTopic", 2, b"%d" % i * 200) for i in range(300)]
    store.close()
    store = open_golden(root, SystemDisk())
    bodies = [r.body for r in read_queue(store, "PlainTopic", 2)][30:]
    assert bodies == [b"from here", *(b"%d" % i * 200 for i in range(300))]
    assert store.commit_log_max_offset == many[-1].end_offset
    store.close()


def cuts() -> list[int]:
    """Each kind of place: before, in and behind records, and the file's ends."""
    ends = [m["phyOffset"] + m["size"] for m in MESSAGES if m["phyOffset"] >= LAST_FILE]
    near = [LAST_FILE, LAST_FILE + 1, ends[0], ends[0] + 3, ends[20] - 1, ends[20] + 1, END - 1, END, END + 1]
    luck = random.Random(494)
    return near + [luck.randrange(LAST_FILE, END) for _ in range(30)]


@pytest.mark.parametrize("cut", cuts())
@pytest.mark.parametrize("abort", [False, True])
def test_a_log_cut_at_any_byte_ends_with_its_last_whole_record(root: Path, cut: int, abort: bool) -> None:
    file = root / "commitlog" / f"{LAST_FILE:020d}"
    data = file.read_bytes()
    file.write_bytes(data[: cut - LAST_FILE].ljust(65536, b"\0"))
    if abort:
        (root / "abort").touch()
    whole = [m for m in MESSAGES if m["phyOffset"] + m["size"] <= cut]
    end = max([LAST_FILE, *(m["phyOffset"] + m["size"] for m in whole)])
    for _ in range(2):
        store = open_golden(root, SystemDisk())
        assert store.commit_log_max_offset == end
        assert_serves(store, whole)
        store.close()
    rest = b"".join(p.read_bytes() for p in sorted((root / "commitlog").iterdir()))[end:]
    assert not rest.strip(b"\0"), "nothing stale may follow the end"


def test_stale_bytes_behind_a_damaged_record_are_not_taken_for_messages(root: Path) -> None:
    damaged = next(m for m in MESSAGES if m["phyOffset"] > LAST_FILE + 5000)
    file = root / "commitlog" / f"{LAST_FILE:020d}"
    data = bytearray(file.read_bytes())
    data[damaged["phyOffset"] - LAST_FILE + 90] ^= 0xFF
    file.write_bytes(data)
    (root / "abort").touch()
    store = open_golden(root, SystemDisk())
    assert store.commit_log_max_offset == damaged["phyOffset"]
    put(store, "PlainTopic", 0, b"new")
    store.close()
    (root / "abort").touch()
    store = open_golden(root, SystemDisk())
    assert read_queue(store, "PlainTopic", 0)[-1].body == b"new"
    assert store.commit_log_max_offset < damaged["phyOffset"] + damaged["size"] + 200
    store.close()


def test_a_folder_that_begins_later_numbers_on(root: Path) -> None:
    """The log's first file and all queues are gone: blank units keep the numbering (store.md §3)."""
    (root / "commitlog" / f"{0:020d}").unlink()
    shutil.rmtree(root / "consumequeue")
    store = open_golden(root, SystemDisk())
    left = [m for m in MESSAGES if m["phyOffset"] >= 65536]
    assert_serves(store, left)
    plain = [m["queueOffset"] for m in left if (m["topic"], m["queueId"]) == ("PlainTopic", 0)]
    if plain:
        assert store.min_offset("PlainTopic", 0) == plain[0]
    for m in left:
        if not m["sysFlag"] & 4:
            result = store.get(m["topic"], m["queueId"], m["queueOffset"], 1)
            assert decode_record(result.records[0]).physical_offset == m["phyOffset"]
    store.close()
