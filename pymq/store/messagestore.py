"""The front of the store: put, get, offsets, opening and closing (store.md; design.md §3, §4)."""

from __future__ import annotations

import functools
import logging
import os.path
import zlib
from collections.abc import Iterator, Sequence
from struct import error as StructError

from pymq.clock import Clock
from pymq.disk import Disk, DiskUsage, FileLock
from pymq.errors import MessageIllegal, StoreBroken, StoreError
from pymq.protocol.message import (
    RECORD_FIXED_SIZE,
    BatchEntry,
    MessageRecord,
    encode_record,
)
from pymq.protocol.message_ids import pack_host
from pymq.protocol.properties import KEYS, PROPERTIES_MAX_LENGTH, TAGS, UNIQ_KEY, get_property
from pymq.protocol.sysflags import BORN_HOST_V6, HOST_MASK, STORE_HOST_V6, has_queue_unit
from pymq.protocol.tag_filter import tags_code as tags_code_of
from pymq.store.checkpoint import Checkpoint
from pymq.store.commitlog import CommitLog, looks_torn
from pymq.store.consumequeue import ConsumeQueue, QueueFiles
from pymq.store.flush import FlushSchedule
from pymq.store.queues import ConsumeQueues
from pymq.store.reader import QueueReader
from pymq.store.recovery import dispatch_record, recover
from pymq.store.reservation import Reservation
from pymq.store.results import (
    Dispatch,
    Dispatcher,
    DispatchListener,
    GetResult,
    GetStatus,
    PutResult,
)
from pymq.store.segments import Mappings
from pymq.store.store_config import StoreConfig
from pymq.store.tags_codes import parse_delay_levels, unit_tags_code
from pymq.store.watermark import Watermark

__all__ = ["Dispatch", "GetResult", "GetStatus", "MessageStore", "PutResult"]

log = logging.getLogger("pymq.store")
