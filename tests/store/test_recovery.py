"""Opening a store: how much of the log is read, where it ends, and what is kept behind damage."""

from __future__ import annotations

import itertools
import logging
from zlib import crc32

import pytest

from pymq.protocol.message import MESSAGE_MAGIC_V2, RECORD_HEADS, decode_record
from pymq.store import recovery, scan
from tests.sim import SimClock
from tests.store.damage import FIRST_LOG, filled, flip, killed, serves, write
from tests.store.making import BORN_HOST, open_store, put, read_queue
from tests.store.sim_disk import SimDisk, SimFile

# -- how much is read


def read_places(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on: the physical offsets from which the log is read past the mappings."""
    places: list[int] = []
    real = SimFile.read

    def read(self: SimFile, offset: int, size: int) -> bytes:
        if "/commitlog/" in self.path:
            places.append(int(self.path[-20:]) + offset)
        return real(self, offset, size)

    monkeypatch.setattr(SimFile, "read", read)
    return places


@pytest.mark.parametrize("is_clean", [True, False])
def test_a_start_reads_the_end_of_the_log_only(monkeypatch: pytest.MonkeyPatch, is_clean: bool) -> None:
    disk = SimDisk()
    sent = filled(disk, 3000, consume_queue_segment_bytes=40_000)
    monkeypatch.setattr(recovery, "_WINDOW", 20_000)
    monkeypatch.setattr(scan, "_CHUNK", 4096)
    places = read_places(monkeypatch)
    store = open_store(disk if is_clean else killed(disk), "/s", consume_queue_segment_bytes=40_000)
    end = store.commit_log_max_offset
    assert end > 500_000
    assert min(places) >= end - 25_000
    serves(store, sent)
    store.close()


def test_long_recoveries_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, clock = SimDisk(), SimClock()
    filled(disk, 3000)
    disk.remove_file("/s/checkpoint")
    monkeypatch.setattr(scan, "_CHUNK", 4096)
    monkeypatch.setattr(clock, "monotonic", itertools.count(0, 0.5).__next__)
    caplog.set_level(logging.INFO)
    open_store(disk, "/s", clock)
    lines = [r.message for r in caplog.records if r.message.startswith("recovering: ")]
    assert len(lines) > 10
    assert "MiB of the commit log" in lines[0]


# -- the end of the log


WILD_LENGTHS = [-1, 0, 1, 90, 91, 0x7FFFFFFF, 65536, 300]


@pytest.mark.parametrize("length", WILD_LENGTHS)
def test_a_wild_length_ends_the_log_and_nothing_else(length: int) -> None:
    """Apache 4.9.4 exits at its start over it."""
    disk = SimDisk()
    store = open_store(disk, "/s")
    for i in range(5):
        put(store, body=b"%d" % i)
    last = put(store, body=b"last")
    disk = disk.kill()
    write(disk, FIRST_LOG, last.physical_offset, length.to_bytes(4, "big", signed=True))
    store = open_store(disk, "/s")
    assert store.commit_log_max_offset == last.physical_offset
    assert [r.body for r in read_queue(store, "T", 0)] == [b"%d" % i for i in range(5)]
    assert put(store, body=b"next").queue_offset == 5


@pytest.mark.parametrize("seed", range(20))
def test_what_lay_behind_a_cut_never_comes_back(seed: int) -> None:
    """Records behind a torn one are whole; new ones of its size would lead up to them again."""
    disk = SimDisk()
    store = open_store(disk, "/s")
    kept, *gone = [put(store, body=b"%d" % i * 1000) for i in range(10)]
    disk = disk.kill()
    disk.contents[FIRST_LOG].sync()
    write(disk, FIRST_LOG, gone[0].physical_offset + 200, b"x")
    store = open_store(disk, "/s")
    assert store.commit_log_max_offset == kept.end_offset
    new = put(store, body=b"1" * 1000)
    assert (new.physical_offset, new.end_offset) == (gone[0].physical_offset, gone[0].end_offset)
    store.flush_now()
    store = open_store(disk.crash(seed), "/s")
    assert store.commit_log_max_offset == new.end_offset
    assert [r.body for r in read_queue(store, "T", 0)] == [b"0" * 1000, b"1" * 1000]


def test_files_behind_a_cut_go_the_last_one_first() -> None:
    """So that a power cut on the way leaves no gap, which would stop the next start."""
    disk = SimDisk()
    store = open_store(disk, "/s", commit_log_segment_bytes=4096)
    sent = [put(store, body=bytes(1000)) for _ in range(20)]
    disk = disk.kill()
    write(disk, FIRST_LOG, sent[1].physical_offset + 200, b"x")
    steps: list[tuple[str, str]] = []
    disk.before = lambda action, path: steps.append((action, path)) if "commitlog" in path else None
    open_store(disk, "/s", commit_log_segment_bytes=4096)
    removed = [i for i, (action, _) in enumerate(steps) if action == "remove"]
    assert [steps[i][1] for i in removed] == sorted((steps[i][1] for i in removed), reverse=True)
    assert all(steps[i + 1][0] == "sync folder" for i in removed)
    assert len(removed) > 3


def test_properties_that_never_reached_the_disk_are_no_message() -> None:
    """Apache 4.9.4 takes such a record for whole."""
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store)
    torn = put(store, tags="a-tag-that-gets-lost")
    disk = disk.kill()
    write(disk, FIRST_LOG, torn.end_offset - 8, bytes(8))
    store = open_store(disk, "/s")
    assert store.commit_log_max_offset == torn.physical_offset


def test_a_record_of_layout_2_is_read() -> None:
    """RocketMQ 5 writes it for topics of more than 127 bytes."""
    disk = SimDisk()
    store = open_store(disk, "/s")
    put(store, "V1")
    start = store.commit_log_max_offset
    topic, body, text = b"V2", b"from 5.x", b"TAGS\1t"
    head = RECORD_HEADS[0]
    size = head.size + len(body) + 2 + len(topic) + 2 + len(text)
    record = (
        head.pack(
            size, MESSAGE_MAGIC_V2, crc32(body) & 0x7FFFFFFF, 3, 0, 0, start, 0, 1, BORN_HOST, 2,
            BORN_HOST, 0, 0, len(body),
        )
        + body + len(topic).to_bytes(2, "big") + topic + len(text).to_bytes(2, "big") + text
    )  # fmt: skip
    disk = disk.kill()
    write(disk, FIRST_LOG, start, record)
    store = open_store(disk, "/s")
    assert store.commit_log_max_offset == start + size
    result = store.get("V2", 3, 0, 1)
    assert decode_record(result.records[0]).body == body


# -- damage in what was on the disk


def test_damaged_records_are_lost_and_those_behind_are_not(caplog: pytest.LogCaptureFixture) -> None:
    disk = SimDisk()
    store = open_store(disk, "/s", commit_log_segment_bytes=4096)
    sent = [put(store, f"T{i % 2}", body=b"%d " % i * 100) for i in range(30)]
    store.close()
    for i in (5, 6, 13):
        position = sent[i].physical_offset % 4096 + 120
        write(disk, f"/s/commitlog/{sent[i].physical_offset // 4096 * 4096:020d}", position, b"?!")
    for _ in range(3):
        store = open_store(disk, "/s", commit_log_segment_bytes=4096)
        for queue in range(2):
            wanted = [i for i in range(queue, 30, 2) if i not in (5, 6, 13)]
            found = read_queue(store, f"T{queue}", 0)
            assert [r.body for r in found] == [b"%d " % i * 100 for i in wanted]
            assert [r.queue_offset for r in found] == [i // 2 for i in wanted]
        assert store.commit_log_max_offset == sent[-1].end_offset
        assert not [r for r in store.records_from(0) if decode_record(r, check_crc=True).topic not in "T0T1-"]
        store.close()
    assert [r.levelname for r in caplog.records].count("ERROR") == 2, "told once for each place"


@pytest.mark.parametrize("position", [0, 3, 4, 7])
def test_a_damaged_blank_does_not_hide_the_files_behind_it(position: int) -> None:
    disk = SimDisk()
    sent = filled(disk, 100, commit_log_segment_bytes=4096)
    data = disk.contents[FIRST_LOG].data()
    blank = data.rindex(bytes.fromhex("cbd43194")) - 4
    flip(disk, FIRST_LOG, blank + position, 3)
    store = open_store(disk, "/s", commit_log_segment_bytes=4096)
    serves(store, sent)
    store.close()
    assert disk.contents[FIRST_LOG].data()[: blank + 8] == data[: blank + 8]


# -- folders and times


@pytest.mark.parametrize("seed", range(30))
def test_the_folders_of_a_new_store_outlive_a_power_cut(seed: int) -> None:
    disk = SimDisk()
    store = open_store(disk, "/data/deep/s")
    put(store, body=b"acknowledged")
    store.flush_now()
    store = open_store(disk.crash(seed), "/data/deep/s")
    assert [r.body for r in read_queue(store, "T", 0)] == [b"acknowledged"]


def test_store_times_never_go_back(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock = SimDisk(), SimClock()
    store = open_store(disk, "/s", clock)
    first = put(store).store_timestamp
    clock.advance(-60_000)
    assert put(store).store_timestamp == first
    store.close()
    for is_clean in (True, False):
        clock.advance(-60_000)
        store = open_store(disk if is_clean else killed(disk), "/s", clock)
        assert put(store).store_timestamp == first
        assert "the clock was put back" in caplog.text
        caplog.clear()
        store.close()
    clock.advance(200_000)
    store = open_store(disk, "/s", clock)
    assert put(store).store_timestamp == clock.now_ms() > first
