"""One seed: a store's lives with random work, each cut off at a random step, by a kill or a power cut."""

from __future__ import annotations

import random

from pymq.protocol.message import BatchEntry
from pymq.protocol.sysflags import TRANSACTION_PREPARED
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.store_config import StoreConfig
from tests.sim import SimClock
from tests.store.making import BORN_HOST, STORE_HOST, put_batch
from tests.store.sim_files import PowerCut
from tests.torture.ledger import Key, Ledger, Sent
from tests.torture.stormy_disk import StormyDisk

ROOT = "/data/deep/store"
_MANY_TOPICS, _FEW_TOPICS = ("A", "B", "%RETRY%g"), ("A", "B")
_MANY_SIZES, _ONE_SIZE = (12, 100, 100, 300, 420, 1500), (100,)
"""Of bodies. Where all records are as long, new ones end where one ended that was cut off with others."""
_TAGS = ("-", "a", "b")


class StormClock(SimClock):
    """A clock whose date, other than its monotonic time, may be put back."""

    shift_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.shift_ms


class Storm:
    """A disk, a clock, and what was sent, through all lives of a store."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.luck = random.Random(seed)
        self.disk = StormyDisk()
        self.clock = StormClock()
        self.ledger = Ledger(self.luck)
        self.config = self._config()
        is_uniform = self.luck.random() < 0.5
        self._acts = (3, 3, 10, 30) if is_uniform else (3, 10, 30, 150)
        self._lives = self.luck.randrange(6, 12) if is_uniform else self.luck.randrange(2, 7)
        self._disk_speed = self.luck.choice((1.0, 0.2))
        """Share of its chances that a thread of the disk takes; a slow one leaves much that is not synced."""
        self._topics = _FEW_TOPICS if is_uniform else _MANY_TOPICS
        self._body_sizes = _ONE_SIZE if is_uniform else _MANY_SIZES
        self.lives = self.checked = 0
        self.story: list[str] = []
        """What happened, for who reads a failure."""
        self._steps_left: int | None = None
        self._is_over = False
        self._is_nested = False
        self._store: MessageStore | None = None
        self._number = 0

    def _config(self) -> StoreConfig:
        choice = self.luck.choice
        return StoreConfig(
            root=ROOT,
            commit_log_segment_bytes=choice((4096, 6000, 8192, 16384)),
            consume_queue_segment_bytes=choice((60, 200, 1000, 8000)),
            flush_interval_consume_queue=choice((100, 1000)),
            flush_commit_log_least_pages=choice((0, 1, 4)),
            flush_consume_queue_least_pages=choice((0, 2)),
            flush_consume_queue_thorough_interval=choice((500, 5000)),
            flush_commit_log_timed=choice((True, False)),
            reserve_ahead_bytes=choice((4096, 1 << 20)),
            mapped_commit_log_segments=choice((2, 64)),
            mapped_consume_queue_segments=choice((2, 512)),
            max_hash_slot_num=choice((3, 50)),
            max_index_num=choice((4, 20, 400)),
        )

    # -- the whole of it

    def run(self) -> None:
        """Live, be cut, come back, and be looked at. AssertionError, or whatever the store failed by."""
        for _ in range(self._lives):
            self._life(is_last=False)
        self._life(is_last=True)

    def _life(self, *, is_last: bool) -> None:
        self.lives += 1
        self._open(may_be_cut=not is_last)
        assert self._store is not None
        store = self._store
        try:
            self._maybe_cut_within(self.luck.choice((30, 300, 1000)))
            for _ in range(self.luck.choice(self._acts)):
                self._act(store)
            if is_last or self.luck.random() < 0.3:
                self._close(store)
                return
        except PowerCut:
            self.story.append("cut off at work")
        self._end(store)

    def _open(self, *, may_be_cut: bool) -> None:
        while True:
            may_be_cut = may_be_cut and self.luck.random() < 0.8
            if may_be_cut:
                self._maybe_cut_within(self.luck.choice((5, 40)))
            store = MessageStore(self.config, self.disk, self.clock, STORE_HOST)
            store.flushed.on_change.append(lambda store=store: self._flushed(store))  # type: ignore[misc]
            try:
                store.open()
            except PowerCut:
                self.story.append("cut off while opening")
                self._end(None)
                continue
            self._calm()
            self._store = store
            assert self.disk.exists(ROOT + "/abort"), "an end from now on is not a clean one"
            self.checked += self.ledger.check(store, is_reopened=True)
            self.story.append(f"open, log {store.commit_log_min_offset} … {store.commit_log_max_offset}")
            self.ledger.flushed(store, store.flushed.position)
            return

    def _flushed(self, store: MessageStore) -> None:
        """Who waited for their messages to be flushed have been told."""
        self.ledger.flushed(store, store.flushed.position)

    def _close(self, store: MessageStore) -> None:
        self._store = None
        store.close()
        self._calm()
        self.disk.deliver(100)
        assert not self.disk.exists(ROOT + "/abort"), "it was closed cleanly"
        self.story.append("closed")
        self.ledger.flushed(store, store.commit_log_max_offset)
        self.disk = self.disk.crash(self.luck.randrange(1 << 30))

    def _end(self, store: MessageStore | None) -> None:
        """The process ends, or the machine."""
        self._calm()
        self._store = None
        is_killed = self.luck.random() < 0.4
        self.ledger.ended(store, by_power_cut=not is_killed)
        if is_killed:
            self.story.append("killed")
            self.disk = self.disk.kill()
        else:
            self.story.append("power cut")
            self.disk = self.disk.crash(self.luck.randrange(1 << 30))

    # -- being cut off

    def _maybe_cut_within(self, steps: int) -> None:
        self._steps_left = self.luck.randrange(steps) if self.luck.random() < 0.8 else None
        self._is_over = False
        self.disk.before = self._step
        self.disk.before_write = lambda: self._step("store", "")

    def _calm(self) -> None:
        self.disk.before = self.disk.before_write = self._steps_left = None

    def _step(self, action: str, path: str) -> None:
        if self._steps_left is not None:
            self._is_over = self._is_over or self._steps_left == 0
            if self._is_over:
                raise PowerCut(self.luck.random())
            self._steps_left -= 1
        # The owner goes on while a thread is at work, but where the two would wait for each other.
        is_parallel = self.disk.is_in_job and action in ("sync", "write", "remove")
        if is_parallel and not self._is_nested and self._store is not None:
            self._is_nested = True
            try:
                for _ in range(self.luck.choice((0, 0, 1, 3))):
                    self._put(self._store)
            finally:
                self._is_nested = False

    # -- work

    def _act(self, store: MessageStore) -> None:
        """One thing that the owner, a thread or the system does."""
        luck = self.luck
        roll = luck.random()
        self.clock.advance(luck.choice((0, 0, 1, 50, 700)))
        if roll < 0.35:
            self._put(store)
        elif roll < 0.43:
            self._put_batch(store)
        elif roll < 0.53:
            store.flush_now()
        elif roll < 0.73:
            if luck.random() < self._disk_speed:
                self.disk.run_one_job(luck)
            else:
                self._put(store)
        elif roll < 0.86:
            self.disk.deliver(luck.choice((1, 5)))
        elif roll < 0.93:
            store.tick()
        elif roll < 0.96:
            self.disk.write_back(luck)
        elif roll < 0.97:
            self.ledger.check(store, is_reopened=False)
        else:
            self._act_rarely(store)

    def _act_rarely(self, store: MessageStore) -> None:
        roll = self.luck.randrange(4)
        if roll == 0:
            topic = self.luck.choice(self._topics)
            self.story.append(f"delete {topic}")
            self.ledger.delete_topic(topic)
            store.delete_topic(topic)
        elif roll == 1:
            self.clock.shift_ms = self.luck.choice((-5000, 0, 3000))
        elif roll == 2:
            self.clock.advance(70_000)
        else:
            self._let_old_files_go(store)

    def _let_old_files_go(self, store: MessageStore) -> None:
        """The disk is so full that the oldest files go, expired or not."""
        self.disk.used_percent = 88
        self.clock.advance(61_000)
        for _ in range(self.luck.randrange(1, 12)):
            store.tick()
            self.disk.run_one_job(self.luck)
            self.disk.deliver(2)
            self.clock.advance(100)
        self.disk.used_percent = 10

    def _key(self) -> Key:
        return self.luck.choice(self._topics), self.luck.randrange(2)

    def _body(self) -> bytes:
        self._number += 1
        size = self.luck.choice(self._body_sizes)
        return (b"%08d." % self._number + self.luck.randbytes(size))[:size]

    def _sending(self, at: Key, tags: str, sys_flag: int = 0) -> Sent:
        return self.ledger.sending(at, self._body(), tags, f"k{self.luck.randrange(6)}", sys_flag)

    def _put(self, store: MessageStore) -> None:
        sys_flag = TRANSACTION_PREPARED if self.luck.random() < 0.05 else 0
        sent = self._sending(self._key(), self.luck.choice(_TAGS), sys_flag)
        expected = 0 if sys_flag else store.max_offset(*sent.at)
        result = store.put(
            *sent.at,
            sent.body,
            sent.properties,
            born_host=BORN_HOST,
            sys_flag=sys_flag,
            tags_code=tags_code(sent.tags),
            keys=sent.key,
            unique_key=sent.unique_key,
        )
        assert result.queue_offset == expected
        _stored(sent, result)

    def _put_batch(self, store: MessageStore) -> None:
        at = self._key()
        batch = [self._sending(at, "a") for _ in range(self.luck.randrange(1, 4))]
        if sum(len(sent.body) + 150 for sent in batch) > self.config.commit_log_segment_bytes - 200:
            batch = batch[:1]
        entries = [BatchEntry(sent.body, sent.properties) for sent in batch]
        for sent, result in zip(batch, put_batch(store, entries, *at), strict=True):
            _stored(sent, result)


def _stored(sent: Sent, result: PutResult) -> None:
    """The store has taken it."""
    sent.physical_offset, sent.queue_offset = result.physical_offset, result.queue_offset
    sent.end_offset = result.end_offset
