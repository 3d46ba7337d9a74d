"""The queue locks that a member of an ordered group holds at the brokers (semantics.md §3.3, §12.7)."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection

from pymq.client.route_cache import RouteCache
from pymq.client.settings import Settings
from pymq.clock import Clock
from pymq.errors import CallTimeout, ConnectionLost, PymqError
from pymq.protocol.bodies import MASTER_ID, LockBatchRequestBody, LockBatchResponseBody, MessageQueue
from pymq.protocol.headers.groups import LockBatchMqRequest, UnlockBatchMqRequest
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.locks")

_SILENT_S = 0.2
"""For connecting to a broker that did not answer lately."""


class HeldLocks:
    """Takes, renews and gives back the locks of one group's queues, from the masters that store them.

    A broker keeps a lock for 60 s after it was last renewed. This side trusts it for `lock_valid_s` only, so
    that what was begun in time has as long again to end before anybody else can begin.

    All requests are made one after the other: Apache's brokers work off what arrives with many threads, and a
    renewal that overtakes its release would lock the queue for another minute.
    """

    def __init__(
        self, pool: Pool, routes: RouteCache, clock: Clock, group: str, client_id: str, settings: Settings
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._clock = clock
        self._group = group
        self._client_id = client_id
        self._settings = settings
        self._valid_until: dict[MessageQueue, float] = {}
        self._unanswered: set[MessageQueue] = set()
        self._talking = asyncio.Lock()

    @property
    def held(self) -> set[MessageQueue]:
        """The queues whose locks this member was given, or may have been, and has not given back."""
        return {*self._valid_until, *self._unanswered}

    @property
    def unanswered(self) -> set[MessageQueue]:
        """Queues that were asked for in vain: their broker may have read that late, and locked them."""
        return set(self._unanswered)

    def is_valid(self, queue: MessageQueue) -> bool:
        """Whether this member holds the lock, and was told so lately enough."""
        return self._valid_until.get(queue, 0.0) > self._clock.monotonic()

    def renewed_ms(self, queue: MessageQueue) -> int:
        """When the lock was last renewed, ms since 1970; 0 when it is not valid."""
        if not self.is_valid(queue):
            return 0
        left_s = self._valid_until[queue] - self._clock.monotonic()
        return self._clock.now_ms() - int((self._settings.lock_valid_s - left_s) * 1000)

    def doubt(self, address: str) -> bool:
        """A broker may have forgotten its locks: none is valid before it is renewed. Were there any?"""
        doubted = [queue for queue in self._valid_until if self._master(queue.broker_name) == address]
        for queue in doubted:
            self._valid_until[queue] = 0.0
        return bool(doubted)

    async def acquire(self, queues: Collection[MessageQueue]) -> set[MessageQueue]:
        """Lock queues; gives those that are. The others have another holder, or a broker that is silent."""
        async with self._talking:
            locked, _ = await self._lock(queues)
        return locked

    async def renew(self) -> tuple[set[MessageQueue], bool]:
        """Renew all locks. Gives those that were lost to other members, and whether every broker answered."""
        async with self._talking:
            held = list(self._valid_until)
            locked, answered = await self._lock(held)
            lost = {queue for queue in held if queue.broker_name in answered} - locked
            for queue in lost:
                del self._valid_until[queue]
        return lost, all(queue.broker_name in answered for queue in held)

    async def release(self, queues: Collection[MessageQueue]) -> None:
        """Give locks back. Where that cannot be said, they end by themselves a minute after their renewal."""
        async with self._talking:
            held = [queue for queue in queues if queue in self.held]
            for queue in held:
                self._valid_until.pop(queue, None)
                self._unanswered.discard(queue)
            await asyncio.gather(*[self._unlock(*named) for named in _by_broker(held).items()])

    async def _lock(self, queues: Collection[MessageQueue]) -> tuple[set[MessageQueue], set[str]]:
        """Lock queues; gives those that are, and the names of the brokers that answered."""
        locked: set[MessageQueue] = set()
        answered: set[str] = set()

        async def ask(broker: str, some: list[MessageQueue]) -> None:
            address = self._master(broker)
            if address is None:
                log.info("locking queues of %s: the address of its master is not known", broker)
                return
            body = LockBatchRequestBody(self._group, self._client_id, some).encode()
            valid_until = self._clock.monotonic() + self._settings.lock_valid_s
            new = [queue for queue in some if queue not in self._valid_until]
            # Known from now on, so that they are given back when this is cancelled half-way.
            self._valid_until.update(dict.fromkeys(new, 0.0))
            try:
                reply = await self._pool.call(
                    address, LockBatchMqRequest(), body, timeout_s=self._settings.lock_timeout_s
                )
                granted = set(LockBatchResponseBody.decode(reply.body).locked).intersection(some)
            except PymqError as error:
                log.info("locking queues of %s for group %s: %s", broker, self._group, error)
                granted = set()
                if isinstance(error, (CallTimeout, ConnectionLost)):
                    self._unanswered.update(new)
            else:
                answered.add(broker)
                self._unanswered.difference_update(some)
            for queue in new:
                del self._valid_until[queue]
            locked.update(granted)
            self._valid_until.update(dict.fromkeys(granted, valid_until))

        await asyncio.gather(*[ask(*named) for named in _by_broker(queues).items()])
        return locked, answered

    async def _unlock(self, broker: str, queues: list[MessageQueue]) -> None:
        address = self._master(broker)
        if address is None:
            return
        body = LockBatchRequestBody(self._group, self._client_id, queues).encode()
        try:
            if self._pool.is_silent(address):  # it may read this later; nobody waits for that
                async with asyncio.timeout(_SILENT_S):
                    await self._pool.oneway(address, UnlockBatchMqRequest(), body)
                return
            await self._pool.call(
                address, UnlockBatchMqRequest(), body, timeout_s=self._settings.lock_timeout_s
            )
        except (PymqError, TimeoutError) as error:
            log.info("unlocking queues of %s for group %s: %s", broker, self._group, error)

    def _master(self, broker: str) -> str | None:
        return self._routes.address(broker, MASTER_ID)


def _by_broker(queues: Collection[MessageQueue]) -> dict[str, list[MessageQueue]]:
    named: defaultdict[str, list[MessageQueue]] = defaultdict(list)
    for queue in queues:
        named[queue.broker_name].append(queue)
    return named
