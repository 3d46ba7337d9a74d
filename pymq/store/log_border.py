"""Where two files of the commit log meet: what a unit can point to that stands for nothing (store.md §3).

No record lies across the end of a file, so Apache reads nothing at a place that does: a pull goes on with the
next unit, whose file is a later one, and the answer holds nothing strange. What stands before the end of such
a unit, which is that of the first record behind the border, has been dispatched; so an Apache 4.9.4 broker,
which goes by the largest end of all queues' last units, goes on there or later. The unit's tags code says
what it is.
"""

from __future__ import annotations

from pymq.store.commitlog import CommitLog, encode_filler
from pymq.store.unit_match import Unit
from pymq.store.unit_reads import BORDER_TAGS_CODE


def border_unit(log: CommitLog) -> Unit | None:
    """A unit that stands for nothing, for a queue whose next message goes to the log's last file.

    Where the log's oldest files have gone, it is the last byte of them. None where the log has only had one
    file so far, or its last one does not begin with a sound record.
    """
    if log.min_offset > 0:
        return log.min_offset - 1, 1, BORDER_TAGS_CODE
    base = log.tail.base
    record = log.record_at(base) if base > 0 else None
    return None if record is None else (base - 1, len(record) + 1, BORDER_TAGS_CODE)


def make_border(log: CommitLog, now_ms: int) -> Unit | None:
    """`border_unit`; where there is none, the log goes on in a new file, with a record without meaning.

    All of it is on the disk then. None for a log without any file. `now_ms`: the time of the record, unless
    the newest is later. StoreFull, StoreBroken.
    """
    if log.is_empty or (unit := border_unit(log)) is not None:
        return None if log.is_empty else unit
    start = log.end
    if log.position:
        log.begin_file()
    log.append_raw(encode_filler(log.end, b"", max(now_ms, log.last_store_timestamp)))
    log.flush_job(start)()
    return border_unit(log)
