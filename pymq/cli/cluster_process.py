"""A name server or broker as a process of its own: started, watched, stopped.

It leads its own process group, so that Ctrl-C in a terminal reaches the cluster's own process only, which
then stops all in order. Its standard input is a pipe that nobody writes to: when the cluster's process is
gone, however it went, the pipe ends, and the program stops by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pymq.cli.background import SHUTDOWN_TIMEOUT_S
from pymq.errors import PymqError

READY = re.compile(r"^pymq (?:namesrv|broker) is ready: (?:\S+ at )?([^\s,]+)", re.MULTILINE)
SAID_NO = re.compile(r"^pymq: (.+)$", re.MULTILINE)
POLL_S = 0.02
"""How often the log of a starting program is looked at."""
OUTPUT_MAX_BYTES = 256 << 10
"""So much of a log is looked through."""


class ClusterProcess:
    """One program of a cluster.

    Attributes:
        name: by which it is called in all that is shown.
        log_file: where its output goes, behind what is there and a line with its command.
        address: `host:port` that it told when it was ready; empty before.
        has_ended: it ran and does not any more.
        is_stopping: it was asked to end.
    """

    def __init__(self, name: str, arguments: Sequence[str], data: Path) -> None:
        """`arguments`: those of the command `pymq`."""
        self.name = name
        self.log_file = data / "logs" / f"{name}.log"
        self.address = ""
        self.is_stopping = False
        self._pid_file = data.absolute() / "run" / f"{name}.pid"
        self._arguments = [*arguments, "--pid-file", str(self._pid_file)]
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    async def start(self) -> None:
        """Start it and wait until it is ready, which may take as long as its store's recovery.

        Raises PymqError with what it said where it ends before.
        """
        log = self._open_log()
        try:
            # A user can start this one again by it.
            os.write(log, f"# {shlex.join(['pymq', *self._arguments])}\n".encode())
            self._log_start = os.fstat(log).st_size
            # -P: a folder `pymq` where the user works is no package of ours.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "pymq", *self._arguments, "--until-stdin-ends",
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(log)
        while (ready := READY.search(self._output())) is None:
            if await self._ended_within(POLL_S):
                raise PymqError(f"{self.name} did not start: {self.how_it_ended()}")
        self.address = ready[1]

    def _open_log(self) -> int:
        try:
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            self._pid_file.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise PymqError(f"cannot write the log {self.log_file}: {error.strerror or error}") from None

    @property
    def has_ended(self) -> bool:
        """Whether it ran and does not any more."""
        return self._process is not None and self._process.returncode is not None

    async def wait(self) -> None:
        """Return when it has ended."""
        assert self._process is not None
        await self._process.wait()

    def how_it_ended(self) -> str:
        """The no that it said last, or the signal or status by which it ended; and where its log is."""
        assert self._process is not None
        code = self._process.returncode or 0
        said = SAID_NO.findall(self._output())
        if code < 0:
            with contextlib.suppress(ValueError):  # a signal without a name
                return f"killed by {signal.Signals(-code).name} (log: {self.log_file})"
            return f"killed by signal {-code} (log: {self.log_file})"
        return f"{said[-1] if said else f'status {code}'} (log: {self.log_file})"

    async def stop(self) -> str:
        """Let it end by SIGTERM, in time or by SIGKILL. Gives what went wrong, else nothing."""
        self.is_stopping = True
        if self._process is None or self.has_ended:
            return ""
        try:
            self._signal(signal.SIGTERM)
            if await self._ended_within(SHUTDOWN_TIMEOUT_S):
                return f"{self.name}: {self.how_it_ended()}" if self._process.returncode else ""
            return f"{self.name} has not ended within {SHUTDOWN_TIMEOUT_S:g} s and was killed"
        finally:
            if not self.has_ended:
                self._signal(signal.SIGKILL)
                await self._process.wait()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _ended_within(self, seconds: float) -> bool:
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        return self.has_ended

    def _output(self) -> str:
        """What it has written since it was started, of much the end."""
        with open(self.log_file, "rb") as file:
            file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - OUTPUT_MAX_BYTES))
            return file.read().decode(errors="replace")
