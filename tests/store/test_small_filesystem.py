"""The store on a real file system that is full: a touch of a page without room would kill the process.

The file system is a small tmpfs in a mount namespace of its own; where the system allows none, it is skipped.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

LIFE = """
import os, pathlib, queue, sys
from pymq.clock import SystemClock
from pymq.system_disk import SystemDisk
from pymq.errors import StoreFull
from pymq.store.messagestore import MessageStore
from pymq.store.store_config import StoreConfig

config = StoreConfig(root=sys.argv[1] + "/s", commit_log_segment_bytes=1 << 20)
count, how = pathlib.Path(sys.argv[2]), sys.argv[3]
disk, calls = SystemDisk(), queue.SimpleQueue()
disk.start(calls.put)
store = MessageStore(config, disk, SystemClock(), ("127.0.0.1", 10911))
store.open()
stored, refused = int(count.read_text()), 0
for i in range(20_000):
    try:
        store.put("T", i % 7, bytes(300), "", born_host=bytes(8))
        stored += 1
    except StoreFull:
        refused += 1
    if i % 500 == 0:
        store.tick()
        while not calls.empty():
            calls.get()()
served = 0
for topic, queue_id in store.queues():
    offset = 0
    while offset < store.max_offset(topic, queue_id):
        result = store.get(topic, queue_id, offset, 32)
        served += result.count
        offset = result.next_begin_offset
assert refused and stored and served == stored, (refused, served, stored)
count.write_text(str(stored))
if how == "killed":
    os._exit(0)
store.close()
disk.stop()
assert not os.path.exists(config.root + "/abort")
"""


def in_small_filesystem(folder: Path, commands: list[list[str]]) -> subprocess.CompletedProcess[str]:
    """Run commands while a tmpfs of 5 MiB is mounted on `folder`, for them alone."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "none", str(folder)]
    script = " && ".join(shlex.join(command) for command in [mount, *commands])
    return subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_a_full_file_system_refuses_and_never_kills(tmp_path: Path) -> None:
    count, folder = tmp_path / "count", tmp_path / "small"
    folder.mkdir()
    count.write_text("0")
    try:
        if in_small_filesystem(folder, []).returncode:
            pytest.skip("no mount namespaces here")
    except FileNotFoundError:
        pytest.skip("no unshare here")
    lives = ["killed", "killed", "stopped", "stopped", "killed"]
    done = in_small_filesystem(
        folder, [[sys.executable, "-c", LIFE, str(folder), str(count), how] for how in lives]
    )
    assert done.returncode == 0, done.stderr
    assert int(count.read_text()) > 5000
