"""Many topics of four queues each on one broker of pymq: what each costs, and how long the loop stands still.

All of it is seen from outside: over the wire, in /proc and in the store's files.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from bench.loads import first_accepted_send
from bench.report import table
from bench.servers import BenchError, Cluster, start_pymq
from pymq.store.checkpoint import MARK, MARK_POSITION
from tests.interop.processes import HOST

QUEUES = 4
_SEND, _PULL, _ROUTE = 310, 11, 105
_CREATE_TOPIC, _DELETE_TOPIC, _ALL_TOPICS, _MAX_OFFSET = 17, 215, 21, 30
_CREATED_BY_ADMIN = 100
_DELETED = 200
_HOT_TOPICS = 100
_BATCH = 16
"""Requests that wait in the broker's socket at once: what they take together is no stall of its own."""
_PING_S = 0.002
_FLUSH_S = 240.0
_TICKS = os.sysconf("SC_CLK_TCK")
_BODY = b"x" * 128
_LENGTHS = struct.Struct(">ii")

Row = tuple[str, str]


class Wire:
    """One connection that has several requests under way."""

    def __init__(self, port: int, timeout_s: float = 120.0) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rb", buffering=1 << 20)

    def ask(self, *frames: bytes) -> list[tuple[bytes, bytes]]:
        """Send requests and wait for all answers: header and body of each, in the order of arrival."""
        self._socket.sendall(b"".join(frames))
        answers = []
        for _ in frames:
            length, header_length = _LENGTHS.unpack(self._stream.read(8))
            header_length &= 0xFFFFFF
            data = self._stream.read(length - 4)
            answers.append((data[:header_length], data[header_length:]))
        return answers

    def check(self, *frames: bytes) -> list[bytes]:
        """As `ask`; only the bodies. BenchError for an answer with another code than 0."""
        answers = self.ask(*frames)
        for header, _ in answers:
            if json.loads(header)["code"] != 0:
                raise BenchError(f"refused: {header.decode()}")
        return [body for _, body in answers]

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()


def frame(code: int, fields: dict[str, object], body: bytes = b"") -> bytes:
    """A request; its opaque is always 1, since answers of one kind are alike."""
    command = {
        "code": code, "extFields": {name: str(value) for name, value in fields.items()}, "flag": 0,
        "language": "JAVA", "opaque": 1, "serializeTypeCurrentRPC": "JSON", "version": 401,
    }  # fmt: skip
    header = json.dumps(command, separators=(",", ":")).encode()
    return _LENGTHS.pack(4 + len(header) + len(body), len(header)) + header + body


def send_frame(topic: str, queue_id: int) -> bytes:
    """A send that makes the topic if need be."""
    fields: dict[str, object] = {
        "a": "bench_producer", "b": topic, "c": "TBW102", "d": QUEUES, "e": queue_id, "f": 0,
        "g": int(time.time() * 1000), "h": 0, "i": "KEYS\x01k", "j": 0, "k": "false", "m": "false",
    }  # fmt: skip
    return frame(_SEND, fields, _BODY)


def pull_frame(topic: str, queue_id: int) -> bytes:
    """A pull of the queue's first messages, up to 32."""
    fields: dict[str, object] = {
        "consumerGroup": "bench_consumer", "topic": topic, "queueId": queue_id, "queueOffset": 0,
        "maxMsgNums": 32, "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": "*",
        "subVersion": 0, "expressionType": "TAG",
    }  # fmt: skip
    return frame(_PULL, fields)


