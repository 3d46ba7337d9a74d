"""Files of one size, one after the other, that form one long range of bytes (Apache's MappedFileQueue)."""

from __future__ import annotations

import logging
import os.path

from pymq.disk import Disk, FileWriter, MappedBuffer, MappedFile
from pymq.errors import StoreCorrupt

log = logging.getLogger("pymq.store")

NAME_LENGTH = 20
"""A file's name is the offset of its first byte, in 20 decimal digits."""
PAGE = 4096
_NEVER = -(1 << 62)


class WrongFile(StoreCorrupt):
    """A file of another size than configured, or one that is missing.

    Attributes:
        is_size_sure: the configured size is that of the store, so that it is the file that is wrong.
    """

    def __init__(self, text: str, is_size_sure: bool) -> None:
        super().__init__(text)
        self.is_size_sure = is_size_sure


class Segment:
    """One file of the range. Up to `limit` the writer may write without further thought."""

    __slots__ = ("base", "buffer", "file", "is_complete", "limit", "missed", "pinned", "recently_used")

    def __init__(self, base: int, file: MappedFile) -> None:
        self.base = base
        self.file = file
        self.buffer: MappedBuffer | None = None
        self.limit = -1
        self.pinned = False
        self.is_complete = False
        """Only read from now on."""
        self.recently_used = False
        self.missed = _NEVER
        """When it was asked for and not mapped last, by the count of `Mappings`."""


