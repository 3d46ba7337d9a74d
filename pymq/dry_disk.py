"""A disk that reads the real one and forgets what is written: to see what would happen.

What is written stays in memory: pages of private mappings, and small files whole.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection

from pymq.disk import (
    Deliver,
    Disk,
    DiskUsage,
    Done,
    FileLock,
    FileWriter,
    HeldFolder,
    Job,
    MappedBuffer,
    MappedFile,
)
from pymq.disk_lock import is_locked
from pymq.errors import StoreError, StoreLocked

_BLOCK = 1 << 20


def dry_disk(real: Disk) -> Disk:
    """A disk like `real` that writes nothing; background jobs run at once, in the caller."""
    return _DryDisk(real)


class _Written:
    """A file as it would be."""

    def __init__(self, buffer: mmap.mmap, size: int) -> None:
        self.buffer = buffer
        self.size = size


class _DryFile:
    """`MappedFile` of a `_DryDisk`. It is private as soon as it is mapped."""

    def __init__(self, disk: _DryDisk, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.reserved = 0
        self._disk = disk

    def create(self, *, sync_folder: bool) -> None:
        if not self._disk.exists(self.path):
            self._disk.put(self.path, mmap.mmap(-1, self.size), self.size)

    def hold(self) -> None:
        pass

    def release(self) -> None:
        pass

    def map(self, *, readahead: bool) -> MappedBuffer:
        return self._disk.private(self.path, self.size)

    def unmap(self) -> None:
        self._disk.forget_if_unchanged(self.path, self.size)

    def reserve(self, end: int) -> None:
        self.reserved = max(self.reserved, min(end, self.size))

    def reserve_range(self, start: int, end: int) -> None:
        pass

    def read(self, offset: int, size: int) -> bytes:
        written = self._disk.written.get(self.path)
        if written is not None:
            return written.buffer[offset : min(offset + size, written.size)]
        return self._disk.real_file(self.path, self.size).read(offset, size)

    def writer(self) -> FileWriter:
        return _DryWriter(self._disk.private(self.path, self.size))

    def fetch(self, offset: int, size: int) -> bytes:
        data = self.read(offset, size)
        if len(data) < size:
            raise StoreError(f"{self.path} has no {size} bytes at {offset}")
        return data

    def zero_from(self, offset: int) -> bool:
        changed = False
        for start in range(offset, self.size, _BLOCK):
            size = min(_BLOCK, self.size - start)
            data = self.read(start, size)
            if data.count(0) != len(data):
                self._disk.private(self.path, self.size)[start : start + size] = bytes(size)
                changed = True
        return changed

    def sync(self) -> None:
        pass


class _DryWriter:
    """`FileWriter` of a private file."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer

    def write(self, offset: int, data: bytes) -> None:
        self._buffer[offset : offset + len(data)] = data

    def close(self) -> None:
        pass


class _DryFolder:
    """`HeldFolder` by its path: nobody else is here to rename it."""

    def __init__(self, disk: _DryDisk, path: str) -> None:
        self._disk, self._path = disk, path

    def remove(self, name: str) -> None:
        self._disk.remove_file(os.path.join(self._path, name))

    def sync(self) -> None:
        pass

    def release(self) -> None:
        pass


class _NoLock:
    """Nothing is held: nothing is changed."""

    def release(self) -> None:
        pass


