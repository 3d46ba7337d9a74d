"""The front of the store: its parts, opening and closing, what is deleted (store.md; design.md §3, §4).

What stores messages is in `appender`, what reads them in `view`.
"""

from __future__ import annotations

import logging
import os.path

from pymq.clock import Clock
from pymq.disk import Disk, Done, FileLock
from pymq.errors import StoreError
from pymq.protocol.message import RECORD_FIXED_SIZE
from pymq.protocol.message_ids import pack_host
from pymq.store.appender import Appender
from pymq.store.checkpoint import Checkpoint
from pymq.store.cleaning import Cleaner
from pymq.store.commitlog import CommitLog
from pymq.store.consumequeue import QueueFiles
from pymq.store.flush import FlushSchedule
from pymq.store.healing import Healer
from pymq.store.index import MessageIndex
from pymq.store.leftovers import Leftovers
from pymq.store.log_blocks import LogBlocks
from pymq.store.log_border import border_unit, make_border
from pymq.store.lost_units import settle, settle_all
from pymq.store.queues import ConsumeQueues
from pymq.store.reader import QueueReader
from pymq.store.recovery import Recovery
from pymq.store.replica import Replica
from pymq.store.reservation import Reservation
from pymq.store.results import Dispatch, DispatchListener, GetResult, GetStatus, PutResult
from pymq.store.segments import Mappings
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import parse_delay_levels
from pymq.store.view import StoreView
from pymq.store.watermark import Watermark

__all__ = ["Dispatch", "GetResult", "GetStatus", "MessageStore", "PutResult"]

log = logging.getLogger("pymq.store")


