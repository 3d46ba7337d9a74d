"""Checking `config/*.json` and the checkpoint (store.md §5, §8)."""

from __future__ import annotations

from struct import Struct
from typing import Any

import msgspec

from pymq.errors import PymqError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies.body import Body
from pymq.protocol.bodies.filter_data import ConsumerFilters
from pymq.protocol.bodies.offsets import ConsumerOffsets, DelayOffsets
from pymq.protocol.bodies.subscription import SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.sql92 import Sql92Error, compile_sql92
from pymq.store.checkpoint import (
    CHECKPOINT,
    CHECKPOINT_SIZE,
    MARK,
    MARK_POSITION,
    REACH,
    REACH_POSITION,
    Checkpoint,
)
from pymq.store.inspection.files import CONFIG_TABLES, StoreFolder
from pymq.store.inspection.problems import Problem, Report
from pymq.store.inspection.queue_units import Bounds
from pymq.store.table_lines import CHANGES_SUFFIX, ChangeLines, parse_changes
from pymq.store.tags_codes import SCHEDULE_TOPIC

_BODIES: dict[str, type[Body]] = {
    "topics": TopicConfigSerializeWrapper,
    "subscriptionGroup": SubscriptionGroupWrapper,
    "consumerOffset": ConsumerOffsets,
    "delayOffset": DelayOffsets,
    "consumerFilter": ConsumerFilters,
}
_ENTRIES = {"topics": "topic_config_table", "subscriptionGroup": "subscription_group_table"}
"""Of the tables that may have changes beside them, where their entries are."""
_TIMES = Struct(">qqqqq")
"""As `CHECKPOINT`, and two that 5.x adds."""
_EMPTY = "is empty"
_QUEUES_MAX = 65_535
_PERMISSION_MAX = 7


class Table(msgspec.Struct):
    """What a table of `config/` holds; `value` is None when neither file can be read."""

    name: str
    value: Any
    from_backup: bool = False
    is_there: bool = True
    faults: list[Problem] = []
    changes: int = 0
    """How many writings are not in the table's file yet, but in one beside it; `value` has them."""


def read_table(folder: StoreFolder, name: str) -> Table:
    """Read a table as a broker does: `.bak` when the file is missing, empty or torn; then what changed."""
    table = _read_file(folder, name)
    entries_of = _ENTRIES.get(name)
    path = folder.config_path(name) + CHANGES_SUFFIX
    data = folder.disk.read_bytes(path) if entries_of else None
    if data and entries_of:
        if table.value is None and not table.is_there:  # it has not been written yet
            table.value = _BODIES[name]()
        _take_changes(table, entries_of, path, parse_changes(data))
    return table


def _take_changes(table: Table, entries_of: str, path: str, found: ChangeLines) -> None:
    """Report what is wrong with a file of changes, and have what a table lacks in it."""

    def fault(text: str, *, is_note: bool = False) -> None:
        table.faults.append(Problem("config", path, -1, text, is_note=is_note))

    if found.changes_to is None:
        fault("line 1 cannot be read: to which table these are the changes")
    for number in found.damaged:
        fault(f"line {number} cannot be read: what changed there is left out")
    if found.is_torn:
        fault("the last line is torn: nobody was told of what it says", is_note=True)
    if table.value is None:
        fault(f"{len(found.changes)} changes to a table that cannot be read")
        return
    version = table.value.data_version
    lacking = found.lacking(version)
    if lacking and not found.belong_to(version):
        text = f"the changes are to another {table.name}.json: a start takes what this one lacks"
        fault(text, is_note=True)
    entries: dict[str, Any] = {}
    deleted: set[str] = set()
    for change in lacking:
        try:
            changed = getattr(_BODIES[table.name].decode(change.entries.encode()), entries_of)
        except PymqError as e:
            fault(f"line {change.number} holds no entries ({e}): no broker starts before it is removed")
            continue
        table.changes += 1
        entries.update(changed)
        deleted -= changed.keys()
        for name in change.deleted:
            entries.pop(name, None)
            deleted.add(name)
    there = getattr(table.value, entries_of)
    if found.belong_to(version):
        for name in deleted:
            there.pop(name, None)
        there.update(entries)
    else:
        setattr(table.value, entries_of, entries | there)


