"""A store with delay levels and nothing else, whose time and whose ends tests decide."""

from __future__ import annotations

from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.delays import Delays
from pymq.protocol.bodies.offsets import DelayOffsets
from pymq.protocol.message import MessageRecord, decode_record
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import SCHEDULE_TOPIC
from tests.broker.standing_loop import at_once
from tests.sim import SimClock
from tests.store.making import BORN_HOST, STORE_HOST
from tests.store.sim_disk import SimDisk

LEVELS = "1s 2s 5s 1m"
DELAYS_MS = (1000, 2000, 5000, 60_000)
OFFSETS_FILE = "/store/config/delayOffset.json"


class World:
    """One broker's delays over several lives. The event loop that runs must not be given a turn."""

    def __init__(self, *, segment_bytes: int = 16384, units: int = 10) -> None:
        """With files of the commit log of `segment_bytes`, and queue files of so many units."""
        self.disk = SimDisk()
        self.clock = SimClock()
        self.levels = LEVELS
        self.max_message_bytes = 4096
        self._sizes = segment_bytes, units
        self.begin()

    def begin(self) -> None:
        """Open the store as it lies there, and start to deliver."""
        config = StoreConfig(
            root="/store",
            commit_log_segment_bytes=self._sizes[0],
            consume_queue_segment_bytes=self._sizes[1] * CQ_STORE_UNIT_SIZE,
            message_delay_level=self.levels,
            max_message_bytes=self.max_message_bytes,
        )
        self.store = MessageStore(config, self.disk, self.clock, STORE_HOST)
        self.store.open()
        self.offsets = DelayOffsetTable(self.store)
        if saved := self.disk.read_bytes(OFFSETS_FILE):
            self.offsets.load(saved.decode())
        self.offsets.on_change.append(self._save)
        self.delays = Delays(self.levels, self.store, self.offsets, self.clock)
        self.delays.start()

    def _save(self) -> None:
        self.disk.write_atomically(OFFSETS_FILE, self.offsets.snapshot().encode().decode())

    def saved(self) -> DelayOffsets:
        """What the file says."""
        return DelayOffsets.decode(self.disk.read_bytes(OFFSETS_FILE) or b"{}")

    def send(self, level: int, body: bytes, topic: str = "orders", queue_id: int = 0) -> int:
        """Store a delayed message; gives the physical offset behind it."""
        properties = f"TAGS\x01a\x02DELAY\x01{level}"
        result = self.delays.put(
            level, topic, queue_id, body, properties, born_host=BORN_HOST, born_timestamp=1
        )
        return result.end_offset

    def run(self) -> list[bytes]:
        """Deliver all that is due now; gives the bodies in the order of delivery."""
        start = self.store.commit_log_max_offset
        while self.delays.deliver_due():
            pass
        return [record.body for record in self.records(start) if record.topic != SCHEDULE_TOPIC]

    def run_for(self, ms: int, step_ms: int = 100) -> list[bytes]:
        """Let time pass, delivering what becomes due."""
        bodies = []
        for _ in range(0, ms, step_ms):
            self.clock.advance(step_ms)
            bodies += self.run()
        return bodies

    def stop(self) -> None:
        """A clean end."""
        self.delays.stop()
        at_once(self.offsets.settle())
        self.store.close()

    def kill(self) -> None:
        """The process ends, the machine does not: all that was written is there."""
        self.delays.stop()
        self.disk.locked.clear()

    def cut(self, seed: int) -> None:
        """The power fails: of what was not synced, some is there."""
        self.delays.stop()
        self.disk = self.disk.crash(seed)

    def records(self, start: int = 0) -> list[MessageRecord]:
        """All messages in the log from a physical offset on."""
        return [decode_record(data) for data in self.store.records_from(start)]

    def delivered(self) -> list[MessageRecord]:
        """The delivered copies in the log."""
        return [record for record in self.records() if record.topic != SCHEDULE_TOPIC]
