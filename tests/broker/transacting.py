"""A store with transactions and delays and nothing else, whose time, ends and producers tests decide."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.delay_offsets import DelayOffsetTable
from pymq.broker.delayed_puts import DelayedPuts
from pymq.broker.delays import Delays
from pymq.broker.live_clients import LiveClients, Member
from pymq.broker.processors.end_transaction import EndTransactionProcessor
from pymq.broker.timer_saves import TimerSaves
from pymq.broker.timers import Timers
from pymq.broker.topics import TopicTable
from pymq.broker.transactions.checks import CheckTerms
from pymq.broker.transactions.producers import Producers
from pymq.broker.transactions.transactions import Transactions
from pymq.errors import ConnectionLost
from pymq.protocol.headers.administration import ResumeCheckHalfMessageRequest
from pymq.protocol.headers.messaging import CheckTransactionStateRequest, EndTransactionRequest
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.message_ids import pack_host
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.retention import RetentionRules
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import SCHEDULE_TOPIC
from pymq.store.timer_journal import TIMER_TOPIC, TimerJournal
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC, OP_TOPIC
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request
from tests.broker.standing_loop import at_once
from tests.sim import SimClock
from tests.store.making import BORN_HOST, STORE_HOST
from tests.store.sim_disk import SimDisk

OFFSETS_FILE = "/store/config/consumerOffset.json"
MARK_FILE = "/store/config/transactions.json"
LEVELS = "1s 5s"
NOT_DELIVERED = (HALF_TOPIC, OP_TOPIC, CHECK_MAX_TOPIC, SCHEDULE_TOPIC, TIMER_TOPIC)
MINUTE_MS = 60_000
COMMIT, ROLLBACK = TRANSACTION_COMMIT, TRANSACTION_ROLLBACK


class FakeProducer:
    """A producer's connection: keeps what it is asked."""

    def __init__(self) -> None:
        self.closed = False
        self.writing_paused = False
        self.breaks = False
        self.asked: list[tuple[CheckTransactionStateRequest, MessageRecord]] = []

    def oneway(self, header: CheckTransactionStateRequest, body: bytes) -> None:
        """As Connection.oneway."""
        if self.breaks:
            raise ConnectionLost("there", "gone")
        self.asked.append((header, decode_record(body)))


class FakeClients:
    """Who is connected, by group."""

    def __init__(self) -> None:
        self.groups: dict[str, list[FakeProducer]] = {}

    def producers(self, group: str) -> list[Member]:
        """As LiveClients.producers."""
        return [Member(cast(Connection, each), "id", "PYTHON", 401, 0) for each in self.groups.get(group, ())]


