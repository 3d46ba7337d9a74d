"""A slave's store: byte for byte the master's log, with queues and index of its own."""

from __future__ import annotations

import random
import struct
import tracemalloc

import pytest

from pymq.errors import StoreCorrupt, StoreFull
from pymq.protocol.message import BLANK_MAGIC
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK
from pymq.store.log_blocks import LogBlocks
from pymq.store.messagestore import MessageStore
from pymq.store.replica import Replica
from pymq.store.scan import LogRecord
from tests.sim import SimClock
from tests.store.making import BORN_HOST, open_store, put, read_queue
from tests.store.sim_disk import SimDisk

SEGMENT = 65536


def copy(blocks: LogBlocks, replica: Replica, size: int = 4096) -> None:
    """Let the replica have all that it has not."""
    while data := blocks.block(replica.received, size):
        replica.append(replica.received, data)


def fill(store: MessageStore, count: int, seed: int = 1) -> None:
    """Messages of all sizes in some queues, over several files."""
    chance = random.Random(seed)
    for number in range(count):
        put(
            store,
            f"T{number % 3}",
            number % 2,
            b"%d " % number + bytes(chance.randrange(900)),
            tags=f"t{number % 4}",
        )


def log_bytes(disk: SimDisk, root: str, end: int) -> bytes:
    """A store's log up to a physical offset."""
    files = sorted(path for path in disk.contents if path.startswith(f"{root}/commitlog/"))
    return b"".join(disk.contents[path].data() for path in files)[:end]


def queues(store: MessageStore) -> dict[tuple[str, int], list[tuple[int, bytes]]]:
    """All that consumers can read."""
    return {
        key: [(record.queue_offset, record.body) for record in read_queue(store, *key)]
        for key in store.queues()
    }


class Pair:
    """A master's store and a slave's."""

    def __init__(self) -> None:
        self.disk, self.clock = SimDisk(), SimClock()
        self.master = open_store(self.disk, "/m", self.clock)
        self.slave = open_store(self.disk, "/s", self.clock)

    def check(self) -> None:
        """They hold the same."""
        end = self.master.commit_log_max_offset
        assert self.slave.commit_log_max_offset == end
        assert log_bytes(self.disk, "/s", end) == log_bytes(self.disk, "/m", end)
        assert queues(self.slave) == queues(self.master)
        self.disk.assert_all_written_was_reserved()


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.mark.parametrize("size", [200, 4096, 1 << 20])
def test_all_of_a_log_of_several_files_is_copied_and_served(pair: Pair, size: int) -> None:
    fill(pair.master, 500)
    assert pair.master.commit_log_max_offset > 3 * SEGMENT
    copy(pair.master.blocks(), pair.slave.replica(), size)
    pair.check()


def test_blocks_that_end_anywhere_as_apaches_do_make_the_same_log(pair: Pair) -> None:
    fill(pair.master, 300)
    end = pair.master.commit_log_max_offset
    data = log_bytes(pair.disk, "/m", end)
    replica, chance = pair.slave.replica(), random.Random(3)
    at = 0
    while at < end:
        size = min(chance.randrange(1, 3000), end - at, SEGMENT - at % SEGMENT)
        replica.append(at, data[at : at + size])
        at += size
        assert replica.received == at
        assert replica.end <= at
    pair.check()


def test_what_did_not_come_whole_is_not_in_the_log_and_comes_again(pair: Pair) -> None:
    first = put(pair.master, body=b"a" * 100)
    put(pair.master, body=b"b" * 100)
    data = log_bytes(pair.disk, "/m", pair.master.commit_log_max_offset)
    replica = pair.slave.replica()
    replica.append(0, data[:-1])
    assert (replica.end, replica.received) == (first.end_offset, len(data) - 1)
    replica.forget_part()
    assert replica.received == first.end_offset
    copy(pair.master.blocks(), replica)
    pair.check()


def test_a_slave_goes_on_after_a_restart_clean_or_not(pair: Pair) -> None:
    fill(pair.master, 100, 1)
    copy(pair.master.blocks(), pair.slave.replica())
    pair.slave.close()
    pair.slave = open_store(pair.disk, "/s", pair.clock)
    fill(pair.master, 100, 2)
    copy(pair.master.blocks(), pair.slave.replica())
    pair.check()
    pair.disk = pair.disk.kill()
    pair.master = open_store(pair.disk, "/m", pair.clock)
    pair.slave = open_store(pair.disk, "/s", pair.clock)
    fill(pair.master, 100, 3)
    copy(pair.master.blocks(), pair.slave.replica())
    pair.check()


def test_a_slave_becomes_a_master_with_nothing_lost(pair: Pair) -> None:
    fill(pair.master, 100)
    copy(pair.master.blocks(), pair.slave.replica())
    result = put(pair.slave, "T0", 0, b"new")
    assert result.queue_offset == pair.master.max_offset("T0", 0)
    assert read_queue(pair.slave, "T0", 0)[-1].body == b"new"


