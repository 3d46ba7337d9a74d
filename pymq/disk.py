"""Files, folders, mappings, and the two threads that flush and reserve: the disk as one small interface.

Errors of the disk (design.md §4): ENOSPC, EDQUOT and EFBIG are `StoreFull`, which passes; EIO, and any error
of a sync, are `StoreBroken`, after which nothing is sure to be on disk until a restart; else `StoreError`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import mmap
import os
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import aiofiles
import aiofiles.os
import msgspec

from pymq.errors import StoreBroken, StoreError, StoreFull, StoreLocked

MappedBuffer = mmap.mmap
"""What a mapped file is read from and written to, by slices. A slice read is a copy."""
Job = Callable[[], None]
Done = Callable[[StoreError | None], None]
"""Told how a job ended, in the owner's thread."""
Deliver = Callable[[Callable[[], None]], object]
"""Brings a call into the owner's thread, as `loop.call_soon_threadsafe` does."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_ZEROS = bytes(1 << 20)
_SYNC_ONE_BY_ONE = 64
"""Up to so many files are synced one by one: a whole file system may hold much that is not ours."""


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


class MappedFile(Protocol):
    """A file of a fixed size that is read and written through a mapping.

    The owner's thread maps and unmaps; `create`, `reserve` and `sync` may run in another thread meanwhile.
    """

    path: str
    size: int
    reserved: int
    """Writing below this position cannot meet a full disk. The owner sets it once, to the end of the data."""

    def create(self, *, sync_folder: bool) -> None:
        """Make the file, sparse, if it is not there. StoreFull, StoreBroken, StoreError."""
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

    def read(self, offset: int, size: int) -> bytes:
        """Read past the mapping, up to `size` bytes; fewer at the file's end. StoreError, StoreBroken.

        Where nothing was written yet this is the only safe way: a touch of a hole in a mapping takes a page
        on some file systems, and the disk may be full.
        """
        ...

    def zero_from(self, offset: int) -> None:
        """Overwrite with zeros all that is not zero from `offset` on. Only for a file that is not mapped."""
        ...

    def sync(self) -> None:
        """Bring the data (and a new file's folder entries) to the disk. StoreBroken.

        A file that was removed meanwhile needs no sync: no error.
        """
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

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        ...

    def sync_folder(self, path: str) -> None:
        """Bring a folder's entries to the disk. StoreBroken."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder."""
        ...

    def file_size(self, path: str) -> int:
        """Size in bytes. StoreError when there is no such file."""
        ...

    def modified_ms(self, path: str) -> int:
        """Time of the last change, ms since 1970. StoreError when there is no such file."""
        ...

    def remove_file(self, path: str) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all in it, and bring that to the disk; a missing one is fine."""
        ...

    def read_bytes(self, path: str) -> bytes | None:
        """A whole file, None when there is none."""
        ...

    def write_bytes(self, path: str, data: bytes) -> None:
        """Overwrite a small file in place and sync it and its folder."""
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


@contextlib.contextmanager
def _told(path: str, action: str, *, sync: bool = False) -> Iterator[None]:
    """Turn an OSError into the StoreError that it means."""
    try:
        yield
    except OSError as e:
        text = f"cannot {action} {path}: {e.strerror or e}"
        if sync or e.errno == errno.EIO:
            raise StoreBroken(text) from e
        raise (StoreFull if e.errno in _FULL else StoreError)(text) from e


def _sync_descriptor(descriptor: int) -> None:
    """fdatasync; on macOS, which has none and whose fsync stops at the drive's cache, F_FULLFSYNC."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    elif hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def _sync_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_systems(paths: Iterator[str]) -> bool:
    """Bring the whole file systems that hold these files to the disk; False where the system cannot."""
    import ctypes  # here, so that no start pays for it

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    path_by_device: dict[int, str] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path_by_device.setdefault(os.stat(path).st_dev, path)
    for path in path_by_device.values():
        with _told(path, "sync", sync=True):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if syncfs(descriptor):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(descriptor)
    return True


def _allocate(descriptor: int, offset: int, end: int) -> None:
    """posix_fallocate, or zeros written out where the system or the file system has none.

    Whole pages: the first touch of a page needs room for all of its blocks, which may be smaller than it.
    """
    if hasattr(os, "posix_fallocate"):
        start = offset // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            os.posix_fallocate(descriptor, start, end - start)
            return
        except OSError as e:
            if e.errno not in _NO_FALLOCATE:
                raise
    while offset < end:
        offset += os.pwrite(descriptor, _ZEROS[: end - offset], offset)


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
        with self._lock, _told(self.path, "create"):
            self._create(sync_folder)

    def _create(self, sync_folder: bool) -> None:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return
        try:
            os.ftruncate(descriptor, self.size)
            if sync_folder:
                _sync_folder(os.path.dirname(self.path))
        except OSError:
            os.unlink(self.path)  # a file of another size would stop the next start
            raise
        finally:
            os.close(descriptor)
        self._unsynced_folders = not sync_folder

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The held descriptor, or one for the moment."""
        if self._descriptor >= 0:
            yield self._descriptor
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def hold(self) -> None:
        if self._descriptor < 0:
            with _told(self.path, "open"):
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def release(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def map(self, *, readahead: bool) -> MappedBuffer:
        if self._buffer is None:
            with _told(self.path, "map"), self._opened() as descriptor:
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
            with _told(self.path, "reserve room in"), self._opened() as descriptor:
                _allocate(descriptor, self.reserved, end)
            self.reserved = end

    def read(self, offset: int, size: int) -> bytes:
        with _told(self.path, "read"), self._opened() as descriptor:
            if hasattr(os, "posix_fadvise"):  # no large folios: see `MappedFile.map`
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(descriptor, size, offset)

    def zero_from(self, offset: int) -> None:
        with _told(self.path, "clear the end of"), self._opened() as descriptor:
            for start, end in self._data_extents(descriptor, offset):
                for at in range(start, end, len(_ZEROS)):
                    chunk = os.pread(descriptor, min(len(_ZEROS), end - at), at)
                    if chunk != _ZEROS[: len(chunk)]:
                        os.pwrite(descriptor, _ZEROS[: len(chunk)], at)

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
        with _told(self.path, "sync", sync=True):
            try:
                with self._opened() as descriptor:
                    _sync_descriptor(descriptor)
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
            _sync_folder(folder)


class _HeldLock:
    """An fcntl lock. It does not exclude its own process, so a set of paths does.

    Whoever opens and closes the file elsewhere in this process lets go of the lock: nobody may.
    """

    held: set[str] = set()  # noqa: RUF012 - one for the process, on purpose

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path)
        if self._path in self.held:
            raise StoreLocked(f"the store folder {os.path.dirname(path)} is in use by this very process")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
            os.pwrite(self._descriptor, b"lock", 0)
        except OSError as e:
            os.close(self._descriptor)
            if e.errno in (errno.EACCES, errno.EAGAIN):
                folder = os.path.dirname(path)
                raise StoreLocked(f"the store folder {folder} is in use by another process") from None
            raise
        self.held.add(self._path)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.held.discard(self._path)


class _Worker:
    """A thread that does jobs one by one, urgent ones first."""

    def __init__(self, name: str, deliver: Deliver) -> None:
        self._jobs: queue.PriorityQueue[tuple[int, int, Job | None, Done | None]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job, done: Done, urgent: bool) -> None:
        self._jobs.put((0 if urgent else 1, next(self._count), job, done))

    def drain(self) -> None:
        done = threading.Event()
        self._jobs.put((1, next(self._count), done.set, None))
        done.wait()

    def stop(self) -> None:
        self._jobs.put((2, next(self._count), None, None))
        self._thread.join()

    def _run(self) -> None:
        while True:
            _, _, job, done = self._jobs.get()
            if job is None:
                return
            error = _outcome(job)
            if done is None:
                continue
            with contextlib.suppress(RuntimeError):  # the owner's loop is closed: nobody waits for it
                self._deliver(functools.partial(done, error))


def _outcome(job: Job) -> StoreError | None:
    """Run a job; an error that it does not know is as bad as a broken disk."""
    try:
        job()
    except StoreError as e:
        return e
    except Exception as e:
        return StoreBroken(f"a background job of the disk failed: {e!r}")
    return None


class SystemDisk:
    """`Disk` on the real disk."""

    def __init__(self) -> None:
        self._flusher: _Worker | None = None
        self._reserver: _Worker | None = None
        self._numbers = itertools.count()

    def start(self, deliver: Deliver) -> None:
        self._flusher = _Worker("pymq-flush", deliver)
        self._reserver = _Worker("pymq-reserve", deliver)

    def stop(self) -> None:
        for worker in (self._flusher, self._reserver):
            if worker is not None:
                worker.stop()
        self._flusher = self._reserver = None

    def drain(self) -> None:
        for worker in (self._flusher, self._reserver):
            if worker is not None:
                worker.drain()

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        if self._flusher is None:
            done(_outcome(job))
        else:
            self._flusher.submit(job, done, urgent)

    def reserve_soon(self, job: Job, done: Done) -> None:
        if self._reserver is None:
            done(_outcome(job))
        else:
            self._reserver.submit(job, done, False)

    def file(self, path: str, size: int) -> MappedFile:
        return SystemFile(path, size)

    def sync_many(self, files: Collection[MappedFile]) -> None:
        if len(files) <= _SYNC_ONE_BY_ONE or not _sync_file_systems(file.path for file in files):
            for file in files:
                file.sync()

    def lock(self, path: str) -> FileLock:
        with _told(path, "lock"):
            return _HeldLock(path)

    def list_folder(self, path: str) -> list[str]:
        try:
            with _told(path, "list"):
                return sorted(os.listdir(path))
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError | NotADirectoryError):
                return []
            raise

    def make_folder(self, path: str) -> None:
        with _told(path, "make the folder"):
            os.makedirs(path, exist_ok=True)

    def sync_folder(self, path: str) -> None:
        with _told(path, "sync", sync=True):
            _sync_folder(path)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def file_size(self, path: str) -> int:
        with _told(path, "look at"):
            return os.stat(path).st_size

    def modified_ms(self, path: str) -> int:
        with _told(path, "look at"):
            return os.stat(path).st_mtime_ns // 1_000_000

    def remove_file(self, path: str) -> None:
        with _told(path, "remove"), contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def remove_folder(self, path: str) -> None:
        with _told(path, "remove"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
            _sync_folder(os.path.dirname(path))

    def read_bytes(self, path: str) -> bytes | None:
        try:
            with _told(path, "read"), open(path, "rb") as file:
                return file.read()
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None
            raise

    def write_bytes(self, path: str, data: bytes) -> None:
        with _told(path, "write"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(descriptor, data, 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            _sync_folder(os.path.dirname(path))

    def write_atomically(self, path: str, text: str) -> None:
        with _told(path, "write"), self._temporary(path) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _replace(temporary, path)

    async def read_text(self, path: str) -> str | None:
        try:
            with _told(path, "read"):
                async with aiofiles.open(path, encoding="utf-8") as file:
                    return await file.read()
        except StoreError as e:
            if isinstance(e.__cause__, FileNotFoundError):
                return None
            raise

    async def write_text(self, path: str, text: str) -> None:
        with _told(path, "write"), self._temporary(path) as temporary:
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
        with _told(path, "look at the disk of"):
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
    _sync_folder(os.path.dirname(path))


_fsync_off_loop = aiofiles.os.wrap(os.fsync)
_replace_off_loop = aiofiles.os.wrap(_replace)
