"""What pymq does with a disk, as one interface: files, folders, mappings, and jobs for other threads.

The real one is `system_disk`. Errors (design.md §4): ENOSPC, EDQUOT and EFBIG are `StoreFull`, which passes;
EIO, and any error of a sync, are `StoreBroken`, after which nothing is sure to be on disk until a restart;
else `StoreError`.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Collection
from typing import Protocol

import msgspec

from pymq.errors import StoreError

MappedBuffer = mmap.mmap
"""What a mapped file is read from and written to, by slices. A slice read is a copy."""
Job = Callable[[], None]
Done = Callable[[StoreError | None], None]
"""Told how a job ended, in the owner's thread."""
Deliver = Callable[[Callable[[], None]], object]
"""Brings a call into the owner's thread, as `loop.call_soon_threadsafe` does."""


class DiskUsage(msgspec.Struct, frozen=True):
    """Bytes of a partition: `free` is what an ordinary user can still take."""

    total: int
    used: int
    free: int

    @property
    def ratio(self) -> float:
        """The used part, rounded up to a hundredth; blocks kept for root count neither way (store.md §6)."""
        return -(-100 * self.used // max(1, self.used + self.free)) / 100


class FileLock(Protocol):
    """A held lock of a folder."""

    def release(self) -> None:
        """Give the lock back; twice is fine."""
        ...


class FileWriter(Protocol):
    """An open file that is written to past its mapping."""

    def write(self, offset: int, data: bytes) -> None:
        """Write where room is reserved; who reads through a mapping sees it at once. StoreBroken."""
        ...

    def close(self) -> None:
        """Close it; twice is fine."""
        ...


class MappedFile(Protocol):
    """A file of a fixed size that is read and written through a mapping.

    The owner's thread maps and unmaps; `create`, `reserve` and `sync` may run in another thread meanwhile.
    """

    path: str
    size: int
    reserved: int
    """Writing below this position cannot meet a full disk. The owner sets it once, to the end of the data."""

    def create(self, *, sync_folder: bool) -> None:
        """Make the file, sparse, if it is not there. StoreFull, StoreBroken, StoreError.

        With `sync_folder` it outlives a power cut, though empty; else `sync` sees to that.
        """
        ...

    def hold(self) -> None:
        """Keep a descriptor open from now on, so that an error of writing back cannot pass unseen."""
        ...

    def release(self) -> None:
        """Close the descriptor that `hold` keeps."""
        ...

    def map(self, *, readahead: bool) -> MappedBuffer:
        """The mapping, made now if there is none. StoreError when it cannot be made.

        No `readahead` where room is reserved only just ahead of the writer: the kernel reads ahead in large
        folios, and the first write to a page of one takes room for all of it, beyond what was reserved.
        """
        ...

    def unmap(self) -> None:
        """Let the mapping go. What was written stays written."""
        ...

    def reserve(self, end: int) -> None:
        """Reserve room up to `end` or a little more; threads wait for each other.

        StoreFull, StoreBroken, StoreError.
        """
        ...

    def reserve_range(self, start: int, end: int) -> None:
        """Reserve room from `start` to `end`, for files that are not written in order; as `reserve`.

        `reserved` stays as it is: who writes here and there keeps account of it.
        """
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Read past the mapping, up to `size` bytes; fewer at the file's end. StoreError, StoreBroken.

        Where nothing was written yet this is the only safe way: a touch of a hole in a mapping takes a page
        on some file systems, and the disk may be full.
        """
        ...

    def writer(self) -> FileWriter:
        """Open it for writes past the mapping: cheaper than to map it for a single one. StoreError."""
        ...

    def fetch(self, offset: int, size: int) -> bytes:
        """Read `size` bytes past the mapping, from any thread, of a file that only is read from now on.

        The owner may unmap or delete the file meanwhile. StoreError, as when it is gone; StoreBroken.
        """
        ...

    def zero_from(self, offset: int) -> bool:
        """Overwrite with zeros all that is not zero from `offset` on. Only for a file that is not mapped.

        Returns whether there was anything. `sync` brings it to the disk.
        """
        ...

    def sync(self) -> None:
        """Bring the data (and a new file's folder entries) to the disk. StoreBroken.

        A file that was removed meanwhile needs no sync: no error.
        """
        ...


class HeldFolder(Protocol):
    """A folder that stays the same one whatever is renamed meanwhile. Its methods run in any thread."""

    def remove(self, name: str) -> None:
        """Remove a file that is in it; a missing one is fine."""
        ...

    def sync(self) -> None:
        """Bring its entries to the disk. StoreBroken."""
        ...

    def release(self) -> None:
        """Let it go."""
        ...


class Disk(Protocol):
    """What pymq does with files. Paths are absolute."""

    def start(self, deliver: Deliver) -> None:
        """Start the flushing and the reserving thread. Before it, their jobs run at once, in the caller."""
        ...

    def stop(self) -> None:
        """Do the jobs that wait and end the threads."""
        ...

    def drain(self) -> None:
        """Wait until the jobs given so far are done. What they deliver comes later."""
        ...

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        """Run `job` in the flushing thread, urgent ones first; `done` is delivered to the owner."""
        ...

    def reserve_soon(self, job: Job, done: Done) -> None:
        """Run `job` in the reserving thread; `done` is delivered to the owner."""
        ...

    def delete_soon(self, job: Job, done: Done) -> None:
        """Run `job`, which deletes something large, in a thread for that; `done` as elsewhere."""
        ...

    def fetch_soon(self, job: Job, done: Done) -> None:
        """Run `job`, which waits for data from the disk, in one of a few threads; `done` as elsewhere."""
        ...

    def file(self, path: str, size: int) -> MappedFile:
        """A handle of a file of `size` bytes; nothing is touched yet."""
        ...

    def sync_many(self, files: Collection[MappedFile]) -> None:
        """Bring the data and the folder entries of many files to the disk, in far less time than one by one.

        StoreBroken. Files that are gone need no sync.
        """
        ...

    def lock(self, path: str) -> FileLock:
        """Lock byte 0 of the file, as RocketMQ does. StoreLocked when somebody holds it."""
        ...

    def list_folder(self, path: str) -> list[str]:
        """Names in a folder, sorted; none when it is no folder."""
        ...

    def make_folder(self, path: str, *, sync: bool = False) -> None:
        """Make a folder and those above it; with `sync` they outlive a power cut. StoreBroken."""
        ...

    def sync_folder(self, path: str) -> None:
        """Bring a folder's entries to the disk; a missing one is fine. StoreBroken."""
        ...

    def hold_folder(self, path: str) -> HeldFolder:
        """Open a folder, whose files are to be removed in another thread. StoreError."""
        ...

    def rename_folder(self, path: str, new_path: str) -> None:
        """Give a folder another place on its file system, where nothing is. StoreError.

        A sync of the two folders above brings that to the disk.
        """
        ...

    def sync_folders(self, paths: Collection[str]) -> None:
        """Bring the entries of many folders to the disk, as `sync_many` does with files. StoreBroken."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        ...

    def file_size(self, path: str) -> int:
        """Size in bytes. StoreError when there is no such file."""
        ...

    def resize_file(self, path: str, size: int) -> None:
        """Cut a file, or lengthen it by zeros, and sync it. StoreFull, StoreBroken, StoreError."""
        ...

    def modified_ms(self, path: str) -> int:
        """Time of the last change, ms since 1970. StoreError when there is no such file."""
        ...

    def remove_file(self, path: str) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def remove_folder(self, path: str, *, sync: bool = True) -> None:
        """Remove a folder with all in it, and with `sync` bring that to the disk; a missing one is fine."""
        ...

    def read_bytes(self, path: str) -> bytes | None:
        """A whole file, None when there is none."""
        ...

    def write_bytes(self, path: str, data: bytes) -> None:
        """Overwrite a small file in place and sync it and its folder."""
        ...

    def append(self, path: str, data: bytes, offset: int) -> None:
        """Write at `offset`, where the file ends, and sync it. StoreFull, StoreBroken, StoreError.

        At 0 it becomes a new file: after a crash nothing of an old one of that name stands in it.
        """
        ...

    def write_atomically(self, path: str, text: str) -> None:
        """Replace a text file: at each moment the old or the new one is there. The old one becomes `.bak`.

        The file system's errors as elsewhere; the old file is then untouched.
        """
        ...

    async def read_text(self, path: str) -> str | None:
        """A whole text file, read off the loop; None when there is none."""
        ...

    async def write_text(self, path: str, text: str) -> None:
        """`write_atomically` off the loop. The caller lets no two of them run for one path at a time."""
        ...

    def usage(self, path: str) -> DiskUsage:
        """Usage of the partition that holds `path`, or will hold it."""
        ...

    def memory_bytes(self) -> int:
        """The machine's memory, which bounds what the page cache holds."""
        ...
