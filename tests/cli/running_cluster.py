"""A `pymq cluster up` of its own for a test: its folders, its ports unless the test wants certain ones."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cli.running import environment

READY = re.compile(r"pymq cluster (\S+) is ready: (\d) brokers?, name servers (\S+), data in (\S+)")
DEADLINE_S = 60


class Cluster:
    """A running one."""

    def __init__(self, command: Sequence[str], home: Path, process: subprocess.Popen[str]) -> None:
        self.command = command
        self.home = home
        self.process = process
        self.seen: list[str] = []
        self.namesrv = ""
        self.data = home

    def wait_ready(self) -> None:
        """Read on until it says that it is ready."""
        ready = READY.search(self.until(READY.pattern))
        assert ready is not None
        self.namesrv, self.data = ready[3], self.home / ready[4]

    def until(self, pattern: str) -> str:
        """Read on until a line matches, and give it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line like {pattern}:\n" + "".join(self.seen))

    def until_copying(self, *slaves: str) -> None:
        """Read on until these slaves are shown, and none as one that does not copy."""

        def copies(name: str) -> bool:
            shown = [line for line in self.seen if line.startswith(f"{name}: SLAVE at ")]
            return bool(shown) and "not copying" not in shown[-1]

        while not all(map(copies, slaves)):
            self.until(": SLAVE at ")

    def pids(self) -> dict[str, int]:
        """The processes by name."""
        return {path.stem: int(path.read_text()) for path in sorted((self.data / "run").glob("*.pid"))}

    def log(self, name: str) -> str:
        """What one of its processes has written."""
        return (self.data / "logs" / f"{name}.log").read_text()

    def pymq(self, *arguments: str) -> str:
        """Run a command against it and give what it printed. Raises CalledProcessError."""
        return subprocess.run(
            [*self.command, *arguments],
            env=environment(self.home) | {"NAMESRV_ADDR": self.namesrv},
            stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True,
        ).stdout  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal; it must end with status 0 and leave nobody behind."""
        pids = self.pids()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, rest
        assert [name for name, pid in pids.items() if is_alive(pid)] == []


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def cluster(command: Sequence[str], home: Path, *arguments: str | Path) -> Iterator[Cluster]:
    """Start one. Whatever happens, it ends with the context, and its processes by themselves."""
    process = subprocess.Popen(
        [*command, "cluster", "up", *map(str, arguments)],
        env=environment(home), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield Cluster(command, home, process)
    finally:
        process.kill()
        process.communicate()
