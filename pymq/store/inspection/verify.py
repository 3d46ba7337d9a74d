"""`pymq store verify`: every record, unit, slot, entry and table of a store, read once and compared."""

from __future__ import annotations

import msgspec

from pymq.protocol.message import MessageRecord
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.index_check import IndexFiles, IndexMatch
from pymq.store.inspection.index_geometry import find_geometries, read_header
from pymq.store.inspection.log_walk import Blank, Damage, End, walk
from pymq.store.inspection.problems import Problem, Progress, Report, no_progress
from pymq.store.inspection.queue_match import QueueMatch
from pymq.store.inspection.queue_units import Bounds, bounds, newest_known_end
from pymq.store.inspection.table_check import (
    check_checkpoint,
    check_tables,
    read_table,
    topic_names,
)

_TELL_EACH = 1 << 20


class Summary(msgspec.Struct):
    """What was gone through, and how much is wrong."""

    problems: int = 0
    notes: int = 0
    records: int = 0
    damaged_bytes: int = 0
    commit_log_min_offset: int = 0
    commit_log_max_offset: int = 0
    queues: int = 0
    units: int = 0
    index_files: int = 0
    index_entries: int = 0
    was_closed_cleanly: bool = True


def verify(folder: StoreFolder, report: Report, progress: Progress = no_progress) -> Summary:
    """Check a whole store and report each thing that is wrong; nothing is changed.

    `progress` is told the bytes, of `folder.data_bytes()` in all. Memory grows with the number of queues, not
    of messages.
    """
    return _Verification(folder, report, progress).run()


class _Verification:
    def __init__(self, folder: StoreFolder, report: Report, progress: Progress) -> None:
        self._folder = folder
        self._tell = report
        self._progress = progress
        self._summary = Summary(was_closed_cleanly=folder.was_closed_cleanly)
        self._newest_timestamp = 0

    def _report(self, problem: Problem) -> None:
        if problem.is_note:
            self._summary.notes += 1
        else:
            self._summary.problems += 1
        self._tell(problem)

    def run(self) -> Summary:
        folder, summary = self._folder, self._summary
        folder.check(self._report)
        queue_bounds = {key: bounds(queue, folder.commit_log.start) for key, queue in folder.queues.items()}
        topics = topic_names(read_table(folder, "topics"))
        queues = QueueMatch(folder, topics, self._report)
        index = self._open_index()
        self._walk_log(queue_bounds, queues, index[1] if index else None)
        if index:
            index[1].finish()
            summary.index_entries = index[0].entries_count
        summary.units = queues.finish(summary.commit_log_max_offset, self._progress)
        summary.queues, summary.index_files = len(folder.queues), len(folder.index_files)
        check_checkpoint(folder, self._newest_timestamp, self._report)
        check_tables(folder, queue_bounds, self._report)
        return summary

    def _open_index(self) -> tuple[IndexFiles, IndexMatch] | None:
        folder = self._folder
        if not folder.index_files:
            return None
        geometries = find_geometries(folder.disk, folder.index_files)
        if not geometries:
            headers = [read_header(folder.disk, file) for file in folder.index_files]
            if any(header is None or header.index_count > 1 for header in headers):
                text = "the files fit no number of slots: their headers and entries contradict each other"
                self._report(Problem("index", folder.index_folder, -1, text))
            return None
        files = IndexFiles(folder.disk, folder.index_files, geometries[0], self._report, self._progress)
        return files, IndexMatch(files, folder.index_folder, folder.commit_log.start, self._report)

    def _walk_log(self, queue_bounds: Bounds, queues: QueueMatch, index: IndexMatch | None) -> None:
        folder, summary = self._folder, self._summary
        log = folder.commit_log
        summary.commit_log_min_offset = log.start
        known_end = newest_known_end(folder, queue_bounds)
        is_final = folder.was_closed_cleanly and known_end > log.start
        told = log.start
        for found in walk(log, log.start, known_end, is_final=is_final):
            if isinstance(found, MessageRecord):
                summary.records += 1
                self._note_time(found)
                queues.match(found)
                if index is not None:
                    index.match(found)
                if found.physical_offset - told >= _TELL_EACH:
                    self._progress(found.physical_offset - told)
                    told = found.physical_offset
            elif isinstance(found, Damage):
                summary.damaged_bytes += found.end - found.offset
                self._damage(
                    found.offset, f"{found.end - found.offset:,} bytes are no message: {found.reason}"
                )
            elif isinstance(found, End):
                summary.commit_log_max_offset = found.offset
                self._check_end(found, known_end)
            else:
                assert isinstance(found, Blank)
                if index is not None:
                    index.pass_over(found.offset, found.end)
        self._progress(max(0, log.end - told))

    def _note_time(self, record: MessageRecord) -> None:
        if record.store_timestamp < self._newest_timestamp:
            back = self._newest_timestamp - record.store_timestamp
            text = f"store times go back by {back:,} ms with the record at {record.physical_offset:,}"
            self._damage(record.physical_offset, text, is_note=True)
        self._newest_timestamp = max(self._newest_timestamp, record.store_timestamp)

    def _damage(self, offset: int, text: str, *, is_note: bool = False) -> None:
        path, position = self._folder.commit_log.place(offset)
        self._report(Problem("commitlog", path, position, text, offset=offset, is_note=is_note))

    def _check_end(self, end: End, known_end: int) -> None:
        if not end.leftover:
            return
        if self._folder.was_closed_cleanly and end.offset == known_end:
            text = f"the log ends at {end.offset:,}; behind it stand bytes of messages that were cut off"
            self._damage(end.offset, text, is_note=True)
        else:
            self._damage(end.offset, f"the log ends at {end.offset:,} with a torn message: {end.leftover}")
