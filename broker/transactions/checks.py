"""The check-back: half messages that nobody has ended are asked about, and given up in the end (§6.4).

Every transactionCheckInterval, counted from the end of the run before, all open ones of that time are looked
at, a slice in each turn of the loop. Before it is asked about, a half message is put again at the end of its
queue, so that the offset from which on they are looked at can move on. An op message says that the old record
is over: should the broker die before that offset is saved, Apache's broker would ask about both.

What differs from Apache's broker: one that must not be asked about yet does not hold up those behind it, nor
is it put again in each run; and only real checks count. Where no producer of its group is connected, a half
message stays as it is, up to fileReservedTime.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque

import msgspec

from pymq.broker.renewal import renew
from pymq.broker.topics import TopicTable
from pymq.broker.transactions.endings import Endings
from pymq.broker.transactions.half_progress import HalfProgress
from pymq.broker.transactions.halves import Half, OpenHalf, read_half
from pymq.broker.transactions.open_halves import OpenHalves
from pymq.broker.transactions.producers import Producers
from pymq.clock import Clock
from pymq.errors import MessageIllegal, StoreError
from pymq.store.messagestore import MessageStore
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC

log = logging.getLogger("pymq.broker.transactions")

_SLICE = 32
"""So many half messages are put again in one turn."""
_LOOKS = 1000
"""So many are looked at."""
_BEHIND = 10_000
"""How far, in messages of its queue, an open half message may lie behind before it is put again unasked."""


class CheckTerms(msgspec.Struct, frozen=True):
    """When half messages are asked about. Times in ms."""

    interval_ms: int
    """transactionCheckInterval"""
    timeout_ms: int
    """transactionTimeOut: so old is one without an immunity of its own."""
    check_max: int
    """transactionCheckMax"""
    reserved_ms: int
    """fileReservedTime"""


class Checks:
    """One run after the other, between `start` and `stop`."""

    def __init__(
        self,
        store: MessageStore,
        halves: OpenHalves,
        endings: Endings,
        progress: HalfProgress,
        producers: Producers,
        topics: TopicTable,
        clock: Clock,
        terms: CheckTerms,
    ) -> None:
        self._store = store
        self._halves = halves
        self._endings = endings
        self._progress = progress
        self._producers = producers
        self._topics = topics
        self._clock = clock
        self._terms = terms
        self._numbers: deque[int] = deque()
        """Still to be looked at in this run."""
        self._work = 0
        """Records put in this slice."""
        self._done: Counter[str] = Counter()
        self._unattended: set[str] = set()
        """Groups of which no producer was there: told once."""
        self._alone: set[str] = set()
        """The same of this run."""
        self._refused: type[StoreError] | None = None
        self._ring: asyncio.TimerHandle | None = None

    # -- start and stop

    def start(self) -> None:
        """Run for the first time after one interval."""
        self._arm(self._terms.interval_ms / 1000)

    def stop(self) -> None:
        """Ask nobody any more."""
        if self._ring is not None:
            self._ring.cancel()
            self._ring = None
        self.end_run()

    def _arm(self, pause_s: float) -> None:
        self._ring = asyncio.get_running_loop().call_later(pause_s, self._turn)

    def _turn(self) -> None:
        pause_s = 0.0
        try:
            if not self._numbers:
                self.begin_run()
            if self.look():
                self.end_run()
                pause_s = self._terms.interval_ms / 1000
        except Exception:
            log.exception("checking transactions failed; it is tried again")
            self._numbers.clear()
            pause_s = self._terms.interval_ms / 1000
        self._arm(pause_s)

    # -- a run

    def begin_run(self) -> None:
        """From now on look at what is open now."""
        self._numbers = deque(self._halves.numbers())
        self._alone.clear()
        self._done.clear()

    def look(self) -> bool:
        """Look at a slice. True when the run is over, also because the store refuses."""
        try:
            self._endings.write_owed()
            self._work = 0
            for _ in range(_LOOKS):
                if not self._numbers or self._work >= _SLICE:
                    break
                half = self._halves.get(self._numbers[0])
                if half is not None:
                    self._judge(half)
                self._numbers.popleft()
        except StoreError as error:
            self._numbers.clear()
            if self._refused is not type(error):
                self._refused = type(error)
                log.error("checking transactions waits for the store: %s", error)
            return True
        self._refused = None
        return not self._numbers

    def end_run(self) -> None:
        """Have it saved from where on the next start has to look, here or in Apache's broker."""
        self._numbers.clear()
        self._progress.save_soon()
        self._tell()

    def _tell(self) -> None:
        for group in sorted(self._alone - self._unattended):
            log.warning("producer group %s: nobody is there to be asked how its transactions ended", group)
        self._unattended = set(self._alone)
        if self._done["asked"] or self._done["discarded"]:
            log.info(
                "transactions: %d asked about, %d discarded, %d open",
                self._done["asked"],
                self._done["discarded"],
                len(self._halves),
            )

    # -- one half message

    def _judge(self, half: OpenHalf) -> None:
        """Ask about it, discard it, or leave it."""
        now_ms = self._clock.now_ms()
        if half.checks >= self._terms.check_max or now_ms - half.stored_ms > self._terms.reserved_ms:
            self._discard(half)
            return
        immunity_ms = self._terms.timeout_ms if half.immunity_ms is None else half.immunity_ms
        if now_ms - half.born_ms < immunity_ms:
            self._leave(half)
            return
        producer = self._producers.one_of(half.group, half.first + half.checks)
        if producer is None:
            self._alone.add(half.group)
            self._leave(half)
            return
        copy = self._put_again(half, half.checks + 1)
        if copy is not None:
            self._done["asked"] += 1
            self._producers.ask(producer, copy)

    def _leave(self, half: OpenHalf) -> None:
        """It stays open; put it again if too much has come behind it."""
        behind = self._store.max_offset(HALF_TOPIC, 0) - half.number
        if behind > max(_BEHIND, 4 * len(self._halves)):
            self.put_again(half)

    def put_again(self, half: OpenHalf) -> None:
        """Put it at the end of its queue, without asking. StoreError."""
        self._put_again(half, half.checks)

    def _put_again(self, half: OpenHalf, checks: int) -> Half | None:
        """Put it at the end of its queue; None when it cannot be read. StoreError."""
        old = self._read(half)
        if old is None:
            return None
        text = old.again(checks, half.first)
        self._work += 1
        try:
            result = renew(self._store.put, old.record, HALF_TOPIC, 0, text)
        except MessageIllegal as error:
            log.error("half message %d can never be put again, it is discarded: %s", half.number, error)
            self._discard(half)
            return None
        self._endings.note_moved(half.number)
        half.checks = checks
        self._halves.moved(half, result.queue_offset, result.physical_offset)
        return read_half(self._store.record_at(result.physical_offset), result.queue_offset)

    def _discard(self, half: OpenHalf) -> None:
        """Put it where an operator may find it. StoreError leaves it as it is."""
        old = self._read(half)
        if old is None:
            return
        self._work += 1
        topic = self._topics.ensure_check_max_topic().topic_name
        try:
            renew(self._store.put, old.record, topic, 0, old.again(half.checks, half.first))
        except MessageIllegal:  # too long; it was another broker that stored it
            renew(self._store.put, old.record, topic, 0, old.record.properties)
        log.error(
            "topic %s: transaction %s of group %s was not ended, after %d checks; discarded to %s",
            old.topic,
            old.unique_key or old.record.offset_msg_id,
            half.group,
            half.checks,
            CHECK_MAX_TOPIC,
        )
        self._done["discarded"] += 1
        self._halves.remove(half)
        self._endings.note_moved(half.number)
        self._halves.discarded(old.identity)

    def _read(self, half: OpenHalf) -> Half | None:
        """Its newest copy. One that is gone or damaged can neither be asked about nor committed."""
        old = read_half(self._store.record_at(half.physical_offset), half.number)
        if old is None:
            log.error("half message %d is gone or damaged; left out", half.number)
            self._halves.remove(half)
        return old