def test_a_block_that_does_not_follow_is_refused(pair: Pair) -> None:
    fill(pair.master, 10)
    replica = pair.slave.replica()
    copy(pair.master.blocks(), replica)
    with pytest.raises(StoreCorrupt, match=f"expected {replica.received}"):
        replica.append(replica.received + 1, b"x")
    with pytest.raises(StoreCorrupt, match="is no message"):
        replica.append(replica.received, b"garbage that is no record")
    assert replica.end == pair.master.commit_log_max_offset


def test_files_of_another_size_are_refused(pair: Pair) -> None:
    fill(pair.master, 300)
    slave = open_store(pair.disk, "/other", pair.clock, commit_log_segment_bytes=3 * SEGMENT)
    with pytest.raises(StoreCorrupt, match="mappedFileSizeCommitLog must be the same"):
        slave.replica().append(SEGMENT, pair.master.blocks().block(SEGMENT, 4096) or b"")


def test_an_empty_slave_takes_a_log_whose_first_files_are_gone(pair: Pair) -> None:
    """Apache's master gives a new slave its last file only (store.md §9)."""
    fill(pair.master, 300)
    blocks, replica = pair.master.blocks(), pair.slave.replica()
    replica.append(2 * SEGMENT, blocks.block(2 * SEGMENT, 4096) or b"")
    copy(blocks, replica)
    for topic, queue_id in pair.master.queues():
        assert pair.slave.max_offset(topic, queue_id) == pair.master.max_offset(topic, queue_id)
        mine = read_queue(pair.slave, topic, queue_id)
        assert mine
        assert [r.body for r in mine] == [r.body for r in read_queue(pair.master, topic, queue_id)][
            -len(mine) :
        ]


def test_a_full_disk_loses_nothing(pair: Pair) -> None:
    fill(pair.master, 300)
    blocks, replica = pair.master.blocks(), pair.slave.replica()
    pair.disk.capacity = pair.disk.capacity - pair.disk.free + 50_000
    with pytest.raises(StoreFull):
        copy(blocks, replica)
    pair.disk.capacity = 1 << 30
    pair.clock.advance(5000)
    replica.forget_part()
    copy(blocks, replica)
    pair.check()


def test_the_newest_record_is_found_though_no_queue_knows_of_it(pair: Pair) -> None:
    assert pair.slave.replica().newest_record() is None
    fill(pair.master, 20)
    half = pair.master.put("T0", 0, b"half", "TRAN_MSG\x01true", born_host=bytes(8), sys_flag=4)
    copy(pair.master.blocks(), pair.slave.replica())
    newest = pair.slave.replica().newest_record()
    assert newest is not None
    assert newest == (half.physical_offset, pair.master.record_at(half.physical_offset))


def test_boundaries_are_where_records_begin(pair: Pair) -> None:
    ends = [put(pair.master, body=b"x" * 500).end_offset for _ in range(200)]
    blocks = pair.master.blocks()
    assert all(blocks.is_boundary(end) for end in ends)
    assert blocks.is_boundary(0)
    assert blocks.is_boundary(SEGMENT)
    assert not blocks.is_boundary(ends[3] + 1)
    assert not blocks.is_boundary(blocks.end + 1)


def test_huge_messages_go_in_pieces_and_others_whole(pair: Pair) -> None:
    sizes = {"commit_log_segment_bytes": 8 << 20, "max_message_bytes": 4 << 20}
    master = open_store(pair.disk, "/big", pair.clock, **sizes)
    put(master, body=b"a" * (3 << 20))
    put(master, body=b"b" * (1 << 20))
    blocks = master.blocks()
    slave = open_store(pair.disk, "/copy", pair.clock, **sizes)
    replica, lengths = slave.replica(), []
    while data := blocks.block(replica.received, 32 << 10):
        lengths.append(len(data))
        replica.append(replica.received, data)
        assert blocks.is_boundary(replica.received)
    assert max(lengths[:-1]) == 32 << 10
    assert lengths[-1] > 1 << 20
    assert queues(slave) == queues(master)


def test_a_topic_that_is_deleted_and_made_again_starts_anew(pair: Pair) -> None:
    """One message is enough: after a promotion it must be there."""
    fill(pair.master, 100)
    replica = pair.slave.replica()
    copy(pair.master.blocks(), replica)
    pair.master.delete_topic("T0")
    put(pair.master, "T0", 0, b"first")
    copy(pair.master.blocks(), replica)
    assert [record.body for record in read_queue(pair.slave, "T0", 0)] == [b"first"]
    pair.slave.close()
    slave = open_store(pair.disk, "/s", pair.clock)
    assert [record.body for record in read_queue(slave, "T0", 0)] == [b"first"]
    slave.close()
    pair.disk = pair.disk.kill()
    slave = open_store(pair.disk, "/s", pair.clock)
    assert [record.body for record in read_queue(slave, "T0", 0)] == [b"first"]


