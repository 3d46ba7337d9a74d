"""Server processes that a test starts, their ports, and the cluster that they form."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HOST = "127.0.0.1"
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_GET_BROKER_CLUSTER_INFO = 106


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


_guards: list[socket.socket] = []


def _held(port: int) -> socket.socket | None:
    """A socket that holds a port, unless another one does."""
    guard = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        guard.bind((HOST, port))
    except OSError:
        guard.close()
        return None
    return guard


def _free_ports() -> Iterator[int]:
    """Ports P with P-2 (a broker's VIP channel) and P+1 (its HA port) free too.

    Below the range from which the system takes the local ports of outgoing connections, so that none of
    the test's own connections can take one between this look and the broker's start. Another test run does
    not either: this one holds P+3 as long as it lives, and each process begins elsewhere.
    """
    span = range(20_000, 32_000, 8)
    first = os.getpid() * 7919
    for step in range(len(span)):
        port = span[(first + step) % len(span)]
        if (guard := _held(port + 3)) is None:
            continue
        if all(map(_is_free, (port - 2, port, port + 1))):
            _guards.append(guard)
            yield port
        else:
            guard.close()


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


def registered(namesrv_port: int) -> set[str]:
    """The addresses of all brokers that a name server knows; empty while it does not answer."""
    ask = {"code": _GET_BROKER_CLUSTER_INFO, "flag": 0, "language": "JAVA", "opaque": 1, "version": 401}
    header = json.dumps(ask).encode()
    try:
        with socket.create_connection((HOST, namesrv_port), timeout=10.0) as connection:
            connection.sendall(struct.pack(">ii", 4 + len(header), len(header)) + header)
            with connection.makefile("rb") as answer:
                size, header_size = struct.unpack(">ii", answer.read(8))
                body = answer.read(size - 4)[header_size & 0xFFFFFF :]
    except (OSError, struct.error):  # it has just begun or ended
        return set()
    # Apache's body has unquoted integer keys ({0:"127.0.0.1:10911"}): take what stands between the quotes.
    return {text for text in body.decode().split('"') if text.startswith(f"{HOST}:")}


_running: set[Server] = set()


def kill_what_runs() -> None:
    """End all servers that still run: those of tests that failed before they could."""
    for server in list(_running):
        server.kill()


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
        _running.add(self)

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Return once `condition()` is true; AssertionError if the process ends before."""

        def ready() -> object:
            assert self._process.poll() is None, f"{self.name} ended:\n{self.tail()}"
            return condition()

        wait_until(f"{self.name}: {what}", ready)

    def wait_for_port(self, port: int) -> None:
        """Return once the process accepts connections on `port`."""
        self.wait_for(f"listens on port {port}", lambda: _listens(port))

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> int:
        """End the process as an administrator would (SIGTERM) and give its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()
        _running.discard(self)
        return status

    def pause(self) -> None:
        """Let the process stand still (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> int:
        """End the process without giving it a word to say (SIGKILL)."""
        self._process.kill()
        status = self._process.wait(_STOP_SECONDS)
        _running.discard(self)
        return status


def _listens(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


@dataclass
class Node:
    """A running name server or broker, whoever's it is."""

    server: Server
    port: int
    folder: Path

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return f"{HOST}:{self.port}"

    def stop(self) -> int:
        """End it as an administrator would, and give its exit status."""
        return self.server.stop()

    def kill(self) -> None:
        """End it at once: Apache's servers take seconds to say goodbye."""
        self.server.kill()


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

    def kill(self) -> None:
        """End both at once."""
        self.broker.kill()
        self.name_server.kill()


def broker_conf(folder: Path, name_servers: Sequence[Node], port: int, name: str) -> dict[str, object]:
    """A small master's settings, in the words that 4.3.2, 4.9.4 and pymq share."""
    return {
        "namesrvAddr": ";".join(each.address for each in name_servers),
        "brokerClusterName": "DefaultCluster",
        "brokerName": name,
        "brokerId": 0,
        "deleteWhen": "04",
        "fileReservedTime": 48,
        "brokerRole": "ASYNC_MASTER",
        "flushDiskType": "ASYNC_FLUSH",
        "brokerIP1": HOST,
        "brokerIP2": HOST,
        "listenPort": port,
        "autoCreateTopicEnable": "true",
        "transactionTimeOut": 1000,
        "transactionCheckInterval": 1000,
        "transactionCheckMax": 3,
        "storePathRootDir": folder / "store",
        "storePathCommitLog": folder / "store/commitlog",
    }


def write_conf(path: Path, conf: Mapping[str, object]) -> Path:
    """Write settings as a conf file and give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}={value}\n" for key, value in conf.items()))
    return path


def wait_for_registration(broker: Node, name_servers: Sequence[Node]) -> None:
    """Return once each name server knows the broker."""
    for each in name_servers:
        known = partial(_knows, each.port, broker.address)
        broker.server.wait_for(f"registers with {each.address}", known)


def _knows(namesrv_port: int, broker_address: str) -> bool:
    return broker_address in registered(namesrv_port)
