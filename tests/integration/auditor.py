"""Counts the messages of a consumer group, checks the order of each key, and looks at who owns what."""

from __future__ import annotations

from collections import Counter, defaultdict

import pymq

TOPIC = "orders"
"""The topic that is audited."""

OVERLAP_S = 15.0
"""So long two members may own one queue: after a restart of their broker they come back one after the other,
and the first one takes all queues. (Apache's: until their next rebalance, 20 s.)
A machine may pause meanwhile."""


class Auditor:
    """Counts messages, and writes down what is wrong.

    Attributes:
        faults: what went wrong, in words.
        repeats: messages that were handled again, which is right after a member died.
    """

    def __init__(self, *, is_ordered: bool) -> None:
        self.faults: list[str] = []
        self.repeats = 0
        self._is_ordered = is_ordered
        self._sent: Counter[str] = Counter()
        self._done: defaultdict[str, set[int]] = defaultdict(set)
        self._queue_of: dict[str, pymq.MessageQueue] = {}
        self._handling: dict[pymq.MessageQueue, tuple[str, str]] = {}
        self._owned_twice: dict[pymq.MessageQueue, float] = {}
        self.longest_overlap_s = 0.0

    def sent(self, key: str, queue: pymq.MessageQueue) -> None:
        """The next message of a key was stored in this queue."""
        self._sent[key] += 1
        if self._queue_of.setdefault(key, queue) != queue:
            self.faults.append(f"{key} was sent to {queue} and to {self._queue_of[key]}")

    def begin(self, member: str, message: pymq.ReceivedMessage) -> None:
        """A member begins to handle a message."""
        body = message.body.decode()
        key, _, number = body.partition(":")
        if int(number) in self._done[key]:
            self.repeats += 1
        if not self._is_ordered:
            return
        if int(number) > len(self._done[key]):  # those before it are done, as numbers begin at 0
            self.faults.append(f"{member} got {body} when {len(self._done[key])} were done")
        if (other := self._handling.get(message.queue)) is not None:
            self.faults.append(f"{member} got {body} of {message.queue} while {other[0]} handled {other[1]}")
        self._handling[message.queue] = member, body

    def end(self, member: str, message: pymq.ReceivedMessage, *, is_done: bool) -> None:
        """A member has handled a message, or has given up."""
        body = message.body.decode()
        key, _, number = body.partition(":")
        if is_done:
            self._done[key].add(int(number))
        if self._handling.get(message.queue) == (member, body):
            del self._handling[message.queue]

    def owned(self, shares: list[list[pymq.MessageQueue]], now_s: float) -> None:
        """These are the queues of each member now."""
        owners = Counter(queue for share in shares for queue in share if queue.topic == TOPIC)
        for queue, count in owners.items():
            if count < 2:
                self._owned_twice.pop(queue, None)
            since_s = self._owned_twice.setdefault(queue, now_s) if count > 1 else now_s
            self.longest_overlap_s = max(self.longest_overlap_s, now_s - since_s)

    def verdict(self) -> list[str]:
        """What is wrong, empty when nothing is."""
        faults = list(self.faults)
        if self.missing:
            faults.append(f"{len(self.missing)} of {self.count} are missing: {self.missing[:10]}")
        if self.longest_overlap_s > OVERLAP_S:
            faults.append(f"a queue had two owners for {self.longest_overlap_s:.1f} s")
        return faults

    @property
    def count(self) -> int:
        """How many messages were sent."""
        return self._sent.total()

    @property
    def left(self) -> int:
        """How many of them nobody has handled."""
        return self.count - sum(len(numbers) for numbers in self._done.values())

    @property
    def missing(self) -> list[str]:
        """Messages that were sent and nobody has handled."""
        return [
            f"{key}:{number}"
            for key, count in self._sent.items()
            for number in range(count)
            if number not in self._done[key]
        ]
