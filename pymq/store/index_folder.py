"""The files of the index: which can be believed, the next one, and those that go (store.md §4, §6)."""

from __future__ import annotations

import functools
import logging
import os.path

from pymq.clock import Clock
from pymq.disk import Disk
from pymq.errors import ProtocolError, StoreCorrupt, StoreError
from pymq.protocol.message import decode_record
from pymq.store.commitlog import CommitLog
from pymq.store.index_file import INDEX_NAME_LENGTH, IndexHeader, header_fault, index_file_size, keys_of
from pymq.store.index_rows import LogRows
from pymq.store.index_writer import IndexFile
from pymq.store.key_hashes import key_hash
from pymq.store.store_config import StoreConfig

log = logging.getLogger("pymq.store.index")

_SAMPLES = 16
"""So many entries of each file are compared with the log when the store opens."""
_GAP_BYTES = 1 << 20
"""So much of the log between two files is searched for a message that neither has."""


class IndexFolder:
    """The index files in the order of the log."""

    def __init__(
        self, config: StoreConfig, disk: Disk, clock: Clock, commit_log: CommitLog, rows: LogRows
    ) -> None:
        self.files: list[IndexFile] = []
        self._path = config.index_folder
        self._slot_num = config.max_hash_slot_num
        self._index_num = config.max_index_num
        self._disk = disk
        self._clock = clock
        self._last_name = 0
        self._log = commit_log
        self._rows = rows

    @property
    def last(self) -> IndexFile | None:
        """The file that is written to, or None."""
        return self.files[-1] if self.files else None

    def end(self) -> tuple[int, int]:
        """Physical offset before which the files hold all messages; and how many entries of the one there.

        Some of its keys may be missing: where a file was full, the others went to the next one.
        """
        last = self.last
        if last is None or last.header.end_phy_offset < self._log.min_offset:
            return self._log.min_offset, 0
        offset = last.header.end_phy_offset
        hashes = self._check_message(offset)
        if hashes is None:
            return self._rows.skip(offset), 0
        expected = len(hashes)
        there = self._count_entries(offset, expected)
        if there < expected:
            return offset, there
        return offset + len(self._log.record_at(offset) or b""), 0

    def _count_entries(self, offset: int, enough: int) -> int:
        """How many of the last entries, up to `enough`, are of the message at `offset`."""
        count = 0
        for file in reversed(self.files):
            for number in range(file.header.index_count - 1, 0, -1):
                if count == enough or file.entry(number).phy_offset != offset:
                    return count
                count += 1
        return count

    # -- opening

    def load(self, durable_timestamp: int | None) -> None:
        """Find the files, and delete those that contradict themselves, each other or the log; and all later.

        `durable_timestamp`: full files with nothing newer (ms) were brought to the disk, and no others may be
        believed; None: all may.
        """
        self.files = []
        names = []
        for name in self._disk.list_folder(self._path):
            if len(name) == INDEX_NAME_LENGTH and name.isdecimal():
                names.append(name)
            else:
                log.warning("%s is no index file: ignored", os.path.join(self._path, name))
        for number, name in enumerate(names):
            file = IndexFile(self._disk, os.path.join(self._path, name), self._slot_num, self._index_num)
            try:
                self._check(file)
            except StoreError as e:
                log.warning("index file %s is built anew, with those after it: %s", file.path, e)
                self._remove(names[number:])
                break
            is_durable = durable_timestamp is None or (
                file.room == 0 and file.header.end_timestamp <= durable_timestamp
            )
            if not is_durable:
                log.info("index file %s may not be whole on the disk: it is built anew", file.path)
                self._remove(names[number:])
                break
            self.files.append(file)
            self._last_name = int(name)
        self._remove_useless()

    def _remove(self, names: list[str]) -> None:
        for name in names:
            self._disk.remove_file(os.path.join(self._path, name))

    def _remove_useless(self) -> None:
        self.remove_before(self._log.min_offset)
        while self.files and self.files[-1].header.is_empty:
            self._delete(self.files.pop())

    def _check(self, file: IndexFile) -> None:
        """StoreCorrupt when the file cannot be what it should be; StoreError when it cannot be read."""
        expected = index_file_size(self._slot_num, self._index_num)
        size = self._disk.file_size(file.path)
        if size != expected:
            raise StoreCorrupt(
                f"it has {size} bytes, not the {expected} of maxHashSlotNum={self._slot_num} and "
                f"maxIndexNum={self._index_num}"
            )
        file.load()
        header = file.header
        fault = header_fault(header, self._slot_num, self._index_num)
        if fault:
            raise StoreCorrupt(fault)
        if header.is_empty:
            return
        if header.end_phy_offset >= self._log.end:
            raise StoreCorrupt(f"it goes on to {header.end_phy_offset}, the log ends at {self._log.end}")
        if header.end_phy_offset >= self._log.min_offset:
            self._check_message(header.end_phy_offset)
        self._check_gap(header)
        last_offset = header.begin_phy_offset
        for number in _spread(header.index_count - 1, _SAMPLES):
            last_offset = self._check_entry(file, number, last_offset)

    def _check_gap(self, header: IndexHeader) -> None:
        """No message with keys may stand between the file before and this one."""
        start, _ = self.end()
        limit = min(header.begin_phy_offset, start + _GAP_BYTES)
        if self.last is not None and header.begin_phy_offset < self.last.header.end_phy_offset:
            raise StoreCorrupt("it begins before the file before it ends")
        while start < limit:
            try:
                rows, start = self._rows.read(start, limit - start)
            except StoreCorrupt:  # the log is damaged there, not the index
                rows, start = [], self._rows.skip(start)
            if any(keys_of(properties) for _, properties, offset, _ in rows if offset < limit):
                raise StoreCorrupt(f"messages before {header.begin_phy_offset} are missing")

    def _check_entry(self, file: IndexFile, number: int, last_offset: int) -> int:
        """Compare an entry with its slot and with the log. Gives its message's physical offset."""
        entry = file.entry(number)
        offset = entry.phy_offset
        if not last_offset <= offset <= file.header.end_phy_offset or not 0 <= entry.previous < number:
            raise StoreCorrupt(f"its entry {number} is damaged")
        if entry.key_hash < 0 or not number <= file.newest(entry.key_hash) < file.header.index_count:
            raise StoreCorrupt(f"no slot leads to its entry {number}")
        hashes = self._check_message(offset) if offset >= self._log.min_offset else None
        if hashes is not None and entry.key_hash not in hashes:
            raise StoreCorrupt(f"the message at {offset} does not have the key of its entry {number}")
        return offset

    def _check_message(self, offset: int) -> list[int] | None:
        """The key hashes of the message at a physical offset; None when it is damaged.

        StoreCorrupt when none begins there.
        """
        data = self._log.record_at(offset)
        try:
            if data is not None:
                record = decode_record(data)
                return [key_hash(record.topic, key) for key in keys_of(record.properties)]
        except ProtocolError:
            pass
        if self._rows.is_damaged_message(offset):
            return None
        raise StoreCorrupt(f"no message begins at {offset}, where an entry leads")

    # -- adding, deleting

    def append(self) -> IndexFile:
        """Make the next file. StoreFull, StoreBroken, StoreError."""
        self._disk.make_folder(self._path)
        path = os.path.join(self._path, self._next_name())
        file = IndexFile(self._disk, path, self._slot_num, self._index_num)
        try:
            file.create(self.last.header if self.last is not None else None)
        except StoreError:
            file.leave()
            self._disk.remove_file(path)
            raise
        self.files.append(file)
        return file

    def _next_name(self) -> str:
        """The local time; behind the last file's name in any case, for their order is that of the log."""
        now_ms = self._clock.now_ms()
        now = int(f"{self._clock.local_time(now_ms):%Y%m%d%H%M%S}{now_ms % 1000:03d}")
        self._last_name = max(now, self._last_name + 1)
        return f"{self._last_name:0{INDEX_NAME_LENGTH}d}"

    def remove_before(self, physical_offset: int) -> None:
        """Delete the leading files that end before a physical offset, never the last."""
        while len(self.files) > 1 and self.files[0].header.end_phy_offset < physical_offset:
            self._delete(self.files.pop(0))

    def drop_from(self, file: IndexFile) -> None:
        """Delete this file and those after it."""
        number = self.files.index(file)
        while len(self.files) > number:
            self._delete(self.files.pop())

    def _delete(self, file: IndexFile) -> None:
        file.leave()
        self._disk.delete_soon(
            functools.partial(self._disk.remove_file, file.path), functools.partial(_deleted, file.path)
        )

    def close(self) -> None:
        """Unmap all."""
        for file in self.files:
            file.leave()


def _spread(count: int, samples: int) -> list[int]:
    """Numbers from 1 to `count`, both among them, evenly spread."""
    return sorted({1 + (count - 1) * n // (samples - 1) for n in range(samples)})


def _deleted(path: str, error: StoreError | None) -> None:
    if error is not None:
        log.warning("%s is not needed any more, but was not deleted: %s", path, error)