def test_who_follows_a_queue_is_told_when_it_starts_anew(pair: Pair) -> None:
    fill(pair.master, 100)
    replica = pair.slave.replica()
    told: list[tuple[str, int]] = []
    replica.on_anew.append(lambda topic, queue_id: told.append((topic, queue_id)))
    copy(pair.master.blocks(), replica)
    assert told == []
    pair.master.delete_topic("T0")
    for _ in range(3):
        put(pair.master, "T0", 1, b"first")
    copy(pair.master.blocks(), replica)
    assert told == [("T0", 1)]


@pytest.mark.parametrize("size", [4096, 1 << 20])
def test_committed_messages_are_taken_in_runs_and_rolled_back_ones_get_no_unit(
    pair: Pair, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SYNC_MASTER's senders wait for a slave, those who end transactions too."""
    kinds = (0, TRANSACTION_COMMIT, TRANSACTION_COMMIT, TRANSACTION_ROLLBACK)
    for number in range(40):
        pair.master.put(
            "T", 0, b"%d" % number, "", born_host=BORN_HOST, born_timestamp=1, sys_flag=kinds[number % 4]
        )
    replica = pair.slave.replica()
    alone: list[int] = []
    place = replica._requeuer.place

    def place_one(record: LogRecord, *, fills_holes: bool) -> None:
        alone.append(record.sys_flag)
        place(record, fills_holes=fills_holes)

    monkeypatch.setattr(replica._requeuer, "place", place_one)
    copy(pair.master.blocks(), replica, size)
    pair.check()
    assert len(read_queue(pair.slave, "T", 0)) == 30
    assert TRANSACTION_COMMIT not in alone, "only what needs it is taken one by one"


def test_files_of_another_size_are_told_of_where_they_show(pair: Pair) -> None:
    fill(pair.master, 300)
    for other in (SEGMENT // 2, 2 * SEGMENT):
        slave = open_store(pair.disk, f"/{other}", pair.clock, commit_log_segment_bytes=other)
        with pytest.raises(StoreCorrupt, match="mappedFileSizeCommitLog must be the same"):
            copy(pair.master.blocks(), slave.replica())


def test_a_message_whose_topic_can_be_no_folder_here_is_kept_in_the_log(pair: Pair) -> None:
    put(pair.master, "TT", 0, b"a")
    data = log_bytes(pair.disk, "/m", pair.master.commit_log_max_offset).replace(b"TT", b"..")
    replica = pair.slave.replica()
    replica.append(0, data)
    assert replica.end == len(data)
    assert list(pair.slave.queues()) == []


@pytest.mark.parametrize("size", [200, 4096, 1 << 20])
def test_what_a_master_left_in_the_blank_end_of_a_file_is_copied_too(pair: Pair, size: int) -> None:
    """Apache 4.3.2 leaves bytes of an older message there: both logs are to be the same, byte for byte."""
    fill(pair.master, 500)
    pair.master.close()
    for path, file in pair.disk.contents.items():
        if path.startswith("/m/commitlog/") and file.data()[-8:].count(0) == 8:
            blank = file.data().rfind(struct.pack(">I", BLANK_MAGIC)) + 4
            if blank > 4:
                left = SEGMENT - blank
                file.buffer[blank : blank + left // 2] = b"\0older" * (left // 12) + bytes(left // 2 % 6)
    pair.master = open_store(pair.disk, "/m", pair.clock)
    copy(pair.master.blocks(), pair.slave.replica(), size)
    assert b"older" in log_bytes(pair.disk, "/s", pair.master.commit_log_max_offset)
    pair.check()


def test_a_long_blank_end_of_a_file_that_comes_in_pieces_is_not_held_in_memory() -> None:
    """A repair may end a file of 1 GiB early (`log_border`)."""
    disk, clock, segment = SimDisk(), SimClock(), 1 << 20
    master = open_store(disk, "/m", clock, commit_log_segment_bytes=segment)
    lost = put(master, "lonely")
    put(master, "T")
    master.close()
    disk.contents["/m/commitlog/00000000000000000000"].buffer[lost.physical_offset + 88] ^= 1
    master = open_store(disk, "/m", clock, commit_log_segment_bytes=segment)
    end = master.commit_log_max_offset
    assert master.settle_blank_units() == 1
    put(master, "T")
    slave = open_store(disk, "/s", clock, commit_log_segment_bytes=segment)
    replica, blocks = slave.replica(), master.blocks()
    replica.append(0, blocks.block(0, end) or b"")
    assert replica.end == end
    blank = blocks.block(end, segment) or b""
    assert end + len(blank) == segment
    for is_whole in (False, True):  # the first time the connection breaks
        tracemalloc.start()
        for start in range(0, len(blank) - 5000, 5000):
            replica.append(replica.received, blank[start : start + 5000])
            assert replica.end == end
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000
        if not is_whole:
            replica.forget_part()
    replica.append(replica.received, blank[replica.received - end :])
    assert replica.end == segment
    copy(blocks, replica)
    assert replica.end == master.commit_log_max_offset > segment
    assert queues(slave)["T", 0] == queues(master)["T", 0]
    assert log_bytes(disk, "/s", replica.end) == log_bytes(disk, "/m", replica.end)
    disk.assert_all_written_was_reserved()
