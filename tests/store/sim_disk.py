"""A disk in memory: it can be full, fail, hold its background jobs back, and lose what was not synced."""

from __future__ import annotations

import itertools
import os.path
import random
from collections.abc import Callable, Collection
from typing import Self

from pymq.disk import (
    Deliver,
    DiskUsage,
    Done,
    FileLock,
    FileWriter,
    HeldFolder,
    Job,
    MappedBuffer,
    MappedFile,
)
from pymq.errors import StoreError, StoreFull, StoreLocked
from tests.store.sim_files import PAGE, Content, Folder, Names


class SimFile:
    """`MappedFile` of a `SimDisk`. What it holds open or mapped stays that file when the name goes."""

    def __init__(self, disk: SimDisk, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.reserved = 0
        self._disk = disk
        self._unsynced_folders = False
        self._held: Content | None = None
        self._mapped: Content | None = None

    @property
    def _content(self) -> Content:
        content = self._held or self._disk.contents.get(self.path)
        if content is None:
            raise StoreError(f"no file {self.path}")
        return content

    def create(self, *, sync_folder: bool) -> None:
        self._disk.maybe_fail("create")
        if self._disk.exists(self.path):
            return
        content = self._disk.make_file(self.path)
        self._disk.effect("truncate", self.path)
        content.resize(self.size)
        if sync_folder:
            self._disk.effect("sync", self.path)
            content.sync()
            self._disk.sync_folder(os.path.dirname(self.path))
        self._unsynced_folders = not sync_folder

    def hold(self) -> None:
        self._held = self._content
        self._disk.held.add(self.path)

    def release(self) -> None:
        self._held = None
        self._disk.held.discard(self.path)

    def map(self, *, readahead: bool) -> MappedBuffer:
        if self._mapped is None:
            content = self._content
            if content.size != self.size:
                raise StoreError(f"{self.path} does not have {self.size} bytes")
            self._mapped = content
            content.buffer.before_write = self._disk.before_write
            self._disk.mapped.add(self.path)
        return self._mapped.buffer

    def unmap(self) -> None:
        self._mapped = None
        self._disk.mapped.discard(self.path)

    def reserve(self, end: int) -> None:
        if end <= self.reserved:
            return
        self.reserve_range(self.reserved, end)
        self.reserved = end

    def reserve_range(self, start: int, end: int) -> None:
        self._disk.effect("reserve", self.path)
        self._disk.maybe_fail("reserve")
        content = self._content
        for page in range(start // PAGE, -(-end // PAGE)):
            if page not in content.allocated:
                if self._disk.free < PAGE:
                    raise StoreFull(f"no room in {self.path}")
                content.allocated.add(page)

    def read(self, offset: int, size: int) -> bytes:
        content = self._content
        return content.buffer[offset : min(offset + size, content.size)]

    def writer(self) -> FileWriter:
        return SimWriter(self._disk, self._content)

    def fetch(self, offset: int, size: int) -> bytes:
        self._disk.maybe_fail("fetch")
        if self.path not in self._disk.contents:
            raise StoreError(f"no file {self.path}")
        self._disk.fetched += size
        return self.read(offset, size)

    def zero_from(self, offset: int) -> bool:
        content = self._content
        if not content.buffer[offset : content.size].strip(b"\0"):
            return False
        self._disk.effect("write", self.path)
        content.buffer[offset : content.size] = bytes(content.size - offset)
        return True

    def sync(self) -> None:
        self._disk.maybe_fail("sync")
        self._disk.syncs += 1
        content = self._held or self._disk.contents.get(self.path)
        if content is None:
            return
        self._disk.effect("sync", self.path)
        content.sync()
        if self._unsynced_folders:
            self._unsynced_folders = False
            folder = self.path
            for _ in range(3):
                folder = os.path.dirname(folder)
                self._disk.sync_folder(folder)


class SimWriter:
    """`FileWriter` of a `SimDisk`. Like a store to a mapping, a write may be the last thing that happens."""

    def __init__(self, disk: SimDisk, content: Content) -> None:
        self._disk, self._content = disk, content
        self._disk.writers += 1
        self._is_open = True

    def write(self, offset: int, data: bytes) -> None:
        assert self._is_open
        self._disk.maybe_fail("pwrite")
        self._content.buffer.before_write = self._disk.before_write
        self._content.buffer[offset : offset + len(data)] = data

    def close(self) -> None:
        self._disk.writers -= self._is_open
        self._is_open = False


class SimFolder:
    """A folder that is found by what it is, not by its name."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        if path not in disk.folders:
            raise StoreError(f"no folder {path}")
        self._disk, self._folder = disk, disk.folders[path]
        disk.held_folders += 1

    @property
    def _path(self) -> str | None:
        return next((path for path, folder in self._disk.folders.items() if folder is self._folder), None)

    def remove(self, name: str) -> None:
        if self._path is not None:
            self._disk.remove_file(f"{self._path}/{name}")

    def sync(self) -> None:
        if self._path is not None:
            self._disk.sync_folder(self._path)

    def release(self) -> None:
        self._disk.held_folders -= 1


class SimLock:
    """A lock that knows who holds it."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk, self._path = disk, path

    def release(self) -> None:
        self._disk.locked.discard(self._path)


class SimDisk:
    """`Disk` in memory. Jobs run at once, unless `hold_jobs` is set: then `run_jobs` runs them.

    What is on the disk follows `SystemDisk` step by step (tests/store/test_sim_disk.py).
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.names = Names()
        self.locked: set[str] = set()
        self.mapped: set[str] = set()
        self.held: set[str] = set()
        self.held_folders = 0
        self.writers = 0
        """How many files are open for writes past their mappings."""
        self.failing: dict[str, type[StoreError]] = {}
        """Action ("create", "reserve", "sync", "write", "remove", "fetch") → the error it ends in."""
        self.before: Callable[[str, str], None] | None = None
        """Called with action and path before each step that changes something: may raise `PowerCut`."""
        self.before_write: Callable[[], None] | None = None
        """Called before each slice that is written to a mapping made from now on: may raise `PowerCut`."""
        self.synced_at_once: list[int] = []
        """How many files each `sync_many` was given."""
        self.syncs = 0
        """How many files were synced."""
        self.fetched = 0
        """Bytes read past the mappings of complete files."""
        self.modified: dict[str, int] = {}
        """Path → time of the last change, ms since 1970; 0 where none is set."""
        self.hold_jobs = False
        self.jobs: list[tuple[Job, Done]] = []
        self._numbers = itertools.count()

    # -- what tests do with it

    @property
    def contents(self) -> dict[str, Content]:
        """The files by their paths."""
        return self.names.contents

    @property
    def folders(self) -> dict[str, Folder]:
        """The folders by their paths."""
        return self.names.folders

    @property
    def free(self) -> int:
        """Bytes that are not taken."""
        return self.capacity - PAGE * sum(len(content.allocated) for content in self.contents.values())

    def run_jobs(self) -> None:
        """Run the jobs that are held back."""
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            self._run(job, done)

    def crash(self, seed: int) -> Self:
        """The disk after a power cut: of what was not synced, some is there."""
        after = type(self)(self.capacity)
        after.names = self.names.survive(random.Random(seed))
        after.modified = dict(self.modified)
        return after

    def kill(self) -> Self:
        """The disk after the process was killed: all that was written is there, but not synced."""
        after = type(self)(self.capacity)
        after.names = self.names
        after.modified = self.modified
        return after

    def assert_all_written_was_reserved(self) -> None:
        """No page holds data without being reserved: its first touch could kill the process."""
        for path, content in self.contents.items():
            if path.rpartition("/")[2].isdecimal():
                for start in range(0, content.size, PAGE):
                    if content.buffer[start : min(start + PAGE, content.size)].strip(b"\0"):
                        assert start // PAGE in content.allocated, (path, start)

    def maybe_fail(self, action: str) -> None:
        """Raise what `failing` says."""
        error = self.failing.get(action)
        if error is not None:
            raise error(f"injected failure of {action}")

    def effect(self, action: str, path: str) -> None:
        """A step that changes something is about to be made."""
        if self.before is not None:
            self.before(action, path)

    def make_file(self, path: str) -> Content:
        """Make an empty file."""
        self.effect("create", path)
        content = Content()
        self.names.set(path, content)
        return content

    # -- Disk

    def start(self, deliver: Deliver) -> None:
        pass

    def stop(self) -> None:
        self.run_jobs()

    def drain(self) -> None:
        self.run_jobs()

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        self._take(job, done)

    def reserve_soon(self, job: Job, done: Done) -> None:
        self._take(job, done)

    def delete_soon(self, job: Job, done: Done) -> None:
        self._take(job, done)

    def fetch_soon(self, job: Job, done: Done) -> None:
        self._take(job, done)

    def _take(self, job: Job, done: Done) -> None:
        if self.hold_jobs:
            self.jobs.append((job, done))
        else:
            self._run(job, done)

    def _run(self, job: Job, done: Done) -> None:
        try:
            job()
        except StoreError as e:
            done(e)
        else:
            done(None)

    def file(self, path: str, size: int) -> MappedFile:
        return SimFile(self, path, size)

    def sync_many(self, files: Collection[MappedFile]) -> None:
        self.synced_at_once.append(len(files))
        for file in files:
            file.sync()

    def lock(self, path: str) -> FileLock:
        if path in self.locked:
            raise StoreLocked(f"{path} is locked")
        self.locked.add(path)
        return SimLock(self, path)

    def list_folder(self, path: str) -> list[str]:
        prefix = path + "/"
        names = [name for name in (*self.contents, *self.folders) if name.startswith(prefix)]
        return sorted({name[len(prefix) :].partition("/")[0] for name in names})

    def make_folder(self, path: str, *, sync: bool = False) -> None:
        folders = [path]
        while (above := os.path.dirname(folders[-1])) not in ("", "/"):
            folders.append(above)
        for folder in reversed(folders):
            if folder not in self.folders:
                self.effect("make folder", folder)
                self.names.set(folder, Folder())
        for folder in folders if sync else ():
            self.sync_folder(os.path.dirname(folder))

    def sync_folder(self, path: str) -> None:
        self.effect("sync folder", path)
        self.names.sync_folder(path)

    def sync_folders(self, paths: Collection[str]) -> None:
        for path in paths:
            self.sync_folder(path)

    def hold_folder(self, path: str) -> HeldFolder:
        return SimFolder(self, path)

    def rename_folder(self, path: str, new_path: str) -> None:
        self.maybe_fail("rename")
        above = os.path.dirname(new_path)
        if path not in self.folders or above not in self.folders or self.exists(new_path):
            raise StoreError(f"cannot rename {path} to {new_path}")
        self.effect("rename", path)
        self.names.move(path, new_path)

    def exists(self, path: str) -> bool:
        return path in self.contents or path in self.folders

    def file_size(self, path: str) -> int:
        if path not in self.contents:
            raise StoreError(f"no file {path}")
        return self.contents[path].size

    def resize_file(self, path: str, size: int) -> None:
        if path not in self.contents:
            raise StoreError(f"no file {path}")
        self.effect("truncate", path)
        self.contents[path].resize(size)
        self.effect("sync", path)
        self.contents[path].sync()

    def modified_ms(self, path: str) -> int:
        if path not in self.contents:
            raise StoreError(f"no file {path}")
        return self.modified.get(path, 1 << 60)

    def remove_file(self, path: str) -> None:
        self.maybe_fail("remove")
        if path in self.contents:
            self._unlink(path)

    def _unlink(self, path: str) -> None:
        self.effect("remove", path)
        self.names.set(path, None)

    def remove_folder(self, path: str, *, sync: bool = True) -> None:
        if path not in self.folders and not self.names.below(path):
            return
        self.maybe_fail("remove folder")
        for name in self.names.below(path):
            self._unlink(name)
        if path in self.folders:
            self._unlink(path)
        if sync:
            self.sync_folder(os.path.dirname(path))

    def read_bytes(self, path: str) -> bytes | None:
        content = self.contents.get(path)
        return None if content is None else content.data()

    def write_bytes(self, path: str, data: bytes) -> None:
        self.maybe_fail("write")
        self._write(self.contents.get(path) or self.make_file(path), path, data)
        self.sync_folder(os.path.dirname(path))

    def _write(self, content: Content, path: str, data: bytes) -> None:
        """Write from the beginning, and sync."""
        self.effect("write", path)
        if len(data) > content.size:
            content.resize(len(data))
        content.buffer[: len(data)] = data
        self.effect("sync", path)
        content.sync()

    def append(self, path: str, data: bytes, offset: int) -> None:
        self.maybe_fail("write")
        if offset == 0:
            if path in self.contents:
                self._unlink(path)
            content = self.make_file(path)
        elif path in self.contents:
            content = self.contents[path]
        else:
            raise StoreError(f"no file {path}")
        self.effect("write", path)
        content.resize(max(content.size, offset + len(data)))
        content.buffer[offset : offset + len(data)] = data
        self.effect("sync", path)
        content.sync()
        if offset == 0:
            self.sync_folder(os.path.dirname(path))

    def write_atomically(self, path: str, text: str) -> None:
        self.maybe_fail("write")
        temporary, backup = f"{path}.{next(self._numbers)}.tmp", path + ".bak"
        content = self.make_file(temporary)
        self._write(content, temporary, text.encode())
        if backup in self.contents:
            self._unlink(backup)
        if path in self.contents:
            self.effect("link", backup)
            self.names.set(backup, self.contents[path])
        self.effect("rename", path)
        self.names.set(temporary, None)
        self.names.set(path, content)
        self.sync_folder(os.path.dirname(path))

    async def read_text(self, path: str) -> str | None:
        data = self.read_bytes(path)
        return None if data is None else data.decode()

    async def write_text(self, path: str, text: str) -> None:
        self.write_atomically(path, text)

    def usage(self, path: str) -> DiskUsage:
        return DiskUsage(self.capacity, self.capacity - self.free, self.free)

    def memory_bytes(self) -> int:
        return 1 << 30
