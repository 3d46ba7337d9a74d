"""What was put into a store, and what it must, may and must not serve after whatever happened to it."""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.sysflags import has_queue_unit
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore
from tests.store.making import read_queue, records

Key = tuple[str, int]
"""Topic and queue id."""


class State(enum.Enum):
    """What may become of a message."""

    OPEN = "may be there"
    SURE = "must be there"
    GONE = "was lost, and must not come back"
    DELETED = "its topic was deleted, or its file was too old"


@dataclass(repr=False)
class Sent:
    """A message that was given to the store."""

    body: bytes
    at: Key
    tags: str
    key: str
    sys_flag: int = 0
    queue_offset: int = -1
    """-1 as long as nobody has seen it."""
    physical_offset: int = -1
    end_offset: int = 1 << 62
    state: State = State.OPEN
    is_cached: bool = False
    """A killed process has left it to the system: it is there as long as the power is."""

    @property
    def properties(self) -> str:
        """Its encoded properties; the unique key is its number."""
        return f"KEYS\x01{self.key}\x02TAGS\x01{self.tags}\x02UNIQ_KEY\x01{self.unique_key}"

    @property
    def unique_key(self) -> str:
        """Its number."""
        return self.body[:8].decode()

    def __repr__(self) -> str:
        where = f"{self.at[0]}/{self.at[1]} number {self.queue_offset} at {self.physical_offset}"
        return f"<{self.body[:9].decode()} {len(self.body)} bytes, {where}, {self.state.value}>"


