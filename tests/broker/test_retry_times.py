"""How long a message that fails again and again waits each time: by the millisecond, to the dead letters."""

from __future__ import annotations

import pytest

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.processors.send_backs import SendBackProcessor
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.errors import ResponseError
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import Command
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest
from pymq.protocol.message import MessageRecord
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_PREPARED
from pymq.store.tags_codes import SCHEDULE_TOPIC
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request
from tests.broker.delaying import World
from tests.broker.standing_loop import in_a_loop
from tests.store.making import BORN_HOST

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
WAITS_MS = [
    10 * SECOND, 30 * SECOND, 1 * MINUTE, 2 * MINUTE, 3 * MINUTE, 4 * MINUTE, 5 * MINUTE, 6 * MINUTE,
    7 * MINUTE, 8 * MINUTE, 9 * MINUTE, 10 * MINUTE, 20 * MINUTE, 30 * MINUTE, 1 * HOUR, 2 * HOUR,
]  # fmt: skip
"""By the count of earlier failures."""

VERSION_3_4_8, VERSION_4_9_4 = 118, 401


class Failing:
    """A group whose consumers fail, and the broker's part in it. No timer rings: the test moves the time."""

    def __init__(self) -> None:
        self.world = World(segment_bytes=1 << 18)
        self._config = BrokerConfig()
        self.groups = SubscriptionGroups(self._config, self.world.clock)
        self.topics = TopicTable(self._config, self.world.clock)
        self.world.levels = self._config.message_delay_level
        self.world.stop()
        self.begin()

    def begin(self) -> None:
        """A life of the broker."""
        self.world.begin()
        world = self.world
        self.processor = SendBackProcessor(
            self._config, self.topics, self.groups, world.store, world.clock, world.delays
        )

    def send(self, properties: str = "UNIQ_KEY\x01ID\x02TAGS\x01t", sys_flag: int = 0) -> MessageRecord:
        """A message to the topic `orders`."""
        self.world.store.put(
            "orders", 0, b"x", properties, born_host=BORN_HOST, born_timestamp=5, flag=3, sys_flag=sys_flag
        )
        return self.world.records()[-1]

    def fail(
        self,
        record: MessageRecord,
        level: int = 0,
        *,
        version: int = VERSION_4_9_4,
        limit: int | None = 16,
    ) -> None:
        """A consumer hands the message back."""
        header = ConsumerSendMsgBackRequest(record.physical_offset, "g", level, max_reconsume_times=limit)
        connection = Connection({}, is_server=True)
        answer = self.processor.send_back(Request(connection, Command(version=version), header))
        assert answer == Answer()

    def retried(self) -> list[MessageRecord]:
        """What the log holds but for what waits, from the first retry on."""
        return [record for record in self.world.delivered() if record.topic != "orders"]

    def comes_after(self, wait_ms: int) -> MessageRecord:
        """The copy, which is delivered after just so long."""
        self.world.clock.advance(wait_ms - 1)
        assert self.world.run() == []
        self.world.clock.advance(1)
        assert self.world.run() == [b"x"]
        return self.retried()[-1]


def test_a_message_that_always_fails_comes_sixteen_times_more_and_then_to_the_dead_letters() -> None:
    def story() -> None:
        failing = Failing()
        first = failing.send()
        record, offset_ids = first, {first.offset_msg_id}
        for times, wait_ms in enumerate(WAITS_MS, 1):
            failing.fail(record)
            record = failing.comes_after(wait_ms)
            offset_ids.add(record.offset_msg_id)
            assert (record.topic, record.queue_id, record.reconsume_times) == ("%RETRY%g", 0, times)
            assert (record.body, record.flag, record.born_timestamp) == (b"x", 3, 5)
            assert record.born_host == BORN_HOST
            assert record.read_properties() == {
                "UNIQ_KEY": "ID",
                "TAGS": "t",
                "RETRY_TOPIC": "orders",
                "ORIGIN_MESSAGE_ID": first.offset_msg_id,
                "DELAY": str(times + 2),
                "REAL_TOPIC": "%RETRY%g",
                "REAL_QID": "0",
                "WAIT": "false",
            }
        failing.fail(record)  # for the seventeenth time
        dead = failing.retried()[-1]
        offset_ids.add(dead.offset_msg_id)
        assert (dead.topic, dead.queue_id, dead.reconsume_times) == ("%DLQ%g", 0, 17)
        assert dead.read_properties() == record.read_properties() | {"DELAY": "0"}
        assert len(offset_ids) == 18, "each copy has an offset id of its own"
        topic = failing.topics.get("%DLQ%g")
        assert topic is not None
        assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm) == (1, 1, 6)
        failing.world.clock.advance(24 * HOUR)
        assert failing.world.run() == []

    in_a_loop(story)


