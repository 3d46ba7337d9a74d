"""The real disk: files of a fixed size, threads, locks, text files."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pymq.disk import DiskUsage
from pymq.errors import StoreBroken, StoreError, StoreFull, StoreLocked
from pymq.system_disk import SystemDisk

MIB = 1 << 20


def test_a_file_is_sparse_until_reserved_and_keeps_its_size(tmp_path: Path) -> None:
    disk = SystemDisk()
    path = tmp_path / "file"
    file = disk.file(str(path), 64 * MIB)
    with pytest.raises(StoreError):
        file.map(readahead=False)
    file.create(sync_folder=True)
    file.create(sync_folder=True)
    assert path.stat().st_size == 64 * MIB
    assert path.stat().st_blocks * 512 < MIB
    file.reserve(2 * MIB)
    assert 2 * MIB <= path.stat().st_blocks * 512 < 4 * MIB
    buffer = file.map(readahead=False)
    buffer[MIB : MIB + 5] = b"hello"
    file.sync()
    file.unmap()
    assert path.read_bytes()[MIB : MIB + 5] == b"hello"
    assert path.stat().st_size == 64 * MIB


def test_zeroing_clears_what_is_there_and_fills_no_hole(tmp_path: Path) -> None:
    file = SystemDisk().file(str(tmp_path / "file"), 32 * MIB)
    file.create(sync_folder=False)
    buffer = file.map(readahead=False)
    for at in (10, 4096, 5 * MIB, 32 * MIB - 3):
        buffer[at : at + 3] = b"abc"
    file.unmap()
    file.zero_from(4097)
    data = (tmp_path / "file").read_bytes()
    assert data[10:13] == b"abc"
    assert data[4096:4099] == b"a\0\0"
    assert not data[4097:].strip(b"\0")
    assert (tmp_path / "file").stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_full_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    file = SystemDisk().file(str(tmp_path / "file"), MIB)
    file.create(sync_folder=True)

    def fail(*_: int) -> None:
        raise OSError(code, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        with pytest.raises(StoreFull):
            file.reserve(MIB)
    assert file.reserved == 0
    file.reserve(MIB)


def test_a_file_that_cannot_get_its_size_is_not_left_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB // 2, hard))
        with pytest.raises(StoreFull):
            SystemDisk().file(str(tmp_path / "file"), MIB).create(sync_folder=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == [], "a file of another size would stop the next start"


def test_without_fallocate_the_room_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "fdatasync")
    file = SystemDisk().file(str(tmp_path / "file"), 8 * MIB)
    file.create(sync_folder=True)
    file.map(readahead=False)[:3] = b"abc"
    file.reserved = 3
    file.reserve(3 * MIB)
    file.sync()
    assert (tmp_path / "file").stat().st_blocks * 512 >= 3 * MIB
    assert (tmp_path / "file").read_bytes()[:4] == b"abc\0"
    file.unmap()


def test_a_sync_that_fails_is_a_broken_disk_and_a_removed_file_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SystemDisk().file(str(tmp_path / "file"), MIB)
    file.create(sync_folder=True)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(StoreBroken):
        file.sync()
    (tmp_path / "file").unlink()
    file.sync()


def test_jobs_run_in_threads_and_their_ends_are_delivered_urgent_ones_first() -> None:
    disk = SystemDisk()
    delivered: list[Callable[[], None]] = []
    disk.start(delivered.append)
    gate = threading.Event()
    ran: list[str] = []
    ended: list[StoreError | None] = []
    disk.flush_soon(gate.wait, ended.append, urgent=False)  # type: ignore[arg-type]
    disk.flush_soon(lambda: ran.append("later"), ended.append, urgent=False)
    disk.flush_soon(lambda: ran.append("urgent"), ended.append, urgent=True)

    def fail() -> None:
        raise StoreFull("full")

    disk.reserve_soon(fail, ended.append)
    gate.set()
    disk.drain()
    assert ran == ["urgent", "later"]
    assert ended == [], "only the owner's thread calls them"
    for call in delivered:
        call()
    assert sorted(map(str, ended)) == ["None", "None", "None", "full"]
    disk.stop()


def test_a_job_that_fails_for_any_other_reason_is_a_broken_disk() -> None:
    ended: list[StoreError | None] = []
    SystemDisk().flush_soon(lambda: 1 // 0, ended.append, urgent=True)  # type: ignore[arg-type]
    assert isinstance(ended[0], StoreBroken)


def test_a_lock_excludes_this_and_other_processes(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    other = (
        "import sys; from pymq.system_disk import SystemDisk\n"
        "from pymq.errors import StoreLocked\n"
        "try: SystemDisk().lock(sys.argv[1]); print('got it')\n"
        "except StoreLocked as e: print(e)"
    )

    def try_elsewhere() -> str:
        command = [sys.executable, "-c", other, path]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    lock = SystemDisk().lock(path)
    with pytest.raises(StoreLocked):
        SystemDisk().lock(path)
    assert try_elsewhere() == f"the store folder {tmp_path} is in use by another process"
    lock.release()
    lock.release()
    assert try_elsewhere() == "got it"
    assert Path(path).read_text() == "lock"
    SystemDisk().lock(path).release()


def test_a_text_is_replaced_as_a_whole_and_the_old_one_kept(tmp_path: Path) -> None:
    disk = SystemDisk()
    path = tmp_path / "topics.json"
    for text in ("one", "two", "drei ü"):
        disk.write_atomically(str(path), text)
    assert (path.read_text("utf-8"), Path(f"{path}.bak").read_text()) == ("drei ü", "two")

    async def story() -> None:
        await disk.write_text(str(path), "four")
        assert await disk.read_text(str(path)) == "four"
        assert await disk.read_text(str(tmp_path / "missing")) is None

    asyncio.run(story())
    assert Path(f"{path}.bak").read_text("utf-8") == "drei ü"
    assert sorted(os.listdir(tmp_path)) == ["topics.json", "topics.json.bak"]


def test_a_write_that_fails_leaves_the_old_text_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SystemDisk()
    path = tmp_path / "topics.json"
    disk.write_atomically(str(path), "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreFull):
        disk.write_atomically(str(path), "new")
    assert os.listdir(tmp_path) == ["topics.json"]
    assert path.read_text() == "old"


def test_a_file_is_added_to_where_it_ends_and_is_another_file_from_zero_on(tmp_path: Path) -> None:
    disk = SystemDisk()
    path = tmp_path / "topics.json.changes"
    disk.append(str(path), b"one\n", 0)
    disk.append(str(path), b"two\n", 4)
    os.link(path, tmp_path / "old")
    disk.append(str(path), b"new\n", 0)
    assert (path.read_bytes(), (tmp_path / "old").read_bytes()) == (b"new\n", b"one\ntwo\n")
    with pytest.raises(StoreError):
        disk.append(str(tmp_path / "missing"), b"x", 4)


def test_a_file_that_cannot_be_added_to_says_whether_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SystemDisk()
    path = str(tmp_path / "file")

    def fail(*_: object) -> int:
        raise OSError(28, "No space left on device")

    for step, error in (("pwrite", StoreFull), ("fdatasync", StoreBroken)):
        with monkeypatch.context() as patched:
            patched.setattr(os, step, fail, raising=False)
            with pytest.raises(error):
                disk.append(path, b"x", 0)
    disk.append(path, b"fine", 0)
    assert Path(path).read_bytes() == b"fine"


def test_folders_that_are_missing_hold_nothing(tmp_path: Path) -> None:
    disk = SystemDisk()
    assert disk.list_folder(str(tmp_path / "no")) == []
    (tmp_path / "file").touch()
    assert disk.list_folder(str(tmp_path / "file")) == []
    assert disk.read_bytes(str(tmp_path / "no")) is None
    disk.remove_file(str(tmp_path / "no"))
    disk.remove_folder(str(tmp_path / "no"))
    usage = disk.usage(str(tmp_path / "not" / "yet"))
    assert 0 < usage.free < usage.total
    assert 0 <= usage.ratio <= 1


def test_the_usage_is_rounded_up_to_a_hundredth() -> None:
    assert DiskUsage(total=1100, used=501, free=499).ratio == 0.51
    assert DiskUsage(total=0, used=0, free=0).ratio == 0


def test_many_files_are_synced_together_and_missing_ones_need_it_not(tmp_path: Path) -> None:
    disk = SystemDisk()
    files = [disk.file(str(tmp_path / str(i)), 4096) for i in range(300)]
    for file in files[1:]:
        file.create(sync_folder=False)
        file.map(readahead=False)[:5] = b"hello"
    disk.sync_many([])
    disk.sync_many(files[:3])
    disk.sync_many(files)
    for file in files:
        file.unmap()


def test_a_failed_sync_of_many_files_is_a_broken_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SystemDisk()
    files = [disk.file(str(tmp_path / str(i)), 4096) for i in range(300)]
    for file in files:
        file.create(sync_folder=False)

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StoreBroken):
        disk.sync_many(files)