class Ledger:
    """All messages that were ever sent, by their bodies, which differ."""

    def __init__(self, luck: random.Random) -> None:
        """`luck` chooses the keys that are looked up."""
        self._luck = luck
        self._sent: dict[bytes, Sent] = {}
        self._deleted_before = 0
        """The store may have deleted its log up to this physical offset."""

    def __len__(self) -> int:
        return len(self._sent)

    def sending(self, at: Key, body: bytes, tags: str, key: str, sys_flag: int = 0) -> Sent:
        """A message is about to be stored. The body begins with a number of eight digits."""
        sent = self._sent[body] = Sent(body, at, tags, key, sys_flag)
        return sent

    def delete_topic(self, topic: str) -> None:
        """A topic is about to be deleted; its messages may come back out of the log."""
        for sent in self._sent.values():
            if sent.at[0] == topic:
                sent.state = State.DELETED

    def flushed(self, store: MessageStore, up_to: int) -> None:
        """The store says that its log is on the disk up to this physical offset: that has to stay there."""
        self._deleted_before = max(self._deleted_before, store.commit_log_min_offset)
        for sent in self._sent.values():
            if sent.end_offset <= up_to and sent.state is State.OPEN:
                sent.state = State.SURE

    def ended(self, store: MessageStore | None, *, by_power_cut: bool) -> None:
        """The process was killed, or the power was cut; without a store it had not come to serve any."""
        if store is not None:
            self._deleted_before = max(self._deleted_before, store.commit_log_min_offset)
        for sent in self._sent.values():
            if by_power_cut:
                sent.is_cached = False
            elif store is not None and sent.state is State.OPEN:
                sent.is_cached |= sent.end_offset <= store.commit_log_max_offset

    # -- looking

    def check(self, store: MessageStore, *, is_reopened: bool) -> int:
        """Read all that the store serves and compare. Returns how many messages that were.

        After it was reopened, what is not there counts as lost for ever.
        """
        served: set[bytes] = set()
        for key in sorted(store.queues()):
            served |= self._check_queue(store, key)
        start = store.commit_log_min_offset
        if is_reopened:
            assert start <= self._deleted_before, f"the log begins at {start}, after what was deleted"
        in_log = self._check_log(store)
        for body, sent in self._sent.items():
            is_expected = body in in_log and has_queue_unit(sent.sys_flag)
            if body not in served:
                assert not is_expected or sent.state is State.DELETED, f"in the log, but in no queue: {sent}"
            if body in in_log:
                continue
            if 0 <= sent.physical_offset < start:
                sent.state = State.DELETED
            elif sent.state is not State.DELETED:
                assert sent.state is not State.SURE, f"lost: {sent}"
                assert not sent.is_cached, f"lost by a kill: {sent}"
            if is_reopened and sent.state is State.OPEN:
                sent.state = State.GONE
        assert served <= in_log, "what is served stands in the log"
        self._check_index(store, in_log)
        return len(served)

    def _check_queue(self, store: MessageStore, key: Key) -> set[bytes]:
        """Its messages are numbered without a gap, and each is the one that was put there."""
        low, high = store.min_offset(*key), store.max_offset(*key)
        found = read_queue(store, *key)
        numbers = [record.queue_offset for record in found]
        assert numbers == list(range(low, high)), f"{key} has {numbers}, not {low} up to {high}"
        for record in found:
            assert record.topic == key[0]
            assert record.queue_id == key[1]
            self._check_record(store, record)
        self._check_filter(store, key, low, high)
        return {record.body for record in found}

    def _check_record(self, store: MessageStore, record: MessageRecord) -> None:
        raw = store.record_at(record.physical_offset)
        assert raw is not None, f"nothing at {record.physical_offset}, where {_short(record)} says it is"
        assert decode_record(raw, check_crc=True) == record
        sent = self._sent.get(record.body)
        assert sent is not None, f"nobody sent {_short(record)}"
        assert (record.topic, record.queue_id) == sent.at
        if sent.physical_offset < 0:
            sent.physical_offset, sent.queue_offset = record.physical_offset, record.queue_offset
            sent.end_offset = record.physical_offset + record.total_size
        assert record.physical_offset == sent.physical_offset, f"{_short(record)} was put elsewhere: {sent}"
        assert record.queue_offset == sent.queue_offset, f"{_short(record)} had another number: {sent}"
        assert sent.state is not State.GONE, f"it comes back: {sent}"

    def _check_filter(self, store: MessageStore, key: Key, low: int, high: int) -> None:
        """The queue's units hold the right tags codes."""
        for tags in ("-", "a", "b"):
            offset, found = low, []
            while offset < high:
                result = store.get(*key, offset, 32, frozenset([tags_code(tags)]))
                found += records(result)
                offset = result.next_begin_offset
            for record in found:
                assert self._sent[record.body].tags == tags, (
                    f"served to who wants tag {tags!r}: {_short(record)}"
                )

    def _check_index(self, store: MessageStore, in_log: set[bytes]) -> None:
        """Messages in the log are found by their keys, the newest first, and no others are."""
        expected: dict[tuple[str, str], list[int]] = {}
        for sent in (self._sent[body] for body in in_log):
            for key in (sent.key, sent.unique_key):
                expected.setdefault((sent.at[0], key), []).append(sent.physical_offset)
        for topic, key in self._luck.sample(sorted(expected), min(len(expected), 10)):
            offsets = expected[topic, key]
            answer = store.search(topic, key, 0, 1 << 62)
            found = [decode_record(raw).physical_offset for raw in answer if raw is not None]
            assert found == sorted(offsets, reverse=True), f"{topic} {key}: {found}, not {sorted(offsets)}"

    def _check_log(self, store: MessageStore) -> set[bytes]:
        """Walk the log: every record is one that was put, store times do not go back. Gives the bodies."""
        found: set[bytes] = set()
        newest = 0
        for raw in store.records_from(store.commit_log_min_offset):
            record = decode_record(raw, check_crc=True)
            self._check_record(store, record)
            assert record.body not in found, f"twice in the log: {_short(record)}"
            assert record.store_timestamp >= newest, f"the store's time goes back: {_short(record)}"
            newest = record.store_timestamp
            found.add(record.body)
        return found


def _short(record: MessageRecord) -> str:
    where = f"{record.topic}/{record.queue_id} number {record.queue_offset} at {record.physical_offset}"
    return f"<{record.body[:9]!r} {len(record.body)} bytes, {where}>"
