"""Held pulls: who waits for what to arrive in which queue (semantics.md §2.4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.transport.connection import Connection

Key = tuple[str, int]
"""(topic, queue id); or (group, HEARTBEAT) for pulls that wait for their group's subscription."""

HEARTBEAT = -1


class HeldPull:
    """A pull that waits. `rerun` is called once: when something it wants arrives, or at its time limit."""

    __slots__ = ("connection", "key", "offset", "rerun", "tag_codes", "timer")

    def __init__(
        self,
        key: Key,
        offset: int,
        tag_codes: frozenset[int] | None,
        connection: Connection,
        rerun: Callable[[], None],
    ) -> None:
        self.key = key
        self.offset = offset
        self.tag_codes = tag_codes
        self.connection = connection
        self.rerun = rerun
        self.timer: asyncio.TimerHandle | None = None


class Arrivals:
    """The pulls held at this broker.

    `notify` is called for every message that becomes readable, so it costs one dict look-up when nobody
    waits. Those woken run in the next turn of the loop: what arrived in the same turn is served together.
    """

    def __init__(self, capacity: int = 100_000) -> None:
        """`capacity` is how many pulls are held at the most."""
        self._capacity = capacity
        self._count = 0
        # Dicts as sets that keep the order: the first who waits is the first to be woken.
        self._held: dict[Key, dict[HeldPull, None]] = {}
        self._queue_ids: dict[str, dict[int, None]] = {}
        """Topic (or group) → for which of its queues somebody waits."""
        self._by_connection: dict[Connection, set[HeldPull]] = {}
        self._woken: list[HeldPull] = []

    def __len__(self) -> int:
        return self._count

    def hold(self, pull: HeldPull, timeout_ms: int) -> None:
        """Keep a pull until something arrives for it, but not longer than `timeout_ms`.

        Raises ResponseError SYSTEM_BUSY when too many are held already.
        """
        if self._count >= self._capacity:
            raise ResponseError(
                ResponseCode.SYSTEM_BUSY, "[OVERLOAD]system busy, start flow control for a while"
            )
        self._count += 1
        held = self._held.get(pull.key)
        if held is None:
            held = self._held[pull.key] = {}
            self._queue_ids.setdefault(pull.key[0], {})[pull.key[1]] = None
        held[pull] = None
        self._by_connection.setdefault(pull.connection, set()).add(pull)
        pull.timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._wake, pull)

    def notify(self, topic: str, queue_id: int, queue_offset: int, tags_code: int) -> None:
        """A message can be read at `queue_offset`: wake the pulls that want it."""
        held = self._held.get((topic, queue_id))
        if held is None:
            return
        wanting = [
            pull
            for pull in held
            if queue_offset >= pull.offset and (pull.tag_codes is None or tags_code in pull.tag_codes)
        ]
        for pull in wanting:
            self._wake(pull)

    def wake_topic(self, topic: str) -> None:
        """Wake all that wait for a topic: it was deleted or its configuration has changed."""
        for queue_id in list(self._queue_ids.get(topic, ())):
            if queue_id != HEARTBEAT:
                self._wake_all((topic, queue_id))

    def wake_group(self, group: str) -> None:
        """Wake all that wait for a heartbeat of their group."""
        self._wake_all((group, HEARTBEAT))

    def _wake_all(self, key: Key) -> None:
        for pull in list(self._held.get(key, ())):
            self._wake(pull)

    def _wake(self, pull: HeldPull) -> None:
        self._let_go(pull)
        of_connection = self._by_connection[pull.connection]
        of_connection.discard(pull)
        if not of_connection:
            del self._by_connection[pull.connection]
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._run_woken)
        self._woken.append(pull)

    def _let_go(self, pull: HeldPull) -> None:
        """It waits no more for its key, nor for its time limit."""
        if pull.timer is not None:
            pull.timer.cancel()
        self._count -= 1
        held = self._held[pull.key]
        del held[pull]
        if not held:
            del self._held[pull.key]
            name, queue_id = pull.key
            del self._queue_ids[name][queue_id]
            if not self._queue_ids[name]:
                del self._queue_ids[name]

    def _run_woken(self) -> None:
        woken, self._woken = self._woken, []
        for pull in woken:
            # A consumer that does not read its answers gets no further ones until it does.
            pull.connection.when_writable(pull.rerun)

    def forget(self, connection: Connection) -> None:
        """Drop the pulls of a connection that has ended."""
        for pull in self._by_connection.pop(connection, ()):
            self._let_go(pull)

    def close(self) -> None:
        """Drop all."""
        for held in self._held.values():
            for pull in held:
                if pull.timer is not None:
                    pull.timer.cancel()
        self._held.clear()
        self._queue_ids.clear()
        self._by_connection.clear()
        self._count = 0
        self._woken.clear()
