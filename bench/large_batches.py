"""`python -m bench --batches`: what batches of very many messages cost, and how long others wait."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click

from bench.loads import first_accepted_send
from bench.many_queues import Stalls, Wire, frame
from bench.report import table
from bench.servers import BenchError, start_pymq
from pymq.protocol.message import BatchEntry, encode_batch

_SEND_BATCH = 320
_COUNTS = (100, 5_000, 50_000, 100_000)
_ROUNDS = 5


def run(folder: Path | None) -> None:
    """Measure, with a store that is removed at the end, and print a table. Raises ClickException."""
    try:
        with tempfile.TemporaryDirectory(
            prefix="pymq-bench-", dir=folder, ignore_cleanup_errors=True
        ) as there:
            rows = _measured(Path(there))
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\nbatches of one-byte messages, best of rounds; another connection asks all the time")
    click.echo(table(("messages", "bytes", "answered after", "for each", "longest wait of the other"), rows))


def _measured(folder: Path) -> list[tuple[str, ...]]:
    cluster = start_pymq(folder)
    try:
        first_accepted_send(cluster, "bench_start")
        wire, stalls = Wire(cluster.broker.port), Stalls(cluster.broker.port)
        rows: list[tuple[str, ...]] = []
        try:
            for count in _COUNTS:
                block = encode_batch([BatchEntry(b"x")] * count)
                batch = frame(_SEND_BATCH, _fields(), block)
                took, stall = zip(*(_once(wire, stalls, batch) for _ in range(_ROUNDS)), strict=True)
                rows.append(
                    (
                        f"{count:,}", f"{len(block):,}", f"{1e3 * min(took):.1f} ms",
                        f"{1e6 * min(took) / count:.2f} µs", f"{min(stall):.0f} ms",
                    )
                )  # fmt: skip
        finally:
            stalls.stop()
            wire.close()
    finally:
        cluster.stop()
    return rows


def _fields() -> dict[str, object]:
    return {
        "a": "bench_producer", "b": "bench_start", "c": "TBW102", "d": 4, "e": 0, "f": 0,
        "g": int(time.time() * 1000), "h": 0, "i": "", "j": 0, "k": "false", "m": "true",
    }  # fmt: skip


def _once(wire: Wire, stalls: Stalls, batch: bytes) -> tuple[float, float]:
    """Seconds until the answer, and the other's longest wait in ms, also for what is done afterwards."""
    time.sleep(0.5)
    stalls.take_ms()
    begin = time.monotonic()
    wire.check(batch)
    took = time.monotonic() - begin
    time.sleep(0.5)
    return took, stalls.take_ms()
