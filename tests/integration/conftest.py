"""`pymq standalone` as a process of its own, started once for the tests of a module."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Standalone:
    """A running process with a name server and a broker."""

    process: subprocess.Popen[str]
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


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """A standalone on free ports; it must still be alive, and end cleanly, when the tests are over."""
    folder = tmp_path_factory.mktemp("standalone")
    log = folder / "log"
    command = [sys.executable, "-m", "pymq", "standalone", "--data", str(folder / "data")]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", "0", "--namesrv-port", "0", "--pid-file", str(folder / "pid")],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output.write(line)
                ready = re.search(r"is ready: name server (\S+), broker (\S+),", line)
                if ready:
                    break
            else:
                pytest.fail(f"standalone did not start: {log.read_text()}")
            yield Standalone(process, ready[1], ready[2], log)
            assert process.poll() is None, "the process has ended"
        finally:
            process.terminate()
            rest, _ = process.communicate(timeout=20)
            output.write(rest)
    assert process.returncode == 0
    assert "Traceback" not in log.read_text()
