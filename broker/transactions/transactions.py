"""The broker's half of transactions: its parts put together."""

from __future__ import annotations

from typing import Unpack

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.delayed_puts import DelayedPuts
from pymq.broker.topics import TopicTable
from pymq.broker.transactions.checks import Checks, CheckTerms
from pymq.broker.transactions.endings import Endings
from pymq.broker.transactions.half_progress import HalfProgress
from pymq.broker.transactions.half_recovery import HalfRecovery
from pymq.broker.transactions.half_rolls import HalfRolls
from pymq.broker.transactions.halves import Half, half_properties, new_open_half, read_half
from pymq.broker.transactions.open_halves import OpenHalves
from pymq.broker.transactions.ops import OpQueue
from pymq.broker.transactions.producers import Producers
from pymq.clock import Clock
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.results import PutFields
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC


class Transactions:
    """Takes half messages and ends them; from `start` to `close` asks about those that nobody ends."""

    def __init__(
        self,
        store: MessageStore,
        offsets: ConsumerOffsetTable,
        topics: TopicTable,
        delayed: DelayedPuts,
        producers: Producers,
        clock: Clock,
        terms: CheckTerms,
        *,
        own_host: bytes,
    ) -> None:
        """`own_host`: the broker's address, packed; op messages are born there."""
        self._store = store
        self._topics = topics
        self._delayed = delayed
        self._halves = OpenHalves()
        self._ops = OpQueue(store, clock, own_host)
        self._endings = Endings(store, self._halves, self._ops, delayed)
        self.progress = HalfProgress(store, offsets, self._needed_from, lambda: self._endings.is_noted)
        self.checks = Checks(
            store, self._halves, self._endings, self.progress, producers, topics, clock, terms
        )
        self.rolls = HalfRolls(store, self._halves, self.checks)
        self.commit = self._endings.commit
        self.roll_back = self._endings.roll_back
        self.resume = self._endings.resume

    def __len__(self) -> int:
        """How many are open."""
        return len(self._halves)

    def put(
        self, topic: str, queue_id: int, body: bytes, properties: str, **fields: Unpack[PutFields]
    ) -> PutResult:
        """Store a half message for `topic`: it is delivered when it is committed.

        `properties`: with WAIT and CLUSTER, without what is added here. A delay counts from the commit on;
        one that cannot be is refused now. Raises as `MessageStore.put` and `DelayedPuts.choose`.
        """
        self._delayed.choose(properties)
        text = half_properties(properties, topic, queue_id)
        result = self._store.put(HALF_TOPIC, 0, body, text, **fields)
        self._halves.add(new_open_half(result, fields.get("born_timestamp", 0), text))
        return result

    def half_at(self, physical_offset: int) -> Half | None:
        """The half message whose record begins there; None when none does."""
        return read_half(self._store.record_at(physical_offset))

    def discarded_at(self, physical_offset: int) -> Half | None:
        """The half message whose record in the discard topic begins there; None when none does."""
        return read_half(self._store.record_at(physical_offset), topic=CHECK_MAX_TOPIC)

    def _needed_from(self) -> tuple[int, int]:
        """The first half message that is open, and the first op message that those behind it need."""
        lowest = self._halves.lowest()
        half = self._store.max_offset(HALF_TOPIC, 0) if lowest is None else lowest.number
        return half, self._ops.needed_from(half)

    def start(self) -> None:
        """Find which are open, and ask about them in time from then on. StoreError."""
        HalfRecovery(self._store, self.progress, self._halves, self._ops, self._endings).run()
        if self._store.max_offset(CHECK_MAX_TOPIC, 0):
            self._topics.ensure_check_max_topic()  # a crash may have kept it from being saved
        self.checks.start()
        self._store.may_delete.append(self.rolls.may_go)

    async def close(self) -> None:
        """Ask nobody any more, and have it saved from where on the next start has to look."""
        self.rolls.stop()
        self.checks.stop()
        await self.progress.settle()