class TransactionWorld:
    """One broker's transactions over several lives. The event loop that runs must not be given a turn."""

    def __init__(
        self,
        *,
        segment_bytes: int = 65536,
        units: int = 100,
        disk: SimDisk | None = None,
        now_ms: int = 1_700_000_000_000,
        **terms: int,
    ) -> None:
        """With files of the commit log of `segment_bytes`, and queue files of so many units."""
        self.disk = disk or SimDisk()
        self.clock = SimClock(now_ms)
        self.clients = FakeClients()
        self.terms = CheckTerms(
            **{
                "interval_ms": MINUTE_MS,
                "timeout_ms": 6000,
                "check_max": 15,
                "reserved_ms": 72 * 3_600_000,
                **terms,
            }
        )
        self._sizes = segment_bytes, units
        self._number = 0
        self.begin()

    def begin(self) -> None:
        """Open the store as it lies there, and start."""
        store_config = StoreConfig(
            root="/store",
            commit_log_segment_bytes=self._sizes[0],
            consume_queue_segment_bytes=self._sizes[1] * CQ_STORE_UNIT_SIZE,
            message_delay_level=LEVELS,
            message_index_enable=False,
            retention=RetentionRules(clean_resource_interval=1000, delete_commit_log_files_interval=0),
        )
        config = BrokerConfig(broker_name="a", store_path_root_dir="/store")
        self.store = MessageStore(store_config, self.disk, self.clock, STORE_HOST)
        self.store.open()
        self.offsets = ConsumerOffsetTable()
        if saved := self.disk.read_bytes(OFFSETS_FILE):
            self.offsets.load(saved.decode())
        self.delays = Delays(LEVELS, self.store, DelayOffsetTable(self.store), self.clock)
        journal = TimerJournal("/store/timerjournal", self.disk)
        saves = TimerSaves(self.store, journal, self.disk)
        self.timers = Timers(self.store, journal, saves, self.clock, max_delay_ms=1_000_000)
        self.delays.start()
        self.timers.start()
        self.topics = TopicTable(config, self.clock)
        self.transactions = Transactions(
            self.store,
            self.offsets,
            self.topics,
            DelayedPuts(self.delays, self.timers, timer_wheel_enable=True),
            Producers(cast(LiveClients, self.clients)),
            self.clock,
            self.terms,
            own_host=pack_host(*STORE_HOST),
        )
        progress = self.transactions.progress
        if saved := self.disk.read_bytes(MARK_FILE):
            progress.load(saved.decode())
        progress.on_change.append(self._save)
        progress.on_mark.append(
            lambda: self.disk.write_atomically(MARK_FILE, progress.snapshot().encode().decode())
        )
        self.transactions.start()
        self._ends = EndTransactionProcessor(config, self.transactions, self.store)

    def _save(self) -> None:
        self.disk.write_atomically(OFFSETS_FILE, self.offsets.body().encode().decode())

    # -- producers

    def connect(self, group: str = "pg") -> FakeProducer:
        """One more producer of a group."""
        producer = FakeProducer()
        self.clients.groups.setdefault(group, []).append(producer)
        return producer

    def prepare(
        self, body: bytes = b"x", *, properties: str = "", group: str = "pg", key: str = "", **fields: Any
    ) -> PutResult:
        """Send a half message."""
        self._number += 1
        key = key or f"K{self._number}"
        text = f"TRAN_MSG\x01true\x02PGROUP\x01{group}\x02UNIQ_KEY\x01{key}\x02TAGS\x01a"
        if properties:
            text += "\x02" + properties
        fields = {"born_timestamp": self.clock.now_ms(), **fields}
        return self.transactions.put("orders", 1, body, text, born_host=BORN_HOST, **fields)

    def end(self, kind: int, half: PutResult, *, group: str = "pg", **fields: Any) -> None:
        """Commit or roll back by the offsets of a half message."""
        self._end(kind, half.queue_offset, half.physical_offset, group, **fields)

    def answer(self, kind: int, question: CheckTransactionStateRequest, *, group: str = "pg") -> None:
        """Commit or roll back as an answer to a check."""
        self._end(kind, question.tran_state_table_offset, question.commit_log_offset, group)

    def _end(self, kind: int, number: int, offset: int, group: str, **fields: Any) -> None:
        header = EndTransactionRequest(group, number, offset, kind, fields.pop("msg_id", "M"), **fields)
        answer = self._ends.end(Request(cast(Any, None), cast(Any, None), header))
        assert answer is not None
        assert answer.code == 0

    def resume(self, msg_id: str) -> None:
        """Let producers be asked again about a discarded half message."""
        header = ResumeCheckHalfMessageRequest(msg_id)
        assert self._ends.resume(Request(cast(Any, None), cast(Any, None), header)) == Answer()

    def check(self, ms: int = MINUTE_MS) -> None:
        """Let time pass, then check in one go."""
        self.clock.advance(ms)
        checks = self.transactions.checks
        checks.begin_run()
        while not checks.look():
            pass
        checks.end_run()

    # -- ends of a life

    def flush(self) -> None:
        """Have all that was written synced."""
        self.store.flush_now()
        self.disk.run_jobs()

    def stop(self) -> None:
        """A clean end."""
        at_once(self.transactions.close())
        self.delays.stop()
        self.timers.stop()
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
        if self.transactions.checks._ring is not None:
            self.transactions.checks._ring.cancel()
        self.delays.stop()
        self.timers.stop()

    # -- looking

    def records(self, topic: str | None = None) -> list[MessageRecord]:
        """All messages in the log, or those of a topic."""
        found = [decode_record(data) for data in self.store.records_from(self.store.commit_log_min_offset)]
        return found if topic is None else [each for each in found if each.topic == topic]

    def delivered(self) -> Counter[bytes]:
        """The bodies that consumers get, and how often."""
        return Counter(each.body for each in self.records() if each.topic not in NOT_DELIVERED)

    def ops(self) -> list[bytes]:
        """The bodies of the op messages."""
        return [each.body for each in self.records(OP_TOPIC)]
