"""A position that only grows, and those who follow it: "flushed up to", "acknowledged up to"."""

from __future__ import annotations

from collections.abc import Callable

from pymq.errors import StoreError


class Watermark:
    """A growing position. Not thread-safe: it belongs to its owner's thread.

    Attributes:
        position: the highest one reached so far.
        failure: why it will not grow any more, None as long as it may.
        on_change: called after each change of the two.
    """

    __slots__ = ("failure", "on_change", "position")

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.failure: StoreError | None = None
        self.on_change: list[Callable[[], None]] = []

    def advance(self, position: int) -> None:
        """The position is reached; a lower one than before changes nothing."""
        if position > self.position:
            self.position = position
            self._tell()

    def fail(self, error: StoreError) -> None:
        """It will not grow any more. The first reason stays."""
        if self.failure is None:
            self.failure = error
            self._tell()

    def _tell(self) -> None:
        for follow in self.on_change:
            follow()
