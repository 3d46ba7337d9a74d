"""A disk in memory: it can be full, fail, hold its background jobs back, and lose what was not synced."""

from __future__ import annotations

import mmap
import os.path
import random
from collections.abc import Collection

from pymq.disk import Deliver, DiskUsage, Done, FileLock, Job, MappedBuffer, MappedFile
from pymq.errors import StoreError, StoreFull, StoreLocked

PAGE = 4096


class Content:
    """What stands under a path: the current bytes, and those that are on the disk."""

    def __init__(self, size: int) -> None:
        self.buffer = mmap.mmap(-1, max(size, 1))
        self.size = size
        self.durable = bytes(size)
        self.entry_is_durable = False
        self.allocated: set[int] = set()

    def survive(self, luck: random.Random) -> Content:
        """What a power cut leaves: each page as it is, or as it was when last synced."""
        left = Content(self.size)
        left.entry_is_durable = True
        left.allocated = set(self.allocated)
        now = self.buffer[: self.size]
        for start in range(0, self.size, PAGE):
            page = slice(start, min(start + PAGE, self.size))
            old, new = self.durable[page], now[page]
            left.buffer[page] = new if old != new and luck.random() < 0.5 else old
        left.durable = left.buffer[: self.size]
        return left


class SimFile:
    """`MappedFile` of a `SimDisk`."""

    def __init__(self, disk: SimDisk, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.reserved = 0
        self._disk = disk

    @property
    def _content(self) -> Content:
        try:
            return self._disk.contents[self.path]
        except KeyError:
            raise StoreError(f"no file {self.path}") from None

    def create(self, *, sync_folder: bool) -> None:
        self._disk.maybe_fail("create")
        content = self._disk.contents.setdefault(self.path, Content(self.size))
        content.entry_is_durable |= sync_folder

    def hold(self) -> None:
        self._disk.held.add(self.path)

    def release(self) -> None:
        self._disk.held.discard(self.path)

    def map(self, *, readahead: bool) -> MappedBuffer:
        content = self._content
        if content.size != self.size:
            raise StoreError(f"{self.path} does not have {self.size} bytes")
        self._disk.mapped.add(self.path)
        return content.buffer

    def unmap(self) -> None:
        self._disk.mapped.discard(self.path)

    def reserve(self, end: int) -> None:
        if end <= self.reserved:
            return
        self._disk.maybe_fail("reserve")
        content = self._content
        for page in range(self.reserved // PAGE, -(-end // PAGE)):
            if page not in content.allocated:
                if self._disk.free < PAGE:
                    raise StoreFull(f"no room in {self.path}")
                content.allocated.add(page)
        self.reserved = end

    def read(self, offset: int, size: int) -> bytes:
        return self._content.buffer[offset : min(offset + size, self.size)]

    def zero_from(self, offset: int) -> None:
        content = self._content
        content.buffer[offset : self.size] = bytes(self.size - offset)

    def sync(self) -> None:
        self._disk.maybe_fail("sync")
        self._disk.syncs += 1
        content = self._disk.contents.get(self.path)
        if content is not None:
            content.durable = content.buffer[: content.size]
            content.entry_is_durable = True


class SimLock:
    """A lock that knows who holds it."""

    def __init__(self, disk: SimDisk, path: str) -> None:
        self._disk, self._path = disk, path

    def release(self) -> None:
        self._disk.locked.discard(self._path)


class SimDisk:
    """`Disk` in memory. Jobs run at once, unless `hold_jobs` is set: then `run_jobs` runs them."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.contents: dict[str, Content] = {}
        self.folders: set[str] = set()
        self.locked: set[str] = set()
        self.mapped: set[str] = set()
        self.held: set[str] = set()
        self.failing: dict[str, type[StoreError]] = {}
        """Action ("create", "reserve", "sync", "write") → the error it ends in."""
        self.synced_at_once: list[int] = []
        """How many files each `sync_many` was given."""
        self.syncs = 0
        """How many files were synced."""
        self.hold_jobs = False
        self.jobs: list[tuple[Job, Done]] = []

    # -- what tests do with it

    @property
    def free(self) -> int:
        """Bytes that are not taken."""
        return self.capacity - PAGE * sum(len(content.allocated) for content in self.contents.values())

    def run_jobs(self) -> None:
        """Run the jobs that are held back."""
        jobs, self.jobs = self.jobs, []
        for job, done in jobs:
            self._run(job, done)

    def crash(self, seed: int) -> SimDisk:
        """The disk after a power cut: of what was not synced, some pages and files are there."""
        luck = random.Random(seed)
        after = SimDisk(self.capacity)
        after.folders = set(self.folders)
        for path, content in self.contents.items():
            if content.entry_is_durable or luck.random() < 0.5:
                after.contents[path] = content.survive(luck)
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

    def make_folder(self, path: str) -> None:
        while path not in ("", "/"):
            self.folders.add(path)
            path = os.path.dirname(path)

    def sync_folder(self, path: str) -> None:
        for name, content in self.contents.items():
            if os.path.dirname(name) == path:
                content.entry_is_durable = True

    def exists(self, path: str) -> bool:
        return path in self.contents or path in self.folders

    def file_size(self, path: str) -> int:
        return self.contents[path].size

    def modified_ms(self, path: str) -> int:
        return 0

    def remove_file(self, path: str) -> None:
        self.contents.pop(path, None)

    def remove_folder(self, path: str) -> None:
        for name in [name for name in self.contents if name.startswith(path + "/")]:
            del self.contents[name]
        self.folders = {name for name in self.folders if name != path and not name.startswith(path + "/")}

    def read_bytes(self, path: str) -> bytes | None:
        content = self.contents.get(path)
        return None if content is None else content.buffer[: content.size]

    def write_bytes(self, path: str, data: bytes) -> None:
        self.maybe_fail("write")
        content = Content(len(data))
        content.buffer[: len(data)] = data
        content.durable, content.entry_is_durable = data, True
        self.contents[path] = content

    def write_atomically(self, path: str, text: str) -> None:
        old = self.contents.get(path)
        self.write_bytes(path, text.encode())
        if old is not None:
            self.contents[path + ".bak"] = old

    async def read_text(self, path: str) -> str | None:
        data = self.read_bytes(path)
        return None if data is None else data.decode()

    async def write_text(self, path: str, text: str) -> None:
        self.write_atomically(path, text)

    def usage(self, path: str) -> DiskUsage:
        return DiskUsage(self.capacity, self.capacity - self.free, self.free)

    def memory_bytes(self) -> int:
        return 1 << 30
