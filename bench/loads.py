"""Running the compiled load against a server, and the one send that shows that a server is up."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.servers import BenchError, Cluster
from tests.interop.processes import HOST

SOURCE = Path(__file__).parent / "load.c"
_COMPILE = ("cc", "-O2", "-Wall", "-Wextra")
_SPARE_SECONDS = 60.0
_SEND_MESSAGE_V2 = 310
_ACCEPT_SECONDS = 60.0


@dataclass(frozen=True)
class Load:
    """One kind of load."""

    mode: str
    """`send`, or `pull` of 32 messages at once."""
    body: int
    """Bytes of a message's body."""
    inflight: int
    """Requests under way at any time."""

    def __str__(self) -> str:
        size = f"{self.body} B" if self.body < 1024 else f"{self.body / 1024:g} KiB"
        return f"{self.mode} {size}, {self.inflight} in flight"


class Result(msgspec.Struct):
    """What the load prints: the measured phase, without its warm-up."""

    mode: str
    messages: int
    requests: int
    seconds: float
    rate: float
    """Messages a second."""
    errors: int
    """Answers that were wrong, warm-up included."""
    first_error: str
    bytes_in: int
    p50_us: float
    """Latency of a request, as the other percentiles."""
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    cpu_seconds: float
    """CPU time of the server's process, all threads, to 10 ms."""
    cpu_us_per_message: float
    load_cpu_seconds: float


@dataclass(frozen=True)
class Bounds:
    """How long one load runs, in seconds, and how many messages a phase sends or pulls at the most."""

    warmup: float
    seconds: float
    count: int


def compile_load() -> Path:
    """Compile load.c into the user's cache folder, once per version of it. Raises BenchError."""
    name = f"load-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    program = Path(base) / "pymq-bench" / name
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        aside = program.with_name(f"{name}.{os.getpid()}")
        try:
            done = subprocess.run(
                [*_COMPILE, "-o", aside, SOURCE], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except FileNotFoundError:
            raise BenchError("the load needs a C compiler called cc") from None
        if done.returncode:
            raise BenchError(f"cc failed:\n{done.stdout.decode(errors='replace')}")
        aside.rename(program)
    return program


def run_load(program: Path, cluster: Cluster, topic: str, load: Load, bounds: Bounds) -> Result:
    """Run one load against a cluster's broker.

    A Result may count wrong answers; BenchError when there was no result at all: a connection that
    broke, or requests that were never answered.
    """
    mode = "echo" if cluster.name == "echo" else load.mode
    command: Sequence[str] = (
        str(program), HOST, str(cluster.broker.port), topic, mode,
        f"body={load.body}", f"inflight={load.inflight}", f"pid={cluster.broker.pid}",
        f"warmup={bounds.warmup}", f"seconds={bounds.seconds}", f"count={bounds.count}",
    )  # fmt: skip
    limit = bounds.warmup + bounds.seconds + _SPARE_SECONDS
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{cluster.name}, {load}: no end after {limit:.0f} s") from None
    if not done.stdout:
        cluster.broker.check_alive()
        raise BenchError(f"{cluster.name}, {load}: {done.stderr.decode(errors='replace').strip()}")
    return msgspec.json.decode(done.stdout, type=Result)


def first_accepted_send(cluster: Cluster, topic: str) -> float:
    """Send to `topic`, which that creates, until the broker takes it: the time.monotonic() of then.

    Raises BenchError after a minute.
    """
    end, refusal = time.monotonic() + _ACCEPT_SECONDS, ""
    while time.monotonic() < end:
        try:
            answer = _send(cluster.broker.port, topic)
        except (OSError, EOFError) as error:
            cluster.broker.check_alive()
            refusal = repr(error)
        else:
            if answer.get("code") == 0:
                return time.monotonic()
            refusal = str(answer.get("remark"))
        time.sleep(0.002)
    raise BenchError(f"{cluster.name} accepts no message: {refusal}")


def _send(port: int, topic: str) -> dict[str, object]:
    fields = {
        "a": "bench_producer", "b": topic, "c": "TBW102", "d": "4", "e": "0", "f": "0",
        "g": str(int(time.time() * 1000)), "h": "0", "i": "WAIT\x01true", "j": "0",
        "k": "false", "m": "false",
    }  # fmt: skip
    command = {
        "code": _SEND_MESSAGE_V2, "extFields": fields, "flag": 0, "language": "JAVA", "opaque": 1,
        "serializeTypeCurrentRPC": "JSON", "version": 401,
    }  # fmt: skip
    header = json.dumps(command, separators=(",", ":")).encode()
    body = b"first"
    with socket.create_connection((HOST, port), timeout=5.0) as connection:
        connection.sendall(struct.pack(">ii", 4 + len(header) + len(body), len(header)) + header + body)
        with connection.makefile("rb") as stream:
            lengths = stream.read(8)
            if len(lengths) < 8:
                raise EOFError("the broker closed the connection")
            length, header_length = struct.unpack(">ii", lengths)
            answer = json.loads(stream.read(length - 4)[: header_length & 0xFFFFFF])
    assert isinstance(answer, dict)
    return answer
