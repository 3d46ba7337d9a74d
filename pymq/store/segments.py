"""Files of one size, one after the other, that form one long range of bytes (Apache's MappedFileQueue)."""

from __future__ import annotations

import logging
import os.path

from pymq.disk import Disk, MappedBuffer, MappedFile
from pymq.errors import StoreCorrupt

log = logging.getLogger("pymq.store")

NAME_LENGTH = 20
"""A file's name is the offset of its first byte, in 20 decimal digits."""
PAGE = 4096


class Segment:
    """One file of the range. Up to `limit` the writer may write without further thought."""

    __slots__ = ("base", "buffer", "file", "is_complete", "limit", "pinned", "recently_used")

    def __init__(self, base: int, file: MappedFile) -> None:
        self.base = base
        self.file = file
        self.buffer: MappedBuffer | None = None
        self.limit = -1
        self.pinned = False
        self.is_complete = False
        """Only read from now on."""
        self.recently_used = False


class Mappings:
    """Bounds how many segments are mapped at a time: the ones not used lately go first.

    Reads copy, and unmapping happens only inside `map`, in the owner's thread: never under a reader.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(2, limit)
        self._mapped: dict[Segment, None] = {}

    def __len__(self) -> int:
        return len(self._mapped)

    def map(self, segment: Segment) -> MappedBuffer:
        """The segment's mapping, made when there is none. StoreError when that fails."""
        segment.recently_used = True
        if segment.buffer is None:
            while len(self._mapped) >= self._limit and self._unmap_one():
                pass
            segment.buffer = segment.file.map(readahead=segment.is_complete)
            self._mapped[segment] = None
        return segment.buffer

    def unmap(self, segment: Segment) -> None:
        """Let the segment's mapping go."""
        self._mapped.pop(segment, None)
        segment.buffer = None
        segment.limit = -1
        segment.file.unmap()

    def _unmap_one(self) -> bool:
        """Second chance: who was used since the last round goes to the end of the row."""
        for _ in range(2 * len(self._mapped)):
            segment = next(iter(self._mapped))
            if not segment.pinned and not segment.recently_used:
                self.unmap(segment)
                return True
            segment.recently_used = False
            del self._mapped[segment]
            self._mapped[segment] = None
        return False


class Segments:
    """The files of a folder, each of `segment_bytes`, without a gap."""

    __slots__ = ("_disk", "_mappings", "files", "folder", "segment_bytes")

    def __init__(self, folder: str, segment_bytes: int, disk: Disk, mappings: Mappings) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self.files: list[Segment] = []
        """In order of their offsets."""
        self._disk = disk
        self._mappings = mappings

    def load(self) -> None:
        """Find the folder's files. StoreCorrupt for a foreign name, another size or a gap (store.md §1)."""
        names = self._disk.list_folder(self.folder)
        for name in [name for name in names if name.startswith(".")]:
            log.warning("%s is none of the store's files: ignored", os.path.join(self.folder, name))
            names.remove(name)
        for name in names:
            path = os.path.join(self.folder, name)
            if len(name) != NAME_LENGTH or not name.isdecimal() or int(name) % self.segment_bytes:
                raise StoreCorrupt(
                    f"{path} does not belong here: names have {NAME_LENGTH} digits and are multiples of the"
                    f" configured file size {self.segment_bytes}"
                )
            size = self._disk.file_size(path)
            if size == 0 and name == names[-1]:
                self._disk.remove_file(path)  # its making was interrupted
                continue
            if size != self.segment_bytes:
                raise StoreCorrupt(
                    f"{path} has {size} bytes, the configured file size is {self.segment_bytes}"
                )
            if self.files and int(name) != self.end:
                raise StoreCorrupt(f"the file before {path} is missing")
            self.files.append(Segment(int(name), self._disk.file(path, self.segment_bytes)))

    @property
    def start(self) -> int:
        """Offset of the first byte, 0 without files."""
        return self.files[0].base if self.files else 0

    @property
    def end(self) -> int:
        """Offset behind the last byte, 0 without files."""
        return self.files[-1].base + self.segment_bytes if self.files else 0

    def at(self, offset: int) -> Segment | None:
        """The segment that holds the byte at `offset`, or None."""
        index = (offset - self.start) // self.segment_bytes
        return self.files[index] if 0 <= index < len(self.files) else None

    def file_at(self, base: int) -> MappedFile:
        """A handle of the file that begins, or will begin, at `base`."""
        return self._disk.file(os.path.join(self.folder, f"{base:0{NAME_LENGTH}d}"), self.segment_bytes)

    def append(self, file: MappedFile, base: int) -> Segment:
        """Take an existing file as the last segment."""
        segment = Segment(base, file)
        self.files.append(segment)
        return segment

    def buffer(self, segment: Segment) -> MappedBuffer:
        """The mapping of a segment, made on use."""
        segment.recently_used = True
        return segment.buffer if segment.buffer is not None else self._mappings.map(segment)

    def remove_from(self, base: int) -> None:
        """Delete the files that begin at `base` or later, the last one first, and bring that to the disk."""
        if not self.files or self.files[-1].base < base:
            return
        while self.files and self.files[-1].base >= base:
            segment = self.files.pop()
            self._close(segment)
            self._disk.remove_file(segment.file.path)
        self._disk.sync_folder(self.folder)

    def clear_from(self, offset: int) -> None:
        """Let nothing but zeros stand from `offset` on: delete the files behind, clear the one that holds it.

        What stays must not be trusted by the next start, and a cut alone does not erase it (store.md §12).
        A file that is empty then is kept: its room may be needed at once, and the disk may be full.
        """
        self.remove_from(offset + 1)
        segment = self.at(offset)
        if segment is not None:
            self._mappings.unmap(segment)
            segment.file.zero_from(offset - segment.base)

    def close(self) -> None:
        """Unmap all and close what is open."""
        for segment in self.files:
            self._close(segment)

    def _close(self, segment: Segment) -> None:
        segment.pinned = False
        self._mappings.unmap(segment)
        segment.file.release()
