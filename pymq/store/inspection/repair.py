"""`pymq store repair`: what a broker does to a store's folder when it starts on it, and no broker."""

from __future__ import annotations

import contextlib
import logging
import os.path
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from pymq.clock import Clock
from pymq.disk import Disk
from pymq.dry_disk import dry_disk
from pymq.errors import StoreCorrupt, StoreError
from pymq.protocol.message_ids import pack_host
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.inspection.files import FoundFile, Range, StoreFolder
from pymq.store.inspection.index_geometry import DEFAULT_GEOMETRY, find_geometries, read_header
from pymq.store.inspection.log_walk import LogReader, first_sound_behind
from pymq.store.inspection.queue_units import bounds, newest_known_end
from pymq.store.inspection.survey import delay_levels, log_end
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig

_UNUSED_HOST = pack_host("127.0.0.1", 0)
"""Stamped into what is stored: nothing is."""
_SCAN = 1 << 20


class Repair(msgspec.Struct):
    """What to do."""

    delay_levels: str = ""
    """messageDelayLevel; empty: as the schedule topic's queues tell, else the default."""
    rebuild: bool = False
    """Make consume queues and index anew, from the whole log."""
    may_cut_sound_messages: bool = False
    """Also when sound messages stand behind the place at which the log will end."""


class QueueState(NamedTuple):
    """What of a queue is compared: numbers of its messages, and a checksum of the units."""

    low: int
    high: int
    checksum: int


class State(msgspec.Struct):
    """What of a store is compared before and after."""

    log_start: int
    log_end: int
    log_files: dict[str, int]
    """Path → size."""
    queues: dict[tuple[str, int], QueueState]
    index: dict[str, int]
    """Name → number of entries."""
    is_clean: bool


def repair(root: str, disk: Disk, clock: Clock, what: Repair, commit_log_folder: str = "") -> list[str]:
    """Have the store's own recovery put a folder right, and say what changed, a line each.

    It is done on a disk that forgets first, to see how much of the log would go. StoreLocked when a broker is
    at work in the folder. StoreCorrupt when no broker would start on it, or sound messages would be lost;
    StoreFull, StoreBroken, StoreError.
    """
    folder = StoreFolder(root, disk, commit_log_folder)
    if not folder.commit_log.files:
        raise StoreError(f"{folder.commit_log_folder} holds no commit log: there is nothing to repair from")
    config = _config(folder, what)
    disk.lock(os.path.join(root, "lock")).release()  # StoreLocked before anything is read or removed
    if not what.may_cut_sound_messages:
        _refuse_to_lose(folder, _recovered_end(config, dry_disk(disk), clock, folder))
    before = _state(folder)
    if what.rebuild:
        _forget_derived(folder, disk)
    _recover(config, disk, clock)
    return _changes(before, _state(StoreFolder(root, disk, commit_log_folder)), folder)


def _recover(config: StoreConfig, disk: Disk, clock: Clock) -> int:
    """Open and close the store; gives the physical offset at which the log ends then."""
    store = MessageStore(config, disk, clock, _UNUSED_HOST)
    store.open()
    end = store.commit_log_max_offset
    try:
        store.settle_blank_units()
    finally:
        store.close()
    return end


