"""The index on a real file system that is full: no send fails for it, nothing kills the process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.store.test_small_filesystem import in_small_filesystem

pytestmark = pytest.mark.once

LIFE = """
import os, pathlib, queue, sys, time
from pymq.clock import SystemClock
from pymq.system_disk import SystemDisk
from pymq.errors import StoreFull
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig

folder, how = sys.argv[1], sys.argv[2]
config = StoreConfig(root=folder + "/s", commit_log_segment_bytes=1 << 20)
disk, calls = SystemDisk(), queue.SimpleQueue()
disk.start(calls.put)
store = MessageStore(config, disk, SystemClock(), ("127.0.0.1", 10911))

def turn():
    store.tick()
    while not calls.empty():
        calls.get()()

def count(key):
    return sum(record is not None for record in store.search("T", key, 0, 2**62))

before = pathlib.Path(folder + "/count")
stored = int(before.read_text()) if before.exists() else 0
ballast = pathlib.Path(folder + "/ballast")
store.open()
if how == "filled":
    ballast.write_bytes(bytes(1 << 20))
    before.write_text("0")
    for n in range(100_000):
        try:
            store.put("T", 0, b"x", f"KEYS\\x01all k{n}", born_host=bytes(8))
        except StoreFull:
            break
        stored += 1
        if n % 500 == 0:
            turn()
    else:
        raise AssertionError("the disk was never full")
    assert count("all") < stored, "it is the index that had no room"
    ballast.unlink()
else:
    assert ballast.exists() is False
deadline = time.monotonic() + 90
while count("all") < stored and time.monotonic() < deadline:
    time.sleep(0.02)
    turn()
assert count("all") == stored, (count("all"), stored)
assert count("k17") == count(f"k{stored - 1}") == 1
before.write_text(str(stored))
if how == "stopped":
    store.close()
os._exit(0)
"""


def test_the_index_catches_up_when_a_full_file_system_has_room_again(tmp_path: Path) -> None:
    try:
        if in_small_filesystem(tmp_path, []).returncode:
            pytest.skip("no mount namespaces here")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    lives = [[sys.executable, "-c", LIFE, str(tmp_path), how] for how in ("filled", "stopped", "stopped")]
    done = in_small_filesystem(tmp_path, lives)
    assert done.returncode == 0, done.stderr
