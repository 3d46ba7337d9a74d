"""`python -m bench`: pymq, Apache RocketMQ and two yardsticks under the same load, in turn."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
import msgspec

from bench import report
from bench.large_batches import run as run_batches
from bench.loads import Bounds, Load, compile_load, first_accepted_send, run_load
from bench.many_queues import run_many_queues
from bench.recovery import run as run_recovery
from bench.replication import run as run_replication
from bench.report import Figures
from bench.servers import (
    APACHE_HEAP,
    APACHE_VERSION,
    ASYNC_FLUSH,
    SYNC_FLUSH,
    YARDSTICKS,
    BenchError,
    Cluster,
    Start,
    available,
    start_pymq,
    start_standalone,
)

_MOST_MESSAGES = 2_000_000
"""Of one phase, so that no server fills the disk: 800 MB of 128 B messages, 2.6 GB of 1 KiB."""
_IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What is run, and for how long."""

    rounds: int
    starts: dict[str, int]
    """How often each server is started for the start time; Apache takes seconds each."""
    loads: Sequence[Load]
    bounds: Bounds
    warmup: float
    """Seconds of sends before the first round."""
    jvm_warmup: float
    """The same for Apache: the JVM compiles its hot code only after many seconds of it."""


def _loads(bodies: Sequence[int]) -> list[Load]:
    """Sends before pulls: the pulls read what was sent."""
    return [
        Load(mode, body, inflight) for body in bodies for mode in ("send", "pull") for inflight in (256, 1)
    ]


def _for_flush(plan: Plan, flush: str) -> Plan:
    """How the brokers flush matters to sends only."""
    if flush == ASYNC_FLUSH:
        return plan
    return replace(plan, loads=[load for load in plan.loads if load.mode == "send"])


def _plan(quick: bool, rounds: int | None, seconds: float | None) -> Plan:
    if quick:
        return Plan(
            rounds or 1, {"pymq": 3, "pymq standalone": 1, "apache": 1}, _loads([128]),
            Bounds(0.3, seconds or 1.0, _MOST_MESSAGES), 0.5, 8.0,
        )  # fmt: skip
    return Plan(
        rounds or 3, {"pymq": 7, "pymq standalone": 7, "apache": 3}, _loads([128, 1024]),
        Bounds(1.0, seconds or 3.0, _MOST_MESSAGES), 2.0, 25.0,
    )  # fmt: skip


@contextlib.contextmanager
def _running(start: Start, folder: Path) -> Iterator[Cluster]:
    cluster = start(folder)
    try:
        yield cluster
    finally:
        cluster.stop()


def measure_starts(figures: Figures, start: Start, times: int, folder: Path) -> None:
    """Start a server afresh `times` times and note the seconds to its first accepted send."""
    for i in range(times):
        begin = time.monotonic()
        with _running(start, folder / f"start-{i}") as cluster:
            took = first_accepted_send(cluster, "bench_start") - begin
            figures.start_seconds.setdefault(cluster.name, []).append(took)


def measure_idle(figures: Figures, cluster: Cluster) -> None:
    """Note the memory of a server that is up and has seen no message."""
    cluster.wait_until_it_listens()
    time.sleep(_IDLE_SECONDS)
    if cluster.name not in YARDSTICKS:
        figures.idle_mib.setdefault(cluster.name, []).append(cluster.idle_mib())


def measure_loads(figures: Figures, program: Path, clusters: Sequence[Cluster], plan: Plan) -> None:
    """Warm all up, then give each load to each server in turn, round after round."""
    for cluster in clusters:
        _warm_up(program, cluster, plan)
    for number in range(plan.rounds):
        click.echo(f"round {number + 1} of {plan.rounds}", err=True)
        created: set[tuple[str, str]] = {("echo", _topic(load, number)) for load in plan.loads}
        for load in plan.loads:
            for cluster in clusters:
                if cluster.name in YARDSTICKS and load.mode == "pull":
                    continue
                topic = _topic(load, number)
                if (cluster.name, topic) not in created:
                    first_accepted_send(cluster, topic)
                    created.add((cluster.name, topic))
                try:
                    figures.add(load, cluster.name, run_load(program, cluster, topic, load, plan.bounds))
                except BenchError as error:
                    cluster.broker.check_alive()
                    figures.failures.append(str(error))


def _topic(load: Load, number: int) -> str:
    return f"bench_{load.body}_{number}"


def _warm_up(program: Path, cluster: Cluster, plan: Plan) -> None:
    click.echo(f"warming up {cluster.name}", err=True)
    if cluster.name in YARDSTICKS:
        return
    first_accepted_send(cluster, "bench_warmup")
    seconds = plan.jvm_warmup if cluster.name == "apache" else plan.warmup
    for mode, share in (("send", 1.0), ("pull", 0.2)):
        bounds = Bounds(0, seconds * share, _MOST_MESSAGES)
        run_load(program, cluster, "bench_warmup", Load(mode, 128, 256), bounds)


def _machine() -> dict[str, object]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "apache": f"{APACHE_VERSION}, {' '.join(APACHE_HEAP['broker'])}",
    }


def _write_json(path: Path, figures: Figures, machine: dict[str, object]) -> None:
    raw = {
        "machine": machine,
        "start_seconds": figures.start_seconds,
        "idle_mib": figures.idle_mib,
        "failures": figures.failures,
        "flush": figures.flush,
        "loads": [
            {"mode": load.mode, "body": load.body, "inflight": load.inflight, "servers": servers}
            for load, servers in figures.results.items()
        ],
    }
    path.write_text(json.dumps(msgspec.to_builtins(raw), indent=1) + "\n")