class MessageStore(Appender, StoreView):
    """Messages by topic and queue, in Apache's files.

    It belongs to one thread, its owner's: the disk delivers what its threads did there. The owner starts and
    stops the disk around `open` and `close`, and calls `tick` as often as it says.
    """

    def __init__(
        self, config: StoreConfig, disk: Disk, clock: Clock, store_host: bytes | tuple[str, int]
    ) -> None:
        """`store_host`: the address stamped into each record, packed (8 or 20 bytes) or as (ip, port)."""
        host = store_host if isinstance(store_host, bytes) else pack_host(*store_host)
        listeners: list[DispatchListener] = []
        self._delay_levels_ms = parse_delay_levels(config.message_delay_level)
        reservation = Reservation(disk, clock, self._on_broken)
        commit_log = CommitLog(config, disk, reservation)
        files = QueueFiles(
            config.consume_queue_folder,
            config.consume_queue_file_bytes,
            RECORD_FIXED_SIZE - 16 + len(host),
            disk,
            Mappings(config.mapped_consume_queue_segments),
            reservation,
        )
        queues = ConsumeQueues(files, self._on_broken)
        self._checkpoint = Checkpoint(os.path.join(config.root, "checkpoint"), disk)
        flush = FlushSchedule(config, disk, clock, commit_log, queues, self._checkpoint, self._on_broken)
        if not config.flush_commit_log_timed:
            listeners.append(flush.written)
        self._healer = Healer(
            disk, commit_log, queues, self._delay_levels_ms, flush.mark_dirty, self._on_broken, listeners
        )
        index = MessageIndex(config, disk, clock, commit_log, reservation, self._checkpoint, self._on_broken)
        cleaner = Cleaner(
            config.retention,
            (config.commit_log_folder, config.consume_queue_folder),
            disk,
            clock,
            commit_log,
            queues,
            flush.flushed,
            self._on_broken,
        )
        Appender.__init__(
            self,
            clock=clock,
            store_host=host,
            max_body=config.max_message_bytes,
            commit_log=commit_log,
            queues=queues,
            flush=flush,
            index=index,
            on_dispatch=listeners,
        )
        StoreView.__init__(
            self,
            config=config,
            disk=disk,
            commit_log=commit_log,
            queues=queues,
            reader=QueueReader(config, commit_log, disk, self._healer),
            index=index,
            flush=flush,
            cleaner=cleaner,
        )
        self._clock = clock
        self.on_deleted = cleaner.on_deleted
        self.on_deleted.append(index.remove_before)
        self.may_delete = cleaner.may_delete
        self._abort_path = os.path.join(config.root, "abort")
        self._lock: FileLock | None = None

    # -- opening and closing

    def open(self) -> None:
        """Take the folder, recover if need be, and accept messages from then on.

        StoreLocked when somebody has the folder, StoreCorrupt when its files do not fit the configuration,
        StoreFull, StoreBroken.
        """
        self._disk.make_folder(self._config.root, sync=True)
        self._lock = self._disk.lock(os.path.join(self._config.root, "lock"))
        try:
            self._open()
        except BaseException:
            self._let_go()
            raise
        if self._config.is_replica:
            self._standing = StoreError("this broker is a slave: messages are stored by its master")
        self._refusal = self._standing

    def _open(self) -> None:
        self._disk.make_folder(self._config.commit_log_folder, sync=True)
        self._disk.make_folder(self._config.consume_queue_folder, sync=True)
        self._disk.sync_folder(self._config.commit_log_folder)  # files that a killed process had just made
        clean = not self._disk.exists(self._abort_path)
        if not clean:
            log.warning("the store in %s was not closed cleanly: recovering", self._config.root)
        self._checkpoint.load()
        mark = self._checkpoint.mark
        self._log.load(mark.log_file_bytes if mark else 0)
        lost_queues = self._queues.load(mark.queue_file_bytes if mark else 0)
        if not clean:
            self._queues.sync_folders()  # as the commit log's: before a mark counts on the files
        if self._log.is_empty and not self._queues.table and not self._disk.exists(self._checkpoint.path):
            log.info("new store in %s", self._config.root)
        # From here on files are changed: an end before `close` is not a clean one.
        self._disk.write_bytes(self._abort_path, b"")
        if not self._disk.exists(self._checkpoint.path):
            self._checkpoint.write_job()()  # has its room now, so that a full disk does not hinder `close`
        recovery = Recovery(
            self._log,
            self._queues,
            self._checkpoint,
            self._clock,
            self._delay_levels_ms,
            Leftovers(self._log.segments, self._disk, self._clock, os.path.join(self._config.root, "lost")),
            check_crc=self._config.check_crc_on_recover,
        )
        recovered = recovery.run(clean=clean, lost_queues=lost_queues)
        self._log.last_store_timestamp = recovered.newest_timestamp
        if recovered.changed:
            self._flush.checkpoint_now()
        self._flush.start(self._log.end)
        self._index.open(clean=clean)
        self._cleaner.start()
        self._queues.deleted.start()

    def close(self) -> None:
        """Flush all, mark the store as cleanly closed, and give the folder back. Twice is fine.

        The mark is left out when the disk is broken or refuses: then the next start recovers.
        """
        if self._lock is None:
            return
        was_open, self._refusal = self._is_sound, StoreError("the store is closed")
        try:
            self._flush.stop()
            self._cleaner.stop()
            self._healer.stop()
            self._disk.drain()
            self._queues.deleted.finish()
            self._index.close()
            self._flush.finish()
            self._log.remove_upcoming()
            if was_open:
                self._disk.remove_file(self._abort_path)
                self._disk.sync_folder(self._config.root)
        except StoreError as e:
            log.error("the store was not closed cleanly: %s", e)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._index.release()
        self._log.close()
        self._queues.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _on_broken(self, error: StoreError) -> None:
        super()._on_broken(error)
        self._cleaner.stop()

    # -- what goes

    def delete_topic(self, topic: str, done: Done | None = None) -> int:
        """Delete the queues of a topic, and say how many; its records leave the log when they are old.

        The topic may be put to again at once. `done` is told once a crash no longer brings the old queues
        back out of the log; their files are deleted in a thread.
        """
        count = 0
        if self._queues.has_topic(topic):
            with self._breaking():
                count = self._queues.delete_topic(topic)
                self._flush.mark_soon(self._queues.folder, done)
        elif done is not None:
            done(None)
        return count

    def delete_expired_queue(self, topic: str, queue_id: int) -> bool:
        """Delete a queue of whose messages the log holds none any more; its next number is 0 then.

        Returns whether it was one. A queue that never had a message stays.
        """
        queue = self._queue_table.get((topic, queue_id))
        newest = queue.unit(queue.max_offset - 1) if queue else None
        if queue is None or newest is None or queue.ends_blank or newest[0] >= self._log.min_offset:
            return False
        with self._breaking():
            self._queues.delete(queue)
            self._flush.mark_soon(os.path.dirname(queue.folder))
        return True

    def settle_blank_units(self) -> int:
        """Let no blank unit be left that an Apache 4.9.4 broker cannot pass (`lost_units`).

        All queues are read for that: earlier versions left many. Where a queue has nothing but blank units,
        and the log only one file, the log goes on in a second one. Returns how many units were settled.
        StoreFull, StoreBroken, StoreError.
        """
        count = 0
        with self._breaking():
            for queue in list(self._queues):
                self._flush.mark_dirty(queue)
                count += settle_all(queue, self._log.min_offset, border_unit(self._log))
                if queue.ends_blank:
                    border = make_border(self._log, self._clock.now_ms())
                    count += len(settle(queue, queue.max_offset - 1, self._log.min_offset, border))
        return count

    def clean_soon(self) -> None:
        """Let a cleaning run now, and the next ones, delete what is expired, whatever the hour."""
        self._cleaner.run_soon()

    # -- replication

    def blocks(self) -> LogBlocks:
        """The log in pieces for slaves; of an open store."""
        return LogBlocks(self._log, self._disk, self._config.commit_log_segment_bytes)

    def replica(self) -> Replica:
        """What takes a master's log; of an open store that nothing is put to."""
        return Replica(
            self._log, self._queues, self._flush, self._index, self.on_dispatch, self._delay_levels_ms,
            self._config.commit_log_segment_bytes, self._on_broken,
        )  # fmt: skip

    # -- flushing

    @property
    def flushed(self) -> Watermark:
        """Physical offset up to which the log is on the disk, to wait for (SYNC_FLUSH)."""
        return self._flush.flushed

    def flush_now(self) -> None:
        """Start to flush the commit log; `flushed` moves when it is done. Cheap while a flush runs."""
        self._flush.flush_log()

    def tick(self) -> float:
        """Do what is due by the clock. Returns the seconds after which to call again."""
        return min(self._flush.tick(), self._cleaner.tick(), self._index.tick())
