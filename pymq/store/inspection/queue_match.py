"""Comparing consume queues with the commit log: each record with its unit, and each unit with its record."""

from __future__ import annotations

import msgspec

from pymq.protocol.message import MessageRecord
from pymq.protocol.properties import get_property
from pymq.protocol.sysflags import has_queue_unit
from pymq.protocol.tag_filter import tags_code
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.inspection.files import Range, StoreFolder
from pymq.store.inspection.log_walk import LogReader
from pymq.store.inspection.problems import Problem, Progress, Report, Run
from pymq.store.inspection.queue_units import NO_UNIT, QueueUnits, Unit, walk_units
from pymq.store.tags_codes import SCHEDULE_TOPIC

PART = "consumequeue"
_EXT_ADDRESS_MAX = -(2**31) - 1
"""Tags codes up to this one are addresses in consumequeue_ext (store.md §3)."""
_MULTI_DISPATCH = "INNER_MULTI_DISPATCH"
_MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET"
_LMQ_PREFIX = "%LMQ%"
_LOOK_BEHIND = 4096
_UNIT_PHYSICAL, _UNIT_SIZE, _UNIT_TAGS = 0, 8, 12


class _Seen(msgspec.Struct, gc=False):
    """What the log has shown of a queue so far."""

    first: int
    next: int
    gaps: list[tuple[int, int]]
    """Numbers in between that no record has."""
    missing: Run
    superseded: Run
    """Records whose units point to later ones: right only if the numbering begins anew behind them."""


