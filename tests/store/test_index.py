"""Messages are found by topic and key, whatever became of the index files."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymq.errors import StoreBroken, StoreFull
from pymq.protocol.message import decode_record
from pymq.protocol.properties import encode_properties
from pymq.protocol.sysflags import TRANSACTION_ROLLBACK
from pymq.store.index_file import INDEX_HEADER, IndexHeader, entry_position, index_file_size, slot_position
from pymq.store.messagestore import MessageStore, PutResult
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.golden_store import facts, open_golden, unpack
from tests.store.making import BORN_HOST, open_store
from tests.store.sim_disk import SimDisk

FOREVER = 2**63 - 1
INDEX = "/s/index"
SLOTS, ENTRIES = 50, 100  # as making.small_config has them


def put(
    store: MessageStore, keys: str = "", unique_key: str = "", topic: str = "T", **more: Any
) -> PutResult:
    properties = encode_properties({"KEYS": keys, "UNIQ_KEY": unique_key, "TAGS": "a"})
    return store.put(topic, 0, more.pop("body", b"x"), properties, born_host=BORN_HOST, **more)


def find(store: MessageStore, key: str, topic: str = "T", begin: int = 0, end: int = FOREVER) -> list[int]:
    """Physical offsets of what a search gives, newest first."""
    found = [record for record in store.search(topic, key, begin, end) if record is not None]
    return [decode_record(record, check_crc=True).physical_offset for record in found]


def index_files(disk: SimDisk) -> list[str]:
    return [f"{INDEX}/{name}" for name in disk.list_folder(INDEX)]


def overwrite(disk: SimDisk, path: str, position: int, data: bytes) -> None:
    content = disk.contents[path]
    content.buffer[position : position + len(data)] = data
    content.sync()


def kill(store: MessageStore, disk: SimDisk, clock: SimClock | None = None, **options: Any) -> MessageStore:
    """The process ends without a word; the machine goes on. Gives the store of the next process."""
    disk.locked.clear()
    return open_store(disk, "/s", clock, **options)


def test_messages_are_found_by_each_of_their_keys_newest_first() -> None:
    store = open_store(SimDisk(), "/s")
    first = put(store, "order-1 pair", "U1").physical_offset
    second = put(store, "order-2  pair", "U2").physical_offset
    put(store, "order-1", "U3", topic="Other")
    assert find(store, "order-1") == [first]
    assert find(store, "pair") == [second, first]
    assert find(store, "U2") == [second]
    assert find(store, "U3") == []
    assert len(find(store, "U3", topic="Other")) == 1
    assert find(store, "") == find(store, "order-1 pair") == []
    assert store.index_last_update[1] > second


def test_a_message_is_found_once_however_often_it_has_a_key() -> None:
    store = open_store(SimDisk(), "/s")
    offset = put(store, "k k k", "k").physical_offset
    assert find(store, "k") == [offset]


def test_keys_whose_hashes_are_equal_are_told_apart() -> None:
    store = open_store(SimDisk(), "/s")
    put(store, "Aa")
    offset = put(store, "BB").physical_offset
    assert find(store, "BB") == [offset]


def test_only_messages_of_the_time_asked_for_are_found() -> None:
    clock = SimClock()
    store = open_store(SimDisk(), "/s", clock)
    stored = []
    for _ in range(120):
        result = put(store, "k")
        stored.append((result.store_timestamp, result.physical_offset))
        clock.advance(701)
    for begin, end in [(0, 60), (20, 20), (20, 40), (99, 119), (119, 119), (3, 200)]:
        low, high = stored[begin][0], stored[min(end, 119)][0]
        expected = [offset for time, offset in reversed(stored) if low <= time <= high]
        assert find(store, "k", begin=low, end=high) == expected
    assert find(store, "k", begin=stored[5][0] + 1, end=stored[6][0] - 1) == []


def test_rolled_back_messages_are_not_found_and_prepared_ones_are() -> None:
    store = open_store(SimDisk(), "/s")
    put(store, "k", sys_flag=TRANSACTION_ROLLBACK)
    offset = put(store, "k", sys_flag=4).physical_offset
    assert find(store, "k") == [offset]
    store.close()


KEYS = st.lists(st.sampled_from(["a", "b", "c", "Aa", "BB", "長い", "x" * 40, "y" * 70]), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(KEYS, min_size=1, max_size=60)),
        st.tuples(st.sampled_from(["close", "kill", "tick", "lose", "lose last"]), st.just([])),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_the_index_finds_what_the_log_has(steps: list[tuple[str, list[list[str]]]]) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    model: dict[str, list[int]] = {}
    for action, messages in [*steps, ("close", []), ("tick", [])]:
        for keys in messages:
            offset = put(store, " ".join(keys)).physical_offset
            for key in set(keys):
                model.setdefault(key, []).insert(0, offset)
        clock.advance(1500)
        if action == "tick":
            store.tick()
        elif action == "kill":
            store = kill(store, disk, clock)
        elif action != "put":
            store.close()
            if action == "lose":
                disk.remove_folder(INDEX)
            elif action == "lose last" and index_files(disk):
                disk.remove_file(index_files(disk)[-1])
            store = open_store(disk, "/s", clock)
        for key, offsets in model.items():
            assert find(store, key) == offsets
    disk.assert_all_written_was_reserved()


@pytest.mark.parametrize("seed", range(20))
def test_after_a_power_cut_the_index_finds_what_the_log_has(seed: int) -> None:
    luck = random.Random(seed)
    disk, clock = SimDisk(), SimClock()
    for life in range(4):
        store = open_store(disk, "/s", clock)
        model: dict[str, list[int]] = {}
        log_end = store.commit_log_max_offset
        offset = 0
        while offset < log_end:
            data = store.record_at(offset)
            if data is None:
                offset += 65536 - offset % 65536
                continue
            for key in set(decode_record(data).read_properties().get("KEYS", "").split()):
                model.setdefault(key, []).insert(0, offset)
            offset += len(data)
        for n in range(20):
            assert find(store, f"k{n}") == model.get(f"k{n}", [])
        for _ in range(luck.randrange(300)):
            put(
                store,
                f"k{luck.randrange(20)} k{luck.randrange(20)}",
                body=luck.randbytes(luck.randrange(400)),
            )
            clock.advance(luck.randrange(300))
            if luck.random() < 0.3:
                store.tick()
        disk.assert_all_written_was_reserved()
        disk = disk.crash(seed * 10 + life)


def filled(disk: SimDisk, count: int = 130) -> list[int]:
    """A closed store with three index files; gives the offsets of its messages, newest first."""
    clock = SimClock()
    store = open_store(disk, "/s", clock)
    offsets: list[int] = []
    for n in range(count):
        offsets.insert(0, put(store, f"k k{n}").physical_offset)
        clock.advance(100)
    store.close()
    return offsets


FIRST_ENTRY, FIRST_SLOT = entry_position(1, SLOTS), slot_position(0)
DAMAGES = {
    "a count that is too large": (36, (ENTRIES + 1).to_bytes(4, "big")),
    "a count below the entries": (36, (5).to_bytes(4, "big")),
    "a count above the entries": (36, (90).to_bytes(4, "big")),
    "a header of zeros": (0, bytes(40)),
    "an impossible header": (0, b"\xff" * 40),
    "entries of zeros": (FIRST_ENTRY, bytes(20 * 30)),
    "entries that lead nowhere": (FIRST_ENTRY + 4, (77).to_bytes(8, "big")),
    "an entry of another key": (FIRST_ENTRY, (7).to_bytes(4, "big")),
    "slots of zeros": (FIRST_SLOT, bytes(4 * SLOTS)),
    "slots that lead nowhere": (FIRST_SLOT, b"\x7f" * 4 * SLOTS),
}


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_built_anew_at_the_next_start(damage: str, which: int) -> None:
    disk = SimDisk()
    offsets = filled(disk)
    files = index_files(disk)
    assert len(files) == 3
    overwrite(disk, files[which], *DAMAGES[damage])
    store = open_store(disk, "/s")
    assert find(store, "k") == offsets
    for n, offset in enumerate(reversed(offsets)):
        assert find(store, f"k{n}") == [offset]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_lost_file_is_built_anew_at_the_next_start(which: int) -> None:
    disk = SimDisk()
    offsets = filled(disk)
    disk.remove_file(index_files(disk)[which])
    store = open_store(disk, "/s")
    assert find(store, "k") == offsets


def test_an_intact_index_is_not_built_anew() -> None:
    disk = SimDisk()
    offsets = filled(disk)
    before = {path: disk.read_bytes(path) for path in index_files(disk)}
    store = open_store(disk, "/s")
    assert find(store, "k") == offsets
    store.close()
    assert {path: disk.read_bytes(path) for path in index_files(disk)} == before


def test_damage_that_only_a_search_meets_is_repaired_behind_it() -> None:
    disk = SimDisk()
    offsets = filled(disk, 40)
    store = open_store(disk, "/s")
    [path] = index_files(disk)
    overwrite(disk, path, FIRST_ENTRY + 20 * 11 + 4, (3).to_bytes(8, "big"))
    assert find(store, "k5") == []
    store.tick()
    assert find(store, "k5") == [offsets[-6]]
    assert find(store, "k") == offsets


def test_files_of_another_geometry_are_built_anew() -> None:
    disk = SimDisk()
    offsets = filled(disk)
    store = open_store(disk, "/s", max_hash_slot_num=10, max_index_num=60)
    assert find(store, "k") == offsets
    assert {disk.file_size(path) for path in index_files(disk)} == {index_file_size(10, 60)}


def test_foreign_files_in_the_folder_are_left_alone() -> None:
    disk = SimDisk()
    filled(disk)
    disk.write_bytes(f"{INDEX}/.DS_Store", b"?")
    store = open_store(disk, "/s")
    assert len(find(store, "k")) == 130
    assert disk.exists(f"{INDEX}/.DS_Store")


def test_a_full_disk_stops_the_index_and_no_send() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=20_000)
    offsets = [put(store, "k").physical_offset]
    assert find(store, "k") == offsets
    disk.failing["create"] = StoreFull  # the next file of the index
    for _ in range(150):
        offsets.insert(0, put(store, "k").physical_offset)
    store.tick()
    assert len(find(store, "k")) == ENTRIES - 1
    offsets.insert(0, put(store, "k").physical_offset)
    disk.failing.clear()
    clock.advance(1000)
    store.tick()
    assert find(store, "k") == offsets
    disk.assert_all_written_was_reserved()


def test_an_index_that_found_no_room_is_whole_after_the_next_start() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=20_000)
    put(store, "k")
    disk.failing["create"] = StoreFull
    for _ in range(150):
        put(store, "k")
    store.close()
    disk.failing.clear()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=20_000)
    assert len(find(store, "k")) == 151


def test_a_broken_disk_is_told_to_the_store() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store, "k")
    disk.failing["reserve"] = StoreBroken
    store.tick()
    assert not store.is_writable


def test_a_forced_file_counts_as_durable() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    for _ in range(150):
        put(store, "k")
        clock.advance(10)
    store.tick()
    first = index_files(disk)[0]
    header = IndexHeader.decode(disk.read_bytes(first) or b"")
    assert header.index_count == ENTRIES
    checkpoint = disk.read_bytes("/s/checkpoint") or b""
    assert int.from_bytes(checkpoint[16:24], "big") == header.end_timestamp
    before = disk.read_bytes(first)
    store = kill(store, disk, clock)
    assert disk.read_bytes(first) == before
    assert len(find(store, "k")) == 150


def test_names_are_local_times_in_the_order_of_the_log() -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    for _ in range(400):  # at one moment
        put(store, "k")
    store.tick()
    names = disk.list_folder(INDEX)
    assert names[0] == f"{clock.local_time(clock.now_ms()):%Y%m%d%H%M%S}{clock.now_ms() % 1000:03d}"
    assert len(names) == 5
    ends = [INDEX_HEADER.unpack_from(disk.read_bytes(f"{INDEX}/{name}") or b"")[3] for name in names]
    assert ends == sorted(ends)


def test_without_the_index_nothing_is_written_or_found() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", message_index_enable=False)
    offset = put(store, "k").physical_offset
    store.tick()
    assert find(store, "k") == []
    store.close()
    assert index_files(disk) == []
    store = open_store(disk, "/s")
    assert find(store, "k") == [offset]


def test_a_long_search_can_be_interrupted() -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", max_index_num=10_000)
    for _ in range(2500):
        put(store, "Aa")
    put(store, "BB")
    steps = list(store.search("T", "Cc", 0, FOREVER))
    assert steps.count(None) == len(steps)
    assert find(store, "BB") != []


def test_apaches_index_is_taken_over(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    before = {path: path.read_bytes() for path in sorted((root / "index").iterdir())}
    store = open_golden(root, SystemDisk())
    for message in facts()["messages"]:
        keys = [message["properties"].get("UNIQ_KEY", ""), *message["properties"].get("KEYS", "").split()]
        for key in filter(None, keys):
            assert message["phyOffset"] in find(store, key, topic=message["topic"])
    store.close()
    assert {path: path.read_bytes() for path in sorted((root / "index").iterdir())} == before


def test_much_that_is_missing_is_built_behind_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=20_000)
    offsets = [put(store, "k", body=bytes(6000)).physical_offset for _ in range(400)][::-1]
    store.close()
    disk.remove_folder(INDEX)
    monkeypatch.setattr("pymq.store.index.AT_ONCE_BYTES", 1 << 20)
    store = open_store(disk, "/s", clock, consume_queue_segment_bytes=20_000)
    assert find(store, "k") == []
    offsets.insert(0, put(store, "k").physical_offset)
    for _ in range(60):
        store.tick()
    assert find(store, "k") == offsets
    offsets.insert(0, put(store, "k").physical_offset)
    assert find(store, "k") == offsets


def test_files_go_with_the_messages_that_they_lead_to() -> None:
    disk = SimDisk()
    offsets = filled(disk, 200)
    store = open_store(disk, "/s")
    files = index_files(disk)
    ends = [IndexHeader.decode(disk.read_bytes(path) or b"").end_phy_offset for path in files]
    store.on_deleted[0](ends[1] + 1)
    assert index_files(disk) == files[2:]
    store.on_deleted[0](2**62)
    assert index_files(disk) == files[-1:]
    assert find(store, "k")[0] == offsets[0]


def test_what_is_built_anew_is_what_apache_had_built(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    before = [path.read_bytes() for path in sorted((root / "index").iterdir())]
    for path in (root / "index").iterdir():
        path.unlink()
    open_golden(root, SystemDisk()).close()
    after = [path.read_bytes() for path in sorted((root / "index").iterdir())]
    assert len(after) == len(before) == 4
    # Apache counts the first entry's seconds of a later file from the end of the one before.
    seconds = slice(entry_position(1, 50) + 12, entry_position(1, 50) + 16)
    for ours, theirs in zip(map(bytearray, after), map(bytearray, before), strict=True):
        ours[seconds] = theirs[seconds] = bytes(4)
        assert ours == theirs
