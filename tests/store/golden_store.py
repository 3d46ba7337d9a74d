"""The recorded store folder of an Apache 4.9.4 broker, and what its files hold."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from pymq.disk import Disk
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig
from tests.sim import SimClock
from tests.store.making import STORE_HOST

GOLDEN = Path(__file__).with_name("golden")


def facts() -> dict[str, Any]:
    """Settings, records and queue bounds, as they were read from the files."""
    loaded: dict[str, Any] = json.loads((GOLDEN / "store-4.9.4.json").read_text())
    return loaded


def unpack(folder: Path) -> Path:
    """A fresh copy of the store's folder."""
    with tarfile.open(GOLDEN / "store-4.9.4.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


def config(root: Path) -> StoreConfig:
    """The settings by which it was written."""
    settings = facts()["config"]
    return StoreConfig(
        root=str(root),
        commit_log_segment_bytes=settings["mappedFileSizeCommitLog"],
        consume_queue_segment_bytes=settings["mappedFileSizeConsumeQueue"],
        message_delay_level=settings["messageDelayLevel"],
        max_hash_slot_num=settings["maxHashSlotNum"],
        max_index_num=settings["maxIndexNum"],
    )


def open_golden(root: Path, disk: Disk) -> MessageStore:
    """The store, opened."""
    store = MessageStore(config(root), disk, SimClock(now_ms=1_795_600_000_000), STORE_HOST)
    store.open()
    return store


def queue_files(root: Path) -> dict[str, bytes]:
    """The bytes of all consume-queue files by their place."""
    folder = root / "consumequeue"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
