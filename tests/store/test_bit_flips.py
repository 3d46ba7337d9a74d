"""A truncation and a bit flip at every offset: it opens or is refused, and nothing untrue is served."""

from __future__ import annotations

import pytest

from pymq.errors import StoreError
from pymq.protocol.message import MessageRecord, decode_record
from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.damage import FIRST_LOG, flip
from tests.store.making import open_store, put, records
from tests.store.sim_disk import SimDisk

pytestmark = pytest.mark.once

BODIES = [b"%d" % i * 7 for i in range(6)]


def open_tiny(disk: SimDisk) -> MessageStore:
    """Four messages fill a file of the log, two units one of a queue."""
    return open_store(
        disk, "/s", SimClock(), commit_log_segment_bytes=512, consume_queue_segment_bytes=40,
        max_hash_slot_num=5, max_index_num=5,
    )  # fmt: skip


def tiny_store() -> SimDisk:
    disk = SimDisk()
    store = open_tiny(disk)
    for i, body in enumerate(BODIES):
        put(store, "AB"[i % 2], body=body, tags="t")
    store.close()
    return disk


def copy(disk: SimDisk) -> SimDisk:
    """All of it is synced: chance has no say."""
    return disk.crash(0)


def assert_true(disk: SimDisk) -> None:
    """It opens, or is refused with a reason; what it serves is true; and so again after another start."""
    for _ in range(2):
        try:
            store = open_tiny(disk)
        except StoreError as e:
            if "/s/" not in str(e):
                raise
            return
        for topic, queue_id in store.queues():
            offset = store.min_offset(topic, queue_id)
            while offset < store.max_offset(topic, queue_id):
                result = store.get(topic, queue_id, offset, 1)
                assert result.next_begin_offset > offset
                for data in result.records:
                    record = decode_record(data, check_crc=True)
                    assert record.body in BODIES
                    assert record.total_size == len(data)
                    assert offset <= record.queue_offset < result.next_begin_offset
                    assert data == store.record_at(record.physical_offset)
                offset = result.next_begin_offset
        put(store, "A", body=BODIES[0])
        store.close()


@pytest.mark.parametrize("mode", ["clean", "killed", "rebuilt"])
@pytest.mark.parametrize("part", ["commitlog", "consumequeue", "checkpoint"])
@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_whatever_bit_flips_and_wherever_a_file_ends_nothing_untrue_is_served(
    part: str, damage: str, mode: str
) -> None:
    original = tiny_store()
    assert sum(len(content.data().rstrip(b"\0")) for content in original.contents.values()) <= 4096
    for path, content in original.contents.items():
        if part not in path:
            continue
        for position in range(min(content.size, 600)):
            disk = copy(original)
            if mode != "clean":
                disk.write_bytes("/s/abort", b"")
            if mode == "rebuilt" and part != "checkpoint":
                disk.remove_file("/s/checkpoint")
            if damage == "flip":
                flip(disk, path, position, position % 8)
            else:
                disk.resize_file(path, position)
            assert_true(disk)


@pytest.mark.parametrize("tags", ["", "a-tag"])
@pytest.mark.parametrize("bit", range(8))
def test_a_record_whose_parts_contradict_its_size_is_passed_over(
    tags: str, bit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.store.recovery._WINDOW", 100)
    disk = SimDisk()
    store = open_store(disk, "/s", None)
    places = [put(store, "T", body=b"%d" % i, tags=tags).physical_offset for i in range(6)]
    for _ in range(30):
        put(store, "other", body=b"z" * 100)
    store.close()
    flip(disk, FIRST_LOG, places[2] + 88 + 1 + 1 + 1 + 1, bit)  # propertiesLength
    store = open_store(disk, "/s", None)
    assert [r.body for r in read_queue_lazily(store)] == [b"0", b"1", b"3", b"4", b"5"]


def read_queue_lazily(store: MessageStore) -> list[MessageRecord]:
    """All messages of a queue, as a consumer gets them that asks again while units are being mended."""
    found: list[MessageRecord] = []
    offset = 0
    for _ in range(20):
        result = store.get("T", 0, offset, 32)
        found += records(result)
        offset = result.next_begin_offset
    return found
