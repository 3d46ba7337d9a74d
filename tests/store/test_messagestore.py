"""Putting and getting, on real files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pymq.errors import MessageIllegal, StoreCorrupt, StoreError, StoreLocked
from pymq.protocol.message import RECORD_FIXED_SIZE, BatchEntry, decode_record
from pymq.protocol.message_ids import decode_offset_msg_id, pack_host
from pymq.protocol.tag_filter import tag_codes
from pymq.store.messagestore import Dispatch, GetStatus, MessageStore
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.making import BORN_HOST, STORE_HOST, open_store, put, put_batch, read_queue, records


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def test_what_was_put_is_read_back_with_all_its_fields(root: str) -> None:
    clock = SimClock()
    store = open_store(SystemDisk(), root, clock)
    result = store.put(
        "Orders",
        3,
        b"body \x00\xff",
        "TAGS\x01a\x02KEYS\x01k 1",
        born_host=BORN_HOST,
        born_timestamp=123,
        flag=-7,
        sys_flag=0x30 | 0x2,
        reconsume_times=4,
        prepared_transaction_offset=5,
    )
    [record] = records(store.get("Orders", 3, 0, 32))
    assert (record.topic, record.queue_id, record.body, record.queue_offset) == (
        "Orders",
        3,
        b"body \x00\xff",
        0,
    )
    assert record.read_properties() == {"TAGS": "a", "KEYS": "k 1"}
    assert (record.flag, record.sys_flag) == (-7, 0x2), "the host bits are the store's, not the client's"
    assert (record.born_timestamp, record.born_host) == (123, BORN_HOST)
    assert (record.store_timestamp, record.store_host) == (clock.now_ms(), pack_host(*STORE_HOST))
    assert (record.reconsume_times, record.prepared_transaction_offset) == (4, 5)
    assert decode_offset_msg_id(result.offset_msg_id) == (pack_host(*STORE_HOST), result.physical_offset)
    assert result.end_offset == store.commit_log_max_offset
    store.close()


def test_neighbours_in_the_log_come_as_one_slice_and_others_in_order(root: str) -> None:
    store = open_store(SystemDisk(), root)
    for i in range(10):
        put(store, "Alone", body=b"%d" % i)
    for i in range(10):
        put(store, "A", body=b"a%d" % i)
        put(store, "B", body=b"b%d" % i)
    alone = store.get("Alone", 0, 2, 5)
    assert len(alone.records) == 1
    assert [r.body for r in records(alone)] == [b"2", b"3", b"4", b"5", b"6"]
    assert (alone.status, alone.next_begin_offset, alone.max_offset) == (GetStatus.FOUND, 7, 10)
    mixed = store.get("B", 0, 0, 32)
    assert [r.body for r in records(mixed)] == [b"b%d" % i for i in range(10)]
    store.close()


def test_the_status_tells_where_an_offset_lies(root: str) -> None:
    store = open_store(SystemDisk(), root)
    assert store.get("T", 0, 5, 32).status is GetStatus.NO_MESSAGE_IN_QUEUE
    for _ in range(3):
        put(store)
    one = store.get("T", 0, 3, 32)
    assert (one.status, one.next_begin_offset) == (GetStatus.OFFSET_OVERFLOW_ONE, 3)
    badly = store.get("T", 0, 9, 32)
    assert (badly.status, badly.next_begin_offset) == (GetStatus.OFFSET_OVERFLOW_BADLY, 3)
    small = store.get("T", 0, -1, 32)
    assert (small.status, small.next_begin_offset) == (GetStatus.OFFSET_TOO_SMALL, 0)
    nothing = store.get("T", 0, 0, 32, tag_codes("other"))
    assert (nothing.status, nothing.next_begin_offset) == (GetStatus.NO_MATCHED_MESSAGE, 3)
    store.close()


def test_tags_choose_messages_and_the_next_offset_is_past_those_looked_at(root: str) -> None:
    store = open_store(SystemDisk(), root, consume_queue_segment_bytes=6_000_000)
    for i in range(12):
        put(store, body=b"%d" % i, tags=("red", "blue", "green")[i % 3])
    result = store.get("T", 0, 0, 3, tag_codes("red || green"))
    assert [r.body for r in records(result)] == [b"0", b"2", b"3"]
    assert result.next_begin_offset == 4, "just behind the third match, so that the next pull goes on there"
    store.close()


def test_an_answer_keeps_the_limits_of_count_and_bytes(root: str) -> None:
    store = open_store(
        SystemDisk(), root, max_transfer_bytes_in_memory=2500, consume_queue_segment_bytes=4000
    )
    for _ in range(40):
        put(store, body=bytes(10))
    assert store.get("T", 0, 0, 100).count == 2500 // (RECORD_FIXED_SIZE + 10 + 1)
    put(store, "Big", body=bytes(3000))
    assert store.get("Big", 0, 0, 32).count == 1, "the first one is given whatever its size"
    store.close()
    store = open_store(
        SystemDisk(), root, access_message_in_memory_max_ratio=0, consume_queue_segment_bytes=4000
    )
    old = store.get("T", 0, 0, 100)
    assert (old.count, old.is_far_behind) == (8, True), "what lies far behind is read in small portions"
    assert not store.is_in_memory("T", 0, 0)
    store.close()


def test_a_full_file_ends_in_a_blank_record_and_the_next_begins(root: str) -> None:
    store = open_store(SystemDisk(), root)
    results = [put(store, body=bytes(1000)) for _ in range(150)]
    size = results[0].end_offset
    assert all(r.physical_offset % 65536 + size + 8 <= 65536 for r in results)
    assert len(read_queue(store, "T", 0)) == 150
    log = b"".join(p.read_bytes() for p in sorted(Path(root, "commitlog").iterdir()))
    last = 65536 // size * size
    assert log[last : last + 8] == (65536 - last).to_bytes(4, "big") + bytes.fromhex("cbd43194")
    store.close()
    names = sorted(os.listdir(Path(root, "commitlog")))
    assert names == [f"{n * 65536:020d}" for n in range(3)], "the file made ahead is gone after a clean stop"


def test_a_record_may_fill_a_file_up_to_its_blank_and_not_more(root: str) -> None:
    store = open_store(SystemDisk(), root)
    most = 65536 - 8 - RECORD_FIXED_SIZE - 1
    assert put(store, body=bytes(most)).physical_offset == 0
    assert put(store, body=bytes(most)).physical_offset == 65536
    with pytest.raises(MessageIllegal):
        put(store, body=bytes(most + 1))
    assert store.max_offset("T", 0) == 2
    store.close()


def test_a_batch_has_consecutive_offsets_and_one_file(root: str) -> None:
    store = open_store(SystemDisk(), root)
    put(store, body=bytes(60000))
    entries = [BatchEntry(b"%d" % i * 100, "TAGS\x01x", i) for i in range(50)]
    results = put_batch(store, entries)
    assert [r.queue_offset for r in results] == list(range(1, 51))
    assert {r.physical_offset // 65536 for r in results} == {1}
    assert [(r.body, r.flag) for r in read_queue(store, "T", 0)[1:]] == [(e.body, e.flag) for e in entries]
    with pytest.raises(MessageIllegal):
        put_batch(store, [BatchEntry(bytes(40000))] * 2)
    with pytest.raises(MessageIllegal):
        put_batch(
            store, [BatchEntry(b"fine"), BatchEntry(b"", "P\x01" + "x" * 30000)], shared="S\x01" + "y" * 5000
        )
    assert store.max_offset("T", 0) == 51
    store.close()


@pytest.mark.parametrize(
    ("topic", "queue_id", "body", "properties", "flag"),
    [
        ("T", 0, bytes(1025), "", 0),
        ("T", 0, b"", "P\x01" + "x" * 32768, 0),
        ("T" * 128, 0, b"", "", 0),
        ("../T", 0, b"", "", 0),
        ("", 0, b"", "", 0),
        ("T", -1, b"", "", 0),
        ("T", 0, b"", "P\x01\ud800", 0),
        ("T", 0, b"", "P\x01a\0", 0),
        ("T", 0, b"", "", 2**31),
    ],
)
def test_an_illegal_message_is_refused_and_leaves_nothing(
    root: str, topic: str, queue_id: int, body: bytes, properties: str, flag: int
) -> None:
    store = open_store(SystemDisk(), root, max_message_bytes=1024)
    with pytest.raises(MessageIllegal):
        store.put(topic, queue_id, body, properties, born_host=BORN_HOST, flag=flag)
    assert store.commit_log_max_offset == 0
    put(store)
    assert len(read_queue(store, "T", 0)) == 1
    store.close()


def test_hosts_of_ip_version_6_are_kept_and_marked(root: str) -> None:
    store = open_store(SystemDisk(), root)
    host = pack_host("2001:db8::1", 1234)
    store.put("T", 0, b"six", "A\x01b", born_host=host)
    put(store, body=b"four")
    six, four = read_queue(store, "T", 0)
    assert (six.born_host, six.sys_flag, six.body, six.read_properties()) == (host, 0x10, b"six", {"A": "b"})
    assert (four.sys_flag, four.body) == (0, b"four")
    store.close()


def test_prepared_and_rolled_back_messages_are_stored_but_in_no_queue(root: str) -> None:
    store = open_store(SystemDisk(), root)
    for sys_flag in (0x4, 0xC, 0x8):
        store.put("T", 0, b"%d" % sys_flag, "", born_host=BORN_HOST, sys_flag=sys_flag)
    assert [r.body for r in read_queue(store, "T", 0)] == [b"8"]
    store.close()


def test_times_lead_to_offsets(root: str) -> None:
    clock = SimClock(now_ms=1_000_000)
    store = open_store(SystemDisk(), root, clock)
    assert store.offset_by_time("T", 0, 5) == 0
    assert store.earliest_log_time() == -1
    for _ in range(50):
        put(store)
        clock.advance(10)
    assert [store.store_time("T", 0, n) for n in (0, 49, 50, -1)] == [1_000_000, 1_000_490, -1, -1]
    for asked, found in [
        (0, 0),
        (1_000_000, 0),
        (1_000_100, 10),
        (1_000_104, 10),
        (1_000_105, 10),
        (1_000_106, 11),
    ]:
        assert store.offset_by_time("T", 0, asked) == found
    assert store.offset_by_time("T", 0, 2_000_000) == 49, "the nearest one there is"
    assert store.earliest_store_time("T", 0) == store.earliest_log_time() == 1_000_000
    store.close()


def test_times_lead_past_numbers_whose_message_is_lost(root: str) -> None:
    clock = SimClock(now_ms=1_000_000)
    store = open_store(SystemDisk(), root, clock)
    for n in range(10):
        put(store, body=b"body %d" % n)
        clock.advance(10)
    put(store, "U")
    store.close()

    def lose(numbers: Iterable[int]) -> MessageStore:
        log = Path(root) / "commitlog" / ("0" * 20)
        data = bytearray(log.read_bytes())
        for number in numbers:
            data[data.index(b"body %d" % number)] ^= 1
        log.write_bytes(data)
        return open_store(SystemDisk(), root, clock)

    store = lose((0, 4, 5, 6, 9))
    assert [store.store_time("T", 0, n) for n in (3, 4, 5, 6, 7)] == [1_000_030, -1, -1, -1, 1_000_070]
    found = [store.offset_by_time("T", 0, 1_000_000 + 10 * n) for n in range(11)]
    assert found == [1, 1, 2, 3, 3, 3, 7, 7, 8, 8, 8]
    store.close()
    store = lose((1, 2, 3, 7, 8))
    assert store.max_offset("T", 0) == 10
    assert store.offset_by_time("T", 0, 1_000_050) == 0, "no time is known"
    store.close()


def test_a_record_is_found_by_its_physical_offset_only_where_one_begins(root: str) -> None:
    store = open_store(SystemDisk(), root)
    results = [put(store, body=b"%d" % i) for i in range(3)]
    record = store.record_at(results[1].physical_offset)
    assert record is not None
    assert decode_record(record).body == b"1"
    for nowhere in (-1, 1, results[1].physical_offset + 1, store.commit_log_max_offset, 10**15):
        assert store.record_at(nowhere) is None
    store.close()


def test_listeners_and_dispatchers_follow_each_message(root: str) -> None:
    store = open_store(SystemDisk(), root)
    heard: list[tuple[str, int, int, int]] = []
    dispatched: list[Dispatch] = []
    store.on_dispatch.append(lambda *what: heard.append(what))
    store.dispatchers.append(dispatched.append)
    store.put("T", 2, b"", "", born_host=BORN_HOST, tags_code=77, keys="a b", unique_key="U")
    put_batch(store, [BatchEntry(b"", "KEYS\x01c\x02TAGS\x01x")], queue_id=2)
    assert heard == [("T", 2, 0, 77), ("T", 2, 1, ord("x"))]
    assert [(d.keys, d.unique_key, d.queue_offset) for d in dispatched] == [("a b", "U", 0), ("c", "", 1)]
    store.close()


def test_a_deleted_topic_is_gone_and_its_queues_start_anew(root: str) -> None:
    store = open_store(SystemDisk(), root)
    for _ in range(30):
        put(store, "%RETRY%g")
    put(store, "Other")
    assert store.delete_topic("%RETRY%g") == 1
    assert not Path(root, "consumequeue", "%RETRY%g").exists()
    assert not list(Path(root, "consumequeue", ".deleted").iterdir())
    assert store.max_offset("%RETRY%g", 0) == 0
    assert put(store, "%RETRY%g", body=b"new").queue_offset == 0
    assert [r.body for r in read_queue(store, "%RETRY%g", 0)] == [b"new"]
    store.close()
    Path(root, "abort").touch()
    store = open_store(SystemDisk(), root)
    assert [r.body for r in read_queue(store, "%RETRY%g", 0)] == [b"new"], (
        "also when the queues are built again"
    )
    store.close()


def test_a_clean_restart_serves_everything(root: str) -> None:
    clock = SimClock()
    store = open_store(SystemDisk(), root, clock)
    for i in range(500):
        put(store, f"T{i % 3}", i % 2, b"%d" % i * 50)
        clock.advance(1)
    assert Path(root, "abort").exists()
    before = {key: read_queue(store, *key) for key in store.queues()}
    end = store.commit_log_max_offset
    store.close()
    store.close()
    assert not Path(root, "abort").exists()
    for _ in range(2):
        store = open_store(SystemDisk(), root, clock)
        assert {key: read_queue(store, *key) for key in store.queues()} == before
        assert store.commit_log_max_offset == end
        assert store.flushed.position == end
        store.close()
    store = open_store(SystemDisk(), root, clock)
    assert put(store, "T0", 0).queue_offset == len(before["T0", 0])
    store.close()


def test_more_queues_than_may_be_mapped(root: str) -> None:
    disk = SystemDisk()
    store = open_store(disk, root, mapped_consume_queue_segments=3, mapped_commit_log_segments=2)
    for i in range(400):
        put(store, "T", i % 10, b"%d" % i * 100)
    for queue_id in range(10):
        assert [r.body for r in read_queue(store, "T", queue_id)] == [
            b"%d" % i * 100 for i in range(queue_id, 400, 10)
        ]
    store.close()
    store = open_store(disk, root, mapped_consume_queue_segments=3)
    assert sum(len(read_queue(store, *key)) for key in store.queues()) == 400
    store.close()


def test_a_folder_has_one_store_at_a_time(root: str) -> None:
    store = open_store(SystemDisk(), root)
    with pytest.raises(StoreLocked):
        open_store(SystemDisk(), root)
    put(store)
    store.close()
    with pytest.raises(StoreError):
        put(store)
    open_store(SystemDisk(), root).close()


@pytest.mark.parametrize("size", [32768, 131072])
def test_files_of_another_size_stop_the_start_and_change_nothing(root: str, size: int) -> None:
    store = open_store(SystemDisk(), root)
    for _ in range(100):
        put(store, body=bytes(1000))
    store.close()
    with pytest.raises(StoreCorrupt, match="configured file size"):
        open_store(SystemDisk(), root, commit_log_segment_bytes=size)
    assert not Path(root, "abort").exists()
    store = open_store(SystemDisk(), root)
    assert len(read_queue(store, "T", 0)) == 100
    store.close()


def test_a_foreign_file_stops_the_start(root: str) -> None:
    open_store(SystemDisk(), root).close()
    Path(root, "commitlog", "notes.txt").write_text("mine")
    with pytest.raises(StoreCorrupt, match=r"notes\.txt"):
        open_store(SystemDisk(), root)


def test_a_new_store_is_called_new_and_an_empty_one_opens_without_a_word(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    open_store(SystemDisk(), root).close()
    assert [record.getMessage() for record in caplog.records] == [f"new store in {root}"]
    caplog.clear()
    open_store(SystemDisk(), root).close()
    assert caplog.records == []


def test_files_whose_names_begin_with_a_dot_are_left_alone_with_a_warning(
    root: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(SystemDisk(), root)
    put(store, "T")
    store.close()
    strange = [Path(root, "commitlog", ".DS_Store"), Path(root, "consumequeue", "T", "0", ".nfs01")]
    for path in strange:
        path.write_bytes(b"something")
    store = open_store(SystemDisk(), root)
    assert len(read_queue(store, "T", 0)) == 1
    store.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{path} is none of the store's files: ignored" for path in strange]
    assert all(path.read_bytes() == b"something" for path in strange)


def test_one_read_looks_at_a_bounded_number_of_messages_however_many_are_asked_for(root: str) -> None:
    store = open_store(
        SystemDisk(), root, commit_log_segment_bytes=8 << 20, consume_queue_segment_bytes=800_000
    )
    count = 20_000
    for _ in range(count):
        put(store, "T", body=b"", tags="a")
    put(store, "T", body=b"", tags="b")
    none = store.get("T", 0, 0, 2**31 - 1, tag_codes("b"))
    assert none.status is GetStatus.NO_MATCHED_MESSAGE
    assert 800 <= none.next_begin_offset <= 16_000
    found = store.get("T", 0, none.next_begin_offset, 2**31 - 1, tag_codes("b"))
    assert (found.status, found.next_begin_offset, found.count) == (GetStatus.FOUND, count + 1, 1)
    store.close()
