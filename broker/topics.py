"""The broker's topics: `topics.json`, the system topics, and creation on first use (semantics.md §1.3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.name_checks import NOT_FOR_SENDING, PERM_MAX, QUEUES_MAX, within
from pymq.clock import Clock
from pymq.protocol import tolerant_json
from pymq.protocol.bodies.topic_config import (
    PERM_INHERIT,
    PERM_READ,
    PERM_WRITE,
    TOPIC_UNIT,
    TOPIC_UNIT_SUB,
    DataVersion,
    TopicConfig,
    TopicConfigSerializeWrapper,
)
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC

log = logging.getLogger("pymq.broker.topics")

AUTO_CREATE_TOPIC = "TBW102"
"""The template of topics that are created on first use."""

RETRY_PREFIX = "%RETRY%"
DLQ_PREFIX = "%DLQ%"
SYSTEM_PREFIX = "rmq_sys_"

FOUND_QUEUE_NUMS = 4
"""Queues that a found topic has at least: what clients ask for on first use."""


class TopicTable:
    """Topic name → configuration.

    Configurations are never changed in place: a change is a new object, so that a copy of the table may be
    encoded on another thread. `on_change` is called with the topic's name after each change.
    """

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.on_change: list[Callable[[str], None]] = []
        self._table = {topic.topic_name: topic for topic in _system_topics(config)}
        self.get = self._table.get
        """A topic's configuration, or None. Bound once: every send and pull asks."""
        self._system = frozenset([*self._table, AUTO_CREATE_TOPIC, *NOT_FOR_SENDING])
        self._deleted: set[str] = set()
        """By request, since the start."""
        self.saved_ms = 0
        """When the table that was loaded had last changed, ms since 1970; 0 when none was."""
        self.data_version = DataVersion(counter=0, timestamp=clock.now_ms())

    def __len__(self) -> int:
        return len(self._table)

    def names(self) -> list[str]:
        """All topics."""
        return list(self._table)

    def is_system(self, topic: str) -> bool:
        """Whether the topic is the broker's own: it can be neither changed nor deleted by request."""
        return topic in self._system or topic.startswith(SYSTEM_PREFIX)

    @property
    def system_topics(self) -> list[str]:
        """The broker's own topics (code 305)."""
        return sorted(self._system)

    def put(self, topic: TopicConfig) -> None:
        """Create or replace a topic."""
        self._deleted.discard(topic.topic_name)
        self._table[topic.topic_name] = topic
        self._advance(topic.topic_name, self._clock.now_ms())

    def delete(self, topic: str) -> bool:
        """Forget a topic; says whether there was one."""
        if self._table.pop(topic, None) is None:
            return False
        self._deleted.add(topic)
        # Later than the topic's last message, by which `found` tells what was deleted.
        self._advance(topic, self._clock.now_ms() + 1)
        return True

    def create_for_send(
        self, topic: str, template_name: str, queue_nums: int, is_unit: bool
    ) -> TopicConfig | None:
        """Make an unknown topic after the sender's template; None when that is not allowed.

        Retry topics need no template.
        """
        sys_flag = 0
        if is_unit:
            sys_flag = TOPIC_UNIT_SUB if topic.startswith(RETRY_PREFIX) else TOPIC_UNIT
        template = self._table.get(template_name)
        # Switched off, the cluster's and the broker's topic still inherit, but nothing: Apache then makes
        # topics that take messages nobody may read.
        if template is not None and template.perm & PERM_INHERIT and template.perm & PERM_WRITE:
            queues = max(0, min(queue_nums, template.write_queue_nums))
            created = TopicConfig(
                topic_name=topic,
                read_queue_nums=queues,
                write_queue_nums=queues,
                perm=template.perm & ~PERM_INHERIT,
                topic_filter_type=template.topic_filter_type,
                topic_sys_flag=sys_flag,
            )
        elif topic.startswith(RETRY_PREFIX):
            created = _plain(topic, 1, sys_flag)
        else:
            return None
        log.info("topic %s created on first use, %d queues", topic, created.write_queue_nums)
        self.put(created)
        return created

    def ensure_retry_topic(self, group: str, queue_nums: int, is_unit: bool) -> TopicConfig:
        """The retry topic of a consumer group, made if it is missing, with `queue_nums` queues, 1 or more.

        One with fewer queues is widened (Apache leaves it, and sends messages to queues that nobody reads).
        """
        name = RETRY_PREFIX + group
        topic = self._table.get(name)
        if topic is None:
            topic = _plain(name, queue_nums, TOPIC_UNIT_SUB if is_unit else 0)
            self.put(topic)
        elif min(topic.read_queue_nums, topic.write_queue_nums) < queue_nums:
            topic = msgspec.structs.replace(
                topic,
                read_queue_nums=max(topic.read_queue_nums, queue_nums),
                write_queue_nums=max(topic.write_queue_nums, queue_nums),
            )
            self.put(topic)
        return topic

    def ensure_dlq_topic(self, group: str) -> TopicConfig:
        """The dead letter topic of a consumer group, made if it is missing."""
        name = DLQ_PREFIX + group
        topic = self._table.get(name)
        if topic is None:
            topic = _plain(name, 1)
            self.put(topic)
        return topic

    def ensure_check_max_topic(self) -> TopicConfig:
        """The topic of half messages that were given up, made if it is missing (semantics.md §6.4)."""
        topic = self._table.get(CHECK_MAX_TOPIC)
        if topic is None:
            topic = _plain(CHECK_MAX_TOPIC, 1)
            self.put(topic)
        return topic

    def found(self, topic: str, last_queue_id: int, newest_ms: int) -> None:
        """The store has queues of this topic: make it, if it was lost in a crash.

        A topic made on first use reaches the file within a second or two, and a slave with its first message:
        one that is to come later, or only half there, tells neither of its topic. What is older than the
        file, but not in it, was deleted: recovery brings a deleted topic's queues back when their records are
        still in the log.

        Args:
            topic: its name.
            last_queue_id: the highest of its queues.
            newest_ms: when its newest message was stored.
        """
        if topic in self._table or topic in NOT_FOR_SENDING:
            return
        if topic in self._deleted:
            log.info("topic %s was deleted; a message that was to come later stays unseen", topic)
            return
        if newest_ms < self.saved_ms:
            log.info("topic %s was deleted; the queues that recovery found in the log stay unused", topic)
            return
        at_least = 1 if topic.startswith((RETRY_PREFIX, DLQ_PREFIX)) else FOUND_QUEUE_NUMS
        queues = within(max(at_least, last_queue_id + 1), QUEUES_MAX)
        log.warning(
            "topic %s has messages but was not saved before a crash: made with %d queues", topic, queues
        )
        self.put(_plain(topic, queues))

    def apply_order(self, ordered: Iterable[str]) -> None:
        """Set `order` on exactly these topics: the name server's ORDER_TOPIC_CONFIG (wire.md §7.3)."""
        wanted = frozenset(ordered)
        for name, topic in list(self._table.items()):
            if topic.order != (name in wanted):
                self.put(msgspec.structs.replace(topic, order=name in wanted))

    def _advance(self, changed: str, now_ms: int) -> None:
        self.data_version = self.data_version.next(now_ms)
        for listener in self.on_change:
            listener(changed)

    def snapshot(self) -> TopicConfigSerializeWrapper:
        """A copy with its data version, which may be encoded on another thread."""
        return TopicConfigSerializeWrapper(self.data_version, dict(self._table))

    def part(self, names: Iterable[str]) -> TopicConfigSerializeWrapper:
        """As `snapshot`, but only of these topics."""
        return TopicConfigSerializeWrapper(self.data_version, {name: self._table[name] for name in names})

    def drop(self, names: Iterable[str]) -> None:
        """While loading: these were deleted after what was loaded so far."""
        for name in names:
            self._table.pop(name, None)

    def load(self, text: str) -> None:
        """Overlay the system topics by what a file holds. Raises BodyError.

        The configuration decides what may be created on first use, whatever it was when the file was written.
        """
        body = tolerant_json.decode(text.encode(), TopicConfigSerializeWrapper)
        for name, stored in body.topic_config_table.items():
            if name == AUTO_CREATE_TOPIC:
                continue
            topic = _bounded(stored)
            if name in (self._config.broker_cluster_name, self._config.broker_name):
                topic = msgspec.structs.replace(topic, perm=self._table[name].perm)
            self._table[name] = topic
        self.data_version = body.data_version
        self.saved_ms = body.data_version.timestamp


