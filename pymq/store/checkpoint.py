"""The file that tells up to when commit log and consume queues are surely on the disk (store.md §5)."""

from __future__ import annotations

import functools
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from zlib import crc32

from pymq.disk import Disk, Job

CHECKPOINT = Struct(">qqq")
"""Store times, ms: of the newest message flushed in the commit log, in the consume queues, in the index."""
CHECKPOINT_SIZE = 4096
SLACK_MS = 3000

MARK = Struct(">8sqqqqqqqqqI")
"""Our own addition, which Apache neither reads nor writes: `pymqmark` (8), a copy of the three times
(8 each), the six numbers of a `Mark` (8 each), CRC-32 of all this (4)."""
MARK_POSITION = 256
_MARK_NAME = b"pymqmark"

REACH = Struct(">8sqqqqI")
"""Ours, too: `pymqlog` and NUL (8), the three times as the file has them (8 each), the physical offset up to
which the commit log is on the disk (8), CRC-32 of all this (4)."""
REACH_POSITION = 512
"""In a sector of its own: the sector of the mark stays as it is when this is written."""
_REACH_NAME = b"pymqlog\0"


class Mark(NamedTuple):
    """A moment at which log and queues were on the disk, told by place and number instead of by time."""

    offset: int
    """Physical offset of the log's end."""
    units: int
    """The sum of the max offsets of all queues."""
    queues: int
    """How many queues had a max offset over 0."""
    first_units: int
    """The sum of the numbers with which the queues' first files begin."""
    log_file_bytes: int
    """Size of a commit-log file."""
    queue_file_bytes: int
    """Size of a consume-queue file."""


class Checkpoint:
    """The three times and the mark, in memory and in the file."""

    def __init__(self, path: str, disk: Disk) -> None:
        self.physic_timestamp = 0
        self.logics_timestamp = 0
        self.index_timestamp = 0
        self.mark: Mark | None = None
        """None when none is known: a new store, or Apache has written the file since."""
        self.reach = 0
        """Physical offset up to which the commit log is on the disk at least, the queues or not."""
        self.is_damaged = False
        """The file is missing, or not as either pymq or Apache leaves it."""
        self.path = path
        self._disk = disk
        self._times_in_file = (0, 0, 0)
        """What the file says once the jobs made so far have run: who writes other times knows no reach."""

    def load(self) -> None:
        """Read the file; without one, or with less than a whole one, nothing is known to be on the disk."""
        data = self._disk.read_bytes(self.path) or b""
        self.mark, self.is_damaged, self.reach = None, True, 0
        try:
            times = CHECKPOINT.unpack_from(data)
            fields = MARK.unpack_from(data, MARK_POSITION)
        except StructError:
            return
        if min(times) < 0:
            return
        if fields[0] == _MARK_NAME:
            if crc32(data[MARK_POSITION : MARK_POSITION + MARK.size - 4]) != fields[-1]:
                return
            if fields[1:4] == times:
                self.mark = Mark(*fields[4:-1])
        self.is_damaged = False
        self.physic_timestamp, self.logics_timestamp, self.index_timestamp = self._times_in_file = times
        self.reach = max(self.mark.offset if self.mark else 0, _reach_in(data, times))

    @property
    def min_timestamp(self) -> int:
        """Messages stored up to then are on the disk, in the log and in their queues."""
        return max(0, min(self.physic_timestamp, self.logics_timestamp) - SLACK_MS)

    def forget(self) -> None:
        """Log and queues are about to be written anew: nothing about them is known any more. In memory."""
        self.physic_timestamp = self.logics_timestamp = 0
        self.mark = None

    def write_job(self) -> Job:
        """A job that writes the times and the mark as they are now."""
        times = (self.physic_timestamp, self.logics_timestamp, self.index_timestamp)
        data = bytearray(CHECKPOINT_SIZE)
        CHECKPOINT.pack_into(data, 0, *times)
        if self.mark is not None:
            MARK.pack_into(data, MARK_POSITION, _MARK_NAME, *times, *self.mark, 0)
            end = MARK_POSITION + MARK.size
            data[end - 4 : end] = crc32(data[MARK_POSITION : end - 4]).to_bytes(4, "big")
        self._times_in_file = times
        data[REACH_POSITION : REACH_POSITION + REACH.size] = self._packed_reach()
        return functools.partial(self._disk.write_bytes, self.path, bytes(data))

    def reach_job(self) -> Job:
        """A job that writes `reach` as it is now, and does not sync it.

        That is enough for the next start unless the power is cut, and then an older one is only more careful.
        """
        data = self._packed_reach()

        def job() -> None:
            writer = self._disk.file(self.path, CHECKPOINT_SIZE).writer()
            try:
                writer.write(REACH_POSITION, data)
            finally:
                writer.close()

        return job

    def _packed_reach(self) -> bytes:
        data = REACH.pack(_REACH_NAME, *self._times_in_file, self.reach, 0)[:-4]
        return data + crc32(data).to_bytes(4, "big")


def _reach_in(data: bytes, times: tuple[int, ...]) -> int:
    """The reach that the file tells of, 0 when it tells of none that belongs to its times."""
    packed = data[REACH_POSITION : REACH_POSITION + REACH.size]
    if len(packed) < REACH.size:
        return 0
    name, *times_then, reach, crc = REACH.unpack(packed)
    is_sound = name == _REACH_NAME and crc == crc32(packed[:-4]) and tuple(times_then) == times
    return max(0, reach) if is_sound else 0
