"""The queue locks of groups that consume in order (semantics.md §3.3).

A lock ends by its holder's word or 60 s after it was last renewed. The end of the holder's connection does
not end it: a client that is cut off, or is dying, may still be handling its last message (Part E, 10).

Unlike Apache's broker this one knows its locks again after a restart (`queueLocks.json`, written within a
second of a change): clients come back one after the other, and the first one would get the queues of the
others while these go on with what they have. And it remembers who was refused, so that they can be told when
a lock has ended, where Apache lets them wait for their next rebalance.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable

import msgspec
from msgspec import field

from pymq.clock import Clock
from pymq.protocol.bodies.body import Body, MessageQueue

LOCK_EXPIRY_S = 60.0
"""Apache's rebalanceLockMaxLiveTime."""

TRUSTED_S = 30.0
"""So long a client goes by a lock without having renewed it (semantics.md §12.7)."""

_MAX_REFUSED = 1000
"""So many clients at most are remembered to wait for one lock; others find it at their next rebalance."""

Refused = dict[str, set[str]]
"""By group, the ids of clients who were refused a lock that has ended now."""


class SavedLock(Body):
    """Who holds the lock of a queue, as in the file."""

    group: str
    queue: MessageQueue
    client_id: str


class SavedLocks(Body):
    """The file of locks. When they were renewed is not in it."""

    locks: list[SavedLock] = field(default_factory=list)


class _Lock(msgspec.Struct):
    client_id: str
    renewed_s: float
    refused: set[str]


class QueueLocks:
    """Who holds which queue, for each group. `on_change` is called when a holder has changed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.on_change: list[Callable[[], None]] = []
        # The one that was renewed longest ago stands first.
        self._locks: OrderedDict[tuple[str, MessageQueue], _Lock] = OrderedDict()

    def lock(self, group: str, client_id: str, queues: Iterable[MessageQueue]) -> list[MessageQueue]:
        """Take or renew locks for a client; gives the queues that it holds now."""
        held, changed = [], False
        now_s = self._clock.monotonic()
        for queue in queues:
            lock = self._locks.get((group, queue))
            if lock is None:
                lock = self._locks[group, queue] = _Lock(client_id, now_s, set())
                changed = True
            elif lock.client_id != client_id:
                if now_s - lock.renewed_s <= LOCK_EXPIRY_S:
                    if len(lock.refused) < _MAX_REFUSED:
                        lock.refused.add(client_id)
                    continue
                lock.client_id = client_id
                changed = True
            lock.renewed_s = now_s
            lock.refused.discard(client_id)
            self._locks.move_to_end((group, queue))
            held.append(queue)
        if changed:
            self._changed()
        return held

    def unlock(self, group: str, client_id: str, queues: Iterable[MessageQueue]) -> Refused:
        """End those of these locks that the client holds; gives who waits for them."""
        ended = [
            (group, queue)
            for queue in queues
            if (lock := self._locks.get((group, queue))) is not None and lock.client_id == client_id
        ]
        return self._end(ended)

    def expire(self) -> Refused:
        """End the locks that were not renewed for too long; gives who waits for them."""
        limit_s = self._clock.monotonic() - LOCK_EXPIRY_S
        ended = []
        for key, lock in self._locks.items():
            if lock.renewed_s >= limit_s:
                break
            ended.append(key)
        return self._end(ended)

    def _end(self, keys: list[tuple[str, MessageQueue]]) -> Refused:
        refused: defaultdict[str, set[str]] = defaultdict(set)
        for key in keys:
            # A queue may be named twice in one request.
            if (lock := self._locks.pop(key, None)) is not None and lock.refused:
                refused[key[0]] |= lock.refused
        if keys:
            self._changed()
        return refused

    def holder(self, group: str, queue: MessageQueue) -> str | None:
        """The client that holds a queue's lock, None when nobody does."""
        lock = self._locks.get((group, queue))
        if lock is None or self._clock.monotonic() - lock.renewed_s > LOCK_EXPIRY_S:
            return None
        return lock.client_id

    def _changed(self) -> None:
        for listener in self.on_change:
            listener()

    def snapshot(self) -> SavedLocks:
        """A copy that may be encoded on another thread."""
        return SavedLocks(
            [SavedLock(group, queue, lock.client_id) for (group, queue), lock in self._locks.items()]
        )

    def load(self, text: str) -> None:
        """Take what a file holds. These locks end after 30 s, unless they are renewed: then no holder that is
        cut off goes by them any more.

        Raises BodyError.
        """
        renewed_s = self._clock.monotonic() - (LOCK_EXPIRY_S - TRUSTED_S)
        for saved in SavedLocks.decode(text.encode()).locks:
            self._locks[saved.group, saved.queue] = _Lock(saved.client_id, renewed_s, set())
