"""Messages that wait to be handled, in the order they came."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from pymq.client.failures import ClientClosed
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage


class Inbox:
    """A queue of messages. Those of a queue that was dropped meanwhile are passed over.

    Taking is cancellation-safe: a message leaves only in the very step that gives it to the taker.
    """

    def __init__(
        self,
        may_be_taken: Callable[[ProcessQueue, ReceivedMessage], bool] = lambda process_queue, message: True,
    ) -> None:
        """Messages of owned queues that `may_be_taken` denies in that step are passed over, too."""
        self._may_be_taken = may_be_taken
        self._waiting: deque[tuple[ProcessQueue, ReceivedMessage]] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        """How many wait, those that will be passed over included."""
        return len(self._waiting)

    @property
    def waiting_takers(self) -> int:
        """How many wait for a message."""
        return len(self._takers)

    def put(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """Add one at the end."""
        self._waiting.append((process_queue, message))
        self._wake_one()

    def take(self) -> tuple[ProcessQueue, ReceivedMessage] | None:
        """The next one, None when there is none."""
        while self._waiting:
            process_queue, message = self._waiting.popleft()
            if process_queue.is_dropped:
                continue
            if process_queue.is_direct or self._may_be_taken(process_queue, message):
                return process_queue, message
        return None

    def forget_dropped(self) -> None:
        """Let go of what belongs to queues that were dropped: a slow taker may come to it much later."""
        self._waiting = deque(each for each in self._waiting if not each[0].is_dropped)

    async def wait(self) -> tuple[ProcessQueue, ReceivedMessage]:
        """The next one, however long that takes. Raises ClientClosed once it is closed."""
        while True:
            if self._closed:
                raise ClientClosed("the consumer is closed")
            taken = self.take()
            if taken is not None:
                if self._waiting:
                    self._wake_one()
                return taken
            taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                if taker.done() and not taker.cancelled():
                    self._wake_one()  # it was this taker's turn: let another have it
                else:
                    with contextlib.suppress(ValueError):
                        self._takers.remove(taker)
                raise

    def close(self) -> None:
        """Give out nothing more."""
        self._closed = True
        self._waiting.clear()
        for taker in self._takers:
            if not taker.done():
                taker.set_result(None)
        self._takers.clear()

    def _wake_one(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
