"""Delivery at any time: timed messages wait in rmq_sys_wheel_timer, and come to the millisecond.

The record in the log is the message; the journal only tells which ones wait, in a file for each hour of
delivery. In memory are those of the hours that have begun (`timer_wheel`), however many wait behind them. One
ring is set for the earliest. A delivery is an ordinary put under the real topic that names its timed message:
how that keeps each from being lost or repeated over a crash is told in `timer_recovery`.

Nothing comes before the wall clock says so, also when it was put back; what is due at one time comes in the
order in which it was stored.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from typing import Unpack

from pymq.broker.mended_units import BeingMended, MendedUnits
from pymq.broker.renewal import renew
from pymq.broker.timed import Timed, delivery_time, read_timed, timer_properties
from pymq.broker.timer_hours import TimerHours
from pymq.broker.timer_recovery import recover
from pymq.broker.timer_saves import TimerSaves
from pymq.broker.timer_wheel import TimerWheel
from pymq.clock import Clock
from pymq.errors import MessageIllegal, StoreBroken, StoreCorrupt, StoreError, StoreFull
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.results import PutFields
from pymq.store.timer_journal import TIMER_TOPIC, TimerEntry, TimerJournal

log = logging.getLogger("pymq.broker.timers")

_SLICE = 32
"""So many messages are delivered at once; then others have their turn."""
RETRY_MS = 100
"""After a delivery that the store refused."""
ASIDE_MS = 60_000
"""After a delivery that only this message's fault can have hindered."""
LOOK_AGAIN_MS = 1000
"""The wall clock may be set while a timer runs: due times are compared with it at least this often."""