def _show(figures: Figures, machine: dict[str, object], quick: bool) -> None:
    system = f"{machine['system']}, {machine['cores']} cores"
    click.echo(f"\n{system}, Python {machine['python']}, Apache {machine['apache']}, {figures.flush}")
    if figures.results:
        click.echo("\n" + report.load_table(figures))
        click.echo("\nMedians. A pull asks for 32 messages; latency is a request's, CPU the broker's.")
        if quick and any("apache" in servers for servers in figures.results.values()):
            click.echo("Apache's JVM is hardly warm in a quick run: only the full one compares.")
    if figures.start_seconds or figures.idle_mib:
        click.echo("\n" + report.start_table(figures))
    if lines := report.goals(figures):
        click.echo("\n" + lines)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--quick", is_flag=True, help="Half a minute: 128 B only, one round, a JVM that is hardly warm."
)
@click.option("--rounds", type=click.IntRange(1, 50), help="Rounds of all loads.  [default: 3]")
@click.option("--seconds", type=click.FloatRange(0.2, 60), help="Length of one load.  [default: 3]")
@click.option("--server", "servers", multiple=True, type=click.Choice(["echo", "naive", "pymq", "apache"]),
              help="Only this one; may come again.  [default: all that can run here]")  # fmt: skip
@click.option(
    "--body", "bodies", multiple=True, type=click.IntRange(0, 1 << 20), help="Only this size; may come again."
)
@click.option(
    "--starts/--no-starts", default=True, show_default=True, help="Measure the time to the first send."
)
@click.option("--flush", type=click.Choice(["async", "sync"]), default="async", show_default=True,
              help="When a send counts as stored: copied, or on the disk. sync: sends only.")  # fmt: skip
@click.option("--many-queues", type=click.IntRange(1000, 1_000_000), metavar="TOPICS",
              help="Measure only what so many topics of four queues cost, on pymq.")  # fmt: skip
@click.option("--recovery", is_flag=True, help="Measure only how a store is checked, built again and opened.")
@click.option("--batches", is_flag=True, help="Measure only batches of very many messages, on pymq.")
@click.option("--replication", is_flag=True, help="Measure only a SYNC_MASTER beside an ASYNC_MASTER.")
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Where the stores go while it runs.  [default: the temporary folder]")  # fmt: skip
@click.option("--profile", type=click.Path(path_type=Path, dir_okay=False),
              help="Run pymq's broker under cProfile into this file. It is slower then.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the raw numbers here."
)
def main(
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    servers: tuple[str, ...],
    bodies: tuple[int, ...],
    starts: bool,
    flush: str,
    many_queues: int | None,
    recovery: bool,
    batches: bool,
    replication: bool,
    folder: Path | None,
    profile: Path | None,
    json_file: Path | None,
) -> None:
    """Measure pymq beside Apache RocketMQ, a bare echo of the same frames and a naive send path.

    Everything runs on 127.0.0.1 and is removed at the end. Nothing is pinned to a core.
    """
    if recovery:
        run_recovery(folder)
        return
    if batches:
        run_batches(folder)
        return
    if replication:
        run_replication(folder)
        return
    if many_queues:
        run_many_queues(many_queues, folder)
        return
    plan = _plan(quick, rounds, seconds)
    if bodies:
        plan = replace(plan, loads=_loads(bodies))
    flush_disk_type = SYNC_FLUSH if flush == "sync" else ASYNC_FLUSH
    plan = _for_flush(plan, flush_disk_type)
    found = available(flush_disk_type)
    for name in servers:
        if name not in found:
            raise click.ClickException(f"{name} cannot run here: Apache needs java, javac and mvn")
    chosen = {name: start for name, start in found.items() if not servers or name in servers}
    figures, machine = Figures(flush=flush_disk_type), _machine()
    try:
        with tempfile.TemporaryDirectory(
            prefix="pymq-bench-", dir=folder, ignore_cleanup_errors=True
        ) as temporary:
            _run(figures, plan, chosen, Path(temporary), starts, profile and profile.absolute())
    except BenchError as error:
        figures.failures.append(str(error))
    _show(figures, machine, quick)
    if json_file:
        _write_json(json_file, figures, machine)
    if figures.failures:
        raise click.ClickException("\n".join(figures.failures))


def _run(
    figures: Figures, plan: Plan, chosen: dict[str, Start], folder: Path, starts: bool, profile: Path | None
) -> None:
    program = compile_load()
    if starts:
        also = {"pymq standalone": start_standalone} if "pymq" in chosen else {}
        for name, start in (chosen | also).items():
            if times := plan.starts.get(name):
                click.echo(f"starting {name}, {times} times", err=True)
                measure_starts(figures, start, times, folder / name)
        for name, start in also.items():
            with _running(start, folder / name / "idle") as cluster:
                measure_idle(figures, cluster)
    if profile and "pymq" in chosen:
        chosen = chosen | {"pymq": partial(start_pymq, flush=figures.flush, profile=profile)}
    with contextlib.ExitStack() as stack:
        clusters = [
            stack.enter_context(_running(start, folder / name / "load")) for name, start in chosen.items()
        ]
        for cluster in clusters:
            measure_idle(figures, cluster)
        measure_loads(figures, program, clusters, plan)


if __name__ == "__main__":
    main()
