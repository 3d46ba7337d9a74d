"""The real disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Collection, Iterator

import aiofiles
import aiofiles.os

from pymq.disk import Deliver, DiskUsage, Done, FileLock, HeldFolder, Job, MappedFile
from pymq.disk_calls import Told, sync_descriptor, sync_entries, sync_file_systems
from pymq.disk_files import SystemFile, SystemFolder
from pymq.disk_lock import HeldLock
from pymq.disk_threads import Worker, outcome
from pymq.errors import StoreError

_FETCHERS = 4
"""Threads that wait for data from the disk: as many reads are under way at once."""
_SYNC_ONE_BY_ONE = 64
"""Up to so many files are synced one by one: a whole file system may hold much that is not ours."""


class SystemDisk:
    """`Disk` on the real disk."""

    def __init__(self) -> None:
        self._flusher: Worker | None = None
        self._reserver: Worker | None = None
        self._deleter: Worker | None = None
        self._fetchers: Worker | None = None
        self._deliver: Deliver | None = None
        self._numbers = itertools.count()

    def start(self, deliver: Deliver) -> None:
        self._flusher = Worker("pymq-flush", deliver)
        self._reserver = Worker("pymq-reserve", deliver)
        self._deliver = deliver

    def stop(self) -> None:
        self._deliver = None
        for worker in (self._flusher, self._reserver, self._deleter, self._fetchers):
            if worker is not None:
                worker.stop()
        self._flusher = self._reserver = self._deleter = self._fetchers = None

    def drain(self) -> None:
        for worker in (self._flusher, self._reserver, self._deleter):
            if worker is not None:
                worker.drain()

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        if self._flusher is None:
            done(outcome(job))
        else:
            self._flusher.submit(job, done, urgent)

    def reserve_soon(self, job: Job, done: Done) -> None:
        if self._reserver is None:
            done(outcome(job))
        else:
            self._reserver.submit(job, done, False)

    def delete_soon(self, job: Job, done: Done) -> None:
        if self._deleter is None and self._deliver is not None:
            self._deleter = Worker("pymq-delete", self._deliver)
        if self._deleter is None:
            done(outcome(job))
        else:
            self._deleter.submit(job, done, False)

    def fetch_soon(self, job: Job, done: Done) -> None:
        if self._fetchers is None and self._deliver is not None:
            self._fetchers = Worker("pymq-fetch", self._deliver, _FETCHERS)
        if self._fetchers is None:
            done(outcome(job))
        else:
            self._fetchers.submit(job, done, False)

    def file(self, path: str, size: int) -> MappedFile:
        return SystemFile(path, size)

    def sync_many(self, files: Collection[MappedFile]) -> None:
        if len(files) <= _SYNC_ONE_BY_ONE or not sync_file_systems(file.path for file in files):
            for file in files:
                file.sync()

    def lock(self, path: str) -> FileLock:
        with Told(path, "lock"):
            return HeldLock(path)

    def list_folder(self, path: str) -> list[str]:
        try:
            with Told(path, "list"):
                return sorted(os.listdir(path))
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError | NotADirectoryError):
                return []
            raise

    def make_folder(self, path: str, *, sync: bool = False) -> None:
        with Told(path, "make the folder"):
            os.makedirs(path, exist_ok=True)
        # All above it, new or not: a process that was killed here before may have made them and no more.
        while sync and not os.path.ismount(path):
            path = os.path.dirname(path)
            with Told(path, "sync", sync=True), contextlib.suppress(PermissionError):
                sync_entries(path)

    def sync_folder(self, path: str) -> None:
        with Told(path, "sync", sync=True), contextlib.suppress(FileNotFoundError):
            sync_entries(path)

    def sync_folders(self, paths: Collection[str]) -> None:
        if len(paths) <= _SYNC_ONE_BY_ONE or not sync_file_systems(iter(paths)):
            for path in paths:
                self.sync_folder(path)

    def hold_folder(self, path: str) -> HeldFolder:
        return SystemFolder(path)

    def rename_folder(self, path: str, new_path: str) -> None:
        with Told(path, "rename"):
            os.rename(path, new_path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def file_size(self, path: str) -> int:
        with Told(path, "look at"):
            return os.stat(path).st_size

    def resize_file(self, path: str, size: int) -> None:
        with Told(path, "resize"):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.ftruncate(descriptor, size)
                with Told(path, "sync", sync=True):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def modified_ms(self, path: str) -> int:
        with Told(path, "look at"):
            return os.stat(path).st_mtime_ns // 1_000_000

    def remove_file(self, path: str) -> None:
        with Told(path, "remove"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: str, *, sync: bool = True) -> None:
        with Told(path, "remove"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
            if sync:
                sync_entries(os.path.dirname(path))

    def read_bytes(self, path: str) -> bytes | None:
        try:
            with Told(path, "read"), open(path, "rb") as file:
                return file.read()
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None
            raise

    def write_bytes(self, path: str, data: bytes) -> None:
        with Told(path, "write"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(descriptor, data, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            sync_entries(os.path.dirname(path))

    def append(self, path: str, data: bytes, offset: int) -> None:
        with Told(path, "write"):
            flags = os.O_WRONLY | os.O_CLOEXEC
            if offset == 0:
                flags |= os.O_CREAT | os.O_EXCL
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            descriptor = os.open(path, flags, 0o644)
            try:
                at = 0
                while at < len(data):  # a full disk takes a part first
                    at += os.pwrite(descriptor, data[at:], offset + at)
                with Told(path, "sync", sync=True):
                    sync_descriptor(descriptor)
            finally:
                os.close(descriptor)
            if offset == 0:
                with Told(path, "sync", sync=True):
                    sync_entries(os.path.dirname(path))

    def write_atomically(self, path: str, text: str) -> None:
        with Told(path, "write"), self._temporary(path) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _replace(temporary, path)

    async def read_text(self, path: str) -> str | None:
        try:
            with Told(path, "read"):
                async with aiofiles.open(path, encoding="utf-8") as file:
                    return await file.read()
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None
            raise

    async def write_text(self, path: str, text: str) -> None:
        with Told(path, "write"), self._temporary(path) as temporary:
            async with aiofiles.open(temporary, "w", encoding="utf-8") as file:
                await file.write(text)
                await file.flush()
                await _fsync_off_loop(file.fileno())
            await _replace_off_loop(temporary, path)

    @contextlib.contextmanager
    def _temporary(self, path: str) -> Iterator[str]:
        """The name of a file to write first, gone when that fails."""
        temporary = f"{path}.{next(self._numbers)}.tmp"
        try:
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def usage(self, path: str) -> DiskUsage:
        while not os.path.exists(path) and path != os.path.dirname(path):
            path = os.path.dirname(path)
        with Told(path, "look at the disk of"):
            stat = os.statvfs(path)
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        return DiskUsage(stat.f_blocks * stat.f_frsize, used, stat.f_bavail * stat.f_frsize)

    def memory_bytes(self) -> int:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _replace(temporary: str, path: str) -> None:
    """Put the new file in the place of the old, which goes on as `.bak`; no moment is without a file."""
    backup = path + ".bak"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(backup)
    with contextlib.suppress(FileNotFoundError):
        try:
            os.link(path, backup)
        except PermissionError:  # a file system without links
            shutil.copyfile(path, backup)
    os.replace(temporary, path)
    sync_entries(os.path.dirname(path))


_fsync_off_loop = aiofiles.os.wrap(os.fsync)
_replace_off_loop = aiofiles.os.wrap(_replace)
