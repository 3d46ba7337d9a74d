"""Power cuts at random moments: what was flushed is there, and queues and log agree."""

from __future__ import annotations

import random

import pytest

from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.making import open_store, put, read_queue
from tests.store.sim_disk import SimDisk

Expected = dict[tuple[str, int], list[tuple[int, bytes]]]


def write_some(
    store: MessageStore, clock: SimClock, luck: random.Random, expected: Expected, count: int
) -> None:
    """Put messages into a few queues, with the clock and the flusher going their ways."""
    for _ in range(count):
        key = luck.choice("ABC"), luck.randrange(3)
        body = luck.randbytes(luck.randrange(1, 700))
        result = put(store, *key, body)
        expected.setdefault(key, []).append((result.end_offset, body))
        clock.advance(luck.randrange(0, 400))
        if luck.random() < 0.3:
            store.tick()


@pytest.mark.parametrize("seed", range(60))
def test_after_a_power_cut_what_was_flushed_is_served(seed: int) -> None:
    luck = random.Random(seed)
    disk, clock = SimDisk(), SimClock()
    expected: Expected = {}
    durable = 0
    for life in range(4):
        store = open_store(disk, "/s", clock, flush_consume_queue_thorough_interval=5000)
        for key in expected.keys() | set(store.queues()):
            found = [r.body for r in read_queue(store, *key)]
            sent = expected.get(key, [])
            assert found == [body for _, body in sent[: len(found)]], "a prefix of what was sent"
            assert len(found) >= sum(end <= durable for end, _ in sent)
            expected[key] = sent[: len(found)]
        write_some(store, clock, luck, expected, luck.randrange(20, 400))
        durable = store.flushed.position
        disk.assert_all_written_was_reserved()
        if luck.random() < 0.2:
            store.close()
            durable = store.commit_log_max_offset
            disk = disk.crash(seed)  # a cut after a clean stop changes nothing
        else:
            disk = disk.crash(seed * 10 + life)


@pytest.mark.parametrize("seed", range(10))
def test_a_process_killed_at_any_moment_loses_nothing(seed: int) -> None:
    luck = random.Random(seed)
    disk, clock = SimDisk(), SimClock()
    expected: Expected = {}
    for _ in range(3):
        store = open_store(disk, "/s", clock)
        write_some(store, clock, luck, expected, luck.randrange(1, 300))
        disk.locked.clear()
    store = open_store(disk, "/s", clock)
    for key, sent in expected.items():
        assert [r.body for r in read_queue(store, *key)] == [body for _, body in sent]
    store.close()
