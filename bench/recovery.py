"""`python -m bench --recovery`: how fast a store is checked, built again and opened. No server takes part."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from pymq.clock import SystemClock
from pymq.protocol.message import RECORD_FIXED_SIZE
from pymq.store.messagestore import MessageStore
from pymq.store.scan import LogScan
from pymq.store.segments import Mappings, Segments
from pymq.store.store_config import StoreConfig
from pymq.system_disk import SystemDisk

_TOPICS = 4
_QUEUES = 4
_ROUNDS = 3
_MIB = 1 << 20
_GOALS = {128: {"checked": "≤ 4 µs", "built again": "≤ 10 µs"}, 4096: {"checked": "≥ 300 MiB/s"}}


@dataclass(frozen=True)
class Filled:
    """A store that was closed."""

    config: StoreConfig
    count: int
    log_bytes: int
    last_offset: int
    """Physical offset of the newest message."""


def _open(config: StoreConfig) -> MessageStore:
    store = MessageStore(config, SystemDisk(), SystemClock(), ("127.0.0.1", 10911))
    store.open()
    return store


def fill(root: Path, body_bytes: int, log_mib: int) -> Filled:
    """Put messages as clients send them, with tags, a key and a unique key, over 16 queues."""
    config = StoreConfig(root=str(root), commit_log_segment_bytes=256 * _MIB)
    count = log_mib * _MIB // (RECORD_FIXED_SIZE + body_bytes + 130)
    store = _open(config)
    body = bytes(i & 0xFF for i in range(body_bytes))
    for i in range(count):
        unique = f"7F000001A0B418B4AAC2{i:012X}"
        properties = f"KEYS\1order-{i}\2UNIQ_KEY\1{unique}\2TAGS\1created\2CLUSTER\1bench"
        store.put(
            f"bench-{i % _TOPICS}", i // _TOPICS % _QUEUES, body, properties, born_host=bytes(8),
            keys=f"order-{i}", unique_key=unique,
        )  # fmt: skip
    end = store.commit_log_max_offset
    last_offset = store.index_last_update[1]
    store.close()
    return Filled(config, count, end, last_offset)


def check(filled: Filled) -> None:
    """Check every record of the log, and do nothing with it."""
    config = filled.config
    size = config.commit_log_segment_bytes
    segments = Segments(config.commit_log_folder, size, SystemDisk(), Mappings(2))
    segments.load(size, "mappedFileSizeCommitLog")
    scan = LogScan(segments, check_crc=True)
    for _ in scan.batches(0):
        pass
    assert (scan.end, scan.count) == (filled.log_bytes, filled.count)


def build_again(filled: Filled) -> MessageStore:
    """Start without queues, index and checkpoint, until all of them are there."""
    root = Path(filled.config.root)
    for name in ("consumequeue", "index"):
        shutil.rmtree(root / name)
    (root / "checkpoint").unlink()
    return start(filled)


def start(filled: Filled) -> MessageStore:
    """Start, until the index knows all messages, too."""
    store = _open(filled.config)
    while store.index_last_update[1] < filled.last_offset:
        store.tick()
    return store


def measure(filled: Filled, step: Callable[[Filled], MessageStore | None]) -> tuple[float, float]:
    """Seconds of the clock and of the CPU, of the fastest of a few times: others only ever add to them."""
    clock, cpu = [], []
    for _ in range(_ROUNDS):
        before = time.perf_counter(), time.process_time()
        store = step(filled)
        clock.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
        if store is not None:
            assert sum(store.max_offset(*key) for key in store.queues()) == filled.count
            store.close()
    return min(clock), min(cpu)


def run(folder: Path | None, log_mib: int = 64) -> None:
    """Measure with bodies of 128 B and 4 KiB, and print it."""
    steps: dict[str, Callable[[Filled], MessageStore | None]] = {
        "checked": check,
        "built again": build_again,
        "started": start,
    }
    for body_bytes in (128, 4096):
        with tempfile.TemporaryDirectory(prefix="pymq-bench-", dir=folder) as temporary:
            filled = fill(Path(temporary), body_bytes, log_mib)
            mib = filled.log_bytes / _MIB
            click.echo(f"{filled.count:,} messages of {body_bytes} B, a commit log of {mib:.0f} MiB:")
            for name, step in steps.items():
                clock, cpu = measure(filled, step)
                goal = _GOALS[body_bytes].get(name)
                click.echo(
                    f"  {name:12}{clock * 1000:7.0f} ms{mib / clock:7.0f} MiB/s"
                    f"{cpu / filled.count * 1e6:8.2f} µs of CPU a message" + (f"  ({goal})" if goal else "")
                )
    click.echo(
        "checked: every record, with its CRC; built again: queues and index, from the log, and synced;"
        " started: after a clean stop. The fastest of three."
    )
