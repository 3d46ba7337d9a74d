"""The system's calls that files and folders share: what their errors mean, syncs, and room on the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator

from pymq.errors import StoreBroken, StoreError, StoreFull

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
ZEROS = bytes(1 << 20)


class Told:
    """Turns an OSError within it into the StoreError that it means.

    No generator: opening a store with many queues comes by here ten times for each.
    """

    __slots__ = ("_action", "_path", "_sync")

    def __init__(self, path: str, action: str, *, sync: bool = False) -> None:
        """The error will say "cannot `action` `path`"; those of a `sync` are all StoreBroken."""
        self._path, self._action, self._sync = path, action, sync

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raise StoreFull, StoreBroken or StoreError for an OSError; others pass."""
        if not isinstance(error, OSError):
            return
        text = f"cannot {self._action} {self._path}: {error.strerror or error}"
        if self._sync or error.errno == errno.EIO:
            raise StoreBroken(text) from error
        raise (StoreFull if error.errno in _FULL else StoreError)(text) from error


def sync_descriptor(descriptor: int) -> None:
    """fdatasync; on macOS, which has none and whose fsync stops at the drive's cache, F_FULLFSYNC.

    OSError.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    elif hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_entries(path: str) -> None:
    """Bring a folder's entries to the disk. OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_systems(paths: Iterator[str]) -> bool:
    """Bring the whole file systems that hold these files to the disk; False where the system cannot.

    StoreBroken.
    """
    import ctypes  # here, so that no start pays for it

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    path_by_device: dict[int, str] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            path_by_device.setdefault(os.stat(path).st_dev, path)
    for path in path_by_device.values():
        with Told(path, "sync", sync=True):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if syncfs(descriptor):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(descriptor)
    return True


def allocate(descriptor: int, offset: int, end: int) -> None:
    """posix_fallocate, or zeros written out where the system or the file system has none. OSError.

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
        offset += os.pwrite(descriptor, ZEROS[: end - offset], offset)
