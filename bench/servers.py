"""The servers that are measured, as processes: two yardsticks, pymq, and Apache where Java and Maven are.

The `start_…` functions return as soon as the processes are spawned, since what follows is measured too.
pymq and Apache get the same broker.conf, with everything else at its default.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.interop.apache import JVM_OPTIONS, java_classpath
from tests.interop.processes import HOST, broker_conf, free_port, write_conf

APACHE_VERSION = "4.9.4"
APACHE_HEAP = {"namesrv": ("-Xmx128m",), "broker": ("-Xms1g", "-Xmx1g", "-XX:MaxDirectMemorySize=1g")}
ROOT = Path(__file__).parent.parent
ASYNC_FLUSH, SYNC_FLUSH = "ASYNC_FLUSH", "SYNC_FLUSH"
_LISTEN_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOGBACK = (
    '<configuration><appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder>'
    '<pattern>%d %p %c{1} - %m%n</pattern></encoder></appender><root level="WARN"><appender-ref ref="S"/>'
    "</root></configuration>"
)


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


class Program:
    """One server process. `farewell` is the signal that ends it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        port: int,
        env: dict[str, str] | None = None,
        farewell: signal.Signals = signal.SIGTERM,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.port = name, port
        self._farewell, self._log = farewell, folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=os.environ | (env or {}),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise BenchError with the end of its log if the process has ended."""
        if self._process.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise BenchError(f"{self.name} ended with status {self._process.returncode}:\n{tail}")

    def wait_until_it_listens(self) -> None:
        """Return once the port takes connections. Raises BenchError after a minute."""
        end = time.monotonic() + _LISTEN_SECONDS
        while time.monotonic() < end:
            self.check_alive()
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1.0):
                return
            time.sleep(0.02)
        raise BenchError(f"{self.name} does not listen on port {self.port} after {_LISTEN_SECONDS:.0f} s")

    def anonymous_kib(self) -> int:
        """RssAnon of the process, KiB: its own memory, without the mapped files."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1])
        return 0

    def kill(self) -> None:
        """End the process without giving it a word to say (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the process, and wait until it has."""
        if self._process.poll() is None:
            self._process.send_signal(self._farewell)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Cluster:
    """What is measured under one name: the broker, and the processes that belong to it."""

    name: str
    broker: Program
    others: list[Program] = field(default_factory=list)

    def idle_mib(self) -> float:
        """RssAnon of all its processes, MiB."""
        return sum(each.anonymous_kib() for each in (self.broker, *self.others)) / 1024

    def wait_until_it_listens(self) -> None:
        """Return once all processes take connections. Raises BenchError."""
        for each in (*self.others, self.broker):
            each.wait_until_it_listens()

    def stop(self) -> None:
        """End all its processes."""
        for each in (self.broker, *self.others):
            each.stop()


Start = Callable[[Path], Cluster]

YARDSTICKS = ("echo", "naive")
"""They take sends only, and say how fast the machine is."""


def _conf(folder: Path, namesrv: int, broker: int, **more: object) -> Path:
    conf = broker_conf(folder, [], broker, "broker-a") | {"namesrvAddr": f"{HOST}:{namesrv}"} | more
    return write_conf(folder / "broker.conf", conf)


def start_echo(folder: Path) -> Cluster:
    """Spawn the bare echo server."""
    port = free_port()
    command = (sys.executable, "-m", "bench.echo", str(port))
    return Cluster("echo", Program("echo", command, folder, port, {"PYTHONPATH": str(ROOT)}))


def start_naive(folder: Path) -> Cluster:
    """Spawn the naive send path."""
    port = free_port()
    command = (sys.executable, "-m", "bench.naive", str(port), str(folder))
    return Cluster("naive", Program("naive", command, folder, port, {"PYTHONPATH": str(ROOT)}))


def start_pymq(folder: Path, flush: str = ASYNC_FLUSH, profile: Path | None = None) -> Cluster:
    """Spawn pymq's name server and broker. `profile`: the file for what cProfile saw in the broker."""
    namesrv, broker = free_port(), free_port()
    env = {"HOME": str(folder)}
    settings = {"listenPort": namesrv, "bindAddress": HOST, "kvConfigPath": folder / "kvConfig.json"}
    names_conf = write_conf(folder / "namesrv.conf", settings)
    conf = _conf(folder, namesrv, broker, bindAddress=HOST, flushDiskType=flush)
    profiler = ("-m", "cProfile", "-o", str(profile)) if profile else ()
    return Cluster(
        "pymq",
        others=[
            Program(
                "pymq-namesrv", (sys.executable, "-m", "pymq", "namesrv", "-c", str(names_conf)), folder,
                namesrv, env,
            )
        ],
        broker=Program(
            "pymq-broker", (sys.executable, *profiler, "-m", "pymq", "broker", "-c", str(conf)), folder,
            broker, env,
        ),
    )  # fmt: skip


def start_standalone(folder: Path) -> Cluster:
    """Spawn `pymq standalone`: name server and broker in one process."""
    namesrv, broker = free_port(), free_port()
    command = (
        sys.executable, "-m", "pymq", "standalone", "--data", str(folder / "data"),
        "--port", str(broker), "--namesrv-port", str(namesrv),
    )  # fmt: skip
    env = {"HOME": str(folder)}
    return Cluster("pymq standalone", Program("pymq-standalone", command, folder, broker, env))


def start_apache(folder: Path, flush: str = ASYNC_FLUSH) -> Cluster:
    """Spawn Apache's name server and broker, with the JVM's own choice of compiler and collector."""
    class_path = java_classpath(APACHE_VERSION)
    for name in ("logback_namesrv", "logback_broker"):
        write_logback = folder / "conf" / f"{name}.xml"
        write_logback.parent.mkdir(parents=True, exist_ok=True)
        write_logback.write_text(_LOGBACK)
    namesrv, broker = free_port(), free_port()
    confs = {
        "namesrv": write_conf(folder / "namesrv.conf", {"listenPort": namesrv}),
        "broker": _conf(folder, namesrv, broker, flushDiskType=flush),
    }
    options = [each for each in JVM_OPTIONS if not each.startswith("-XX:")]  # those are for short tests

    def java(kind: str, main: str, port: int) -> Program:
        command = (
            "java", *options, *APACHE_HEAP[kind], f"-Duser.home={folder}", "-cp", class_path,
            f"org.apache.rocketmq.{main}", "-c", str(confs[kind]),
        )  # fmt: skip
        env = {"ROCKETMQ_HOME": str(folder)}
        # Its shutdown takes seconds, and nobody reads its store again.
        return Program(f"apache-{kind}", command, folder, port, env, signal.SIGKILL)

    names = java("namesrv", "namesrv.NamesrvStartup", namesrv)
    return Cluster("apache", java("broker", "broker.BrokerStartup", broker), [names])


def available(flush: str = ASYNC_FLUSH) -> dict[str, Start]:
    """The servers that can be started here, by name, in the order of the report.

    `flush`: the flushDiskType of the brokers.
    """
    found: dict[str, Start] = {"echo": start_echo, "naive": start_naive}
    if importlib.util.find_spec("pymq.broker.app"):
        found["pymq"] = partial(start_pymq, flush=flush)
    if shutil.which("java") and shutil.which("javac") and shutil.which("mvn"):
        found["apache"] = partial(start_apache, flush=flush)
    return found
