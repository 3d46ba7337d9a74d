"""Running in the background: detaching from the terminal, pid files, and stopping by them.

A pid file is locked as long as its process lives, so a number that some other process got meanwhile is never
mistaken for ours.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pymq.errors import PymqError

READY, FAILED = b"+", b"-"
SHUTDOWN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Background:
    """How a program runs: the options `--daemon`, `--pid-file` and `--log-file`.

    `until_stdin_ends`: the program stops, too, when its standard input ends, a pipe that its parent holds.
    """

    daemon: bool = False
    pid_file: Path | None = None
    log_file: Path | None = None
    until_stdin_ends: bool = False


def state_folder(name: str) -> Path:
    """Give `~/.pymq/NAME`, made where it is missing. Raises PymqError."""
    folder = Path.home() / ".pymq" / name
    with _attempting("make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _attempting(what: str, path: Path) -> Iterator[None]:
    """Say what was attempted when the system does not let it be done."""
    try:
        yield
    except OSError as error:
        raise PymqError(f"cannot {what} {path}: {error.strerror or error}") from error


class PidFile:
    """This process's pid file, locked until the process ends."""

    def __init__(self, path: Path) -> None:
        """Write and lock it. Raises PymqError when another process holds it, or it cannot be written."""
        self._path = path
        with _attempting("write the pid file", path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not _lock(self._file):
            os.close(self._file)
            raise PymqError(f"another process holds the pid file {path}")
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def remove(self) -> None:
        """Take the file away. The lock stays: who waits for it waits for the end of the process."""
        self._path.unlink(missing_ok=True)


def detach(log_file: Path) -> Callable[[bool, str], None]:
    """Go on in a child process without a terminal, its output in `log_file`.

    Returns in the child only, and gives it the function by which it tells its parent whether it is ready,
    and a line; later calls do nothing. The parent waits for that, prints the line and exits, with status 1
    where the child failed. To be called before there is an event loop or a thread. Raises PymqError.
    """
    if not hasattr(os, "fork"):
        raise PymqError("--daemon needs a system with fork: run pymq as a service here")
    with _attempting("make the log file's folder", log_file.parent):
        log_file.parent.mkdir(parents=True, exist_ok=True)
    with _attempting("write the log file", log_file):
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    heard, told = os.pipe()
    sys.stdout.flush()
    if pid := os.fork():
        os.close(told)
        _wait_for_child(heard, pid, log_file)
    os.close(heard)
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)

    untold = [told]

    def tell(ready: bool, line: str) -> None:
        while untold:  # only once: later the number may be another file's
            end = untold.pop()
            with contextlib.suppress(BrokenPipeError):  # the parent was interrupted
                os.write(end, (READY if ready else FAILED) + line.encode())
            os.close(end)

    return tell


def _wait_for_child(heard: int, pid: int, log_file: Path) -> None:
    with open(heard, "rb") as pipe:
        answer = pipe.read()
    line = answer[1:].decode() or "ended before it was ready"
    if answer[:1] != READY:
        print(f"pymq: {line} (log: {log_file})", file=sys.stderr)
        sys.exit(1)
    print(f"{line} (pid {pid}, log: {log_file})")
    sys.exit(0)


def shut_down(program: str, pid_file: Path | None = None) -> Iterator[str]:
    """Stop the processes of a program by their pid files and wait for their end; one line for each.

    Raises PymqError when there is none, and when one does not end in time.
    """
    files = [pid_file] if pid_file else sorted(state_folder("run").glob(f"{program}-*.pid"))
    ended = 0
    for path in files:
        if (pid := _stop(path)) is not None:
            ended += 1
            yield f"{path.stem} (pid {pid}) has ended"
    if not ended:
        looked = pid_file or state_folder("run") / f"{program}-*.pid"
        raise PymqError(f"no {program} is running (looked for {looked})")


def _stop(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        if _lock(file):  # its process has ended without taking the file away
            path.unlink(missing_ok=True)
            return None
        text = os.read(file, 32).strip()
        if not text.isdigit():
            raise PymqError(f"the pid file {path} holds no process id")
        os.kill(int(text), signal.SIGTERM)
        _wait_for_end(file, path, int(text))
        return int(text)
    finally:
        os.close(file)


def _wait_for_end(file: int, path: Path, pid: int) -> None:
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
    while not _lock(file):
        if time.monotonic() > deadline:
            raise PymqError(f"{path.stem} (pid {pid}) has not ended within {SHUTDOWN_TIMEOUT_S:g} s")
        time.sleep(0.02)


def _lock(file: int) -> bool:
    """Try to lock an open file: False where another process holds it."""
    try:
        import fcntl
    except ImportError:
        raise PymqError("pid files need a system with flock: stop pymq as a service here") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
