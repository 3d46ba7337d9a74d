"""What `pymq store` prints: tables for people, JSON for machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pymq.clock import SystemClock
from pymq.errors import PymqError
from pymq.protocol.message import MessageRecord
from pymq.protocol.message_ids import format_host
from pymq.protocol.properties import KEYS, TAGS

if TYPE_CHECKING:
    from pymq.store.inspection.files import StoreFolder
    from pymq.store.inspection.problems import Problem
    from pymq.store.inspection.survey import Survey
    from pymq.store.inspection.verify import Summary

_UNITS = ("KiB", "MiB", "GiB")
_BODY_SHOWN = 60
_clock = SystemClock()


def time_text(timestamp_ms: int) -> str:
    """Local time to the millisecond, `-` for none."""
    if timestamp_ms <= 0:
        return "-"
    try:
        return _clock.local_time(timestamp_ms).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms} ms"


def size_text(size: int) -> str:
    """Bytes, in the largest unit that leaves no rest."""
    unit = "B"
    for larger in _UNITS:
        if size == 0 or size % 1024:
            break
        size, unit = size // 1024, larger
    return f"{size:,} {unit}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], indent: str = "  ") -> list[str]:
    """Lines of a table; numbers stand to the right, with thousands separated."""
    texts = [list(head)] + [
        [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows
    ]
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [bool(rows) and isinstance(rows[0][i], int) for i in range(len(head))]
    lines = []
    for line in texts:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def survey_lines(survey: Survey, in_use: bool) -> list[str]:
    """A store's folder as an operator reads it."""
    state = "cleanly closed" if survey.was_closed_cleanly else "NOT cleanly closed (the file abort is there)"
    lines = [f"{survey.root}: {'in use by a broker' if in_use else state}"]
    lines += _log_lines(survey) + _queue_lines(survey) + _index_lines(survey) + _state_lines(survey)
    lines += ["", "To open this folder, Apache's broker.conf needs (4.3.2 spells it mapedFileSize…):"]
    lines += [f"  {line}" for line in survey.conf]
    if survey.delay_levels_ms:
        levels = ", ".join(
            f"{level}: {_delay_text(delay)}" for level, delay in survey.delay_levels_ms.items()
        )
        lines.append(f"Delay levels in use (messageDelayLevel must agree): {levels}")
    if survey.timed is not None:
        lines.append(
            f"Note: {_count(survey.timed.count, 'timed message')} in rmq_sys_wheel_timer, due "
            f"{time_text(survey.timed.first_due)} to {time_text(survey.timed.last_due)}:"
        )
        lines.append(
            "      Apache's brokers before 5.0 know delay levels only; they never deliver what waits there"
        )
    if survey.open_transactions:
        lines.append(
            f"Note: {_count(survey.open_transactions, 'transaction')} open: a broker on this folder asks "
            "their producers"
        )
    return lines + [f"Note: {remark}" for remark in survey.remarks]


def _log_lines(survey: Survey) -> list[str]:
    files = survey.commit_log_files
    if not files:
        return ["", "commitlog: no file"]
    size = size_text(survey.commit_log_file_bytes)
    lines = ["", f"commitlog: {_count(len(files), 'file')} of {size}, offsets "
             f"{survey.commit_log_min_offset:,} to {survey.commit_log_max_offset:,}"]  # fmt: skip
    rows = [(f.name, f.begin, f.end, f.end - f.begin, time_text(f.first_store_timestamp)) for f in files]
    return lines + table(("FILE", "BEGIN", "END", "BYTES", "FIRST MESSAGE STORED"), rows)


def _queue_lines(survey: Survey) -> list[str]:
    if not survey.queues:
        return ["", "consumequeue: no queue"]
    size = survey.consume_queue_file_bytes
    topics = len({queue.topic for queue in survey.queues})
    lines = ["", f"consumequeue: {_count(len(survey.queues), 'queue')} of {_count(topics, 'topic')}, "
             f"files of {size_text(size)} ({size // 20:,} messages)"]  # fmt: skip
    rows = [
        (_printable(q.topic), q.queue_id, q.min_offset, q.max_offset, q.max_offset - q.min_offset, q.files)
        for q in survey.queues
    ]
    return lines + table(("TOPIC", "QUEUE", "MIN", "MAX", "MESSAGES", "FILES"), rows)


def _index_lines(survey: Survey) -> list[str]:
    if not survey.index_files:
        return ["", "index: no file"]
    lines = ["", f"index: {_count(len(survey.index_files), 'file')}"]
    if len(survey.index_geometries) == 1:
        slots, entries = survey.index_geometries[0]
        lines[-1] += f" of {slots:,} slots and {entries:,} entries"
    rows = [
        (
            f.name,
            f.entries,
            f.begin_offset,
            f.end_offset,
            time_text(f.begin_timestamp),
            time_text(f.end_timestamp),
        )
        for f in survey.index_files
    ]
    return lines + table(("FILE", "ENTRIES", "FROM OFFSET", "TO OFFSET", "FROM TIME", "TO TIME"), rows)


