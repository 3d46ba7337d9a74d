"""What a broker knows of one name server, and when there is something to tell it (wire.md §7.3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

RETRY_S = 1.0
"""Between attempts at a name server that is away."""


class _Batch:
    """Topics that are told together. `told` is set when the name server has answered, or has failed to."""

    __slots__ = ("told", "topics")

    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.told = asyncio.Event()


class NameServerLink:
    """What is known of one name server, and when there is something to tell it.

    Attributes:
        registered: whether it knows this broker, as far as can be told.
        complained: whether the log says that it is away.
        tried: set when it has answered or failed for the first time.
        ordered: the topics of its ordered-topic config, None when it has none.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.registered = False
        self.complained = False
        self.tried = asyncio.Event()
        self.ordered: frozenset[str] | None = None
        self._changed = _Batch()
        self._telling = _Batch()
        self._urgent = False
        self._due = 0.0
        self._tried_at = 0.0
        self._wake = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether it is time for the whole table."""
        return asyncio.get_running_loop().time() >= self._due

    async def has_work(self) -> None:
        """Wait until the whole table is due, or something else cannot wait."""
        while not (self.is_due or (self.registered and self._urgent)):
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._due):
                    await self._wake.wait()

    def next_whole(self, after_s: float) -> None:
        """Register again with the whole table in so many seconds from now, when it was tried last."""
        self._tried_at = asyncio.get_running_loop().time()
        self._due = self._tried_at + after_s

    def failed(self) -> None:
        """It gave no answer, or a no: try again in a while."""
        self.registered = False
        self.next_whole(RETRY_S)
        self.tried.set()

    def lost(self) -> None:
        """Its connection has ended: try again, at once unless it was tried within the last second."""
        self.registered = False
        self._due = self._tried_at + RETRY_S
        self._wake.set()

    # -- the topics that it must be told of ---------------------------------------------------------

    def changed(self, topic: str, *, hurry: bool) -> None:
        """A topic has changed: tell it together with the next, or with `hurry` as soon as can be."""
        self._changed.topics.add(topic)
        if hurry:
            self._hurry()

    def told_of(self, topic: str) -> asyncio.Event | None:
        """What is set once a topic's last change was told, or could not be; None when nothing is to tell."""
        if topic in self._changed.topics:
            self._hurry()
            return self._changed.told
        return self._telling.told if topic in self._telling.topics else None

    def _hurry(self) -> None:
        self._urgent = True
        self._wake.set()

    @contextlib.contextmanager
    def take_changed(self) -> Iterator[set[str]]:
        """The topics to tell of, as long as the context lasts; what changes from here on counts anew."""
        self._urgent = False
        batch = self._telling = self._changed
        self._changed = _Batch()
        try:
            yield batch.topics
        finally:
            self._telling = _Batch()
            batch.told.set()

    def let_go(self) -> None:
        """Nothing will be told any more: let go who waits for it."""
        self._changed.told.set()
