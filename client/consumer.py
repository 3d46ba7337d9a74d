"""A consumer as its user sees it: messages one by one, or in handfuls."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol, Self

from pymq.client.failures import ClientClosed
from pymq.client.group_member import GroupMember
from pymq.client.received import ReceivedMessage
from pymq.protocol.bodies import MessageQueue


class Membership(Protocol):
    """Lets a consumer join its group, once, and leave it."""

    async def join(self) -> GroupMember:
        """Join. Raises GroupTaken, FilterRefused, ClientClosed."""
        ...

    async def leave(self, member: GroupMember) -> None:
        """Leave."""
        ...


class Consumer:
    """A member of a consumer group: an async context manager, and an async iterator of its messages.

    Every message that was given out has to be settled, by `process`, `ack` or `retry`; offsets are committed
    up to the oldest that is not. One that is never settled comes again after the consume time-out, or
    after a restart.
    """

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._member: GroupMember | None = None

    async def start(self) -> None:
        """Join the group. When brokers cannot be reached, it goes on trying in the background.

        Raises GroupTaken, FilterRefused, ClientClosed.
        """
        if self._member is None:
            self._member = await self._membership.join()

    async def close(self) -> None:
        """Leave the group: settled messages are committed, the others come again elsewhere."""
        member, self._member = self._member, None
        if member is not None:
            await self._membership.leave(member)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _joined(self) -> GroupMember:
        if self._member is None:
            raise ClientClosed("the consumer is not started, or closed")
        return self._member

    def queues(self) -> list[MessageQueue]:
        """The queues that it owns at present. Raises ClientClosed."""
        return self._joined().queues()

    async def receive(self) -> ReceivedMessage:
        """The next message, however long that takes. Raises ClientClosed when it is closed meanwhile."""
        member = self._joined()
        process_queue, message = await member.inbox.wait()
        member.hand_out(process_queue, message)
        return message

    async def receive_batch(self, max: int) -> list[ReceivedMessage]:
        """Up to `max` messages: what is there, or the first to come, however long that takes.

        With order="ordered" they are the next ones of one queue, in its order; what comes behind them waits
        until all of them are settled. Raises ClientClosed.
        """
        member = self._joined()
        process_queue, first = await member.inbox.wait()
        member.hand_out(process_queue, first)
        if member.is_ordered:
            return [first, *member.hand_out_behind(first, max - 1)]
        return [first, *_take(member, max - 1)]

    async def fetch(self, max: int = 32, wait: float | None = 5.0) -> list[ReceivedMessage]:
        """Up to `max` messages: what is there, or the first to come within `wait` seconds; [] when none does.

        With `wait=None` it waits until one comes.
        Raises ClientClosed.
        """
        member = self._joined()
        messages = _take(member, max)
        if not messages and max > 0:
            try:
                async with asyncio.timeout(wait):
                    messages = [await self.receive()]
            except TimeoutError:
                return []
            messages += _take(member, max - 1)
        return messages

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedMessage:
        try:
            return await self.receive()
        except ClientClosed:
            raise StopAsyncIteration from None


def _take(member: GroupMember, count: int) -> list[ReceivedMessage]:
    messages: list[ReceivedMessage] = []
    while len(messages) < count and (taken := member.inbox.take()) is not None:
        member.hand_out(*taken)
        messages.append(taken[1])
    return messages
