"""The lines of a table's file of changes, beside the table's file in `config/` (`broker/table_changes`).

The first says by its data version to which table the others are changes; each further one is a writing, or
says into which data version of the table all before it were folded.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import msgspec

from pymq.protocol.bodies.body import Body
from pymq.protocol.bodies.topic_config import DataVersion

CHANGES_SUFFIX = ".changes"
"""Behind the name of the table's file."""

S = TypeVar("S", bound=msgspec.Struct)


class Head(Body, frozen=True):  # type: ignore[misc]  # Body has no fields
    """The first line."""

    changes_to: DataVersion


class Line(Body, frozen=True):  # type: ignore[misc]
    """A writing: entries as the table's file would hold them, and the names of those that were deleted."""

    entries: msgspec.Raw
    deleted: list[str]


class Fold(Body, frozen=True):  # type: ignore[misc]
    """All before it is in the table's file of this data version."""

    folded_into: DataVersion


class Change(NamedTuple):
    """One writing: `entries` as the table's file would hold them, and the names that were deleted."""

    entries: str
    deleted: list[str]
    number: int
    """Of its line; the first line is 1."""


class ChangeLines(NamedTuple):
    """What such a file says."""

    changes_to: DataVersion | None
    """None when the first line cannot be read."""
    changes: list[Change]
    folded_into: list[DataVersion]
    damaged: list[int]
    """Numbers of lines that cannot be read."""
    is_torn: bool
    """The last line cannot be read: nobody was told of what it says."""

    def belong_to(self, version: DataVersion) -> bool:
        """Whether they were made to just this table, or are in it; else somebody else has written it."""
        return self.changes_to == version or version in self.folded_into

    def lacking(self, version: DataVersion) -> list[Change]:
        """The changes that the table of this data version may lack, the oldest first."""
        return [] if self.changes_to != version and version in self.folded_into else self.changes


def parse_changes(data: bytes) -> ChangeLines:
    """Read the bytes of a file of changes, which are not none."""
    head, _, rest = data.partition(b"\n")
    texts = rest.split(b"\n")
    if not texts[-1]:
        texts.pop()
    made_for = _decoded(head, Head)
    changes, folded_into, damaged = [], [], []
    for number, text in enumerate(texts, 2):
        if (line := _decoded(text, Line)) is not None:
            changes.append(Change(bytes(line.entries).decode(), line.deleted, number))
        elif (fold := _decoded(text, Fold)) is not None:
            folded_into.append(fold.folded_into)
        else:
            damaged.append(number)
    is_torn = damaged[-1:] == [len(texts) + 1]
    return ChangeLines(
        None if made_for is None else made_for.changes_to,
        changes,
        folded_into,
        damaged[:-1] if is_torn else damaged,
        is_torn,
    )


def _decoded(line: bytes, kind: type[S]) -> S | None:
    """A line, or None when it is none: what we write ourselves is strict JSON."""
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
