"""`pymq store ls`: what a store's folder holds, found quickly: nothing is read that need not be."""

from __future__ import annotations

import os.path
from typing import Any

import msgspec

from pymq.protocol.bodies.filter_data import ConsumerFilters
from pymq.protocol.message import MessageRecord
from pymq.store.inspection.files import CONFIG_TABLES, StoreFolder
from pymq.store.inspection.index_geometry import Geometry, find_geometries, read_header
from pymq.store.inspection.log_walk import Blank, End, LogReader, walk
from pymq.store.inspection.open_transactions import open_transactions
from pymq.store.inspection.queue_units import Bounds, bounds, newest_known_end, unit_at
from pymq.store.inspection.table_check import checkpoint_times, read_table
from pymq.store.inspection.timed_messages import TimedMessages, timed_messages
from pymq.store.tags_codes import SCHEDULE_TOPIC


class LogFile(msgspec.Struct):
    """A file of the commit log: offsets are physical. `first_store_timestamp`: ms, 0 without a message."""

    name: str
    begin: int
    end: int
    """Behind its last message."""
    size: int
    first_store_timestamp: int


class Queue(msgspec.Struct):
    """A consume queue: numbers of its messages, and its files."""

    topic: str
    queue_id: int
    min_offset: int
    max_offset: int
    files: int


class Index(msgspec.Struct):
    """An index file. Times in ms, offsets physical."""

    name: str
    begin_timestamp: int
    end_timestamp: int
    begin_offset: int
    end_offset: int
    entries: int


class ConfigTable(msgspec.Struct):
    """A table of `config/`: how many entries (None: unreadable), and its data version where it has one."""

    name: str
    entries: int | None
    counter: int | None
    changed: int | None
    """ms since 1970."""
    from_backup: bool
    changes: int
    """Writings that are in the file of changes beside it only; `entries` counts them in."""


class Survey(msgspec.Struct):
    """What a store's folder holds."""

    root: str
    was_closed_cleanly: bool
    commit_log_min_offset: int
    commit_log_max_offset: int
    commit_log_file_bytes: int
    consume_queue_file_bytes: int
    commit_log_files: list[LogFile]
    queues: list[Queue]
    index_files: list[Index]
    index_geometries: list[Geometry]
    """(maxHashSlotNum, maxIndexNum) that fit the index files: one, or several if they hold too little."""
    checkpoint: tuple[int, int, int] | None
    """Times (ms) of commit log, consume queues, index."""
    tables: list[ConfigTable]
    delay_levels_ms: dict[int, int]
    """The levels that are in use, from the schedule topic's queues."""
    timed: TimedMessages | None
    """Timed messages that wait, which a 4.x broker of Apache's never delivers."""
    open_transactions: int
    """Half messages that nobody has ended; some may be counted twice after a kill."""
    conf: list[str]
    """Lines of a broker.conf with which Apache's broker opens this folder."""
    remarks: list[str]
    """What the operator should know besides."""


def survey(folder: StoreFolder) -> Survey:
    """Look at a store's folder; nothing is changed. What contradicts itself is left to `verify`."""
    log = folder.commit_log
    queue_bounds = {key: bounds(queue, log.start) for key, queue in folder.queues.items()}
    end = log_end(folder, queue_bounds)
    geometries = find_geometries(folder.disk, folder.index_files)
    return Survey(
        root=folder.root,
        was_closed_cleanly=folder.was_closed_cleanly,
        commit_log_min_offset=log.start,
        commit_log_max_offset=end,
        commit_log_file_bytes=log.file_bytes,
        consume_queue_file_bytes=folder.consume_queue_file_bytes,
        commit_log_files=_log_files(folder, end),
        queues=[
            Queue(topic, queue_id, low, high, len(folder.queues[topic, queue_id].files))
            for (topic, queue_id), (low, high) in queue_bounds.items()
        ],
        index_files=_index_files(folder),
        index_geometries=geometries,
        checkpoint=checkpoint_times(folder),
        tables=[table for name in CONFIG_TABLES if (table := _table(folder, name)) is not None],
        delay_levels_ms=delay_levels(folder, queue_bounds),
        timed=timed_messages(folder, queue_bounds),
        open_transactions=open_transactions(folder, queue_bounds),
        conf=_conf(folder, geometries),
        remarks=_remarks(folder, geometries),
    )


