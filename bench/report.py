"""From raw results to what is printed: medians of the rounds, ratios to Apache, and the goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.loads import Load, Result
from bench.servers import ASYNC_FLUSH, SYNC_FLUSH

Row = Sequence[str]
_BASE = "apache"
_NAIVE_GOAL = 1.54
"""Where the goal of 8 µs was set, the naive path took 5.2: this is the same goal on any machine."""


@dataclass(frozen=True)
class Median:
    """The medians of one server's rounds under one load."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    lowest_rate: float
    highest_rate: float


@dataclass
class Figures:
    """All that one run of the benchmark found, by server."""

    results: dict[Load, dict[str, list[Result]]] = field(default_factory=dict)
    start_seconds: dict[str, list[float]] = field(default_factory=dict)
    """From spawning the processes to the first accepted send."""
    idle_mib: dict[str, list[float]] = field(default_factory=dict)
    """RssAnon of all processes before the first message."""
    failures: list[str] = field(default_factory=list)
    flush: str = ASYNC_FLUSH
    """The flushDiskType of the brokers."""

    def add(self, load: Load, server: str, result: Result) -> None:
        """Note the result of one round; wrong answers are failures."""
        self.results.setdefault(load, {}).setdefault(server, []).append(result)
        if result.errors:
            self.failures.append(f"{server}, {load}: {result.errors} wrong answers, {result.first_error}")

    def median(self, load: Load, server: str) -> Median | None:
        """The medians of a server's rounds; None where there is none."""
        rounds = self.results.get(load, {}).get(server)
        if not rounds:
            return None
        rates = [each.rate for each in rounds]
        return Median(
            rate=statistics.median(rates),
            p50_us=statistics.median(each.p50_us for each in rounds),
            p99_us=statistics.median(each.p99_us for each in rounds),
            cpu_us=statistics.median(each.cpu_us_per_message for each in rounds),
            lowest_rate=min(rates),
            highest_rate=max(rates),
        )


def table(header: Row, rows: Iterable[Row]) -> str:
    """A text table: the first two columns to the left, numbers to the right."""
    all_rows = [header, *rows]
    widths = [max(len(row[i]) for row in all_rows) for i in range(len(header))]
    lines = []
    for row in all_rows:
        cells = [
            cell.ljust(w) if i < 2 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def load_table(figures: Figures) -> str:
    """Throughput, latency and CPU of each server under each load."""
    rows: list[Row] = []
    for load, servers in figures.results.items():
        base = figures.median(load, _BASE)
        base_rate, base_cpu = (base.rate, base.cpu_us) if base else (0.0, 0.0)
        label = str(load)
        for server in servers:
            found = figures.median(load, server)
            if found is None:
                continue
            spread = f"{found.lowest_rate:,.0f}–{found.highest_rate:,.0f}" if len(servers[server]) > 1 else ""
            rows.append(
                (
                    label, server, f"{found.rate:,.0f}", spread,
                    f"{found.p50_us:,.0f}", f"{found.p99_us:,.0f}", f"{found.cpu_us:.2f}",
                    _ratio(found.rate, base_rate), _ratio(found.cpu_us, base_cpu),
                )
            )  # fmt: skip
            label = ""
    header = (
        "load", "server", "messages/s", "of rounds", "p50 µs", "p99 µs", "CPU µs/message",
        "rate : Apache", "CPU : Apache",
    )  # fmt: skip
    return table(header, rows)


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else ""


def start_table(figures: Figures) -> str:
    """Seconds to the first accepted send and memory before the first message."""
    rows: list[Row] = []
    for server in dict.fromkeys((*figures.start_seconds, *figures.idle_mib)):
        starts, idle = figures.start_seconds.get(server), figures.idle_mib.get(server)
        rows.append(
            (
                server,
                str(len(starts)) if starts else "",
                f"{statistics.median(starts):.2f}" if starts else "",
                f"{min(starts):.2f}–{max(starts):.2f}" if starts else "",
                f"{statistics.median(idle):.1f}" if idle else "",
            )
        )
    return table(("server", "starts", "first accepted send, s", "of starts", "idle RssAnon, MiB"), rows)


def goals(figures: Figures) -> str:
    """pymq's goals beside what was found, one a line; only those that were measured."""
    send, pull = (figures.median(Load(mode, 128, 256), "pymq") for mode in ("send", "pull"))
    naive, base = (figures.median(Load("send", 128, 256), server) for server in ("naive", _BASE))
    if figures.flush == SYNC_FLUSH:
        if send is None:
            return ""
        return _goal("send 128 B with SYNC_FLUSH, 256 in flight, a second", send.rate, 50_000.0, most=False)
    lines = []
    if send:
        lines.append(_goal("send 128 B, CPU µs/message", send.cpu_us, 8.0, most=True))
    if send and naive:
        lines.append(_goal("send 128 B, CPU : naive", send.cpu_us / naive.cpu_us, _NAIVE_GOAL, most=True))
    if send and base:
        lines.append(_goal("send 128 B, rate : Apache", send.rate / base.rate, 2.0, most=False))
    if pull:
        lines.append(_goal("pull of 32, CPU µs/message", pull.cpu_us, 1.0, most=True))
    if starts := figures.start_seconds.get("pymq"):
        lines.append(_goal("start to first accepted send, s", statistics.median(starts), 0.4, most=True))
    if idle := figures.idle_mib.get("pymq"):
        lines.append(_goal("idle memory, MiB", statistics.median(idle), 60.0, most=True))
    return "\n".join(lines)


def _goal(name: str, value: float, limit: float, *, most: bool) -> str:
    met = value <= limit if most else value >= limit
    return (
        f"{'met ' if met else 'MISS'}  {name}: {value:,.2f} ({'at most' if most else 'at least'} {limit:,g})"
    )
