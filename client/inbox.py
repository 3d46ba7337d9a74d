"""Messages that wait to be handled, in the order they came."""

from __future__ import annotations

import asyncio
from collections import deque

from pymq.client.failures import ClientClosed
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import ReceivedMessage


class Inbox:
    """A queue of messages. Those of a queue that was dropped meanwhile are passed over.

    Taking is cancellation-safe: a message leaves only in the very step that gives it to the taker.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[ProcessQueue, ReceivedMessage]] = deque()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def put(self, process_queue: ProcessQueue, message: ReceivedMessage) -> None:
        """Add one at the end."""
        self._waiting.append((process_queue, message))
        self._wake_one()

    def take(self) -> tuple[ProcessQueue, ReceivedMessage] | None:
        """The next one, None when there is none."""
        while self._waiting:
            process_queue, message = self._waiting.popleft()
            if not process_queue.is_dropped:
                return process_queue, message
        return None

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
