"""Which queue a message goes to (semantics.md §11.3)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pymq.clock import Clock
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.tag_filter import java_hash

_START_BITS = 16


def shard_queue(queues: Sequence[MessageQueue], shard_by: str) -> MessageQueue:
    """The queue of all messages with this value, as Java's SelectMessageQueueByHash picks it."""
    return queues[abs(java_hash(shard_by)) % len(queues)]


class QueueChoice:
    """Takes the queues of each topic in turn, from a random one on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: dict[str, int] = {}

    def pick(self, topic: str, queues: Sequence[MessageQueue], avoid: Collection[str] = ()) -> MessageQueue:
        """The next queue that is on none of the brokers to avoid; if there is no such, just the next."""
        counter = self._counters.get(topic)
        if counter is None:
            counter = self._clock.random.getrandbits(_START_BITS)
        size = len(queues)
        for step in range(1, size + 1 if avoid else 1):
            queue = queues[(counter + step) % size]
            if queue.broker_name not in avoid:
                self._counters[topic] = counter + step
                return queue
        self._counters[topic] = counter = counter + 1
        return queues[counter % size]