class QueueMatch:
    """Takes the records in the log's order, then the queues."""

    def __init__(self, folder: StoreFolder, topics: frozenset[str] | None, report: Report) -> None:
        """`topics`: the names in topics.json, None when unknown. A queue that is not there may be deleted."""
        self._folder = folder
        self._topics = topics
        self._report = report
        self._units = QueueUnits(folder.queues)
        self._reader = LogReader(folder.commit_log)
        self._owner: tuple[tuple[str, int], Unit, int | None] | None = None
        """The last queue and unit looked at, and the number of the message that the unit stands for."""
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._absent: dict[tuple[str, int], int] = {}

    # -- record by record

    def match(self, record: MessageRecord) -> None:
        """The next record of the log."""
        if not has_queue_unit(record.sys_flag):
            return
        self._match(record, record.topic, record.queue_id, record.queue_offset)
        if _MULTI_DISPATCH in record.properties:
            names = get_property(record.properties, _MULTI_DISPATCH) or ""
            offsets = (get_property(record.properties, _MULTI_QUEUE_OFFSET) or "").split(",")
            for name, offset in zip(names.split(","), offsets, strict=False):
                if offset.isdecimal():
                    self._match(
                        record, name, 0 if name.startswith(_LMQ_PREFIX) else record.queue_id, int(offset)
                    )

    def _match(self, record: MessageRecord, topic: str, queue_id: int, number: int) -> None:
        key = (topic, queue_id)
        queue = self._folder.queues.get(key)
        if queue is None:
            self._absent[key] = self._absent.get(key, 0) + 1
            return
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen(number, number, [], Run(self._report), Run(self._report))
        elif number != seen.next:
            self._jump(record, key, number, seen)
        seen.next = number + 1
        unit = self._units.unit(topic, queue_id, number) or NO_UNIT
        if unit.physical_offset == record.physical_offset and unit.is_used:
            seen.missing.end()
            self._check_unit(record, queue, number, unit)
        elif not unit.is_used:
            self._lacks(record, queue, number, seen)
        elif unit.physical_offset > record.physical_offset and not unit.is_blank:
            self._supersedes(record, queue, number, seen)
        else:
            text = (
                f"unit {number:,} points to {unit.physical_offset:,},"
                f" the message of this number stands at {record.physical_offset:,}"
            )
            self._wrong(queue, number, _UNIT_PHYSICAL, text)

    def _jump(self, record: MessageRecord, key: tuple[str, int], number: int, seen: _Seen) -> None:
        """The record does not have the next number of its queue."""
        log, where = self._folder.commit_log, f"{key[0]}/{key[1]}"
        path, position = log.place(record.physical_offset)
        if number > seen.next:
            seen.gaps.append((seen.next, number))
            missing = (
                f"message {seen.next:,}"
                if number == seen.next + 1
                else f"messages {seen.next:,} to {number - 1:,}"
            )
            text = f"before the record at {record.physical_offset:,}, {where} lacks {missing}"
            unit = self._units.unit(*key, seen.next) or NO_UNIT
            is_known = unit.is_blank or self._is_lost(key, seen.next, unit)
            self._report(Problem("commitlog", path, position, text, record.physical_offset, is_known))
            return
        unit = self._units.unit(*key, number) or NO_UNIT
        begins_anew = number == 0 or unit.physical_offset == record.physical_offset
        if begins_anew:
            text = f"{where} begins anew with number {number:,}: the topic was deleted and made again"
            seen.superseded, seen.missing = Run(self._report), Run(self._report)  # that was another life
            seen.first, seen.gaps = number, []
        else:
            text = f"record at {record.physical_offset:,} has number {number:,} in {where} again"
        self._report(
            Problem("commitlog", path, position, text, offset=record.physical_offset, is_note=begins_anew)
        )

    def _lacks(self, record: MessageRecord, queue: Range, number: int, seen: _Seen) -> None:
        def text(first: int, last: int, count: int) -> str:
            units = f"unit {first:,} is missing" if count == 1 else f"units {first:,} to {last:,} are missing"
            return f"{units}: the messages from {record.physical_offset:,} on are not found"

        path, position = queue.place(number * CQ_STORE_UNIT_SIZE)
        seen.missing.add(number, PART, path, position, text)

    def _supersedes(self, record: MessageRecord, queue: Range, number: int, seen: _Seen) -> None:
        def text(first: int, last: int, count: int) -> str:
            units = f"unit {first:,} points" if count == 1 else f"units {first:,} to {last:,} point"
            return f"{units} behind the message of this number, which stands at {record.physical_offset:,}"

        path, position = queue.place(number * CQ_STORE_UNIT_SIZE)
        seen.superseded.add(number, PART, path, position, text)

    def _check_unit(self, record: MessageRecord, queue: Range, number: int, unit: Unit) -> None:
        if unit.size != record.total_size:
            said, has = f"{unit.size:,}", f"{record.total_size:,}"
            text = f"unit {number:,} says {said} bytes, its message at {record.physical_offset:,} has {has}"
            self._wrong(queue, number, _UNIT_SIZE, text)
        fault = _tags_code_fault(record, unit.tags_code)
        if fault:
            self._wrong(queue, number, _UNIT_TAGS, f"unit {number:,} has tags code {unit.tags_code}: {fault}")

    def _wrong(self, queue: Range, number: int, field: int, text: str) -> None:
        path, position = queue.place(number * CQ_STORE_UNIT_SIZE)
        self._report(Problem(PART, path, position + field, text, offset=number))

    def _is_lost(self, key: tuple[str, int], number: int, unit: Unit) -> bool:
        """Whether a unit is a copy of its neighbour's: the store knows that the message is lost."""
        owner = self._owner_of(key, unit)
        if owner is None or owner == number:
            return False
        towards = number + (1 if owner > number else -1)
        return self._units.unit(*key, owner) == unit == self._units.unit(*key, towards)

    def _owner_of(self, key: tuple[str, int], unit: Unit) -> int | None:
        """The number of the message that a unit stands for; None where it is none of the queue."""
        if self._owner is None or self._owner[:2] != (key, unit):
            record = self._reader.examine(unit.physical_offset) if unit.is_used else ""
            is_right = not isinstance(record, str) and (
                (record.topic, record.queue_id, record.total_size) == (*key, unit.size)
            )
            self._owner = key, unit, record.queue_offset if is_right else None  # type: ignore[union-attr]
        return self._owner[2]

    # -- queue by queue

    def finish(self, log_end: int, progress: Progress) -> int:
        """The log has ended: go through the queues, and give the number of units that stand for messages."""
        count = 0
        for key, queue in self._folder.queues.items():
            seen = self._seen.get(key)
            if seen is not None:
                seen.missing.end()
                seen.superseded.end()
            count += self._walk(key, queue, seen, log_end)
            progress(sum(file.size for file in queue.files))
        for (topic, queue_id), messages in sorted(self._absent.items()):
            deleted = self._topics is not None and topic not in self._topics
            why = "its topic was deleted" if deleted else "there is no such queue"
            text = f"{messages:,} messages of the log belong to {topic}/{queue_id}: {why}"
            self._report(Problem(PART, self._folder.consume_queue_folder, -1, text, is_note=deleted))
        return count

    def _walk(self, key: tuple[str, int], queue: Range, seen: _Seen | None, log_end: int) -> int:
        """The units that no record has asked for must stand for messages that are no more."""
        wrong, blank = Run(self._report), Run(self._report)
        lost, passed = Run(self._report, is_note=True), Run(self._report, is_note=True)
        count = 0
        has_message = False
        end = queue.start // CQ_STORE_UNIT_SIZE
        log_start = self._folder.commit_log.start
        first, behind, gaps = (seen.first, seen.next, seen.gaps) if seen else (0, 0, [])

        def blank_text(first: int, last: int, count: int) -> str:
            return _blank_text(first, last, count, has_message)

        for number, unit in walk_units(queue):
            end = number + 1
            has_message |= not unit.is_blank
            if unit.physical_offset < log_start and not unit.is_at_border:
                continue
            place = (PART, *queue.place(number * CQ_STORE_UNIT_SIZE))
            if unit.is_blank:
                if unit.is_at_border:
                    passed.add(number, *place, _passed_text)
                else:
                    blank.add(number, *place, blank_text)
                continue
            count += 1
            is_asked = first <= number < behind
            is_in_gap = is_asked and any(start <= number < end for start, end in gaps)
            if is_asked and not is_in_gap:
                continue
            if self._is_lost(key, number, unit):
                count -= 1
                if not is_in_gap:  # else the log has told
                    lost.add(number, *place, _lost_text)
                continue

            def text(first: int, last: int, count: int, unit: Unit = unit) -> str:
                units = f"unit {first:,} points" if count == 1 else f"units {first:,} to {last:,} point"
                return f"{units} to {self._what_is_at(key, first, unit, log_end)}"

            wrong.add(number, *place, text)
        for run in (wrong, blank, lost, passed):
            run.end()
        self._check_behind(queue, end, behind)
        return count

    def _check_behind(self, queue: Range, end: int, behind: int) -> None:
        """Near behind the first unused unit nothing may stand. Of holes before `behind` the log has told."""
        start = end * CQ_STORE_UNIT_SIZE
        data = queue.read(start, _LOOK_BEHIND)
        rest = data.lstrip(b"\0")
        if rest and end >= behind:
            path, position = queue.place(start + len(data) - len(rest))
            text = f"the queue ends before unit {end:,}, but what stands behind is not zero"
            self._report(Problem(PART, path, position, text, offset=end))

    def _what_is_at(self, key: tuple[str, int], number: int, unit: Unit, log_end: int) -> str:
        offset = unit.physical_offset
        if offset >= log_end:
            return f"{offset:,}, behind the end of the commit log ({log_end:,})"
        found = self._reader.examine(offset)
        if isinstance(found, str):
            return f"{offset:,}: {found}"
        return f"{offset:,}, where message {found.queue_offset:,} of {found.topic}/{found.queue_id} stands"