class _DryDisk:
    """`Disk` over a real one that stays as it is. Background jobs run at once, in the caller."""

    def __init__(self, real: Disk) -> None:
        self._real = real
        self.written: dict[str, _Written] = {}
        self._removed: set[str] = set()
        """Files and folders of the real disk that are gone, with all below them."""
        self._children: dict[str, set[str]] = {}
        """Folder → names in it that are only here."""

    # -- what is written

    def put(self, path: str, buffer: mmap.mmap, size: int) -> None:
        """Let a file be from now on what the buffer holds."""
        self.written[path] = _Written(buffer, size)
        self._add(path)

    def private(self, path: str, size: int) -> mmap.mmap:
        """The buffer of a file of `size` bytes, private from now on."""
        written = self.written.get(path)
        if written is None:
            if self.file_size(path) != size:
                raise StoreError(f"cannot map {path}: it does not have {size} bytes")
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.put(path, mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY), size)
            finally:
                os.close(descriptor)
            written = self.written[path]
        if written.size != size:
            raise StoreError(f"cannot map {path}: it does not have {size} bytes")
        return written.buffer

    def forget_if_unchanged(self, path: str, size: int) -> None:
        """Let a private mapping go that holds what the real file holds: there may be many."""
        written = self.written.get(path)
        if written is None or self._is_removed(path) or not self._real.exists(path):
            return
        real = self._real.file(path, size)
        for start in range(0, size, _BLOCK):
            if written.buffer[start : start + _BLOCK] != real.read(start, min(_BLOCK, size - start)):
                return
        del self.written[path]
        written.buffer.close()
        self._children[os.path.dirname(path)].discard(os.path.basename(path))

    def real_file(self, path: str, size: int) -> MappedFile:
        """The real file. StoreError when it is removed."""
        if self._is_removed(path):
            raise StoreError(f"cannot read {path}: No such file or directory")
        return self._real.file(path, size)

    def _add(self, path: str) -> None:
        folder, name = os.path.split(path)
        while name and name not in self._children.setdefault(folder, set()):
            self._children[folder].add(name)
            folder, name = os.path.split(folder)

    def _is_removed(self, path: str) -> bool:
        while path not in self._removed:
            above = os.path.dirname(path)
            if above == path:
                return False
            path = above
        return True

    def _is_real(self, path: str) -> bool:
        return not self._is_removed(path) and self._real.exists(path)

    # -- Disk

    def start(self, deliver: Deliver) -> None:
        pass

    def stop(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        self._do(job, done)

    def reserve_soon(self, job: Job, done: Done) -> None:
        self._do(job, done)

    def delete_soon(self, job: Job, done: Done) -> None:
        self._do(job, done)

    def fetch_soon(self, job: Job, done: Done) -> None:
        self._do(job, done)

    def _do(self, job: Job, done: Done) -> None:
        error: StoreError | None = None
        try:
            job()
        except StoreError as e:
            error = e
        done(error)

    def file(self, path: str, size: int) -> MappedFile:
        return _DryFile(self, path, size)

    def sync_many(self, files: Collection[MappedFile]) -> None:
        pass

    def lock(self, path: str) -> FileLock:
        """Only look whether it could be taken. StoreLocked."""
        if is_locked(path):
            raise StoreLocked(f"the store folder {os.path.dirname(path)} is in use by another process")
        return _NoLock()

    def list_folder(self, path: str) -> list[str]:
        names = set(self._children.get(path, ()))
        if not self._is_removed(path):
            real = self._real.list_folder(path)
            names.update(name for name in real if os.path.join(path, name) not in self._removed)
        return sorted(names)

    def make_folder(self, path: str, *, sync: bool = False) -> None:
        if not self._is_real(path):
            self._add(path)

    def sync_folder(self, path: str) -> None:
        pass

    def sync_folders(self, paths: Collection[str]) -> None:
        pass

    def hold_folder(self, path: str) -> HeldFolder:
        return _DryFolder(self, path)

    def rename_folder(self, path: str, new_path: str) -> None:
        """Only what is to be deleted is renamed: it is gone."""
        self.remove_folder(path)
        self._add(new_path)

    def exists(self, path: str) -> bool:
        folder, name = os.path.split(path)
        return name in self._children.get(folder, ()) or self._is_real(path)

    def file_size(self, path: str) -> int:
        written = self.written.get(path)
        if written is not None:
            return written.size
        if self._is_removed(path):
            raise StoreError(f"cannot look at {path}: No such file or directory")
        return self._real.file_size(path)

    def resize_file(self, path: str, size: int) -> None:
        old = self.file_size(path)
        buffer = mmap.mmap(-1, max(1, size))
        file = _DryFile(self, path, old)
        for start in range(0, min(old, size), _BLOCK):
            data = file.read(start, min(_BLOCK, min(old, size) - start))
            buffer[start : start + len(data)] = data
        self.put(path, buffer, size)

    def modified_ms(self, path: str) -> int:
        return self._real.modified_ms(path) if self._is_real(path) else 0

    def remove_file(self, path: str) -> None:
        self.written.pop(path, None)
        folder, name = os.path.split(path)
        self._children.get(folder, set()).discard(name)
        self._removed.add(path)

    def remove_folder(self, path: str, *, sync: bool = True) -> None:
        for name in list(self._children.get(path, ())):
            self.remove_folder(os.path.join(path, name))
        self.remove_file(path)

    def read_bytes(self, path: str) -> bytes | None:
        written = self.written.get(path)
        if written is not None:
            return written.buffer[: written.size]
        return None if self._is_removed(path) else self._real.read_bytes(path)

    def write_bytes(self, path: str, data: bytes) -> None:
        before = self.read_bytes(path) or b""
        whole = data + before[len(data) :]
        buffer = mmap.mmap(-1, max(1, len(whole)))
        buffer[: len(whole)] = whole
        self.put(path, buffer, len(whole))

    def append(self, path: str, data: bytes, offset: int) -> None:
        before = (self.read_bytes(path) or b"")[:offset]
        self.remove_file(path)
        self.write_bytes(path, before + data)

    def write_atomically(self, path: str, text: str) -> None:
        before = self.read_bytes(path)
        if before is not None:
            self.remove_file(path + ".bak")
            self.write_bytes(path + ".bak", before)
        self.remove_file(path)
        self.write_bytes(path, text.encode())

    async def read_text(self, path: str) -> str | None:
        data = self.read_bytes(path)
        return None if data is None else data.decode()

    async def write_text(self, path: str, text: str) -> None:
        self.write_atomically(path, text)

    def usage(self, path: str) -> DiskUsage:
        return self._real.usage(path)

    def memory_bytes(self) -> int:
        return self._real.memory_bytes()
