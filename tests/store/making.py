"""What the store's tests put and look at."""

from __future__ import annotations

from pymq.disk import Disk
from pymq.protocol.message import BatchEntry, MessageRecord, decode_records, encode_batch
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import GetResult, MessageStore, PutResult
from pymq.store.store_config import StoreConfig
from tests.sim import SimClock

BORN_HOST = bytes((10, 0, 0, 7)) + (40123).to_bytes(4, "big")
STORE_HOST = ("127.0.0.1", 10911)


_INDEX = {"max_hash_slot_num": 50, "max_index_num": 100}


def small_config(root: str, **settings: int) -> StoreConfig:
    """Files of 64 KiB, 20 units and 99 index entries, unless said otherwise."""
    sizes = {"commit_log_segment_bytes": 65536, "consume_queue_segment_bytes": 400} | _INDEX | settings
    return StoreConfig(root=root, **sizes)  # type: ignore[arg-type]


def open_store(disk: Disk, root: str, clock: SimClock | None = None, **settings: int) -> MessageStore:
    """A store on `disk`, opened."""
    store = MessageStore(small_config(root, **settings), disk, clock or SimClock(), STORE_HOST)
    store.open()
    return store


def put(
    store: MessageStore, topic: str = "T", queue_id: int = 0, body: bytes = b"hello", tags: str = ""
) -> PutResult:
    """Store a message."""
    properties = f"TAGS\x01{tags}" if tags else ""
    return store.put(
        topic, queue_id, body, properties, born_host=BORN_HOST, born_timestamp=1, tags_code=tags_code(tags)
    )


def put_batch(
    store: MessageStore, entries: list[BatchEntry], topic: str = "T", queue_id: int = 0, shared: str = ""
) -> list[PutResult]:
    """Store a batch, and say where each of its messages is."""
    batch = store.new_batch(topic, queue_id, born_host=BORN_HOST)
    for _ in batch.add(encode_batch(entries), shared):
        pass
    stored = store.put_batch(batch)
    ends = [*stored.physical_offsets[1:], stored.end_offset]
    return [
        PutResult(start, end, number, stored.store_timestamp, stored.store_host_hex)
        for number, (start, end) in enumerate(
            zip(stored.physical_offsets, ends, strict=True), stored.queue_offset
        )
    ]


def records(result: GetResult) -> list[MessageRecord]:
    """The records of a read; it must say truly how many and how long they are."""
    found = [record for part in result.records for record in decode_records(part)]
    assert len(found) == result.count
    assert sum(map(len, result.records)) == result.size
    return found


def read_queue(store: MessageStore, topic: str, queue_id: int) -> list[MessageRecord]:
    """All messages of a queue, pulled as a consumer does."""
    found: list[MessageRecord] = []
    offset = store.min_offset(topic, queue_id)
    while offset < store.max_offset(topic, queue_id):
        result = store.get(topic, queue_id, offset, 32)
        assert result.next_begin_offset > offset
        found += records(result)
        offset = result.next_begin_offset
    return found
