"""What a check of a store finds, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class Problem(msgspec.Struct, gc=False, omit_defaults=True):
    """One thing that is wrong, or (`is_note`) only worth knowing."""

    part: str
    """files, commitlog, consumequeue, index, checkpoint or config."""
    path: str
    position: int
    """Byte position in that file, −1 when it is about the whole."""
    text: str
    offset: int = -1
    """Physical offset of the record, or number of the message, that it is about."""
    is_note: bool = False


Report = Callable[[Problem], None]
Progress = Callable[[int], None]
"""Told how many bytes were gone through since the last call."""


def no_progress(_: int) -> None:
    """For who does not want to know."""


Text = Callable[[int, int, int], str]
"""Gives the words for the first and the last number of a run, and how many there are."""


class Run:
    """Gathers the same problem of numbers that follow each other, so that it takes one line."""

    def __init__(self, report: Report, *, is_note: bool = False) -> None:
        self._report = report
        self._is_note = is_note
        self._first = self._last = self._count = 0
        self._problem: Problem | None = None
        self._text: Text | None = None

    def add(
        self, number: int, part: str, path: str, position: int, text: Text, *, is_next: bool = False
    ) -> None:
        """One more. It takes a new line unless it follows the last one, or the caller says so (`is_next`)."""
        before = self._problem
        if before is None or not (is_next or (number == self._last + 1 and path == before.path)):
            self.end()
            self._problem = Problem(part, path, position, "", offset=number, is_note=self._is_note)
            self._first, self._count, self._text = number, 0, text
        self._last = number
        self._count += 1

    def end(self) -> None:
        """Report what was gathered."""
        problem, self._problem = self._problem, None
        if problem is not None and self._text is not None:
            problem.text = self._text(self._first, self._last, self._count)
            self._report(problem)
