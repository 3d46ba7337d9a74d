"""Files and folders on the real disk: mapped, reserved, read and written past the mapping, held."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from pymq.disk import FileWriter, MappedBuffer
from pymq.disk_calls import ZEROS, Told, allocate, sync_descriptor, sync_entries
from pymq.errors import StoreBroken, StoreError


class SystemFile:
    """`MappedFile` on the real disk."""

    __slots__ = (
        "_buffer",
        "_descriptor",
        "_lock",
        "_readahead",
        "_unsynced_folders",
        "path",
        "reserved",
        "size",
    )

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.reserved = 0
        self._buffer: mmap.mmap | None = None
        self._readahead = True
        self._descriptor = -1
        self._unsynced_folders = False
        self._lock = threading.Lock()

    def create(self, *, sync_folder: bool) -> None:
        with self._lock, Told(self.path, "create"):
            self._create(sync_folder)

    def _create(self, sync_folder: bool) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return
        try:
            os.ftruncate(descriptor, self.size)
            if sync_folder:
                os.fsync(descriptor)  # its size: no later file may outlive a power cut when this one is empty
                sync_entries(os.path.dirname(self.path))
        except OSError:
            os.unlink(self.path)  # a file of another size would stop the next start
            raise
        finally:
            os.close(descriptor)
        self._unsynced_folders = not sync_folder

    def _opened(self, access: int = os.O_RDWR) -> _Opened:
        """The held descriptor, or one for the moment."""
        return _Opened(self.path, self._descriptor, access)

    def hold(self) -> None:
        if self._descriptor < 0:
            with Told(self.path, "open"):
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def release(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def map(self, *, readahead: bool) -> MappedBuffer:
        if self._buffer is None:
            with Told(self.path, "map"), self._opened() as descriptor:
                if os.fstat(descriptor).st_size != self.size:
                    raise StoreError(f"cannot map {self.path}: it does not have {self.size} bytes")
                # Without its own descriptor, a mapping costs none (Python 3.13 on).
                options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
                self._buffer = mmap.mmap(descriptor, self.size, **options)
                self._readahead = True
        if readahead != self._readahead and hasattr(mmap, "MADV_RANDOM"):
            self._readahead = readahead
            self._buffer.madvise(mmap.MADV_NORMAL if readahead else mmap.MADV_RANDOM)
        return self._buffer

    def unmap(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def reserve(self, end: int) -> None:
        with self._lock:
            if end <= self.reserved:
                return
            end = min(-(-end // mmap.PAGESIZE) * mmap.PAGESIZE, self.size)
            with Told(self.path, "reserve room in"), self._opened() as descriptor:
                allocate(descriptor, self.reserved, end)
            self.reserved = end

    def reserve_range(self, start: int, end: int) -> None:
        with self._lock, Told(self.path, "reserve room in"), self._opened() as descriptor:
            allocate(descriptor, start, min(-(-end // mmap.PAGESIZE) * mmap.PAGESIZE, self.size))

    def read(self, offset: int, size: int) -> bytes:
        with Told(self.path, "read"), self._opened(os.O_RDONLY) as descriptor:
            if hasattr(os, "posix_fadvise"):  # no large folios: see `MappedFile.map`
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(descriptor, size, offset)

    def writer(self) -> FileWriter:
        return _SystemWriter(self.path)

    def fetch(self, offset: int, size: int) -> bytes:
        with Told(self.path, "read"):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)  # `release` cannot close this one
            try:
                data = os.pread(descriptor, size, offset)
            finally:
                os.close(descriptor)
        if len(data) < size:
            raise StoreError(f"{self.path} has no {size} bytes at {offset}")
        return data

    def zero_from(self, offset: int) -> bool:
        changed = False
        with Told(self.path, "clear the end of"), self._opened() as descriptor:
            for start, end in self._data_extents(descriptor, offset):
                for at in range(start, end, len(ZEROS)):
                    chunk = os.pread(descriptor, min(len(ZEROS), end - at), at)
                    if chunk != ZEROS[: len(chunk)]:
                        os.pwrite(descriptor, ZEROS[: len(chunk)], at)
                        changed = True
        return changed

    def _data_extents(self, descriptor: int, offset: int) -> Iterator[tuple[int, int]]:
        """The ranges from `offset` on that are no holes; all of it where the system cannot tell."""
        while offset < self.size:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
                end = os.lseek(descriptor, start, os.SEEK_HOLE)
            except OSError as e:
                if e.errno != errno.ENXIO:  # ENXIO: only a hole is left
                    yield offset, self.size
                return
            yield start, min(end, self.size)
            offset = end

    def sync(self) -> None:
        with Told(self.path, "sync", sync=True):
            try:
                with self._opened() as descriptor:
                    sync_descriptor(descriptor)
                if self._unsynced_folders:
                    self._unsynced_folders = False
                    self._sync_new_folders()
            except FileNotFoundError:
                return

    def _sync_new_folders(self) -> None:
        """A consume queue's own folder, its topic's, and the one that holds the topics."""
        folder = self.path
        for _ in range(3):
            folder = os.path.dirname(folder)
            sync_entries(folder)


class _Opened:
    """A descriptor to work with: the one given, or else one for the moment."""

    __slots__ = ("_access", "_descriptor", "_held", "_path")

    def __init__(self, path: str, held: int, access: int) -> None:
        """`held`: a descriptor that stays open, or -1."""
        self._path, self._held, self._access = path, held, access
        self._descriptor = held

    def __enter__(self) -> int:
        if self._held < 0:
            self._descriptor = os.open(self._path, self._access | os.O_CLOEXEC)
        return self._descriptor

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._held < 0:
            os.close(self._descriptor)


class _SystemWriter:
    """`FileWriter` on the real disk."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        with Told(path, "open"):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, offset: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._descriptor, data, offset)
        except OSError as e:
            raise StoreBroken(f"cannot write to {self._path}: {e.strerror or e}") from e
        if written != len(data):
            raise StoreBroken(f"cannot write to {self._path}: only {written} of {len(data)} bytes")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class SystemFolder:
    """`HeldFolder` on the real disk."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        with Told(path, "open"):
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def remove(self, name: str) -> None:
        with Told(os.path.join(self._path, name), "remove"), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def sync(self) -> None:
        with Told(self._path, "sync", sync=True):
            os.fsync(self._descriptor)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
