"""Index files: what is written to them is found in them, and is what Apache's broker would have written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.disk import Job
from pymq.errors import StoreCorrupt
from pymq.protocol.properties import encode_properties
from pymq.store.index_file import (
    INDEX_ENTRY_SIZE,
    IndexEntry,
    IndexHeader,
    chain,
    entry_position,
    header_fault,
    index_file_size,
    iter_entries,
    iter_slots,
    keys_of,
    slot_position,
)
from pymq.store.index_rows import Columns, Keys
from pymq.store.index_writer import IndexFile
from pymq.store.key_hashes import key_hash
from pymq.system_disk import SystemDisk
from tests.store.golden_store import facts, unpack
from tests.store.sim_disk import SimDisk

PATH = "/s/index/20261124120000000"
NOW = 1_795_600_000_000


def new_file(disk: SimDisk, slots: int, entries: int) -> IndexFile:
    file = IndexFile(disk, PATH, slots, entries)
    disk.make_folder("/s/index")
    file.create(None)
    return file


def at_once(job: Job) -> None:
    job()


def columns(entries: list[tuple[int, int, int]]) -> Columns:
    return Columns(*([entry[n] for entry in entries] for n in range(3)))


def content(disk: SimDisk) -> bytes:
    data = disk.read_bytes(PATH)
    assert data is not None
    return data


Adds = st.lists(st.tuples(st.integers(0, 2**31 - 1) | st.integers(0, 20), st.integers(0, 3000)), min_size=1)


@given(st.integers(1, 40), st.lists(Adds, max_size=8))
def test_what_is_added_is_found_newest_first(slots: int, batches: list[list[tuple[int, int]]]) -> None:
    disk = SimDisk()
    size = sum(map(len, batches))
    file = new_file(disk, slots, size + 1)
    added: list[tuple[int, int, int]] = []
    offset, now = 0, NOW
    for batch in batches:
        start = len(added)
        for code, pause_ms in batch:
            offset, now = offset + 100, now + pause_ms
            added.append((code, offset, now))
        file.append(*columns(added[start:]), at_once)
    assert file.room == 0
    file.leave()
    disk.assert_all_written_was_reserved()

    data = content(disk)
    header = IndexHeader.decode(data)
    assert header_fault(header, slots, size + 1) is None
    assert header.index_count == size + 1
    begin = added[0][2] if added else 0
    entries = [(e.key_hash, e.phy_offset, e.seconds) for _, e in iter_entries(data, slots, size + 1)]
    assert entries == [(code, offset, (at - begin) // 1000) for code, offset, at in added]
    if added:
        assert (header.begin_phy_offset, header.end_phy_offset) == (added[0][1], added[-1][1])
        assert (header.begin_timestamp, header.end_timestamp) == (begin, added[-1][2])
    used = dict(iter_slots(data, slots))
    assert header.hash_slot_count == len(used) == len({code % slots for code, _, _ in added})

    reopened = IndexFile(disk, PATH, slots, size + 1)
    reopened.load()
    for slot in range(slots):
        expected = [e for e in reversed(entries) if e[0] % slots == slot]
        assert [(e.key_hash, e.phy_offset, e.seconds) for e in reopened.chain(slot)] == expected


@given(
    st.builds(
        IndexHeader, *[st.integers(0, 2**63 - 1)] * 4, st.integers(0, 2**31 - 1), st.integers(1, 2**31 - 1)
    )
)
def test_a_header_survives_its_bytes(header: IndexHeader) -> None:
    assert IndexHeader.decode(header.encode()) == header


def test_a_file_goes_on_where_it_was_left() -> None:
    disk = SimDisk()
    file = new_file(disk, 7, 100)
    file.append([3, 10], [0, 100], [NOW, NOW + 5000], at_once)
    file.leave()
    again = IndexFile(disk, PATH, 7, 100)
    again.load()
    again.write()
    again.append([3], [200], [NOW + 7999], at_once)
    assert list(again.chain(3)) == [
        IndexEntry(3, 200, 7, 2),
        IndexEntry(10, 100, 5, 1),
        IndexEntry(3, 0, 0, 0),
    ]
    disk.assert_all_written_was_reserved()


def test_a_file_that_grows_takes_all_room_for_its_slots_in_the_background() -> None:
    disk = SimDisk()
    slots = 200_000
    file = new_file(disk, slots, 100_000)
    jobs: list[str] = []

    def soon(job: object) -> None:
        jobs.append("reserve")

    for n in range(0, 50_000, 1000):
        codes = range(n, n + 100_000, 100)
        file.append(codes, [n] * 1000, [NOW] * 1000, soon=soon)
    assert jobs == ["reserve"]  # one at a time
    file.leave()
    disk.assert_all_written_was_reserved()


@pytest.mark.parametrize(
    ("position", "number", "told"),
    [
        (slot_position(1), 9, "leads to entry 9"),
        (slot_position(1), -1, "leads to entry -1"),
        (slot_position(2), 2, "does not belong there"),
        (entry_position(2, 3) + 16, 2, "leads to entry 2"),
        (entry_position(1, 3), -5, "does not belong there"),
    ],
)
def test_a_chain_that_contradicts_itself_is_not_believed(position: int, number: int, told: str) -> None:
    disk = SimDisk()
    file = new_file(disk, 3, 10)
    file.append([1, 4], [0, 100], [NOW, NOW], at_once)
    data = bytearray(content(disk))
    data[position : position + 4] = number.to_bytes(4, "big", signed=True)

    def read(offset: int, size: int) -> bytes:
        return bytes(data[offset : offset + size])

    with pytest.raises(StoreCorrupt, match=told):
        [list(chain(read, file.header, 3, slot)) for slot in range(3)]


def test_impossible_headers_are_told() -> None:
    assert header_fault(IndexHeader(), 3, 10) is None
    assert header_fault(IndexHeader(index_count=11), 3, 10)
    assert header_fault(IndexHeader(index_count=-1), 3, 10)
    assert header_fault(IndexHeader(index_count=2, hash_slot_count=2), 3, 10)
    assert header_fault(IndexHeader(begin_phy_offset=5, end_phy_offset=4), 3, 10)
    assert header_fault(IndexHeader(begin_timestamp=-1), 3, 10)
    assert header_fault(IndexHeader(begin_timestamp=5, end_timestamp=4), 3, 10)


NAMES = st.sampled_from(["KEYS", "UNIQ_KEY", "TAGS", "MY_UNIQ_KEY", "XKEYS"])
VALUES = st.text(st.sampled_from("ab é"), max_size=5)


@given(st.lists(st.tuples(st.dictionaries(NAMES, VALUES), st.booleans()), max_size=5))
def test_the_keys_of_a_batch_are_those_of_each_message(found: list[tuple[dict[str, str], bool]]) -> None:
    texts = [encode_properties(named) + ("\x02" if ended and named else "") for named, ended in found]
    rows = [("T", text, 100 * n, NOW + n) for n, text in enumerate(texts)]
    columns = Keys().columns(rows)
    expected = [
        (key_hash("T", key), 100 * n, NOW + n) for n, text in enumerate(texts) for key in keys_of(text)
    ]
    assert list(zip(*columns, strict=True)) == expected


def test_the_keys_of_a_message_are_its_unique_key_and_each_of_its_keys() -> None:
    assert keys_of("KEYS\x01 a  b \x02UNIQ_KEY\x01U\x02TAGS\x01t") == ["U", "a", "b"]
    assert keys_of("TAGS\x01t") == []


def test_apaches_files_hold_all_keys_of_the_golden_store(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    settings = facts()["config"]
    slots, entries = settings["maxHashSlotNum"], settings["maxIndexNum"]
    found: list[tuple[int, int]] = []
    for path in sorted((root / "index").iterdir()):
        data = path.read_bytes()
        assert len(data) == index_file_size(slots, entries)
        header = IndexHeader.decode(data)
        assert header_fault(header, slots, entries) is None
        of_file = [entry for _, entry in iter_entries(data, slots, header.index_count)]
        found += [(entry.phy_offset, entry.key_hash) for entry in of_file]
        file = IndexFile(SystemDisk(), str(path), slots, entries)
        file.load()
        chained = [entry for slot, _ in iter_slots(data, slots) for entry in file.chain(slot)]
        assert sorted(chained) == sorted(of_file)
    expected = []
    for message in facts()["messages"]:
        properties = encode_properties(message["properties"])
        expected += [(message["phyOffset"], key_hash(message["topic"], key)) for key in keys_of(properties)]
    assert found == expected
    assert len(found) == 553


def test_a_cut_file_is_told() -> None:
    disk = SimDisk()
    file = new_file(disk, 3, 10)
    file.append([1], [0], [NOW], at_once)
    data = content(disk)[: entry_position(1, 3) + INDEX_ENTRY_SIZE - 1]
    with pytest.raises(StoreCorrupt, match="ends before entry 1"):
        list(chain(lambda offset, size: data[offset : offset + size], file.header, 3, 1))
    with pytest.raises(StoreCorrupt):
        IndexHeader.decode(data[:39])
