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
        self._held: dict[Key, list[HeldPull]] = {}
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
        self._held.setdefault(pull.key, []).append(pull)
        pull.timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._expire, pull)

    def notify(self, topic: str, queue_id: int, queue_offset: int, tags_code: int) -> None:
        """A message can be read at `queue_offset`: wake the pulls that want it."""
        held = self._held.get((topic, queue_id))
        if held is None:
            return
        staying = []
        for pull in held:
            if queue_offset >= pull.offset and (pull.tag_codes is None or tags_code in pull.tag_codes):
                self._wake(pull)
            else:
                staying.append(pull)
        self._keep((topic, queue_id), staying)

    def wake_topic(self, topic: str) -> None:
        """Wake all that wait for a topic: it was deleted or its configuration has changed."""
        for key in [key for key in self._held if key[0] == topic and key[1] != HEARTBEAT]:
            for pull in self._held.pop(key):
                self._wake(pull)

    def wake_group(self, group: str) -> None:
        """Wake all that wait for a heartbeat of their group."""
        for pull in self._held.pop((group, HEARTBEAT), ()):
            self._wake(pull)

    def _keep(self, key: Key, staying: list[HeldPull]) -> None:
        if staying:
            self._held[key] = staying
        else:
            self._held.pop(key, None)

    def _wake(self, pull: HeldPull) -> None:
        if pull.timer is not None:
            pull.timer.cancel()
        self._count -= 1
        if not self._woken:
            asyncio.get_running_loop().call_soon(self._run_woken)
        self._woken.append(pull)

    def _run_woken(self) -> None:
        woken, self._woken = self._woken, []
        for pull in woken:
            # A consumer that does not read its answers gets no further ones until it does.
            pull.connection.when_writable(pull.rerun)

    def _expire(self, pull: HeldPull) -> None:
        self._keep(pull.key, [other for other in self._held.get(pull.key, []) if other is not pull])
        self._wake(pull)

    def forget(self, connection: Connection) -> None:
        """Drop the pulls of a connection that has ended."""
        for key, held in list(self._held.items()):
            if any(pull.connection is connection for pull in held):
                staying = [pull for pull in held if pull.connection is not connection]
                for pull in held:
                    if pull.connection is connection and pull.timer is not None:
                        pull.timer.cancel()
                self._count -= len(held) - len(staying)
                self._keep(key, staying)

    def close(self) -> None:
        """Drop all."""
        for held in self._held.values():
            for pull in held:
                if pull.timer is not None:
                    pull.timer.cancel()
        self._held.clear()
        self._count = 0
        self._woken.clear()
