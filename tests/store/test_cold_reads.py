"""Records that memory may hold no more: read past the mappings, in a thread, and only those (store.md §7)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymq.disk_files import SystemFile
from pymq.errors import StoreBroken, StoreError
from pymq.protocol.message import decode_records
from pymq.store.messagestore import GetResult, GetStatus, MessageStore
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk


def cold_store(disk: SimDisk) -> MessageStore:
    """A store of which memory holds nothing, as it thinks; eight of its hundred messages fill a file."""
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, access_message_in_memory_max_ratio=0)
    for number in range(100):
        put(store, "T", 0, b"%03d" % number * 130)
    return store


def fetched(store: MessageStore, result: GetResult) -> StoreError | None:
    """Fetch what is unread; gives the error."""
    told: list[StoreError | None] = []
    store.fetch(result, told.append)
    (error,) = told
    return error


def test_a_cold_read_is_left_to_be_fetched_and_then_the_same() -> None:
    disk = SimDisk()
    store = cold_store(disk)
    for offset in (0, 3, 8, 60):
        at_once = store.get("T", 0, offset, 32)
        assert at_once.unread is None
        later = store.get("T", 0, offset, 32, lazily=True)
        assert later.unread
        assert later.records == []
        disk.fetched = 0
        assert fetched(store, later) is None
        assert disk.fetched == later.size, "nothing else stands between them"
        assert b"".join(later.records) == b"".join(at_once.records)
        assert [r.queue_offset for part in later.records for r in decode_records(part)] == list(
            range(offset, offset + later.count)
        )
        assert (later.next_begin_offset, later.count) == (at_once.next_begin_offset, at_once.count)


def test_what_is_written_to_and_what_memory_holds_is_copied_at_once() -> None:
    store = cold_store(SimDisk())
    tail = store.get("T", 0, 99, 32, lazily=True)
    assert tail.records
    assert tail.unread is None
    warm = open_store(SimDisk(), "/w", commit_log_segment_bytes=4096)
    for _ in range(50):
        put(warm)
    result = warm.get("T", 0, 0, 32, lazily=True)
    assert result.records
    assert result.unread is None


def test_a_filtered_cold_read_is_fetched_slice_by_slice() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", commit_log_segment_bytes=4096, access_message_in_memory_max_ratio=0)
    for number in range(100):
        put(store, "T", 0, bytes(300), tags="AB"[number % 2])
    result = store.get("T", 0, 0, 32, frozenset((ord("B"),)), lazily=True)
    assert result.unread
    assert len(result.unread) == result.count > 1
    assert fetched(store, result) is None
    assert [r.queue_offset for part in result.records for r in decode_records(part)] == [
        1 + 2 * number for number in range(result.count)
    ]


def test_only_so_many_fetches_are_under_way() -> None:
    disk = SimDisk()
    store = cold_store(disk)
    disk.hold_jobs = True
    ended: list[StoreError | None] = []
    for _ in range(64):
        result = store.get("T", 0, 0, 32, lazily=True)
        assert result.unread
        store.fetch(result, ended.append)
    assert store.get("T", 0, 0, 32, lazily=True).records, "copied at once"
    disk.run_jobs()
    assert ended == [None] * 64
    assert store.get("T", 0, 0, 32, lazily=True).unread


def test_a_disk_that_cannot_read_says_so_and_stores_on() -> None:
    disk = SimDisk()
    store = cold_store(disk)
    disk.failing["fetch"] = StoreBroken
    result = store.get("T", 0, 0, 32, lazily=True)
    assert isinstance(fetched(store, result), StoreBroken)
    assert put(store).queue_offset == 100


def test_a_file_that_is_gone_is_asked_for_again() -> None:
    disk = SimDisk()
    store = cold_store(disk)
    result = store.get("T", 0, 0, 32, lazily=True)
    disk.remove_file("/s/commitlog/00000000000000000000")
    error = fetched(store, result)
    assert isinstance(error, StoreError)
    assert not isinstance(error, StoreBroken)
    assert store.get("T", 0, 20, 32, lazily=True).status is GetStatus.FOUND


def test_a_real_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    file = SystemFile(str(tmp_path / "f"), 8192)
    with pytest.raises(StoreError):
        file.fetch(0, 10)
    file.create(sync_folder=False)
    file.map(readahead=False)[100:103] = b"abc"
    assert file.fetch(99, 5) == b"\0abc\0"
    file.unmap()
    assert file.fetch(100, 3) == b"abc"
    with pytest.raises(StoreError):
        file.fetch(8190, 5)
