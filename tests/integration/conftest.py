"""`pymq standalone` as a process of its own, started once for the tests of a module."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.patience import patience

__all__ = ["patience"]


@dataclass(frozen=True)
class Standalone:
    """A running process with a name server and a broker."""

    process: subprocess.Popen[bytes]
    namesrv: str
    broker: str
    log: Path

    @property
    def anonymous_mib(self) -> float:
        """RssAnon of the process, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def port(self, role: str) -> int:
        """The port of `namesrv` or `broker`."""
        return int((self.namesrv if role == "namesrv" else self.broker).rpartition(":")[2])


def start_standalone(folder: Path, conf: str = "") -> Standalone:
    """Start one with its data below `folder` on free ports; its output goes to a log there.

    `conf`: lines of its conf file.

    Into a file, not a pipe: a pipe that nobody reads stops the process once it is full.
    """
    log = folder / f"log-{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "pymq", "standalone", "--data", str(folder / "data")]
    if conf:
        (folder / "conf").write_text(conf)
        command += ["-c", str(folder / "conf")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", "--namesrv-port", "0", "--pid-file", str(folder / "pid")],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    for _ in range(2400):
        ready = re.search(r"is ready: name server (\S+), broker (\S+),", log.read_text())
        if ready:
            return Standalone(process, ready[1], ready[2], log)
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    pytest.fail(f"standalone did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A standalone on free ports; it must still be alive, and end cleanly, when the tests are over."""
    running = start_standalone(tmp_path_factory.mktemp("standalone"))
    process = running.process
    try:
        yield running
        assert process.poll() is None, "the process has ended"
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in running.log.read_text()
