"""The settings of the store, named as Apache's MessageStoreConfig names them (store.md, appendix)."""

from __future__ import annotations

import os.path

import msgspec

from pymq.errors import ConfigError
from pymq.protocol.message import RECORD_FIXED_SIZE
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.retention import RetentionRules

END_OF_FILE_MIN_BLANK = 8
"""The end of a commit-log file always keeps room for a blank record's two integers."""


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a message store. Sizes in bytes, intervals in ms. ConfigError for impossible ones."""

    root: str
    """storePathRootDir."""
    commit_log_path: str = ""
    """storePathCommitLog; empty: `commitlog` in the root."""
    commit_log_segment_bytes: int = 1 << 30
    """mappedFileSizeCommitLog. Must fit the files that exist."""
    consume_queue_segment_bytes: int = 6_000_000
    """mappedFileSizeConsumeQueue, rounded up to whole units of 20 bytes."""
    max_message_bytes: int = 4 << 20
    """maxMessageSize: the limit of a body."""
    sync_flush: bool = False
    """Whether flushDiskType is SYNC_FLUSH. The store's owner waits for `flushed`."""
    flush_interval_commit_log: int = 500
    flush_commit_log_timed: bool = True
    """False: a put that makes the log dirty enough has it flushed at once, not only each interval."""
    flush_commit_log_least_pages: int = 4
    flush_commit_log_thorough_interval: int = 10_000
    flush_interval_consume_queue: int = 1_000
    flush_consume_queue_least_pages: int = 2
    flush_consume_queue_thorough_interval: int = 60_000
    max_transfer_bytes_in_memory: int = 262_144
    max_transfer_count_in_memory: int = 32
    max_transfer_bytes_in_disk: int = 65_536
    max_transfer_count_in_disk: int = 8
    access_message_in_memory_max_ratio: int = 40
    """Percent of the machine's memory: records this far behind the end count as still in memory."""
    check_crc_on_recover: bool = True
    message_delay_level: str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
    reserve_ahead_bytes: int = 32 << 20
    """Room that is reserved ahead of the commit log's end."""
    mapped_commit_log_segments: int = 64
    mapped_consume_queue_segments: int = 512
    """How many files may be mapped at a time; the least used are unmapped."""
    message_index_enable: bool = True
    max_hash_slot_num: int = 5_000_000
    max_index_num: int = 20_000_000
    """Geometry of the index files. Files that have another one are built anew."""
    is_replica: bool = False
    """Messages come by the master's log, and are not stored here."""
    retention: RetentionRules = RetentionRules()
    """What is kept and for how long."""

    def __post_init__(self) -> None:
        smallest = RECORD_FIXED_SIZE + END_OF_FILE_MIN_BLANK
        if self.commit_log_segment_bytes < smallest:
            raise ConfigError(f"mappedFileSizeCommitLog must be at least {smallest} bytes")
        if self.consume_queue_segment_bytes < CQ_STORE_UNIT_SIZE:
            raise ConfigError(f"mappedFileSizeConsumeQueue must be at least {CQ_STORE_UNIT_SIZE} bytes")
        if self.max_hash_slot_num < 1 or self.max_index_num < 2:
            raise ConfigError("maxHashSlotNum must be at least 1, maxIndexNum at least 2")
        if not self.root:
            raise ConfigError("storePathRootDir must not be empty")

    @property
    def commit_log_folder(self) -> str:
        """Where the commit log's files lie."""
        return self.commit_log_path or os.path.join(self.root, "commitlog")

    @property
    def consume_queue_folder(self) -> str:
        """Where the consume queues' folders lie."""
        return os.path.join(self.root, "consumequeue")

    @property
    def index_folder(self) -> str:
        """Where the index files lie."""
        return os.path.join(self.root, "index")

    @property
    def consume_queue_file_bytes(self) -> int:
        """Size of a consume-queue file: whole units."""
        return -(-self.consume_queue_segment_bytes // CQ_STORE_UNIT_SIZE) * CQ_STORE_UNIT_SIZE