def _recovered_end(config: StoreConfig, disk: Disk, clock: Clock, folder: StoreFolder) -> int:
    """Where recovery would end the log. The index, which may be large, does not matter for that."""
    disk.remove_folder(folder.index_folder)
    with _silence():
        return _recover(msgspec.structs.replace(config, message_index_enable=False), disk, clock)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What recovery says counts when it is meant."""
    logger = logging.getLogger("pymq.store")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse_to_lose(folder: StoreFolder, end: int) -> None:
    """StoreCorrupt when a sound record stands behind the physical offset `end`."""
    log = folder.commit_log
    first = first_sound_behind(log, end)
    if first is None or (folder.was_closed_cleanly and end >= _known_end(folder)):
        return  # (what Apache left behind the end of a log that was closed cleanly is no message)
    reason = LogReader(log).examine(end)
    raise StoreCorrupt(
        f"the commit log is damaged at {end:,} ({reason}), and a start of a broker would end it there, but"
        f" sound messages stand behind, from {first:,} on. `pymq store dump` reads them. Copy the folder, and"
        " repair with --cut to give them up"
    )


def _known_end(folder: StoreFolder) -> int:
    return newest_known_end(
        folder, {key: bounds(queue, folder.commit_log.start) for key, queue in folder.queues.items()}
    )


def _config(folder: StoreFolder, what: Repair) -> StoreConfig:
    """The sizes that the files have; nothing is old enough to be deleted."""
    log, root = folder.commit_log, folder.root
    slots, entries = (find_geometries(folder.disk, folder.index_files) or [DEFAULT_GEOMETRY])[0]
    return StoreConfig(
        root=root,
        commit_log_path=folder.commit_log_folder,
        commit_log_segment_bytes=log.file_bytes,
        consume_queue_segment_bytes=folder.consume_queue_file_bytes
        or _default("consume_queue_segment_bytes"),
        max_hash_slot_num=slots,
        max_index_num=entries,
        message_delay_level=what.delay_levels or _levels(folder),
    )


def _default(setting: str) -> Any:
    """The default of a setting of the store."""
    return next(field.default for field in msgspec.structs.fields(StoreConfig) if field.name == setting)


def _levels(folder: StoreFolder) -> str:
    """messageDelayLevel with the delays that the queues show, and the default where they show none."""
    levels = str(_default("message_delay_level")).split()
    found = delay_levels(
        folder, {key: bounds(q, folder.commit_log.start) for key, q in folder.queues.items()}
    )
    for level, delay_ms in found.items():
        if level <= len(levels):
            levels[level - 1] = f"{-(-delay_ms // 1000)}s"
    return " ".join(levels)


def _forget_derived(folder: StoreFolder, disk: Disk) -> None:
    """Remove what can be made from the log. Should this end half-way, the next start goes on with it.

    A queue of which the log has no message any more stays: it alone knows the next number.
    """
    disk.write_bytes(os.path.join(folder.root, "abort"), b"")
    disk.remove_file(os.path.join(folder.root, "checkpoint"))
    for queue in folder.queues.values():
        low, high = bounds(queue, folder.commit_log.start)
        if low < high:
            disk.remove_folder(queue.folder)
    disk.remove_folder(folder.index_folder)


# -- before and after


def _state(folder: StoreFolder) -> State:
    log = folder.commit_log
    queue_bounds = {key: bounds(queue, log.start) for key, queue in folder.queues.items()}
    return State(
        log_start=log.start,
        log_end=log_end(folder, queue_bounds),
        log_files={file.path: file.size for file in log.files + log.odd},
        queues={
            key: QueueState(*queue_bounds[key], _checksum(queue, *queue_bounds[key]))
            for key, queue in folder.queues.items()
        },
        index={os.path.basename(file.path): _index_entries(folder, file) for file in folder.index_files},
        is_clean=folder.was_closed_cleanly,
    )


def _checksum(queue: Range, low: int, high: int) -> int:
    offset, end, checksum = low * CQ_STORE_UNIT_SIZE, high * CQ_STORE_UNIT_SIZE, 0
    while offset < end and (data := queue.read(offset, min(_SCAN, end - offset))):
        checksum = zlib.crc32(data, checksum)
        offset += len(data)
    return checksum


def _index_entries(folder: StoreFolder, file: FoundFile) -> int:
    header = read_header(folder.disk, file)
    return 0 if header is None else max(0, header.index_count - 1)


def _changes(before: State, after: State, folder: StoreFolder) -> list[str]:
    lines = []
    for path in sorted(before.log_files.keys() - after.log_files.keys()):
        lines.append(f"{folder.relative(path)}: removed")
    for path, size in sorted(after.log_files.items()):
        if path not in before.log_files:
            lines.append(f"{folder.relative(path)}: made, {size:,} bytes")
        elif before.log_files[path] != size:
            lines.append(f"{folder.relative(path)}: {size:,} bytes instead of {before.log_files[path]:,}")
    if before.log_end != after.log_end:
        lines.append(f"commit log: ends at {after.log_end:,} instead of {before.log_end:,}")
    for key in sorted(before.queues.keys() | after.queues.keys()):
        line = _queue_change(before.queues.get(key), after.queues.get(key))
        if line:
            lines.append(f"queue {key[0]}/{key[1]}: {line}")
    lines += _index_changes(before.index, after.index)
    if not before.is_clean:
        lines.append(
            "abort: removed, the store is closed cleanly now" if after.is_clean else "abort: still there"
        )
    return lines


def _queue_change(before: QueueState | None, after: QueueState | None) -> str:
    if after is None:
        return "gone: the log has no message of it"
    if before is None or before.low >= before.high:
        return f"built from the log: {_range_text(after)}" if after.high > after.low else ""
    if before[:2] != after[:2]:
        return f"{_range_text(after)} instead of {_range_text(before)}"
    return "units put right" if before != after else ""


def _range_text(queue: QueueState) -> str:
    if queue.low >= queue.high:
        return "no message"
    return (
        f"message {queue.low:,}"
        if queue.high - queue.low == 1
        else f"messages {queue.low:,} to {queue.high - 1:,}"
    )


def _index_changes(before: dict[str, int], after: dict[str, int]) -> list[str]:
    if before == after:
        return []
    old, new = _index_text(before), _index_text(after)
    return [f"index: built anew, {new}" if old == new or not before else f"index: {new} instead of {old}"]


def _index_text(index: dict[str, int]) -> str:
    return f"{sum(index.values()):,} entries in {len(index)} file{'' if len(index) == 1 else 's'}"