class Timers:
    """Takes timed messages and delivers them in time, between `start` and `stop`."""

    def __init__(
        self,
        store: MessageStore,
        journal: TimerJournal,
        saves: TimerSaves,
        clock: Clock,
        *,
        max_delay_ms: int,
    ) -> None:
        """`max_delay_ms`: timerMaxDelaySec, in ms."""
        self._store = store
        self._journal = journal
        self._saves = saves
        self._clock = clock
        self._max_delay_ms = max_delay_ms
        self._wheel = TimerWheel()
        self._hours: TimerHours | None = None
        self._aside: list[tuple[int, TimerEntry]] = []
        """When to try again, and what: a heap."""
        self._moved: set[int] = set()
        """Numbers that are in the wheel but wait no more there: they were put again."""
        self._resume_ms = 0
        """After the store refused a delivery: not before this time."""
        self._refused: type[StoreError] | None = None
        self._ring_at: asyncio.TimerHandle | None = None
        self._rings_ms = 0
        """What the wall clock says then."""
        self._running = False
        self._mended = MendedUnits(store, TIMER_TOPIC)
        self._kept_cancels: dict[int, list[TimerEntry]] = {}
        """Number of a message that is put aside → what may cancel it: its minute may be over meanwhile."""

    def __len__(self) -> int:
        """How many are in memory."""
        return len(self._wheel)

    # -- taking

    def delivery_time(self, properties: str) -> int | None:
        """When a message with this property text is to be delivered, ms since 1970; None: now.

        MessageIllegal as `timed.delivery_time`.
        """
        return delivery_time(properties, self._clock.now_ms(), self._max_delay_ms)

    def put(
        self,
        deliver_ms: int,
        topic: str,
        queue_id: int,
        body: bytes,
        properties: str,
        **fields: Unpack[PutFields],
    ) -> PutResult:
        """Store a message for `topic` to be delivered at `deliver_ms`, or one that cancels another.

        `properties`: with WAIT and CLUSTER, without what is added here. Raises as `MessageStore.put`.
        """
        text, key, is_cancel = timer_properties(properties, deliver_ms, topic, queue_id)
        result = self._store.put(TIMER_TOPIC, 0, body, text, **fields)
        self._stored(TimerEntry(deliver_ms, result.queue_offset, key, is_cancel))
        return result

    def _stored(self, entry: TimerEntry) -> None:
        """A record was put into the timer topic."""
        self._journal.add(entry)
        if self._hours is not None:
            self._hours.add(entry)
        self._saves.gathered()
        if self._ring_at is None or entry.deliver_ms < self._rings_ms:
            self._arm()

    # -- start and stop

    def start(self) -> None:
        """Find what waits, and deliver from then on. StoreError."""
        self._begin()
        self._running = True
        self._arm()

    def _begin(self, *, anew: bool = False) -> None:
        self._saves.restart(recover(self._store, self._journal, anew=anew))
        self._wheel, self._aside = TimerWheel(), []
        self._moved.clear()
        self._kept_cancels.clear()
        self._hours = TimerHours(self._journal, self._wheel, self._clock.now_ms())

    def stop(self) -> None:
        """Deliver nothing more. What waits is delivered after the next `start`."""
        self._running = False
        if self._ring_at is not None:
            self._ring_at.cancel()
            self._ring_at = None

    # -- delivering

    def _arm(self) -> None:
        """Ring when there is something to do, if no earlier ring is set."""
        if not self._running or self._hours is None:
            return
        times = [self._wheel.next_ms(), self._hours.next_ms(), *[at for at, _ in self._aside[:1]]]
        due_ms = [max(at, self._resume_ms) for at in times if at is not None]
        if not due_ms:
            return
        now_ms = self._clock.now_ms()
        pause_ms = min(max(0, min(due_ms) - now_ms), LOOK_AGAIN_MS)
        loop = asyncio.get_running_loop()
        rings_at = loop.time() + pause_ms / 1000
        if self._ring_at is not None:
            if self._ring_at.when() <= rings_at:
                return
            self._ring_at.cancel()
        self._ring_at = loop.call_at(rings_at, self._ring)
        self._rings_ms = now_ms + pause_ms

    def _ring(self) -> None:
        self._ring_at = None
        try:
            self.deliver_due()
        except Exception:
            log.exception("delivering timed messages failed; it is tried again")
            self._resume_ms = self._clock.now_ms() + RETRY_MS
        self._arm()

    def deliver_due(self) -> int:
        """Deliver what is due now, not more than a slice; says how much was done."""
        now_ms = self._clock.now_ms()
        assert self._hours is not None
        try:
            done = int(self._hours.turn_to(now_ms))
        except StoreCorrupt as error:
            log.error("%s: the timer journal is built again", error)
            self._begin(anew=True)
            done = 1
        if now_ms < self._resume_ms <= now_ms + RETRY_MS:
            return 0
        self._wheel.turn_to(now_ms)
        while done < _SLICE and (entry := self._take_due(now_ms)) is not None:
            if not self._settle(entry, now_ms):
                return done
            done += 1
        if self._wheel.first_due(now_ms) is None:
            for entry in self._wheel.close(now_ms):
                self._waits_no_more(entry)
        return done

    def _take_due(self, now_ms: int) -> TimerEntry | None:
        if self._aside and self._aside[0][0] <= now_ms:
            return heapq.heappop(self._aside)[1]
        entry = self._wheel.first_due(now_ms)
        if entry is not None:
            self._wheel.pop()
        return entry

    def _settle(self, entry: TimerEntry, now_ms: int) -> bool:
        """Deliver a message that was taken out, or find that it is not to be. False: not now, nor others."""
        try:
            self._deliver(entry, now_ms)
        except BeingMended:
            self._put_aside(entry, now_ms + RETRY_MS)
            return True
        except StoreError as error:
            is_general = isinstance(error, StoreFull | StoreBroken) or not self._store.is_writable
            pause_ms = RETRY_MS if is_general else ASIDE_MS
            self._put_aside(entry, now_ms + pause_ms)
            if self._refused is not type(error):
                self._refused = type(error)
                log.error("timed message %d waits: %s", entry.number, error)
            if is_general:
                self._resume_ms = now_ms + RETRY_MS
            return not is_general
        self._waits_no_more(entry)
        return True

    def _put_aside(self, entry: TimerEntry, until_ms: int) -> None:
        heapq.heappush(self._aside, (until_ms, entry))
        if cancels := self._wheel.cancels(entry):
            self._kept_cancels[entry.number] = cancels

    def _deliver(self, entry: TimerEntry, now_ms: int) -> None:
        if entry.number in self._moved:
            self._moved.discard(entry.number)
            return
        message = self.waiting_at(entry.number)
        if message is None:
            log.error("timed message %d is gone or damaged; left out", entry.number)
        elif not self._is_cancelled(entry, message):
            try:
                self._put_copy(message, now_ms)
            except MessageIllegal as error:
                log.error("timed message %d can never be delivered: %s", entry.number, error)
                return
            if self._refused is not None:
                self._refused = None
                log.info("timed messages: delivered again")

    def waiting_at(self, number: int) -> Timed | None:
        """A timed message by its queue offset; None when it is gone or damaged.

        BeingMended: it can be read a little later. StoreError.
        """
        for unit in self._store.units(TIMER_TOPIC, 0, number, 1):
            message = read_timed(self._store.record_at(unit[0]))
            if message is not None and message.number == number:
                self._mended.settled(0, number)
                return message
            if self._mended.is_being_mended(0, number, unit):
                raise BeingMended(f"timed message {number}: its unit is being mended")
        return None

    def _is_cancelled(self, entry: TimerEntry, message: Timed) -> bool:
        cancels = self._wheel.cancels(entry) or self._kept_cancels.get(entry.number, [])
        found = [self.waiting_at(cancel.number) for cancel in cancels]
        numbers = [each.number for each in found if each is not None and each.cancels(message)]
        if numbers and max(numbers) < message.number:
            self._note_cancelled(message)
        return bool(numbers)

    def _note_cancelled(self, message: Timed) -> None:
        """Let the log tell that a message was cancelled, where its cancellation will go before it does.

        That is so when the message was put again after it was cancelled.
        """
        self._store.put(
            TIMER_TOPIC,
            0,
            b"0",
            message.cancelled_properties(),
            born_host=message.record.born_host,
            born_timestamp=message.record.born_timestamp,
            is_accepted=True,
        )

    def _put_copy(self, message: Timed, now_ms: int) -> None:
        properties = message.delivered_properties(now_ms)
        renew(self._store.put, message.record, message.topic, message.queue_id, properties)

    def _waits_no_more(self, entry: TimerEntry) -> None:
        assert self._hours is not None
        self._moved.discard(entry.number)
        self._kept_cancels.pop(entry.number, None)
        self._hours.settled(entry)

    # -- putting again

    def is_behind(self, now_ms: int) -> bool:
        """Whether something waits in memory that was due by `now_ms`."""
        next_ms = self._wheel.next_ms()
        return bool(self._aside) or (next_ms is not None and next_ms <= now_ms)

    def put_again(self, message: Timed) -> PutResult:
        """Store a waiting message once more, at the end of the log, for its old record to go. StoreError."""
        with self._store.despite_full():
            result = renew(self._store.put, message.record, TIMER_TOPIC, 0, message.rolled_properties())
        self._journal.remove(message.deliver_ms, message.number)
        if self._hours is not None and self._hours.are_in_memory(message.deliver_ms):
            self._moved.add(message.number)
        self._stored(message.entry._replace(number=result.queue_offset))
        return result
