"""The file that tells up to when commit log and consume queues are surely on the disk (store.md §5)."""

from __future__ import annotations

import functools
from struct import Struct
from struct import error as StructError

from pymq.disk import Disk, Job

CHECKPOINT = Struct(">qqq")
"""Store times, ms: of the newest message flushed in the commit log, in the consume queues, in the index."""
CHECKPOINT_SIZE = 4096
SLACK_MS = 3000


class Checkpoint:
    """The three times, in memory and in the file."""

    def __init__(self, path: str, disk: Disk) -> None:
        self.physic_timestamp = 0
        self.logics_timestamp = 0
        self.index_timestamp = 0
        self.path = path
        self._disk = disk

    def load(self) -> None:
        """Read the file; without one, or with less than a whole one, nothing is known to be on the disk."""
        try:
            times = CHECKPOINT.unpack_from(self._disk.read_bytes(self.path) or b"")
        except StructError:
            return
        self.physic_timestamp, self.logics_timestamp, self.index_timestamp = times

    @property
    def min_timestamp(self) -> int:
        """Messages stored up to then are on the disk, in the log and in their queues."""
        return max(0, min(self.physic_timestamp, self.logics_timestamp) - SLACK_MS)

    def write_job(self) -> Job:
        """A job that writes the times as they are now."""
        data = CHECKPOINT.pack(self.physic_timestamp, self.logics_timestamp, self.index_timestamp)
        return functools.partial(self._disk.write_bytes, self.path, data.ljust(CHECKPOINT_SIZE, b"\0"))
