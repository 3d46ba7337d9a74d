"""Reading through a sieve, on a store of its own: any records, in any portions, and none twice or never."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pymq.broker import filtered_reads
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_filters import Sieve
from pymq.broker.filtered_reads import FilteredReads
from pymq.errors import StoreError
from pymq.protocol.message import decode_records
from pymq.protocol.properties import get_property
from pymq.store.messagestore import GetResult, GetStatus, MessageStore
from tests.store.making import BORN_HOST, open_store, records
from tests.store.sim_disk import SimDisk


def filled(count: int, luck: random.Random, **settings: Any) -> MessageStore:
    """A store with messages in two queues, by turns at random; property `n` is the number in the queue."""
    store = open_store(SimDisk(), "/s", **settings)
    numbers = [0, 0]
    while numbers[0] < count:
        queue_id = luck.randrange(2)
        text = f"n\x01{numbers[queue_id]}\x02UNIQ_KEY\x01{luck.random()}"
        body = luck.randbytes(luck.randrange(200))
        store.put("T", queue_id, body, text, born_host=BORN_HOST, born_timestamp=1)
        numbers[queue_id] += 1
    return store


def wanting(numbers: set[int], cost: int = 3) -> Sieve:
    """A sieve for the messages with these numbers."""
    return Sieve(lambda text: int(get_property(text, "n") or -1) in numbers, cost)


def read_all(
    reads: FilteredReads, end: int, sieve: Sieve, max_num: int, *, are_late: bool = False
) -> list[int]:
    """The numbers of all messages that come through, read from the queue's beginning to its end.

    `are_late`: some have to be fetched: all but those in the file that is written to.
    """
    found: list[int] = []
    offset = were_late = 0
    while offset < end:
        late: list[GetResult | StoreError] = []
        result: GetResult | StoreError | None = reads.read("T", 0, offset, max_num, sieve, late.append)
        if result is None:
            were_late += 1
            (result,) = late
        assert isinstance(result, GetResult)
        got = records(result)
        assert (result.status is GetStatus.FOUND) == bool(got)
        assert len(got) <= max_num
        assert all(record.queue_offset < result.next_begin_offset for record in got)
        found += [record.queue_offset for record in got]
        assert result.next_begin_offset > offset
        offset = result.next_begin_offset
    assert (were_late > 0) == are_late
    return found


@pytest.mark.parametrize("seed", range(12))
def test_every_message_that_is_wanted_comes_once_and_in_order(seed: int) -> None:
    luck = random.Random(seed)
    store = filled(400, luck)
    wanted = {number for number in range(400) if luck.random() < luck.choice((0.01, 0.2, 0.9))}
    limits: dict[str, Any] = {
        "max_transfer_bytes_on_message_in_memory": luck.choice((300, 2_000, 256 * 1024)),
        "max_transfer_count_on_message_in_memory": luck.choice((1, 7, 32)),
    }
    reads = FilteredReads(BrokerConfig(broker_name="b", **limits), store)
    sieve = wanting(wanted, luck.choice((1, 3, 500)))
    assert read_all(reads, 400, sieve, luck.choice((1, 5, 32))) == sorted(wanted)


@pytest.mark.parametrize("seed", range(6))
def test_so_it_is_with_messages_that_have_to_be_fetched_from_the_disk(seed: int) -> None:
    luck = random.Random(seed)
    store = filled(300, luck, access_message_in_memory_max_ratio=0)
    wanted = {number for number in range(300) if luck.random() < luck.choice((0.01, 0.5))}
    reads = FilteredReads(BrokerConfig(broker_name="b"), store)
    assert read_all(reads, 300, wanting(wanted), 32, are_late=True) == sorted(wanted)


def test_the_work_of_one_read_is_bounded_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(1500, random.Random(1), consume_queue_segment_bytes=6000)
    reads = FilteredReads(BrokerConfig(broker_name="b"), store)

    def looked(sieve: Sieve) -> int:
        result = reads.read("T", 0, 0, 32, sieve, lambda late: None)
        assert result is not None
        assert result.status is GetStatus.NO_MATCHED_MESSAGE
        return result.next_begin_offset

    assert 500 < looked(wanting(set(), 3)) < 1000
    assert 50 < looked(wanting(set(), 100)) < 100
    assert looked(wanting(set(), 1_000_000)) == 1
    monkeypatch.setattr(filtered_reads, "_WORK_SHIFT", 0)  # as if messages were a thousand times as long
    assert looked(wanting(set(), 3)) <= 64


def test_nothing_is_looked_at_behind_a_full_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(200, random.Random(3), max_transfer_count_in_memory=16, consume_queue_segment_bytes=4000)
    seen: list[str] = []

    def matches(text: str) -> bool:
        seen.append(text)
        return True

    reads = FilteredReads(BrokerConfig(broker_name="b"), store)
    asked: list[int] = []
    get = store.get

    def counting(topic: str, queue_id: int, offset: int, *more: Any) -> GetResult:
        asked.append(offset)
        return get(topic, queue_id, offset, *more)

    monkeypatch.setattr(store, "get", counting)
    result = reads.read("T", 0, 0, 32, Sieve(matches, 1), lambda late: None)
    assert result is not None
    assert (result.count, len(seen)) == (32, 32)
    assert asked == [0, 16]


def test_tags_codes_are_looked_at_before_the_sieve() -> None:
    store = open_store(SimDisk(), "/s")
    for number in range(60):
        store.put("T", 0, b"", f"n\x01{number}", born_host=BORN_HOST, born_timestamp=1, tags_code=number % 3)
    reads = FilteredReads(BrokerConfig(broker_name="b"), store)
    seen: list[str] = []

    def matches(text: str) -> bool:
        seen.append(text)
        return text.endswith("1")

    result = reads.read("T", 0, 0, 32, Sieve(matches, 1, frozenset((1,))), lambda late: None)
    assert result is not None
    assert [record.queue_offset for record in decode_records(b"".join(result.records))] == [1, 31]
    assert len(seen) == 20
    assert result.next_begin_offset == 60


def test_from_a_record_on_that_cannot_be_told_the_rest_is_one() -> None:
    store = filled(3, random.Random(2))
    data = b"".join(store.get("T", 0, 0, 3, None).records)
    first = int.from_bytes(data[:4], "big")
    whole = filtered_reads._records_in(data)
    assert [position for position, _ in whole][:2] == [0, first]
    for size in (0, -1, 7, len(data)):
        damaged = data[:first] + size.to_bytes(4, "big", signed=True) + data[first + 4 :]
        assert filtered_reads._records_in(damaged) == [(0, first), (first, len(data) - first)]
