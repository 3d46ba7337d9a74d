"""Finds messages by topic and key: the index files, built behind the puts (store.md §4).

A put leaves what the index needs of its message in `pending`; entries are made of it by the batch, out of the
send's way, and always before a query and a stop. Nothing that happens here can fail a send. Where the
index cannot follow (a full disk, files that were lost or damaged) it is *behind*: it knows up to where it
holds all messages, reads on from there in the commit log, in slices, and is live again when it has caught up.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator

from pymq.clock import Clock
from pymq.disk import Disk, Job
from pymq.errors import ProtocolError, StoreBroken, StoreCorrupt, StoreError
from pymq.protocol.message import decode_record
from pymq.store.checkpoint import Checkpoint
from pymq.store.commitlog import CommitLog
from pymq.store.index_file import keys_of
from pymq.store.index_folder import IndexFolder
from pymq.store.index_rows import Keys, LogRows, Row
from pymq.store.index_writer import IndexFile
from pymq.store.key_hashes import key_hash
from pymq.store.reservation import Reservation
from pymq.store.store_config import StoreConfig

log = logging.getLogger("pymq.store.index")

BATCH = 256
"""So many messages wait at most before their entries are made."""
LARGE_PROPERTIES = 2048
"""A message with property text over this (bytes) may have very many keys: its entries are made at once."""
AT_ONCE_BYTES = 64 << 20
"""Up to so much of the log is read again while the store opens; more, behind its opening."""
_RETRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.02
"""Between two slices of catching up: sends go first, unless they are faster than it."""
_PROGRESS_SECONDS = 5.0
_LOOKS_PER_STEP = 1000
_TIME_SLACK_MS = 999
"""Entries tell whole seconds."""
_IDLE_SECONDS = 3600.0


class MessageIndex:
    """The index of a store. It belongs to the store's thread.

    Attributes:
        pending: what puts leave here, in the order of the log; None while nothing is to be left.
    """

    def __init__(
        self,
        config: StoreConfig,
        disk: Disk,
        clock: Clock,
        commit_log: CommitLog,
        reservation: Reservation,
        checkpoint: Checkpoint,
        on_broken: Callable[[StoreError], None],
    ) -> None:
        self.pending: list[Row] | None = None
        self._is_enabled = config.message_index_enable
        self._disk = disk
        self._clock = clock
        self._log = commit_log
        self._rows = LogRows(commit_log, config.commit_log_segment_bytes)
        self._keys = Keys()
        self._reservation = reservation
        self._checkpoint = checkpoint
        self._on_broken = on_broken
        self._folder = IndexFolder(config, disk, clock, commit_log, self._rows)
        self._position = 0
        self._begun = 0
        self._retry_at = 0.0
        self._missing = 0
        self._progress_at = 0.0
        self._is_told = False
        """Whether the log says that the index is behind."""
        self._is_stopped = True

    # -- opening and closing

    def open(self, *, clean: bool) -> None:
        """Load the files that can be believed, and catch up with the log: at once when little is missing.

        After recovery has found the log's end. A full disk is no error here. StoreBroken, StoreError.
        """
        self._is_stopped = not self._is_enabled
        if self._is_stopped:
            return
        self._folder.load(durable_timestamp=None if clean else self._checkpoint.index_timestamp)
        self._withdraw()
        self._fall_behind(*self._folder.end())
        missing = self._log.end - self._position
        if missing > AT_ONCE_BYTES:
            self._is_told = True
            log.info("the index is built in the background from %d on: %d MiB", self._position, missing >> 20)
            return
        while self._is_behind and self._clock.monotonic() >= self._retry_at:
            self._catch_up()

    def close(self) -> None:
        """Make the entries that wait, and bring all to the disk. After `Disk.drain`. StoreBroken, StoreError.

        The checkpoint, not written here, then tells up to when the index is on the disk.
        """
        if self._is_stopped:
            return
        self.build()
        self._is_stopped = True
        for file in self._folder.files:
            if file.unsynced:
                file.sync()
                file.unsynced = False
            self._checkpoint.index_timestamp = max(
                self._checkpoint.index_timestamp, file.header.end_timestamp
            )

    def release(self) -> None:
        """Unmap all, without writing anything more."""
        self._is_stopped, self.pending = True, None
        self._folder.close()

    # -- building

    @property
    def position(self) -> int:
        """Physical offset before which all messages are in the index, but for those that are `pending`."""
        return self._position if self.pending is None else self._log.end

    @property
    def _is_behind(self) -> bool:
        return self.pending is None and not self._is_stopped

    def build(self) -> None:
        """Make the entries of what is pending. Raises nothing: what fails is made up for later."""
        rows = self.pending
        if rows:
            self.pending = []
            self._add(rows)

    def postpone(self, position: int) -> None:
        """Leave out what stands behind this offset, which is much: it is read from the log, in slices."""
        self.build()
        if self.pending is not None:
            self._fall_behind(position, 0)

    def _add(self, rows: list[Row]) -> bool:
        """Make the entries of these messages. Whether that went well; else the index is behind."""
        columns = self._keys.columns(rows)
        done, self._begun = self._begun, 0
        try:
            while done < len(columns.hashes):
                file = self._writable()
                until = min(len(columns.hashes), done + file.room)
                file.append(*columns.part(done, until), self._reserve_soon)
                done = until
        except StoreBroken as e:
            self.pending, self._is_stopped = None, True
            self._on_broken(e)
            return False
        except StoreError as e:
            begun = columns.offsets[:done].count(columns.offsets[done])
            self._fall_behind(columns.offsets[done], begun)
            self._retry_at = self._clock.monotonic() + _RETRY_SECONDS
            if not self._is_told:
                log.warning("the index stays behind for now, messages are stored all the same: %s", e)
            self._is_told = True
            return False
        return True

    def _writable(self) -> IndexFile:
        """The file that takes the next entry."""
        last = self._folder.last
        if last is not None and last.room:
            last.write()
            return last
        file = self._folder.append()
        if last is not None:
            self._force(last)
        return file

    def _force(self, file: IndexFile) -> None:
        """Bring a full file to the disk, in the background; the checkpoint tells of it then."""
        file.leave()
        self._disk.flush_soon(file.sync, functools.partial(self._forced, file), urgent=False)

    def _forced(self, file: IndexFile, error: StoreError | None) -> None:
        if error is not None:
            self._on_broken(error)
            return
        file.unsynced = False
        if self._is_stopped:
            return
        times = self._checkpoint
        times.index_timestamp = max(times.index_timestamp, file.header.end_timestamp)
        self._disk.flush_soon(times.write_job(), _checkpoint_written, urgent=False)

    def _withdraw(self) -> None:
        """Files that are still written to, and those that are gone, do not count as being on the disk."""
        kept = [file.header.end_timestamp for file in self._folder.files if not (file.room or file.unsynced)]
        newest = max(kept, default=0)
        if self._checkpoint.index_timestamp > newest:
            self._checkpoint.index_timestamp = newest
            self._disk.flush_soon(self._checkpoint.write_job(), _checkpoint_written, urgent=False)

    def _reserve_soon(self, job: Job) -> None:
        self._reservation.soon(job, _nothing)

    # -- catching up

    def tick(self) -> float:
        """Make the entries that wait, or read on in the log. Returns the seconds until it wants to go on."""
        if self._is_stopped:
            return _IDLE_SECONDS
        self.build()
        if not self._is_behind:
            return _IDLE_SECONDS
        wait = self._retry_at - self._clock.monotonic()
        if wait > 0:
            return wait
        self._catch_up()
        if not self._is_behind:
            return _IDLE_SECONDS
        missing, before = self._log.end - self._position, self._missing
        self._missing = missing
        return _PAUSE_SECONDS if missing < before else 0.0

    def _fall_behind(self, position: int, begun: int) -> None:
        """All messages before `position` are in the index, and `begun` entries of the one there.

        The others come from the log.
        """
        self.pending = None
        self._position = position
        self._begun = begun
        self._missing = self._log.end - position
        self._retry_at = 0.0
        self._progress_at = self._clock.monotonic() + _PROGRESS_SECONDS

    def _catch_up(self) -> None:
        """One slice; at the log's end the index is live."""
        if self._position < self._log.min_offset:
            self._position, self._begun = self._log.min_offset, 0
        if self._position < self._log.end:
            try:
                rows, position = self._rows.read(self._position)
            except StoreCorrupt as e:
                rows, position = [], self._rows.skip(self._position)
                # No reader gets it either: whose message it is says who misses it.
                log.info("the index lacks what stands from %d up to %d: %s", self._position, position, e)
            if not self._add(rows):
                return
            self._position = position
        if self._position >= self._log.end:
            self.pending = []
            if self._is_told:
                self._is_told = False
                log.info("the index is whole again")
        elif self._clock.monotonic() >= self._progress_at:
            self._progress_at = self._clock.monotonic() + _PROGRESS_SECONDS
            self._is_told = True
            log.info("building the index: %d of %d bytes of the log", self._position, self._log.end)

    # -- what goes

    def remove_before(self, physical_offset: int) -> None:
        """Delete the leading files whose messages the log no longer has; never the last (store.md §6)."""
        self._folder.remove_before(physical_offset)

    # -- asking

    @property
    def last_update(self) -> tuple[int, int]:
        """Store time (ms) and physical offset of the newest message in the index; 0 and 0 without one."""
        last = self._folder.last
        return (last.header.end_timestamp, last.header.end_phy_offset) if last is not None else (0, 0)

    def search(self, topic: str, key: str, begin: int, end: int) -> Iterator[bytes | None]:
        """The records of `topic` with `key` stored from time `begin` to `end` (ms), newest first.

        Other messages whose key has the same hash are left out. Now and then None comes, so that a long
        search can be interrupted; the store may change meanwhile.
        """
        self.build()
        code = key_hash(topic, key)
        last_offset = 2**63
        for file in reversed(list(self._folder.files)):
            if file.header.overlaps(begin - _TIME_SLACK_MS, end):
                try:
                    for offset in self._candidates(file, code, begin, end):
                        if offset is None:
                            yield None
                        elif offset < last_offset:
                            last_offset = offset
                            yield self._record(offset, topic, key, begin, end)
                except StoreError as e:
                    self._distrust(file, e)
            if file.header.begin_timestamp < begin:
                return

    def _candidates(self, file: IndexFile, code: int, begin: int, end: int) -> Iterator[int | None]:
        """Where messages stand whose key may be the one, newest first, as far as the log still has them."""
        for looked, entry in enumerate(file.chain(code), 1):
            if looked % _LOOKS_PER_STEP == 0:
                yield None
            timestamp = file.header.time_of(entry)
            if timestamp + _TIME_SLACK_MS < begin or entry.phy_offset < self._log.min_offset:
                return
            if entry.key_hash == code and timestamp <= end:
                yield entry.phy_offset

    def _record(self, offset: int, topic: str, key: str, begin: int, end: int) -> bytes | None:
        """The record, if it is what was asked for. StoreCorrupt when none begins there."""
        data = self._log.record_at(offset)
        if data is None and self._rows.is_damaged_message(offset):
            log.error("the message at %d of the commit log is damaged: left out of what is found", offset)
            return None
        if data is None:
            raise StoreCorrupt(f"an entry leads to {offset}, where no message begins")
        try:
            record = decode_record(data, check_crc=True)
        except ProtocolError as e:
            log.error("the message at %d of the commit log is damaged: %s", offset, e)
            return None
        fits = record.topic == topic and begin <= record.store_timestamp <= end
        return data if fits and key in keys_of(record.properties) else None

    def _distrust(self, file: IndexFile, error: StoreError) -> None:
        """What a file says is wrong: it goes, with those after it, and is built anew from the log."""
        if self._is_stopped or file not in self._folder.files:
            return  # it is gone for another reason
        self._is_told = True
        log.error("the index is damaged, it is built anew from %s on: %s", file.path, error)
        self.build()
        self._folder.drop_from(file)
        self._withdraw()
        self._fall_behind(*self._folder.end())


def _nothing() -> None:
    pass


def _checkpoint_written(error: StoreError | None) -> None:
    if error is not None:
        log.error("the checkpoint was not written, the next one will be: %s", error)
