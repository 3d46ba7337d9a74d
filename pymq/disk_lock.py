"""The lock of a store's folder, which keeps two brokers from one store."""

from __future__ import annotations

import errno
import fcntl
import os

from pymq.errors import StoreLocked


class HeldLock:
    """An fcntl lock. It does not exclude its own process, so a set of paths does.

    Whoever opens and closes the file elsewhere in this process lets go of the lock: nobody may.
    """

    held: set[str] = set()  # noqa: RUF012 - one for the process, on purpose

    def __init__(self, path: str) -> None:
        """Lock byte 0 of the file, made if need be. StoreLocked when somebody holds it; OSError."""
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
        """As `FileLock.release`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self.held.discard(self._path)


def is_locked(path: str) -> bool:
    """Whether somebody holds the lock that `Disk.lock` takes; nothing is written, and it may be read-only."""
    if os.path.realpath(path) in HeldLock.held:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 0)
    except OSError as e:
        return e.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False