class Mappings:
    """Bounds how many segments are mapped at a time: the ones not used lately go first.

    To map a file for one write or read, and to unmap another for it, costs ten times the write. So where all
    mappings are taken, a segment gets one only if it comes again before `limit` others had to do without, and
    if the next one in the row was not used lately; until then it is written and read past any mapping.

    Reads copy, and unmapping happens only inside `map`, in the owner's thread: never under a reader.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(2, limit)
        self._mapped: dict[Segment, None] = {}
        self._misses = 0
        self._writer: FileWriter | None = None

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

    def map_if_busy(self, segment: Segment) -> MappedBuffer | None:
        """The segment's mapping, or None where it is not worth to make one. StoreError when that fails."""
        if segment.buffer is None and len(self._mapped) >= self._limit:
            self._misses += 1
            before, segment.missed = segment.missed, self._misses
            if self._misses - before > self._limit or self._spare_next():
                return None
        return self.map(segment)

    def _spare_next(self) -> bool:
        """Whether the next one in the row was used since the last look at it: then it goes to the end."""
        segment = next(iter(self._mapped))
        if not (segment.pinned or segment.recently_used):
            return False
        segment.recently_used = False
        del self._mapped[segment]
        self._mapped[segment] = None
        return True

    def open_writer(self, segment: Segment) -> None:
        """Prepare the one `write` that comes next. StoreError when that fails."""
        self.close_writer()
        self._writer = segment.file.writer()

    def write(self, position: int, data: bytes) -> None:
        """Write to the segment that was prepared; room is reserved. StoreBroken."""
        assert self._writer is not None
        self._writer.write(position, data)

    def close_writer(self) -> None:
        """Let go of the segment that was prepared."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

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

    def load(self, written_bytes: int, key: str) -> None:
        """Find the folder's files, and repair the last one's size when it was cut.

        `written_bytes`: the size that they are known to have been made with, 0 when that is unknown; `key`:
        the setting of the size. StoreCorrupt for a foreign name; WrongFile for another size or a gap.
        """
        names = self._disk.list_folder(self.folder)
        for name in [name for name in names if name.startswith(".")]:
            log.warning("%s is none of the store's files: ignored", os.path.join(self.folder, name))
            names.remove(name)
        sizes = [self._disk.file_size(os.path.join(self.folder, name)) for name in names]
        if written_bytes == 0 and self.segment_bytes in sizes:
            written_bytes = self.segment_bytes
        is_size_sure = written_bytes == self.segment_bytes
        for name, size in zip(names, sizes, strict=True):
            path = os.path.join(self.folder, name)
            if len(name) != NAME_LENGTH or not name.isdecimal():
                raise StoreCorrupt(
                    f"{path} is none of the store's files: move it elsewhere (files here have names of"
                    f" {NAME_LENGTH} digits)"
                )
            if size == 0 and name == names[-1]:
                self._disk.remove_file(path)  # its making was interrupted
                continue
            if int(name) % self.segment_bytes or size != self.segment_bytes:
                is_short_end = name == names[-1] and size < self.segment_bytes
                if not (is_short_end and is_size_sure) or int(name) % self.segment_bytes:
                    raise WrongFile(self._advice(path, size, written_bytes, key), is_size_sure)
                log.warning("%s has only %d bytes: lengthened to %d", path, size, self.segment_bytes)
                self._disk.resize_file(path, self.segment_bytes)
            if self.files and int(name) != self.end:
                raise WrongFile(
                    f"the file before {path} is missing: put it back, or move {path} and those behind it"
                    f" elsewhere to go on with the messages before the gap",
                    is_size_sure,
                )
            self.files.append(Segment(int(name), self._disk.file(path, self.segment_bytes)))

    def _advice(self, path: str, size: int, written_bytes: int, key: str) -> str:
        """What is wrong with a file, and how to mend it."""
        text = f"{path} has {size} bytes, the configured file size ({key}) is {self.segment_bytes}"
        if written_bytes == self.segment_bytes:
            return f"{text}: its end is gone or foreign, put back the file as it was"
        if written_bytes:
            return f"{text}: the store was written with {key}={written_bytes}, set it to that"
        return (
            f"{text}: set {key} to the size that the store was made with; if it is the file that was cut,"
            f" and it is the last one, lengthen it by `truncate -s {self.segment_bytes} {path}`"
        )

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

    def apart(self) -> Segments:
        """The files that there are now, by handles of their own: for another thread, which only `read`s."""
        apart = Segments(self.folder, self.segment_bytes, self._disk, self._mappings)
        for segment in self.files:
            apart.append(self.file_at(segment.base), segment.base)
        return apart

    def append(self, file: MappedFile, base: int) -> Segment:
        """Take an existing file as the last segment."""
        segment = Segment(base, file)
        self.files.append(segment)
        return segment

    def buffer(self, segment: Segment) -> MappedBuffer:
        """The mapping of a segment, made on use."""
        segment.recently_used = True
        return segment.buffer if segment.buffer is not None else self._mappings.map(segment)

    def remove_from(self, base: int, *, sync: bool) -> bool:
        """Delete the files that begin at `base` or later, the last one first, and bring that to the disk.

        With `sync` each one before the next: a power cut leaves no gap. Returns whether there were any.
        """
        if not self.files or self.files[-1].base < base:
            return False
        while self.files and self.files[-1].base >= base:
            segment = self.files.pop()
            self._close(segment)
            self._disk.remove_file(segment.file.path)
            if sync:
                self._disk.sync_folder(self.folder)
        if not sync:
            self._disk.sync_folder(self.folder)
        return True

    def forget_before(self, base: int) -> list[str]:
        """Have the files no more that begin before `base`, but never let go of the last there is.

        Returns their paths. The caller deletes them in this order: a gap would stop the next start.
        """
        paths = []
        while len(self.files) > 1 and self.files[0].base < base:
            segment = self.files.pop(0)
            self._close(segment)
            paths.append(segment.file.path)
        return paths

    def clear_from(self, offset: int, *, sync: bool) -> bool:
        """Let nothing but zeros stand from `offset` on: delete the files behind, clear the one that holds it.

        What stays must not be trusted by the next start, and a cut alone does not erase it (store.md §12).
        With `sync` it is on the disk when this returns. A file that is empty then is kept: its room may be
        needed at once, and the disk may be full. Returns whether there was anything.
        """
        changed = self.remove_from(offset + 1, sync=sync)
        segment = self.at(offset)
        if segment is not None:
            self._mappings.unmap(segment)
            if segment.file.zero_from(offset - segment.base):
                changed = True
                if sync:
                    segment.file.sync()
        return changed

    def close(self) -> None:
        """Unmap all and close what is open."""
        for segment in self.files:
            self._close(segment)

    def _close(self, segment: Segment) -> None:
        segment.pinned = False
        self._mappings.unmap(segment)
        segment.file.release()