def _read_file(folder: StoreFolder, name: str) -> Table:
    """The table's own file, or its `.bak`."""
    faults: list[Problem] = []
    path = folder.config_path(name)
    seen = 0
    for each in (path, path + ".bak"):
        data = folder.disk.read_bytes(each)
        if data is None:
            continue
        seen += 1
        if not data.strip(b"\0 \r\n\t"):
            faults.append(Problem("config", each, -1, _EMPTY))
            continue
        try:
            body = _BODIES.get(name)
            value = body.decode(data) if body else tolerant_json.parse(data)
        except PymqError as e:
            faults.append(Problem("config", each, -1, f"cannot be read: {e}"))
            continue
        if each != path:
            main = faults[0] if faults else Problem("config", path, -1, "is missing")
            main.text += ": a broker starts from its .bak"
            faults = [main]
        else:
            faults += _backup_fault(folder, name, path + ".bak")
        return Table(name, value, each != path, True, faults)
    if seen > 1 and any(fault.text != _EMPTY for fault in faults):
        faults.append(Problem("config", path, -1, "neither it nor its .bak can be read: no broker starts"))
    return Table(name, None, False, seen > 0, faults)


def _backup_fault(folder: StoreFolder, name: str, path: str) -> list[Problem]:
    data = folder.disk.read_bytes(path)
    if data is None or not data.strip(b"\0 \r\n\t"):
        return []
    try:
        body = _BODIES.get(name)
        body.decode(data) if body else tolerant_json.parse(data)
    except PymqError as e:
        return [Problem("config", path, -1, f"the backup cannot be read: {e}")]
    return []


def topic_names(table: Table) -> frozenset[str] | None:
    """The names in topics.json; None when it cannot be read."""
    return frozenset(table.value.topic_config_table) if table.value is not None else None


def check_tables(folder: StoreFolder, bounds: Bounds, report: Report) -> None:
    """Report what is wrong with the tables, in themselves and against the queues."""
    for name in CONFIG_TABLES:
        table = read_table(folder, name)
        for fault in table.faults:
            report(fault)
        if table.value is None:
            continue
        path = folder.config_path(name) + (".bak" if table.from_backup else "")
        for text in _contents_faults(name, table.value, bounds):
            report(Problem("config", path, -1, text))


def _contents_faults(name: str, value: Any, bounds: Bounds) -> list[str]:
    if name == "topics":
        return _topic_faults(value)
    if name == "subscriptionGroup":
        groups = value.subscription_group_table.items()
        return [
            f"the entry {key} is about {group.group_name}" for key, group in groups if key != group.group_name
        ]
    if name == "consumerOffset":
        return _offset_faults(value, bounds)
    if name == "delayOffset":
        return _delay_faults(value, bounds)
    if name == "consumerFilter":
        return _filter_faults(value)
    return []


def _topic_faults(value: TopicConfigSerializeWrapper) -> list[str]:
    faults = []
    for key, topic in value.topic_config_table.items():
        if key != topic.topic_name:
            faults.append(f"the entry {key} is about {topic.topic_name}")
        numbers = (topic.read_queue_nums, topic.write_queue_nums)
        if not all(0 <= number <= _QUEUES_MAX for number in numbers):
            faults.append(f"topic {key} has {numbers[0]} queues to read and {numbers[1]} to write")
        if not 0 <= topic.perm <= _PERMISSION_MAX:
            faults.append(f"topic {key} has permission {topic.perm}")
    return faults


