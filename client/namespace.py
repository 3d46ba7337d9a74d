"""Namespaces: topics and groups of one tenant, told from others' by a prefix (semantics.md §12.11).

A client in namespace `N` says `N%orders` to brokers where its user says `orders`. The brokers know nothing of
it: to them these are names as any other. Source: NamespaceUtil.
"""

from __future__ import annotations

import re

import msgspec

from pymq.errors import ConfigError
from pymq.protocol.bodies import MessageQueue

SEPARATOR = "%"

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,100}")

_SYSTEM_TOPICS = frozenset(
    (
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
        "BenchmarkTest",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRACE_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
    )
)
_SYSTEM_PREFIXES = ("rmq_sys_", "CID_RMQ_SYS_")
_GROUP_TOPIC_PREFIXES = ("%RETRY%", "%DLQ%")


class Namespace(msgspec.Struct, frozen=True):
    """One namespace; with the empty name there is none, and every name stays as it is.

    Names of RocketMQ's own topics and groups belong to no namespace and are never changed.
    """

    name: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for a name that could not be told from what follows it."""
        if self.name and not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"namespace={self.name!r}: expected up to 100 letters, digits and characters _ -"
            )

    def wrap(self, name: str) -> str:
        """A topic's or group's name as brokers know it; one that is in the namespace already stays."""
        if not self.name or not name or _is_system(name):
            return name
        prefix, own = _split(name)
        start = self.name + SEPARATOR
        return name if own.startswith(start) else prefix + start + own

    def unwrap(self, name: str) -> str:
        """A topic's or group's name as the user knows it; one of another namespace stays."""
        if not self.name or _is_system(name):
            return name
        prefix, own = _split(name)
        return prefix + own.removeprefix(self.name + SEPARATOR)

    def wrap_queue(self, queue: MessageQueue) -> MessageQueue:
        """A queue of the topic as brokers know it."""
        return self._of_topic(queue, self.wrap(queue.topic))

    def unwrap_queue(self, queue: MessageQueue) -> MessageQueue:
        """A queue of the topic as the user knows it."""
        return self._of_topic(queue, self.unwrap(queue.topic))

    @staticmethod
    def _of_topic(queue: MessageQueue, topic: str) -> MessageQueue:
        if topic == queue.topic:
            return queue
        return MessageQueue(topic, queue.broker_name, queue.queue_id)


NO_NAMESPACE = Namespace()


def _is_system(name: str) -> bool:
    return name in _SYSTEM_TOPICS or name.startswith(_SYSTEM_PREFIXES)


def _split(name: str) -> tuple[str, str]:
    """The prefix of a group's retry or dead-letter topic, empty on others, and the rest."""
    for prefix in _GROUP_TOPIC_PREFIXES:
        if name.startswith(prefix):
            return prefix, name.removeprefix(prefix)
    return "", name
