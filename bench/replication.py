"""`python -m bench --replication`: what synchronous double write costs, which is to be a tenth at most.

A SYNC_MASTER and an ASYNC_MASTER, each with a slave that copies all. Their rounds take turns, and the ratio
is that of the medians: the machine's speed varies too much for less.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import click

from bench.loads import Bounds, Load, Result, compile_load, first_accepted_send, run_load
from bench.report import table
from bench.servers import BenchError, Cluster, Program
from tests.interop.processes import HOST, broker_conf, free_port, write_conf

_ROLES = ("ASYNC_MASTER", "SYNC_MASTER")
_LOADS = (Load("send", 128, 256), Load("send", 128, 1024), Load("send", 1024, 256))
_BOUNDS = Bounds(warmup=0.0, seconds=3.0, count=100_000_000)
_ROUNDS = 5
_GOAL = 0.9
_GET_BROKER_RUNTIME_INFO = 28
_CATCH_UP_SECONDS = 60.0
_HEADER = (
    "load", "master", "messages/s", "of rounds", "p50 µs", "p99 µs", "CPU µs/message", "slave's", ": async"
)  # fmt: skip


class _Round(NamedTuple):
    """One load on one master. `slave_us`: CPU time that its slave needed for a message, µs."""

    result: Result
    slave_us: float


class _Pair:
    """A master with its slave. `slave`: where the slave listens."""

    def __init__(self, role: str, folder: Path) -> None:
        names, master, self.slave = free_port(), free_port(), free_port()
        settings = {"listenPort": names, "bindAddress": HOST, "kvConfigPath": folder / "kvConfig.json"}
        others = [_program("namesrv", folder / "names", names, settings)]
        made = {}
        for kind, port, its_role in (("master", master, role), ("slave", self.slave, "SLAVE")):
            more = {
                "namesrvAddr": f"{HOST}:{names}", "bindAddress": HOST, "brokerRole": its_role,
                "brokerId": int(kind == "slave"), "storePathRootDir": folder / kind / "store",
                "storePathCommitLog": folder / kind / "store/commitlog",
            }  # fmt: skip
            conf = broker_conf(folder / kind, [], port, "broker-a") | more
            made[kind] = _program("broker", folder / kind, port, conf)
        self.cluster = Cluster(role, made["master"], [*others, made["slave"]])
        self._slave_pid = made["slave"].pid

    def slave_cpu_s(self) -> float:
        """CPU time of the slave's process so far, s."""
        fields = Path(f"/proc/{self._slave_pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_until_level(self) -> None:
        """Return once the slave has all of the master's log. Raises BenchError."""
        end = time.monotonic() + _CATCH_UP_SECONDS
        while _log_end(self.slave) < _log_end(self.cluster.broker.port):
            if time.monotonic() > end:
                raise BenchError(f"the slave of the {self.cluster.name} does not catch up")
            time.sleep(0.05)


def _program(kind: str, folder: Path, port: int, conf: dict[str, object]) -> Program:
    conf_file = write_conf(folder / f"{kind}.conf", conf)
    command = (sys.executable, "-m", "pymq", kind, "-c", str(conf_file))
    return Program(f"pymq-{kind}", command, folder, port, {"HOME": str(folder)})


def _log_end(port: int) -> int:
    """Physical offset at which a broker's log ends."""
    command = {"code": _GET_BROKER_RUNTIME_INFO, "flag": 0, "language": "JAVA", "opaque": 1, "version": 401}
    header = json.dumps(command).encode()
    with socket.create_connection((HOST, port), timeout=5.0) as connection:
        connection.sendall(struct.pack(">ii", 4 + len(header), len(header)) + header)
        with connection.makefile("rb") as stream:
            length, header_length = struct.unpack(">ii", stream.read(8))
            body = stream.read(length - 4)[header_length & 0xFFFFFF :]
    return int(json.loads(body)["table"]["commitLogMaxOffset"])


def run(folder: Path | None) -> None:
    """Measure, with stores that are removed at the end, and print a table. Raises ClickException."""
    try:
        with tempfile.TemporaryDirectory(
            prefix="pymq-bench-", dir=folder, ignore_cleanup_errors=True
        ) as there:
            results = _measured(Path(there))
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo("\nmasters with a slave attached; the rounds of both take turns")
    click.echo(table(_HEADER, _rows(results)))
    if wrong := [text for rounds in results.values() for text in _faults(rounds)]:
        raise click.ClickException("\n".join(wrong))
    ratio = _rate(results[_LOADS[0], "SYNC_MASTER"]) / _rate(results[_LOADS[0], "ASYNC_MASTER"])
    click.echo(f"\n{'met ' if ratio >= _GOAL else 'MISS'}  sync : async {ratio:.2f} (at least {_GOAL:g})")


def _measured(folder: Path) -> dict[tuple[Load, str], list[_Round]]:
    program = compile_load()
    results: dict[tuple[Load, str], list[_Round]] = {(load, role): [] for load in _LOADS for role in _ROLES}
    pairs = [_Pair(role, folder / role) for role in _ROLES]
    try:
        for pair in pairs:
            pair.cluster.wait_until_it_listens()
            first_accepted_send(pair.cluster, "bench_start")  # a SYNC_MASTER takes it once its slave is there
            pair.wait_until_level()
        for number in range(-1, _ROUNDS):
            for load in _LOADS:
                for pair in pairs:
                    click.echo(f"round {number + 1} of {_ROUNDS}: {pair.cluster.name}, {load}", err=True)
                    topic = f"bench_{load.body}"
                    first_accepted_send(pair.cluster, topic)
                    before = pair.slave_cpu_s()
                    found = run_load(program, pair.cluster, topic, load, _BOUNDS)
                    pair.wait_until_level()
                    slave_us = 1e6 * (pair.slave_cpu_s() - before) / max(1, found.messages)
                    if number >= 0:  # the first one warms up
                        results[load, pair.cluster.name].append(_Round(found, slave_us))
    finally:
        for pair in pairs:
            pair.cluster.stop()
    return results


def _rate(rounds: list[_Round]) -> float:
    return statistics.median(each.result.rate for each in rounds)


def _faults(rounds: list[_Round]) -> list[str]:
    results = [each.result for each in rounds]
    return [f"{each.errors} wrong answers, {each.first_error}" for each in results if each.errors]


def _rows(results: dict[tuple[Load, str], list[_Round]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for (load, role), rounds in results.items():
        rates = [each.result.rate for each in rounds]
        base = _rate(results[load, _ROLES[0]])
        rows.append(
            (
                str(load), role, f"{_rate(rounds):,.0f}", f"{min(rates):,.0f}–{max(rates):,.0f}",
                f"{statistics.median(each.result.p50_us for each in rounds):,.0f}",
                f"{statistics.median(each.result.p99_us for each in rounds):,.0f}",
                f"{statistics.median(each.result.cpu_us_per_message for each in rounds):.2f}",
                f"{statistics.median(each.slave_us for each in rounds):.2f}",
                f"{_rate(rounds) / base:.2f}",
            )
        )  # fmt: skip
    return rows
