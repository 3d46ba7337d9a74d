"""How much a consumer holds: of each queue, of each topic and in all (semantics.md §12.1, §12.4)."""

from __future__ import annotations

import msgspec

from pymq.client.process_queue import ProcessQueue
from pymq.errors import ConfigError

OFF = -1
"""Of a topic: no bound of its own."""

_MIB = 1024 * 1024

_MOST = {
    "pull_threshold_for_queue": 65_535,
    "pull_threshold_size_for_queue": 1024,
    "pull_threshold_for_topic": 6_553_500,
    "pull_threshold_size_for_topic": 102_400,
    "consume_concurrently_max_span": 65_535,
}
"""Java's bounds (DefaultMQPushConsumerImpl.checkConfig)."""

_OF_A_TOPIC = frozenset(("pull_threshold_for_topic", "pull_threshold_size_for_topic"))


class FlowControl(msgspec.Struct, frozen=True, kw_only=True):
    """When a consumer stops pulling a queue until something of it is settled; Java's names and defaults.

    They hold besides the consumer's `prefetch` and `prefetch_bytes`, which bound all its queues together:
    what is reached first counts. A queue without any message may always pull one; a bound on bytes is passed
    by the last pull, up to Settings.pull_batch messages.

    Raises ConfigError for a number out of Java's bounds.

    Attributes:
        pull_threshold_for_queue: messages of one queue, 1 to 65,535.
        pull_threshold_size_for_queue: MiB of their bodies, 1 to 1,024.
        pull_threshold_for_topic: messages of one topic, its queues here having equal parts; 1 to 6,553,500,
            or -1 for no such bound.
        pull_threshold_size_for_topic: MiB of their bodies, 1 to 102,400, or -1.
        consume_concurrently_max_span: queue offsets from the oldest message that is not settled to the
            newest, 1 to 65,535: as much comes again after a kill. With order="ordered" it does not count.
    """

    pull_threshold_for_queue: int = 1000
    pull_threshold_size_for_queue: int = 100
    pull_threshold_for_topic: int = OFF
    pull_threshold_size_for_topic: int = OFF
    consume_concurrently_max_span: int = 2000

    def __post_init__(self) -> None:
        """Check the bounds."""
        for name, most in _MOST.items():
            value = getattr(self, name)
            is_number = isinstance(value, int) and not isinstance(value, bool)
            is_off = is_number and value == OFF and name in _OF_A_TOPIC
            if not is_off and not (is_number and 1 <= value <= most):
                off = ", or -1" if name in _OF_A_TOPIC else ""
                raise ConfigError(f"{name}={value!r}: expected a whole number from 1 to {most}{off}")


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one consumer.

    Attributes:
        flow: those of a queue and a topic.
        prefetch: messages, all queues together.
        prefetch_bytes: bytes of their bodies.
        is_ordered: whether each queue keeps its order; then there is no bound on the span.
    """

    flow: FlowControl
    prefetch: int
    prefetch_bytes: int
    is_ordered: bool

    def left(self, process_queue: ProcessQueue, queues: int, of_topic: int) -> int:
        """How many messages of a queue may be pulled now; 0 or less while enough are held.

        `queues` is how many the consumer owns, `of_topic` how many of this topic, each 1 or more. Each queue
        has the same part of what they may hold together, and at least one message.
        """
        flow, held = self.flow, len(process_queue)
        most = min(flow.pull_threshold_for_queue, self.prefetch // queues)
        most_bytes = min(flow.pull_threshold_size_for_queue * _MIB, self.prefetch_bytes // queues)
        if flow.pull_threshold_for_topic != OFF:
            most = min(most, flow.pull_threshold_for_topic // of_topic)
        if flow.pull_threshold_size_for_topic != OFF:
            most_bytes = min(most_bytes, flow.pull_threshold_size_for_topic * _MIB // of_topic)
        if held and process_queue.size_bytes >= most_bytes:
            return 0
        if not self.is_ordered and process_queue.span >= flow.consume_concurrently_max_span:
            return 0
        return max(1, most) - held