def test_what_waits_for_its_retry_comes_in_time_though_the_broker_was_killed() -> None:
    def story() -> None:
        failing = Failing()
        failing.fail(failing.send())
        failing.world.clock.advance(4 * SECOND)
        failing.world.kill()
        failing.begin()
        record = failing.comes_after(6 * SECOND)
        failing.fail(record)
        failing.comes_after(30 * SECOND)

    in_a_loop(story)


def test_a_consumer_chooses_how_long_the_next_attempt_waits() -> None:
    def story() -> None:
        failing = Failing()
        record = failing.send()
        for level, wait_ms in ((1, 1 * SECOND), (18, 2 * HOUR), (99, 2 * HOUR), (2, 5 * SECOND)):
            failing.fail(record, level)
            record = failing.comes_after(wait_ms)
            assert record.read_properties()["DELAY"] == str(min(level, 18))
        failing.fail(record)  # its own choice again: it has failed four times before
        record = failing.comes_after(3 * MINUTE)
        failing.fail(record, -1)
        dead = failing.retried()[-1]
        assert (dead.topic, dead.reconsume_times) == ("%DLQ%g", 6)

    in_a_loop(story)


def test_the_limit_is_the_clients_if_it_names_one_and_the_groups_else() -> None:
    def story() -> None:
        failing = Failing()
        failing.groups.put(SubscriptionGroupConfig("g", retry_max_times=1))
        for limit, version, is_last in (
            (None, VERSION_4_9_4, True),
            (2, VERSION_4_9_4, False),
            (2, VERSION_3_4_8, True),  # too old to mean it
            (1, VERSION_4_9_4, True),
        ):
            failing.fail(failing.send(), limit=2)
            failing.world.clock.advance(10 * SECOND)
            failing.world.run()
            failing.fail(failing.retried()[-1], limit=limit, version=version)
            failing.world.clock.advance(30 * SECOND)
            failing.world.run()
            assert (failing.retried()[-1].topic == "%DLQ%g") == is_last

    in_a_loop(story)


def test_with_no_attempts_allowed_the_first_failure_is_the_last() -> None:
    def story() -> None:
        failing = Failing()
        first = failing.send()
        failing.fail(first, limit=0)
        dead = failing.retried()[-1]
        assert (dead.topic, dead.reconsume_times) == ("%DLQ%g", 1)
        assert dead.read_properties() == {
            "UNIQ_KEY": "ID",
            "TAGS": "t",
            "RETRY_TOPIC": "orders",
            "ORIGIN_MESSAGE_ID": first.offset_msg_id,
            "DELAY": "0",
            "WAIT": "false",
        }

    in_a_loop(story)


def test_a_message_without_a_unique_id_keeps_its_first_offset_id_as_its_origin() -> None:
    def story() -> None:
        failing = Failing()
        first = failing.send("")
        failing.fail(first)
        second = failing.comes_after(10 * SECOND)
        failing.fail(second)
        third = failing.comes_after(30 * SECOND)
        assert third.read_properties()["ORIGIN_MESSAGE_ID"] == first.offset_msg_id != second.offset_msg_id
        assert third.topic != SCHEDULE_TOPIC

    in_a_loop(story)


def test_no_copy_says_that_it_is_half_of_a_transaction_and_so_vanishes() -> None:
    def story() -> None:
        for sys_flag, kept in ((TRANSACTION_PREPARED, 0), (TRANSACTION_COMMIT | 1, TRANSACTION_COMMIT | 1)):
            failing = Failing()
            record = failing.send(sys_flag=sys_flag)
            failing.fail(record)
            again = failing.comes_after(10 * SECOND)
            failing.fail(record, -1)
            assert (again.sys_flag, failing.retried()[-1].sys_flag) == (kept, kept)
            for topic in ("%RETRY%g", "%DLQ%g"):
                assert failing.world.store.max_offset(topic, 0) == 1

    in_a_loop(story)


def test_a_broker_that_stops_takes_nothing_back_any_more() -> None:
    def story() -> None:
        failing = Failing()
        record = failing.send()
        failing.processor.stop()
        with pytest.raises(ResponseError, match="is stopping") as refused:
            failing.fail(record)
        assert refused.value.code == ResponseCode.SERVICE_NOT_AVAILABLE

    in_a_loop(story)
