"""A store with timed messages and nothing else, whose time and whose ends tests decide."""

from __future__ import annotations

import asyncio

from pymq.broker.timer_rolls import TimerRolls
from pymq.broker.timer_saves import TimerSaves
from pymq.broker.timers import Timers
from pymq.protocol.message import MessageRecord, decode_record
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.messagestore import MessageStore
from pymq.store.retention import RetentionRules
from pymq.store.store_config import StoreConfig
from pymq.store.timer_journal import TIMER_TOPIC, TimerJournal
from tests.broker.standing_loop import at_once
from tests.sim import SimClock
from tests.store.making import BORN_HOST, STORE_HOST
from tests.store.sim_disk import SimDisk

JOURNAL = "/store/timerjournal"
DAY_MS = 24 * 3_600_000
MAX_DELAY_MS = 3 * DAY_MS


class TimedWorld:
    """One broker's timed messages over several lives. The event loop that runs must not be given a turn."""

    def __init__(
        self, *, segment_bytes: int = 16384, units: int = 100, now_ms: int = 1_700_000_000_000
    ) -> None:
        """With files of the commit log of `segment_bytes`, and queue files of so many units."""
        self.disk = SimDisk()
        self.clock = SimClock(now_ms)
        self._sizes = segment_bytes, units
        self._number = 0
        self.begin()

    def begin(self) -> None:
        """Open the store as it lies there, and start to deliver."""
        config = StoreConfig(
            root="/store",
            commit_log_segment_bytes=self._sizes[0],
            consume_queue_segment_bytes=self._sizes[1] * CQ_STORE_UNIT_SIZE,
            message_index_enable=False,
            retention=RetentionRules(clean_resource_interval=1000, delete_commit_log_files_interval=0),
        )
        self.store = MessageStore(config, self.disk, self.clock, STORE_HOST)
        self.store.open()
        self.journal = TimerJournal(JOURNAL, self.disk)
        self.saves = TimerSaves(self.store, self.journal, self.disk)
        self.timers = Timers(self.store, self.journal, self.saves, self.clock, max_delay_ms=MAX_DELAY_MS)
        self.timers.start()
        self.rolls = TimerRolls(self.store, self.timers, self.saves, self.clock)
        self.store.may_delete.append(self.rolls.may_go)
        self.saves.save_soon()

    def send(
        self, deliver_ms: int, body: bytes, topic: str = "orders", queue_id: int = 0, unique_key: str = ""
    ) -> int:
        """Store a timed message; gives the physical offset behind it."""
        properties = f"TAGS\x01a\x02UNIQ_KEY\x01{unique_key}" if unique_key else "TAGS\x01a"
        return self._put(deliver_ms, topic, queue_id, body, properties)

    def after(self, delay_ms: int, body: bytes, unique_key: str = "") -> int:
        """As `send`, for a time from now on."""
        return self.send(self.clock.now_ms() + delay_ms, body, unique_key=unique_key)

    def cancel(self, deliver_ms: int, unique_key: str, topic: str = "orders") -> int:
        """Store what cancels a message."""
        return self._put(deliver_ms, topic, 0, b"0", f"TIMER_DEL_UNIQKEY\x01{topic}+{unique_key}")

    def _put(self, deliver_ms: int, topic: str, queue_id: int, body: bytes, properties: str) -> int:
        self._number += 1
        return self.timers.put(
            deliver_ms, topic, queue_id, body, properties, born_host=BORN_HOST, born_timestamp=self._number
        ).end_offset

    def run(self) -> list[bytes]:
        """Deliver all that is due now; gives the bodies in the order of delivery."""
        start = self.store.commit_log_max_offset
        while self.timers.deliver_due():
            pass
        return [record.body for record in self.records(start) if record.topic != TIMER_TOPIC]

    def run_for(self, ms: int, step_ms: int = 100) -> list[bytes]:
        """Let time pass, delivering what becomes due."""
        bodies = []
        for _ in range(0, ms, step_ms):
            self.clock.advance(step_ms)
            bodies += self.run()
        return bodies

    def roll(self) -> None:
        """Let what waits for a turn of the loop to put messages again have its turns."""
        turns = self.rolls._turns
        while turns._ring is not None and turns._ring.when() <= asyncio.get_running_loop().time():
            turns._ring.cancel()
            turns._turn()

    def stop(self) -> None:
        """A clean end."""
        self.timers.stop()
        self.rolls.stop()
        at_once(self.saves.settle())
        self.store.close()

    def kill(self) -> None:
        """The process ends, the machine does not: all that was written is there."""
        self._die()
        self.disk = self.disk.kill()

    def cut(self, seed: int) -> None:
        """The power fails: of what was not synced, some is there."""
        self._die()
        self.disk = self.disk.crash(seed)

    def _die(self) -> None:
        self.timers.stop()
        self.rolls.stop()

    def records(self, start: int = 0) -> list[MessageRecord]:
        """All messages in the log from a physical offset on."""
        start = max(start, self.store.commit_log_min_offset)
        return [decode_record(data) for data in self.store.records_from(start)]

    def delivered(self) -> list[MessageRecord]:
        """The delivered copies in the log."""
        return [record for record in self.records() if record.topic != TIMER_TOPIC]

    def lose_journal(self) -> None:
        """Somebody deletes the journal."""
        self.disk.remove_folder(JOURNAL)

    def hour_files(self) -> list[str]:
        """The journal's files of entries."""
        return [name for name in self.disk.list_folder(JOURNAL) if name.isdecimal()]
