"""A `pymq standalone` of its own for a test: any free ports, its own folders."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"pymq standalone is ready: name server (\S+), broker (\S+), data in (\S+)")


@dataclass
class Standalone:
    """A running one, and how to use its commands."""

    command: Sequence[str]
    process: subprocess.Popen[str]
    namesrv: str
    broker: str
    home: Path

    def pymq(self, *arguments: str) -> str:
        """Run a command against it and give what it printed. Raises CalledProcessError."""
        return subprocess.run(
            [*self.command, *arguments],
            env=environment(self.home) | {"NAMESRV_ADDR": self.namesrv},
            cwd=self.home,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            check=True,
        ).stdout

    def stop(self) -> str:
        """End it by a signal, and give the rest of its log. It must end with status 0."""
        self.process.send_signal(signal.SIGTERM)
        log, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, log
        return log


def environment(home: Path) -> dict[str, str]:
    """Give an environment whose home folder is `home`."""
    kept = {key: value for key, value in os.environ.items() if key not in ("NAMESRV_ADDR", "PYTHONPATH")}
    return kept | {"HOME": str(home)}


@contextlib.contextmanager
def standalone(command: Sequence[str], home: Path, *options: str) -> Iterator[Standalone]:
    """Start one and wait until it is ready. Whatever happens, it ends with the context."""
    process = subprocess.Popen(
        [*command, "standalone", "--data", "data", "--port", "0", "--namesrv-port", "0", *options],
        env=environment(home),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if match := READY.match(line):
                yield Standalone(command, process, match[1], match[2], home)
                return
        raise AssertionError("it ended before it was ready:\n" + "".join(seen))
    finally:
        process.kill()
        process.communicate()