def _plain(name: str, queues: int, sys_flag: int = 0) -> TopicConfig:
    """A topic that is read and written."""
    return TopicConfig(
        topic_name=name,
        read_queue_nums=queues,
        write_queue_nums=queues,
        perm=PERM_READ | PERM_WRITE,
        topic_sys_flag=sys_flag,
    )


def _bounded(topic: TopicConfig) -> TopicConfig:
    """The topic with numbers that a request may set, and a log line if it had others."""
    bounded = msgspec.structs.replace(
        topic,
        read_queue_nums=within(topic.read_queue_nums, QUEUES_MAX),
        write_queue_nums=within(topic.write_queue_nums, QUEUES_MAX),
        perm=topic.perm & PERM_MAX,
    )
    if bounded != topic:
        log.warning(
            "topic %s: readQueueNums=%d, writeQueueNums=%d, perm=%d taken as %d, %d, %d",
            topic.topic_name,
            topic.read_queue_nums,
            topic.write_queue_nums,
            topic.perm,
            bounded.read_queue_nums,
            bounded.write_queue_nums,
            bounded.perm,
        )
    return bounded


def _system_topics(config: BrokerConfig) -> Iterable[TopicConfig]:
    """What every broker owns from its start (semantics.md §1.3)."""

    def topic(name: str, queues: int, perm: int = PERM_READ | PERM_WRITE) -> TopicConfig:
        return TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, perm=perm)

    def inheriting(enabled: bool) -> int:
        return PERM_INHERIT | PERM_READ | PERM_WRITE if enabled else PERM_INHERIT

    yield topic("SELF_TEST_TOPIC", 1)
    if config.auto_create_topic_enable:
        yield topic(AUTO_CREATE_TOPIC, config.default_topic_queue_nums, PERM_INHERIT | PERM_READ | PERM_WRITE)
    yield topic("BenchmarkTest", 1024)
    yield topic(config.broker_cluster_name, 16, inheriting(config.cluster_topic_enable))
    yield topic(config.broker_name, 1, inheriting(config.broker_topic_enable))
    yield topic("OFFSET_MOVED_EVENT", 1)
    yield topic("SCHEDULE_TOPIC_XXXX", 18)
    yield topic(HALF_TOPIC, 1)
    yield topic("rmq_sys_wheel_timer", 1)
    yield topic(f"{config.broker_cluster_name}_REPLY_TOPIC", 1)
    if config.trace_topic_enable:
        yield topic(config.msg_trace_topic_name, 1)
