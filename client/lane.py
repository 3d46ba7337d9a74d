"""One queue of ordered consumption, on its way from message to message."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage


class Lane(msgspec.Struct, eq=False):
    """One queue's messages on their way to be handled.

    Attributes:
        process_queue: the queue as it is owned now.
        waiting: what was not given out yet, in order.
        out: the messages that are being handled, by offset: one, or those of a batch. They count until they
            are settled, even if the queue was begun anew meanwhile: what comes next has to wait for them.
        failed: those that were out and are to come again, when all of them are settled.
        pause_s: how long the queue is to stand still then.
        offered: whether the first of `waiting` lies in the inbox.
        is_leaving: another member is to have the queue, so nothing more is given out.
        told_stuck: whether it was told that `out` takes too long.
        rest: the timer that ends the pause after a failure.
        idle: set while nothing is out.
    """

    process_queue: ProcessQueue
    waiting: deque[ReceivedMessage] = msgspec.field(default_factory=deque)
    out: dict[int, ReceivedMessage] = msgspec.field(default_factory=dict)
    failed: list[ReceivedMessage] = msgspec.field(default_factory=list)
    pause_s: float = 0.0
    offered: bool = False
    is_leaving: bool = False
    told_stuck: bool = False
    rest: asyncio.TimerHandle | None = None
    idle: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def begin(self, process_queue: ProcessQueue) -> None:
        """The queue is owned anew, from another offset on."""
        self.process_queue = process_queue
        self.waiting.clear()
        self.failed.clear()
        self.pause_s = 0.0
        self.offered = False
        self.end_rest()

    def hand_out(self) -> ReceivedMessage:
        """Take the next of `waiting`: it is being handled from now on."""
        message = self.waiting.popleft()
        self.out[message.queue_offset] = message
        self.idle.clear()
        return message

    def end_rest(self) -> None:
        """Let the next message be given out."""
        if self.rest is not None:
            self.rest.cancel()
            self.rest = None

    def holds(self, message: ReceivedMessage) -> bool:
        """Whether this very message is out."""
        return self.out.get(message.queue_offset) is message

    def hand_in(self, message: ReceivedMessage) -> bool:
        """A message is not being handled any more. Says whether it was the last one; then the failed stand
        in front again, in their order."""
        del self.out[message.queue_offset]
        if self.out:
            return False
        self.waiting.extendleft(sorted(self.failed, key=lambda each: each.queue_offset, reverse=True))
        self.failed.clear()
        self.idle.set()
        return True
