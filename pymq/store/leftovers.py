"""Keeping a copy of what the start of a store cuts off the commit log although there are messages in it."""

from __future__ import annotations

import os.path

from pymq.clock import Clock
from pymq.disk import Disk, FileWriter, MappedFile
from pymq.errors import StoreBroken, StoreError
from pymq.store.segments import NAME_LENGTH, Segments

_CHUNK = 1 << 20
_RECORD_END = 2
"""A record without properties ends in so many zeros, of their length."""


class Leftovers:
    """Copies the end of a log, before it is cleared, into a file of the folder `lost` beside it.

    The file is called `<physical offset>-<time, ms since 1970>`. Its first byte is the log's at that offset,
    and so on; it is sparse where that is zero. Nobody reads or deletes it: it is the operator's.
    """

    def __init__(self, segments: Segments, disk: Disk, clock: Clock, folder: str) -> None:
        self._segments = segments
        self._disk = disk
        self._clock = clock
        self._folder = folder

    def keep(self, start: int) -> str:
        """Copy all from the physical offset `start` on, as long as it takes half of the free room at most.

        Returns where it is, to be told. StoreBroken.
        """
        name = f"{start:0{NAME_LENGTH}d}-{self._clock.now_ms()}"
        file = self._disk.file(os.path.join(self._folder, name), self._segments.end - start)
        end = start
        try:
            self._disk.make_folder(self._folder, sync=True)
            room = self._disk.usage(self._folder).free // 2
            file.create(sync_folder=True)
            if self._disk.file_size(file.path) != file.size:  # who made it ended before it had its size
                self._disk.resize_file(file.path, file.size)
            writer = file.writer()
            try:
                end, is_whole = self._copy(start, file, writer, room)
            finally:
                writer.close()
            file.sync()
            self._disk.resize_file(file.path, end - start)
        except StoreBroken:
            raise
        except StoreError as e:
            return f"not all of it could be kept in {file.path}: {e}"
        return f"it is kept in {file.path}" if is_whole else (
            f"for want of room only the part before {end} is kept, in {file.path}"
        )  # fmt: skip

    def _copy(self, start: int, file: MappedFile, writer: FileWriter, room: int) -> tuple[int, bool]:
        """Returns the physical offset behind what was copied, and whether that was all."""
        end = at = start
        while (segment := self._segments.at(at)) is not None:
            data = segment.file.read(at - segment.base, _CHUNK)
            if not data:
                break
            used = len(data.rstrip(b"\0"))
            if used:
                used = min(used + _RECORD_END, len(data))
                if used > room:
                    return end, False
                room -= used
                file.reserve_range(at - start, at - start + used)
                writer.write(at - start, data[:used])
                end = at + used
            at += len(data)
        return end, True