def _state_lines(survey: Survey) -> list[str]:
    lines = ["", "checkpoint: missing"]
    if survey.checkpoint is not None:
        names = ("commit log", "consume queues", "index")
        times = (f"{n} {time_text(t)}" for n, t in zip(names, survey.checkpoint, strict=True))
        lines[-1] = "checkpoint: " + ", ".join(times)
    if not survey.tables:
        return [*lines, "config: no table"]
    rows = []
    for each in survey.tables:
        entries = "unreadable" if each.entries is None else f"{each.entries:,}"
        version = "-" if each.counter is None else f"{each.counter:,}"
        remarks = ["from .bak"] if each.from_backup else []
        if each.changes:
            remarks.append(f"and {_count(each.changes, 'writing')} of {each.name}.changes")
        source = " ".join(remarks)
        rows.append((each.name, entries.rjust(7), version.rjust(7), time_text(each.changed or 0), source))
    return [*lines, "config:", *table(("TABLE", "ENTRIES", "VERSION", "CHANGED", ""), rows)]


def _delay_text(delay_ms: int) -> str:
    for name, factor in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if delay_ms % factor == 0:
            return f"{delay_ms // factor}{name}"
    return f"{delay_ms / 1000:g}s"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def to_json(value: Any) -> str:
    """One line of JSON."""
    return msgspec.json.encode(value).decode()


# -- verify


def problem_line(folder: StoreFolder, problem: Problem) -> str:
    """Where, and what."""
    where = folder.relative(problem.path)
    if problem.position >= 0:
        where += f", byte {problem.position:,}"
    return _printable(f"{where}: {'note: ' if problem.is_note else ''}{problem.text}")


def problem_json(folder: StoreFolder, problem: Problem) -> str:
    """The same for machines."""
    members: dict[str, object] = {
        "type": "note" if problem.is_note else "problem",
        "part": problem.part,
        "file": folder.relative(problem.path),
        "position": None if problem.position < 0 else problem.position,
        "offset": None if problem.offset < 0 else problem.offset,
        "text": problem.text,
    }
    return to_json(members)


def summary_lines(summary: Summary) -> list[str]:
    """What was checked, and the verdict."""
    checked = (
        f"checked {_count(summary.records, 'message')} from offset {summary.commit_log_min_offset:,} to "
        f"{summary.commit_log_max_offset:,}, {_count(summary.units, 'unit')} of "
        f"{_count(summary.queues, 'queue')}, {summary.index_entries:,} index entries in "
        f"{_count(summary.index_files, 'file')}"
    )
    if not summary.problems:
        return [checked, "nothing is wrong"]
    lines = [checked, f"{_count(summary.problems, 'thing')} {'is' if summary.problems == 1 else 'are'} wrong"]
    if not summary.was_closed_cleanly:
        lines.append(
            "the store was not closed cleanly: the next start of a broker, or `pymq store repair`, "
            "puts right what can be made from the commit log"
        )
    return lines


# -- dump


def record_line(record: MessageRecord, body: str) -> str:
    """A message in one line. `body`: text, hex or none."""
    properties = record.read_properties()
    parts = [
        f"{record.physical_offset:>14,}",
        time_text(record.store_timestamp),
        f"{_printable(record.topic)}/{record.queue_id}/{record.queue_offset}",
        f"{record.total_size:,} B",
    ]
    if tags := properties.get(TAGS):
        parts.append(f"tags={_printable(tags)}")
    if keys := properties.get(KEYS):
        quote = "'" if " " in keys else ""
        parts.append(f"keys={quote}{_printable(keys)}{quote}")
    if body != "none":
        parts.append(_shortened(_body_text(record, body)))
    return "  ".join(parts)


def record_json(record: MessageRecord, body: str) -> str:
    """A message as one JSON object, its body whole."""
    members: dict[str, object] = {
        "phyOffset": record.physical_offset,
        "size": record.total_size,
        "topic": record.topic,
        "queueId": record.queue_id,
        "queueOffset": record.queue_offset,
        "msgId": record.offset_msg_id,
        "flag": record.flag,
        "sysFlag": record.sys_flag,
        "bornTimestamp": record.born_timestamp,
        "bornHost": format_host(record.born_host),
        "storeTimestamp": record.store_timestamp,
        "storeHost": format_host(record.store_host),
        "reconsumeTimes": record.reconsume_times,
        "preparedTransactionOffset": record.prepared_transaction_offset,
        "properties": record.read_properties(),
    }
    text = None if body == "hex" else _decoded(record)
    if body != "none":
        members["bodyHex" if text is None else "body"] = record.body.hex() if text is None else text
    return to_json(members)


def _decoded(record: MessageRecord) -> str | None:
    """The body as text, None when it is none."""
    try:
        return record.read_body().decode()
    except (UnicodeDecodeError, PymqError):
        return None


def _body_text(record: MessageRecord, body: str) -> str:
    text = None if body == "hex" else _decoded(record)
    is_text = text is not None and all(c.isprintable() or c in "\n\r\t" for c in text)
    return _printable(text) if text is not None and is_text else f"0x{record.body.hex()}"


def _printable(text: str) -> str:
    """Text from a store, fit for a terminal and for one line."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _BODY_SHOWN else f"{text[:_BODY_SHOWN]}… ({len(text):,})"
