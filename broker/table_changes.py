"""What changed in a large table since its file was written: a file beside it, one JSON object a line.

Apache writes topics.json whole for each topic that is made, which is quadratic in their number. Here a change
costs its own size. The first line says by its data version to which table the others are changes; each
further line is one writing: its entries as the table's file would hold them, and the names of those that were
deleted. Before the table's file is written with all of them, a last line says which data version it will
have: so a file that somebody else wrote meanwhile is known, and what it lacks is not lost. A line is on the
disk before anybody is told of what it says, so a torn last one is nobody's loss.
"""

from __future__ import annotations

import logging
import os.path
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from pymq.disk import Disk
from pymq.protocol.bodies.body import Body
from pymq.protocol.bodies.topic_config import DataVersion
from pymq.store.table_lines import Change, Fold, Head, Line, parse_changes

log = logging.getLogger("pymq.broker.tables")


class Changes(NamedTuple):
    """What a table's file lacks."""

    changes: list[Change]
    is_own: bool
    """They were made to just this table; else somebody else has written its file since."""


class TableChanges:
    """The changes to one table. They belong to who writes the table's file.

    Attributes:
        path: where they lie.
        size: bytes of changes to the table's file as it is now; 0 without any.
    """

    def __init__(self, path: str, disk: Disk) -> None:
        self.path = path
        self.size = 0
        self._disk = disk
        self._is_there = False
        """Whether there may be a file."""

    def append(self, base: DataVersion, entries: Body, deleted: Iterable[str]) -> None:
        """Bring a change to the disk; runs in any thread. StoreFull, StoreBroken, StoreError.

        `base`: the data version in the table's file. `entries`: what that would hold of the changed ones.
        After an error nothing can be added: the table is to be written whole.
        """
        line = Line(msgspec.Raw(entries.encode()), sorted(deleted)).encode() + b"\n"
        if self.size == 0:
            line = Head(base).encode() + b"\n" + line
        self._is_there = True
        self._disk.append(self.path, line, self.size)
        self.size += len(line)

    def fold(self, version: DataVersion) -> None:
        """Say on the disk that the table's file is written with these changes, as this data version.

        As `append`, where there are changes. Those that the file before had in it go.
        """
        if self.size:
            line = Fold(version).encode() + b"\n"
            self._disk.append(self.path, line, self.size)
            self.size += len(line)
        elif self._is_there:
            self.remove()
            self._disk.sync_folder(os.path.dirname(self.path))

    def read(self, base: DataVersion) -> Changes:
        """The changes that the table of this data version may lack, the oldest first. StoreError.

        Not those that its file was written with.
        """
        data = self._disk.read_bytes(self.path) or b""
        self._is_there = bool(data)
        found = parse_changes(data)
        for number in found.damaged:
            log.error("%s is damaged, line %d is left out", self.path, number)
        if found.is_torn:
            log.info("%s: its last line is torn, nobody was told of it", self.path)
        changes, is_own = found.lacking(base), found.belong_to(base)
        if changes and is_own:
            self.size = data.rfind(b"\n") + 1  # a torn end is nobody's
        return Changes(changes, is_own=is_own)

    def remove(self) -> None:
        """Delete them: the table's file has them all. StoreError."""
        self._disk.remove_file(self.path)
        self.size = 0
        self._is_there = False
