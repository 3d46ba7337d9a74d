"""Batches: the same bytes as message by message, all or none, and made a slice at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymq.errors import MessageIllegal, StoreBroken, StoreFull
from pymq.protocol.message import BatchEntry, encode_batch
from pymq.protocol.properties import TAGS, get_property
from pymq.protocol.sysflags import COMPRESSED, TRANSACTION_PREPARED
from pymq.protocol.tag_filter import tags_code
from pymq.store.batches import SLICE
from pymq.store.results import Dispatch
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.making import BORN_HOST, open_store, put, put_batch, read_queue
from tests.store.sim_disk import SimDisk

ROOT = "/s/store"
_text = st.text(st.characters(codec="utf-8", exclude_characters="\0\x01\x02"), max_size=8)
_name = st.sampled_from(("TAGS", "KEYS", "UNIQ_KEY", "a", "é"))
_properties = st.lists(st.tuples(_name, _text), max_size=4).map(
    lambda pairs: "\x02".join(f"{name}\x01{value}" for name, value in pairs)
)
_entries = st.lists(
    st.builds(
        BatchEntry,
        st.binary(max_size=40),
        st.tuples(_properties, st.sampled_from(("", "\x02"))).map("".join),
        st.integers(-(2**31), 2**31 - 1),
    ),
    min_size=1,
    max_size=60,
)


def files(disk: SimDisk) -> dict[str, bytes]:
    """What log and queues hold."""
    return {path: file.data() for path, file in disk.contents.items() if path.rpartition("/")[2].isdecimal()}


@settings(max_examples=60, deadline=None)
@given(_entries, _properties, st.sampled_from((BORN_HOST, bytes(20))), st.sampled_from((0, COMPRESSED)))
def test_a_batch_leaves_the_bytes_that_its_messages_would_leave_one_by_one(
    entries: list[BatchEntry], shared: str, born_host: bytes, sys_flag: int
) -> None:
    one_by_one, together = SimDisk(), SimDisk()
    store = open_store(one_by_one, ROOT, SimClock())
    put(store, "T", 3)
    results = []
    for entry in entries:
        own = entry.properties
        text = own + ("" if not own or not shared or own.endswith("\x02") else "\x02") + shared
        results.append(
            store.put(
                "T", 3, entry.body, text, born_host=born_host, flag=entry.flag, sys_flag=sys_flag,
                born_timestamp=5, reconsume_times=2, tags_code=tags_code(get_property(text, TAGS)),
            )
        )  # fmt: skip
    store.close()
    store = open_store(together, ROOT, SimClock())
    put(store, "T", 3)
    batch = store.new_batch(
        "T", 3, born_host=born_host, sys_flag=sys_flag, born_timestamp=5, reconsume_times=2
    )
    list(batch.add(encode_batch(entries), shared))
    stored = store.put_batch(batch)
    store.close()
    assert files(together) == files(one_by_one)
    assert stored.offset_msg_ids == ",".join(result.offset_msg_id for result in results)
    assert (stored.queue_offset, stored.end_offset) == (results[0].queue_offset, results[-1].end_offset)


def test_properties_that_are_no_text_are_stored_as_text() -> None:
    store = open_store(SimDisk(), ROOT)
    block = encode_batch([BatchEntry(b"x", "TAGS\x01ab")]).replace(b"ab", b"\xff\xfe")
    batch = store.new_batch("T", 0, born_host=BORN_HOST)
    with pytest.raises(MessageIllegal):
        list(store.new_batch("T", 0, born_host=BORN_HOST).add(block[:-1]))
    list(batch.add(block))
    store.put_batch(batch)
    assert [record.properties for record in read_queue(store, "T", 0)] == ["TAGS\x01\ufffd\ufffd"]
    store.close()


@pytest.mark.parametrize(
    "bad",
    [
        BatchEntry(bytes(1025)),
        BatchEntry(b"", "P\x01" + "x" * 32700),
        BatchEntry(b"", "P\x01a\0"),
    ],
)
def test_one_bad_message_keeps_a_whole_batch_out(bad: BatchEntry) -> None:
    store = open_store(SimDisk(), ROOT, max_message_bytes=1024)
    put(store)
    with pytest.raises(MessageIllegal):
        put_batch(
            store, [BatchEntry(b"fine"), bad], shared="" if "\0" in bad.properties else "S\x01" + "y" * 80
        )
    assert put(store).queue_offset == 1
    store.close()


def test_what_is_no_batch_is_refused() -> None:
    store = open_store(SimDisk(), ROOT)
    with pytest.raises(MessageIllegal, match="without messages"):
        put_batch(store, [])
    with pytest.raises(MessageIllegal, match="transaction"):
        store.new_batch("T", 0, born_host=BORN_HOST, sys_flag=TRANSACTION_PREPARED)
    with pytest.raises(MessageIllegal):
        store.new_batch("../T", 0, born_host=BORN_HOST)
    with pytest.raises(MessageIllegal, match="does not fit"):
        store.new_batch("T", 0, born_host=BORN_HOST, reconsume_times=2**31)
    store.close()


@pytest.mark.parametrize(("action", "error"), [("reserve", StoreFull), ("create", StoreFull)])
def test_a_full_disk_takes_a_whole_batch_or_nothing(action: str, error: type[StoreFull]) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, ROOT, clock)
    put(store)
    disk.failing[action] = error
    with pytest.raises(StoreFull):
        put_batch(store, [BatchEntry(bytes(500))] * 100)
    disk.failing.clear()
    clock.advance(5000)
    assert store.max_offset("T", 0) == 1
    assert [r.queue_offset for r in put_batch(store, [BatchEntry(bytes(500))] * 100)] == list(range(1, 101))
    assert len(read_queue(store, "T", 0)) == 101
    store.close()
    disk.assert_all_written_was_reserved()


def test_a_queue_that_cannot_be_written_breaks_the_store() -> None:
    disk = SimDisk()
    store = open_store(disk, ROOT, mapped_consume_queue_segments=2)
    for queue_id in range(1, 4):  # those that are mapped, and no room for another
        put(store, queue_id=queue_id)
    disk.failing["pwrite"] = StoreBroken
    with pytest.raises(StoreBroken):
        put_batch(store, [BatchEntry(b"x")])
    with pytest.raises(StoreBroken):
        put(store)
    store.close()


def test_the_units_of_a_batch_are_on_the_disk_after_a_clean_end() -> None:
    disk = SimDisk()
    store = open_store(disk, ROOT)
    put_batch(store, [BatchEntry(b"x")] * 50)  # over three files of a queue
    store.close()
    queue = [path for path in disk.contents if path.startswith(f"{ROOT}/consumequeue/T/0/")]
    assert len(queue) == 3
    assert all(disk.contents[path].durable == disk.contents[path].data() for path in queue)


def test_who_listens_hears_of_each_tags_code_with_its_last_message() -> None:
    store = open_store(SimDisk(), ROOT)
    heard: list[tuple[str, int, int, int]] = []
    dispatched: list[Dispatch] = []
    store.on_dispatch.append(lambda *what: heard.append(what))
    store.dispatchers.append(dispatched.append)
    tags = ["a", "b", "a", "", "b", "a"]
    put_batch(store, [BatchEntry(b"x", f"TAGS\x01{tag}\x02KEYS\x01k{n}") for n, tag in enumerate(tags)])
    codes = [tags_code(tag) for tag in tags]
    assert sorted(heard) == sorted([("T", 0, 5, codes[0]), ("T", 0, 4, codes[1]), ("T", 0, 3, 0)])
    assert [d.tags_code for d in dispatched] == codes
    assert [(d.queue_offset, d.keys) for d in dispatched] == [(n, f"k{n}") for n in range(6)]
    store.close()


def test_a_large_batch_is_made_a_slice_at_a_time_and_found_by_its_keys_when_the_index_has_caught_up(
    tmp_path: Path,
) -> None:
    clock = SimClock()
    store = open_store(
        SystemDisk(), str(tmp_path / "store"), clock, commit_log_segment_bytes=8 << 20,
        consume_queue_segment_bytes=6_000_000, max_hash_slot_num=5000, max_index_num=20000,
    )  # fmt: skip
    entries = [BatchEntry(b"%d" % n, f"KEYS\x01key{n}") for n in range(5 * SLICE + 7)]
    batch = store.new_batch("T", 0, born_host=BORN_HOST)
    assert sum(1 for _ in batch.add(encode_batch(entries))) == 5
    put(store, body=b"between")
    stored = store.put_batch(batch)
    put(store, body=b"behind")
    assert stored.queue_offset == 1
    assert [r.body for r in read_queue(store, "T", 0)] == [
        b"between", *(entry.body for entry in entries), b"behind"
    ]  # fmt: skip
    while store.tick() < 0.1:
        clock.advance(50)
    for number in (0, SLICE, 5 * SLICE + 6):
        assert len([*store.search("T", f"key{number}", 0, 2**62)]) == 1
    store.close()