def _lost_text(first: int, last: int, count: int) -> str:
    return (
        f"message {first:,} is lost: its unit is its neighbour's"
        if count == 1
        else f"messages {first:,} to {last:,} are lost: their units are their neighbour's"
    )


def _passed_text(first: int, last: int, count: int) -> str:
    return (
        f"message {first:,} is lost: its unit leads nowhere"
        if count == 1
        else f"messages {first:,} to {last:,} are lost: their units lead nowhere"
    )


def _blank_text(first: int, last: int, count: int, has_message: bool) -> str:
    """`has_message`: the queue has a message, too."""
    units = f"unit {first:,} stands" if count == 1 else f"units {first:,} to {last:,} stand"
    cure = "makes copies of a neighbour's" if has_message else "lets the log go on in a new file for that"
    harm = "an Apache 4.9.4 broker would get stuck there"
    return f"{units} for no message, and {harm}: `pymq store repair` {cure}"


def _tags_code_fault(record: MessageRecord, code: int) -> str:
    """What is wrong with the tags code of a record's unit, nothing if it is right (store.md §3)."""
    if code <= _EXT_ADDRESS_MAX:
        return ""
    level = get_property(record.properties, "DELAY") or ""
    if record.topic == SCHEDULE_TOPIC and level.isdecimal() and int(level) > 0:
        # The time of delivery. The levels may have been others when it was written: only that much is sure.
        delay = code - record.store_timestamp
        if delay < 0 or delay % 1000:
            return f"no time of delivery for a message stored at {record.store_timestamp}"
        return ""
    tags = get_property(record.properties, "TAGS")
    expected = tags_code(tags)
    return "" if code == expected else f"the message's tags {tags!r} have {expected}"
