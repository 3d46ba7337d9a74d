"""Opening a store: find the end of the log, and bring the queues to the same point (store.md §5, §12).

After a clean stop only what no queue knows of yet is read. After any other end, and when the files contradict
each other, the log is read again from a point that was surely on the disk, and every unit behind it is
written anew: the queues' pages may have reached the disk in any order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pymq.errors import MessageIllegal
from pymq.protocol.message import MessageRecord
from pymq.protocol.sysflags import has_queue_unit
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import ConsumeQueue
from pymq.store.queues import ConsumeQueues

log = logging.getLogger("pymq.store.recovery")

_CLEAN_FILES = 3
"""A contradiction after a clean stop: this many files are read again, as Apache does."""

DispatchRecord = Callable[[MessageRecord], None]


def recover(
    commit_log: CommitLog,
    queues: ConsumeQueues,
    dispatch: DispatchRecord,
    *,
    clean: bool,
    durable_timestamp: int,
) -> bool:
    """Bring the loaded log and queues into step; afterwards the log can be written to.

    `durable_timestamp`: what was stored up to then (ms) is on the disk, as the checkpoint says. `dispatch`
    adds a record to its queue, and leaves one alone that is there. Returns whether anything was read again or
    cut, so that it should be flushed.
    """
    start = _known_end(commit_log, queues) if clean else None
    again = start is None
    quiet = clean and commit_log.is_empty and not any(queue.max_offset for queue in queues)
    if start is None:
        start = _restart_point(commit_log, durable_timestamp, clean)
        if not quiet:
            log.info("reading the commit log again from %d on", start)
        for queue in queues:
            queue.truncate(queue.first_offset(lambda physical, size, _: size <= 0 or physical >= start))
    end = start
    count = 0
    for end, record in commit_log.walk(start):  # noqa: B007 - the last one is where the log ends
        if record is not None:
            dispatch(record)
            count += 1
    commit_log.cut(end)
    for queue in queues:
        queue.correct_min_offset(commit_log.min_offset)
    if not quiet and (again or count):
        log.info("the commit log ends at %d; %d messages were read", end, count)
    return again or count > 0


def _known_end(commit_log: CommitLog, queues: ConsumeQueues) -> int | None:
    """Where the newest record ends that a queue knows of; None when the log does not have that record."""
    physical, size = queues.last_unit()
    if size == 0 or physical < commit_log.min_offset:
        return commit_log.min_offset if not commit_log.is_empty else None
    record = commit_log.sound_record(physical)
    return physical + size if record is not None and record.total_size == size else None


def _restart_point(commit_log: CommitLog, durable_timestamp: int, clean: bool) -> int:
    """The start of the last file whose first message was surely on the disk, in log and queues."""
    starts = commit_log.segment_starts()
    if not starts:
        return 0
    if clean:
        return starts[max(0, len(starts) - _CLEAN_FILES)]
    for start in reversed(starts):
        record = commit_log.sound_record(start)
        if record is not None and 0 < record.store_timestamp <= durable_timestamp:
            return start
    return starts[0]


def dispatch_record(queues: ConsumeQueues, record: MessageRecord, tags_code: int) -> ConsumeQueue | None:
    """Add a record of the log to its queue; one that is there already is left alone.

    A number below the queue's end, further on in the log, means that the topic was deleted and made again
    in between: the queue starts anew. A number above it means that units are lost: blanks keep the numbering.
    Returns the queue, or None when the record has no unit in any.
    """
    if not has_queue_unit(record.sys_flag):
        return None
    try:
        queue = queues.make(record.topic, record.queue_id)
    except MessageIllegal as e:
        log.error("the message at %d of the commit log belongs to no queue: %s", record.physical_offset, e)
        return None
    if record.queue_offset < queue.max_offset:
        last = queue.unit(queue.max_offset - 1)
        if last is not None and record.physical_offset <= last[0]:
            return queue
        log.warning("queue %s/%d starts anew at %d", record.topic, record.queue_id, record.queue_offset)
        queue.truncate(record.queue_offset)
    if record.queue_offset > queue.max_offset:
        queue.skip_to(record.queue_offset)
    if queue.position >= queue.tail.limit:
        queue.make_room(1)
    queue.append(record.physical_offset, record.total_size, tags_code)
    queue.dirty = True
    return queue