class Stalls:
    """Asks the broker for next to nothing all the time: the longest wait is how long its loop stood still."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(port)
        self._longest = 0.0
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        ping = frame(_MAX_OFFSET, {"topic": "SELF_TEST_TOPIC", "queueId": 0})
        while not self._ended:
            begin = time.monotonic()
            self._wire.ask(ping)
            self._longest = max(self._longest, time.monotonic() - begin)
            time.sleep(_PING_S)

    def take_ms(self) -> float:
        """The longest wait since the last call, milliseconds."""
        longest, self._longest = self._longest, 0.0
        return 1000 * longest

    def stop(self) -> None:
        """End the asking."""
        self._ended = True
        self._thread.join()
        self._wire.close()


@dataclass
class Findings:
    """What was found, as rows of a table."""

    topics: int
    rows: list[Row] = field(default_factory=list)

    def add(self, what: str, value: str) -> None:
        """Note a row, and show it."""
        self.rows.append((what, value))
        click.echo(f"  {what}: {value}", err=True)


def run_many_queues(topics: int, folder: Path | None) -> None:
    """Measure, with a store that is removed at the end, and print a table. Raises ClickException."""
    click.echo(f"{topics:,} topics of {QUEUES} queues", err=True)
    try:
        with tempfile.TemporaryDirectory(
            prefix="pymq-bench-", dir=folder, ignore_cleanup_errors=True
        ) as there:
            findings = measure_many_queues(topics, Path(there))
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"\n{topics:,} topics of {QUEUES} queues, bodies of {len(_BODY)} B")
    click.echo(table(("what", "found"), findings.rows))


def measure_many_queues(topics: int, folder: Path) -> Findings:
    """Run all of it with a store below `folder`. Raises BenchError."""
    findings = Findings(topics)
    cluster = _started(folder, findings, "empty store: start to the first accepted send")
    try:
        _fill(findings, cluster, folder)
    except BaseException:
        cluster.stop()
        raise
    begin = time.monotonic()
    cluster.broker.stop()
    findings.add("clean stop, all queues dirty", f"{time.monotonic() - begin:.2f} s")
    cluster.stop()
    cluster = _started(folder, findings, "start after a clean stop, to the first accepted send")
    try:
        _memory(findings, cluster, "after the start")
        _check_served(cluster, topics)
        _each(findings, cluster, "one more message a queue, before a kill", _round(topics))
        cluster.broker.kill()
    finally:
        cluster.stop()
    cluster = _started(folder, findings, "start after kill -9, to the first accepted send")
    try:
        _check_served(cluster, topics)
    finally:
        cluster.stop()
    return findings


def _started(folder: Path, findings: Findings, what: str) -> Cluster:
    begin = time.monotonic()
    cluster = start_pymq(folder)
    try:
        findings.add(what, f"{first_accepted_send(cluster, 'bench_start') - begin:.2f} s")
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _fill(findings: Findings, cluster: Cluster, folder: Path) -> None:
    topics = findings.topics
    stalls = Stalls(cluster.broker.port)
    try:
        _memory(findings, cluster, "of an empty broker")
        _admin_creates(findings, cluster, "few")
        stalls.take_ms()

        def measured(what: str, frames: Iterable[bytes]) -> None:
            _each(findings, cluster, what, frames, stalls)

        measured("first send of a topic (creates it and a queue)", _round(topics, [0]))
        measured("first send of each further queue", _round(topics, range(1, QUEUES)))
        measured("second send, round robin over all queues", _round(topics))
        hot = itertools.islice(itertools.cycle(list(_round(_HOT_TOPICS))), topics)
        measured(f"send to {_HOT_TOPICS} of the topics", hot)
        _await_flush(findings, folder / "store/checkpoint", stalls)
        measured("pull of each queue's first messages", _round(topics, make=pull_frame))
        _memory(findings, cluster, "with all that")
        _disk(findings, folder / "store")
        _tables(findings, cluster, topics, stalls)
        _admin_creates(findings, cluster, "many")
        findings.add("longest stall of these", f"{stalls.take_ms():.0f} ms")
        doomed = (frame(_DELETE_TOPIC, {"topic": _topic(n)}) for n in range(topics - _DELETED, topics))
        _each(findings, cluster, "deletion of a topic", doomed, stalls, batch=1)
        measured("sends after deletion (creates them again)", _round(topics, start=topics - _DELETED))
    finally:
        stalls.stop()


def _topic(number: int) -> str:
    return f"many_{number:06d}"


def _round(
    topics: int,
    queues: Sequence[int] = range(QUEUES),
    make: Callable[[str, int], bytes] = send_frame,
    start: int = 0,
) -> Iterator[bytes]:
    """A request for each queue, one topic after the other."""
    for number in range(start, topics):
        for queue_id in queues:
            yield make(_topic(number), queue_id)


def _each(
    findings: Findings,
    cluster: Cluster,
    what: str,
    frames: Iterable[bytes],
    stalls: Stalls | None = None,
    batch: int = _BATCH,
) -> None:
    """Send the requests, and note what one costs."""
    wire = Wire(cluster.broker.port)
    begin, cpu, count, pending = time.monotonic(), _cpu_s(cluster.broker.pid), 0, iter(frames)
    while some := list(itertools.islice(pending, batch)):
        wire.check(*some)
        count += len(some)
    took, cpu = time.monotonic() - begin, _cpu_s(cluster.broker.pid) - cpu
    wire.close()
    text = f"{1e6 * took / count:,.0f} µs, {1e6 * cpu / count:,.0f} µs CPU"
    if stalls is not None:
        text += f"; longest stall {stalls.take_ms():.0f} ms"
    findings.add(what, text)


def _admin_creates(findings: Findings, cluster: Cluster, among: str) -> None:
    fields: dict[str, object] = {
        "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6, "defaultTopic": "TBW102",
        "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": "false",
    }  # fmt: skip
    creates = (
        frame(_CREATE_TOPIC, fields | {"topic": f"by_admin_{among}_{n}"}) for n in range(_CREATED_BY_ADMIN)
    )
    written = _written_bytes(cluster.broker.pid)
    _each(findings, cluster, f"creation of a topic by request, among {among}", creates, batch=1)
    written = (_written_bytes(cluster.broker.pid) - written) // _CREATED_BY_ADMIN
    findings.add(f"bytes written for each, among {among}", f"{written:,}")


def _tables(findings: Findings, cluster: Cluster, topics: int, stalls: Stalls) -> None:
    """The broker's table whole, and the name server's answer for one topic."""
    wire = Wire(cluster.broker.port)
    begin = time.monotonic()
    (table,) = wire.check(frame(_ALL_TOPICS, {}))
    findings.add("table of all topics", f"{len(table):,} bytes in {1000 * (time.monotonic() - begin):.0f} ms")
    wire.close()
    names = cluster.others[0]
    wire = Wire(names.port)
    begin = time.monotonic()
    for number in range(0, topics, max(1, topics // 1000)):
        wire.check(frame(_ROUTE, {"topic": _topic(number)}))
    findings.add("route of a topic, from the name server", f"{1e3 * (time.monotonic() - begin):,.0f} µs")
    wire.close()
    cpu = _cpu_s(cluster.broker.pid), _cpu_s(names.pid)
    stalls.take_ms()
    time.sleep(31.0)  # registerNameServerPeriod, once
    broker, server = _cpu_s(cluster.broker.pid) - cpu[0], _cpu_s(names.pid) - cpu[1]
    findings.add(
        "31 idle seconds with one registration of all topics",
        f"{1000 * broker:.0f} ms CPU, name server {1000 * server:.0f} ms;"
        f" longest stall {stalls.take_ms():.0f} ms",
    )
    findings.add("memory of the name server", f"{names.anonymous_kib() / 1024:.0f} MiB")


def _await_flush(findings: Findings, checkpoint: Path, stalls: Stalls) -> None:
    """All queues have something new; every flushConsumeQueueThoroughInterval, a minute, all are flushed."""

    def mark() -> bytes:
        return checkpoint.read_bytes()[MARK_POSITION : MARK_POSITION + MARK.size]

    begin, before = time.monotonic(), mark()
    while mark() == before and time.monotonic() - begin < _FLUSH_S:
        time.sleep(0.1)
    findings.add(
        "checkpoint moves on after the next flush of all queues",
        f"{time.monotonic() - begin:.0f} s; longest stall {stalls.take_ms():.0f} ms",
    )


def _check_served(cluster: Cluster, topics: int) -> None:
    """Some messages of topics all over the table can be pulled. BenchError if not."""
    wire = Wire(cluster.broker.port)
    for number in range(0, topics, max(1, topics // 200)):
        for body in wire.check(*(pull_frame(_topic(number), queue_id) for queue_id in range(QUEUES))):
            if body.count(_BODY) < 1:
                raise BenchError(f"{_topic(number)} has lost messages")
    wire.close()


def _memory(findings: Findings, cluster: Cluster, when: str) -> None:
    pid = cluster.broker.pid
    files = len(os.listdir(f"/proc/{pid}/fd"))
    maps = Path(f"/proc/{pid}/maps").read_text().count("/consumequeue/")
    findings.add(
        f"memory {when}",
        f"{cluster.broker.anonymous_kib() / 1024:.0f} MiB, {files} open files, {maps} queue files mapped",
    )


def _disk(findings: Findings, store: Path) -> None:
    files = size = blocks = 0
    for folder, _, names in os.walk(store / "consumequeue"):
        for name in names:
            status = os.stat(os.path.join(folder, name))
            files, size, blocks = files + 1, size + status.st_size, blocks + 512 * status.st_blocks
    findings.add(
        "consume-queue files",
        f"{files:,} of {size / max(1, files):,.0f} bytes, {blocks / max(1, files):,.0f} bytes of disk each",
    )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _written_bytes(pid: int) -> int:
    """Bytes that the process gave to write calls so far; what it writes to mappings is not among them."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar:"):
            return int(line.split()[1])
    return 0
