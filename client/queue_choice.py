"""Which queue a message goes to (semantics.md §11.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pymq.client.allocation import machine_room
from pymq.client.failures import MessageInvalid
from pymq.clock import Clock
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.tag_filter import java_hash

_START_BITS = 16

QueueSelector = Callable[[Sequence[MessageQueue]], MessageQueue]
"""Picks one of the queues of a topic, which are sorted by broker name and number. Java: MessageQueueSelector.

`random.choice` is one (Java: SelectMessageQueueByRandom), as is `lambda queues: queues[0]`.
"""


def shard_queue(queues: Sequence[MessageQueue], shard_by: str) -> MessageQueue:
    """The queue of all messages with this value, as Java's SelectMessageQueueByHash picks it."""
    return queues[abs(java_hash(shard_by)) % len(queues)]


def by_hash(key: str | int) -> QueueSelector:
    """All messages of a key into one queue, the one that Java's SelectMessageQueueByHash picks.

    For a text that is what `shard_by` does. A number is taken for Java's Integer, beyond 32 bits for a Long.
    """
    if isinstance(key, str):
        number = java_hash(key)
    else:
        number = key if -(2**31) <= key < 2**31 else _int32(key ^ (key % 2**64) >> 32)
    return lambda queues: queues[abs(number) % len(queues)]


def _int32(number: int) -> int:
    return (number + 2**31) % 2**32 - 2**31


class InMachineRooms:
    """A selector: the queues of the brokers called `room@name`, room being one of the given ones, in turn.

    Java's SelectMessageQueueByMachineRoom is meant to do this, and picks none.
    """

    def __init__(self, rooms: Collection[str]) -> None:
        """`rooms`: those whose brokers are sent to."""
        self._rooms = frozenset([rooms] if isinstance(rooms, str) else rooms)
        self._counter = 0

    def __call__(self, queues: Sequence[MessageQueue]) -> MessageQueue:
        """Pick one. Raises MessageInvalid when no broker of the topic is there."""
        near = [queue for queue in queues if machine_room(queue.broker_name) in self._rooms]
        if not near:
            rooms = " or ".join(sorted(self._rooms))
            brokers = ", ".join(sorted({queue.broker_name for queue in queues}))
            raise MessageInvalid(
                f"no broker of topic {queues[0].topic} is in machine room {rooms}: brokers there are called "
                f"room@name, and these are {brokers}"
            )
        self._counter += 1
        return near[self._counter % len(near)]


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
