"""What a consumer holds of one queue: which offsets are not settled yet, and so how far it has come."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from pymq.client.received import ReceivedMessage
from pymq.protocol.bodies import MessageQueue


class ProcessQueue:
    """One owned queue. Offsets come in growing order and may be settled in any.

    Attributes:
        queue: the queue.
        next_offset: where the next pull begins.
        is_dropped: the queue is another member's now; what comes late is of no effect.
        is_direct: nothing of it is owned: it stands for a single message that a tool wants to be handled.
        size_bytes: bodies of the messages held.
        last_pull_ms: when something was last asked for, wall clock.
    """

    is_direct = False

    def __init__(self, queue: MessageQueue, next_offset: int) -> None:
        self.queue = queue
        self.next_offset = next_offset
        self.is_dropped = False
        self.size_bytes = 0
        self.last_pull_ms = 0
        self.last_consume_ms = 0
        # Ordered: with a plain dict, finding the first key is linear in the number of keys removed before it.
        self._unsettled: OrderedDict[int, int] = OrderedDict()
        self._handed_out: dict[int, tuple[ReceivedMessage, float]] = {}
        self._newest_offset = next_offset
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._unsettled)

    @property
    def committable(self) -> int:
        """The offset to commit: everything before it is settled."""
        return self.first_offset if self._unsettled else self.next_offset

    @property
    def first_offset(self) -> int:
        """The oldest unsettled offset, 0 when there is none."""
        return next(iter(self._unsettled), 0)

    @property
    def last_offset(self) -> int:
        """The newest unsettled offset, 0 when there is none."""
        return next(reversed(self._unsettled), 0)

    @property
    def span(self) -> int:
        """Offsets from the oldest unsettled message to the newest that came: what a restart would repeat."""
        return self._newest_offset - self.first_offset if self._unsettled else 0

    def add(self, offset: int, size_bytes: int) -> bool:
        """Hold a message that was pulled. False when this offset is held already."""
        if offset in self._unsettled:
            return False
        self._unsettled[offset] = size_bytes
        self._newest_offset = offset
        self.size_bytes += size_bytes
        return True

    def hand_out(self, message: ReceivedMessage, now_s: float) -> None:
        """Somebody handles this message from `now_s` (monotonic) on."""
        self._handed_out[message.queue_offset] = (message, now_s)

    def hand_in(self, message: ReceivedMessage) -> float | None:
        """Nobody handles this message any more; gives since when somebody did, None when nobody did."""
        held = self._handed_out.get(message.queue_offset)
        if self.is_dropped or held is None or held[0] is not message:
            return None
        del self._handed_out[message.queue_offset]
        return held[1]

    def handed_out_before(self, when_s: float) -> list[ReceivedMessage]:
        """Messages that somebody handles since before `when_s` (monotonic)."""
        return [message for message, since_s in self._handed_out.values() if since_s < when_s]

    def settle(self, offset: int) -> None:
        """This message needs nothing more."""
        size_bytes = self._unsettled.pop(offset, None)
        if size_bytes is not None:
            self.size_bytes -= size_bytes
            self._changed.set()

    def drop(self) -> None:
        """The queue is not ours any more."""
        self.is_dropped = True
        self._handed_out.clear()
        self._changed.set()

    def wake(self) -> None:
        """Let who waits in `changed` look again."""
        self._changed.set()

    async def changed(self) -> None:
        """Wait until something was settled, dropped or woken."""
        self._changed.clear()
        await self._changed.wait()