def log_end(folder: StoreFolder, queue_bounds: Bounds) -> int:
    """Where the log ends, found from the newest message that a queue knows on, or from the start."""
    log = folder.commit_log
    end = start = max(log.start, newest_known_end(folder, queue_bounds))
    for found in walk(log, start, 0, is_final=True):
        if isinstance(found, End):
            return found.offset
        end = found.end if isinstance(found, Blank) else end
    return end


def _log_files(folder: StoreFolder, end: int) -> list[LogFile]:
    reader, found = LogReader(folder.commit_log), []
    for file in folder.commit_log.files:
        record = reader.examine(file.base) if file.base < end else ""
        timestamp = record.store_timestamp if isinstance(record, MessageRecord) else 0
        data_end = max(file.base, min(end, file.base + file.size))
        found.append(LogFile(os.path.basename(file.path), file.base, data_end, file.size, timestamp))
    return found


def _index_files(folder: StoreFolder) -> list[Index]:
    found = []
    for file in folder.index_files:
        header = read_header(folder.disk, file)
        if header is not None:
            found.append(
                Index(
                    os.path.basename(file.path),
                    header.begin_timestamp,
                    header.end_timestamp,
                    header.begin_phy_offset,
                    header.end_phy_offset,
                    header.index_count - 1,
                )
            )
    return found


def _table(folder: StoreFolder, name: str) -> ConfigTable | None:
    table = read_table(folder, name)
    if not table.is_there and not table.changes:
        return None
    version = getattr(table.value, "data_version", None)
    entries = None if table.value is None else len(_entries(table.value))
    counter, changed = (None, None) if version is None else (version.counter, version.timestamp)
    return ConfigTable(f"{name}.json", entries, counter, changed, table.from_backup, table.changes)


def _entries(value: Any) -> Any:
    for attribute in ("topic_config_table", "subscription_group_table", "offset_table"):
        if hasattr(value, attribute):
            return getattr(value, attribute)
    if isinstance(value, ConsumerFilters):
        return [data for entry in value.filter_data_by_topic.values() for data in entry.group_filter_data]
    return {}


def delay_levels(folder: StoreFolder, queue_bounds: Bounds) -> dict[int, int]:
    """Delay level → its delay in ms, for those of which a message is there: the newest one tells."""
    found = {}
    reader = LogReader(folder.commit_log)
    for (topic, queue_id), (low, high) in queue_bounds.items():
        if topic == SCHEDULE_TOPIC and low < high:
            unit = unit_at(folder.queues[topic, queue_id], high - 1)
            record = reader.examine(unit.physical_offset)
            if isinstance(record, MessageRecord) and unit.tags_code > record.store_timestamp:
                found[queue_id + 1] = unit.tags_code - record.store_timestamp
    return found


def _conf(folder: StoreFolder, geometries: list[Geometry]) -> list[str]:
    lines = [f"storePathRootDir={folder.root}", f"storePathCommitLog={folder.commit_log_folder}"]
    if folder.commit_log.file_bytes:
        lines.append(f"mappedFileSizeCommitLog={folder.commit_log.file_bytes}")
    if folder.consume_queue_file_bytes:
        lines.append(f"mappedFileSizeConsumeQueue={folder.consume_queue_file_bytes}")
    if geometries:
        lines.append(f"maxHashSlotNum={geometries[0].slots}")
        lines.append(f"maxIndexNum={geometries[0].entries}")
    return lines


def _remarks(folder: StoreFolder, geometries: list[Geometry]) -> list[str]:
    remarks = []
    if len(geometries) > 1:
        others = ", ".join(f"{slots}/{entries}" for slots, entries in geometries[1:])
        remarks.append(
            "the index files hold too little to tell maxHashSlotNum/maxIndexNum for sure:"
            f" {others} would fit as well. If in doubt, delete index/: it is built again"
        )
    elif folder.index_files and not geometries:
        remarks.append(
            "maxHashSlotNum and maxIndexNum cannot be told from the index files."
            " If they are not Apache's defaults, delete index/: it is built again"
        )
    odd = len(folder.commit_log.odd) + sum(len(queue.odd) for queue in folder.queues.values())
    if odd or folder.foreign:
        remarks.append(
            f"{odd + len(folder.foreign)} files do not fit: no broker starts; see `pymq store verify`"
        )
    return remarks