def _offset_faults(value: ConsumerOffsets, bounds: Bounds) -> list[str]:
    faults = []
    for key, offsets in value.offset_table.items():
        topic, at, group = key.rpartition("@")
        if not at:
            faults.append(f"the entry {key!r} is no topic@group")
            continue
        for queue_id, offset in offsets.items():
            end = bounds.get((topic, queue_id), (0, 0))[1]
            if not 0 <= offset <= end:
                faults.append(
                    f"group {group} stands at {offset:,} in {topic}/{queue_id}, which ends at {end:,}"
                )
    return faults


def _delay_faults(value: DelayOffsets, bounds: Bounds) -> list[str]:
    faults = []
    for level, offset in value.offset_table.items():
        end = bounds.get((SCHEDULE_TOPIC, level - 1), (0, 0))[1]
        if level < 1:
            faults.append(f"there is no delay level {level}")
        elif not 0 <= offset <= end:
            faults.append(f"level {level} is delivered up to {offset:,}, its queue ends at {end:,}")
    return faults


def _filter_faults(value: ConsumerFilters) -> list[str]:
    faults = []
    for topic, entry in value.filter_data_by_topic.items():
        for group, data in entry.group_filter_data.items():
            if (topic, group) != (data.topic, data.consumer_group):
                faults.append(f"the entry {topic}/{group} is about {data.topic}/{data.consumer_group}")
            try:
                compile_sql92(data.expression)
            except Sql92Error as error:
                faults.append(f"the filter of group {group} on topic {topic} is not used: {error}")
    return faults


def checkpoint_times(folder: StoreFolder) -> tuple[int, int, int] | None:
    """The times of the checkpoint, ms: log, queues, index; None without (a whole) one."""
    data = folder.disk.read_bytes(f"{folder.root}/checkpoint") or b""
    if len(data) < CHECKPOINT.size:
        return None
    physic, logics, index = CHECKPOINT.unpack_from(data)
    return physic, logics, index


def check_checkpoint(folder: StoreFolder, newest_timestamp: int, report: Report) -> None:
    """Report what is wrong with the checkpoint. `newest_timestamp`: of the log, ms."""
    path = f"{folder.root}/checkpoint"
    data = folder.disk.read_bytes(path)
    if data is None:
        if folder.commit_log.files:
            report(Problem("checkpoint", path, -1, "is missing: a start after a crash reads the whole log"))
        return
    if len(data) != CHECKPOINT_SIZE:
        report(Problem("checkpoint", path, -1, f"has {len(data):,} bytes instead of {CHECKPOINT_SIZE:,}"))
    if len(data) < CHECKPOINT.size:
        return
    names = ("commit log", "consume queues", "index")
    for i, (name, time) in enumerate(zip(names, CHECKPOINT.unpack_from(data), strict=True)):
        if time < 0:
            report(Problem("checkpoint", path, 8 * i, f"the time of the {name} is {time}"))
        elif time > newest_timestamp:
            text = f"the time of the {name}, {time}, is later than the newest message's, {newest_timestamp}"
            report(Problem("checkpoint", path, 8 * i, text))
    checkpoint = Checkpoint(path, folder.disk)
    checkpoint.load()
    if (
        checkpoint.is_damaged
        and min(CHECKPOINT.unpack_from(data)) >= 0
        and len(data) >= MARK_POSITION + MARK.size
    ):
        report(Problem("checkpoint", path, MARK_POSITION, "pymq's mark does not have its CRC"))
    rest = bytearray(data[_TIMES.size :])
    for start, size in ((MARK_POSITION, MARK.size), (REACH_POSITION, REACH.size)):
        rest[start - _TIMES.size : start - _TIMES.size + size] = bytes(size)
    if rest.strip(b"\0"):
        position = _TIMES.size + len(rest) - len(rest.lstrip(b"\0"))
        report(Problem("checkpoint", path, position, "bytes that stand for nothing"))
