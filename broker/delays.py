"""Delay levels: messages wait in SCHEDULE_TOPIC_XXXX, each level in a queue of its own (store.md §10).

All messages of a level wait equally long, so a level's queue is in the order of delivery: what is kept in
memory is a level's position and the time its first message is due, however many wait behind it. One timer
rings for the earliest of them. A delivery is an ordinary put under the real topic; right behind it, in the
same turn of the loop, the level's offset moves on. How the two stay together over a crash is told in
`delay_offsets`.

What would be due later than a whole delay from now is delivered at once, as by Apache: its level was set
shorter. A level that is no more in the table is still delivered, which Apache's broker forgets to do. When
the clock is put back nothing comes early: "now" is then the time of the log, which never goes back, and what
waits comes late by up to as much as the clock lost.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Unpack

from pymq.broker.delay_offsets import DelayOffsetTable, log_left_out
from pymq.broker.mended_units import MendedUnits
from pymq.broker.renewal import renew
from pymq.broker.scheduled import Scheduled, read_scheduled, scheduled_properties
from pymq.clock import Clock
from pymq.errors import StoreError
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.results import PutFields
from pymq.store.tags_codes import SCHEDULE_TOPIC, parse_delay_levels

log = logging.getLogger("pymq.broker.delays")

_SLICE = 32
"""So many messages of a level are delivered at once; then others have their turn."""
RETRY_MS = 100
"""After a delivery that the store refused."""
_LOOK_AGAIN_S = 1.0
"""The wall clock may be set while a timer runs: due times are compared with it at least this often."""


class Delays:
    """Takes delayed messages and delivers them in time, between `start` and `stop`."""

    def __init__(self, levels: str, store: MessageStore, offsets: DelayOffsetTable, clock: Clock) -> None:
        """`levels`: messageDelayLevel. ConfigError when it cannot be read."""
        self._levels_text = levels
        self._levels_ms = parse_delay_levels(levels)
        self._store = store
        self._offsets = offsets
        self._clock = clock
        self._due_ms: dict[int, int] = {}
        """Level → when its first message is due; only levels that have one."""
        self._refused: dict[int, type[StoreError]] = {}
        """Level → how the store refuses its first message: told once, however the words change."""
        self._mended = MendedUnits(store, SCHEDULE_TOPIC)
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    # -- taking

    def put(
        self,
        level: int,
        topic: str,
        queue_id: int,
        body: bytes,
        properties: str,
        **fields: Unpack[PutFields],
    ) -> PutResult:
        """Store a message for `topic` to be delivered after the delay of `level`, 1 or more.

        A level above the table's last one is that one. `properties`: with WAIT and CLUSTER, without what
        is added here. `tags_code` counts at the delivery only. What else there is: as with
        `MessageStore.put`.
        """
        level = min(level, len(self._levels_ms))
        delay_ms = self._levels_ms[level - 1]
        result = self._store.put(
            SCHEDULE_TOPIC,
            level - 1,
            body,
            scheduled_properties(properties, level, topic, queue_id),
            **fields,
            delay_ms=delay_ms,
        )
        if level not in self._due_ms:
            self._due_ms[level] = result.store_timestamp + delay_ms
            self._arm()
        return result

    # -- delivering

    def start(self) -> None:
        """Find where each level stands, and deliver from then on."""
        log.info(
            "delay levels: %s",
            ", ".join(f"{level}={text}" for level, text in enumerate(self._levels_text.split(), 1)),
        )
        self._offsets.pass_delivered()
        now_ms = self._clock.now_ms()
        self._due_ms = dict.fromkeys(self._offsets.correct(), now_ms)
        self._running = True
        self._arm()

    def stop(self) -> None:
        """Deliver nothing more. What waits is delivered after the next `start`."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        """Ring when the first message is due, if no earlier ring is set."""
        if not self._running or not self._due_ms:
            return
        loop = asyncio.get_running_loop()
        pause_s = max(0.0, (min(self._due_ms.values()) - self._clock.now_ms()) / 1000)
        rings_at = loop.time() + min(pause_s, _LOOK_AGAIN_S)
        if self._timer is not None:
            if self._timer.when() <= rings_at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(rings_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        try:
            self.deliver_due()
        except Exception:
            log.exception("delivering delayed messages failed; it is tried again")
            self._due_ms = {level: max(due, self._retry_ms()) for level, due in self._due_ms.items()}
        self._arm()

    def _retry_ms(self) -> int:
        return self._clock.now_ms() + RETRY_MS

    def deliver_due(self) -> int:
        """Deliver what is due now, of each level not more than a slice; says how many messages that were."""
        now_ms = self._clock.now_ms()
        due_levels = [level for level, due_ms in self._due_ms.items() if self._is_due(level, due_ms, now_ms)]
        return sum(self._deliver_level(level, now_ms) for level in due_levels)

    def _is_due(self, level: int, due_ms: int, now_ms: int) -> bool:
        if due_ms <= now_ms:
            return True
        if level > len(self._levels_ms):
            return False
        return due_ms > max(now_ms, self._store.newest_log_time) + self._levels_ms[level - 1]

    def _deliver_level(self, level: int, now_ms: int) -> int:
        """Deliver a slice of a level, note when its next message is due, and say how many were delivered."""
        units = self._store.units(SCHEDULE_TOPIC, level - 1, self._offsets.get(level), _SLICE)
        if not units:
            return self._found_none(level)
        delivered = 0
        for offset, unit in enumerate(units, self._offsets.get(level)):
            try:
                scheduled = read_scheduled(self._store.record_at(unit[0]), level, offset)
                due_ms = self._due_by(level, unit[2], scheduled)
                if not self._is_due(level, due_ms, now_ms):
                    self._due_ms[level] = due_ms
                    return delivered
                if scheduled is None and self._mended.is_being_mended(level - 1, offset, unit):
                    self._due_ms[level] = self._retry_ms()
                    return delivered
                delivered += self._deliver(level, offset, scheduled)
            except StoreError as error:
                self._not_now(level, offset, error)
                return delivered
            self._offsets.set(level, offset + 1)
            self._mended.settled(level - 1, offset)
            if self._refused.pop(level, None):
                log.info("delay level %d: delivered again", level)
        if self._offsets.get(level) >= self._store.max_offset(SCHEDULE_TOPIC, level - 1):
            del self._due_ms[level]
        else:
            self._due_ms[level] = now_ms
        return delivered

    def _due_by(self, level: int, unit_ms: int, scheduled: Scheduled | None) -> int:
        """When a message is due by its unit, unless that is damaged: then by its record.

        Delays are whole seconds. So a unit that tells something else than that was damaged, while the times
        of levels that were set anew since it was written hold.
        """
        if scheduled is None or level > len(self._levels_ms):
            return unit_ms
        record_ms = scheduled.record.store_timestamp + self._levels_ms[level - 1]
        is_damaged = (unit_ms - record_ms) % 1000 != 0
        return record_ms if is_damaged else unit_ms

    def _deliver(self, level: int, offset: int, scheduled: Scheduled | None) -> bool:
        """Store a message under its real topic; False for one that there is no more. StoreError."""
        if scheduled is None:
            log_left_out(level, offset)
            return False
        record = scheduled.record
        renew(
            self._store.put,
            record,
            scheduled.topic,
            scheduled.queue_id,
            record.properties,
            prepared_transaction_offset=0,
        )
        return True

    def _not_now(self, level: int, offset: int, error: StoreError) -> None:
        """The store refused a delivery: the same message is tried again, nothing of its level passes it."""
        self._due_ms[level] = self._retry_ms()
        if self._refused.get(level) is not type(error):
            self._refused[level] = type(error)
            log.error("delay level %d waits before message %d: %s", level, offset, error)

    def _found_none(self, level: int) -> int:
        """There is no unit at the level's offset: those before its queue's new beginning are gone."""
        offset = self._offsets.get(level)
        if level not in self._offsets.correct():
            del self._due_ms[level]
        elif self._offsets.get(level) == offset:
            self._not_now(level, offset, StoreError("its queue cannot be read"))
        return 0
