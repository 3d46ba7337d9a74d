"""Server processes that a test starts, and their ports."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_ports() -> Iterator[int]:
    """Ports P with P-2 (a broker's VIP channel) and P+1 (its HA port) free too.

    Below the range from which the system takes the local ports of outgoing connections, so that none of
    the test's own connections can take one between this look and the broker's start; each process begins
    elsewhere, so that two test runs rarely meet.
    """
    span = range(20_000, 32_000, 8)
    first = os.getpid() * 7919
    for step in range(len(span)):
        port = span[(first + step) % len(span)]
        if all(map(_is_free, (port - 2, port, port + 1))):
            yield port


_ports = _free_ports()


def free_port() -> int:
    """A port that nobody holds, with the ports that a broker takes around it (-2, +1) free as well."""
    return next(_ports)


def wait_until(what: str, condition: Callable[[], object], seconds: float = _START_SECONDS) -> None:
    """Return as soon as `condition()` is true; AssertionError naming `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    """Whether somebody accepts connections on `port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


class Server:
    """A server process with its log file, stopped by its own id."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_for_port(self, port: int) -> None:
        """Return once the process accepts connections on `port`."""

        def ready() -> bool:
            assert self._process.poll() is None, f"{self.name} ended: {self.tail()}"
            return listens(port)

        wait_until(f"{self.name} on port {port}", ready)

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> int:
        """End the process as an administrator would (SIGTERM) and give its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End the process without giving it a word to say (SIGKILL)."""
        self._process.kill()
        return self._process.wait(_STOP_SECONDS)


@dataclass
class Node:
    """A running name server or broker, whoever's it is."""

    server: Server
    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def stop(self) -> None:
        """End it as an administrator would."""
        self.server.stop()


@dataclass
class Cluster:
    """A name server with one broker registered to it."""

    kind: str
    name_server: Node
    broker: Node

    @property
    def namesrv(self) -> str:
        """The name server's address, as clients take it."""
        return self.name_server.address

    def stop(self) -> None:
        """Stop the broker first, so that it says goodbye to the name server."""
        self.broker.stop()
        self.name_server.stop()
