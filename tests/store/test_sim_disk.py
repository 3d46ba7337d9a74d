"""The simulated disk makes the steps of the real one in the same order, and loses what it may lose."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pymq import disk_calls, disk_files, system_disk
from pymq.disk import Disk
from pymq.system_disk import SystemDisk
from tests.store.sim_disk import SimDisk

Steps = list[tuple[str, str]]


class TracedOs:
    """The os module, with those calls recorded that change what is on the disk."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _path(self, descriptor: int) -> str:
        return os.readlink(f"/proc/self/fd/{descriptor}")

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and not os.path.exists(path):
            self._steps.append(("create", path))
        return os.open(path, flags, mode)

    def makedirs(self, path: str, exist_ok: bool) -> None:
        missing = [str(p) for p in (Path(path), *Path(path).parents) if not p.exists()]
        self._steps += [("make folder", folder) for folder in reversed(missing)]
        os.makedirs(path, exist_ok=exist_ok)

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._steps.append(("truncate", self._path(descriptor)))
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        path = self._path(descriptor)
        self._steps.append(("sync folder" if os.path.isdir(path) else "sync", path))
        os.fsync(descriptor)

    fdatasync = fsync

    def unlink(self, path: str) -> None:
        if os.path.exists(path):
            self._steps.append(("remove", path))
        os.unlink(path)

    def link(self, source: str, target: str) -> None:
        if os.path.exists(source):
            self._steps.append(("link", target))
        os.link(source, target)

    def replace(self, source: str, target: str) -> None:
        self._steps.append(("rename", target))
        os.replace(source, target)


async def work(disk: Disk, root: str) -> None:
    """Everything that the store and the tables have a disk do."""
    disk.make_folder(f"{root}/a/b", sync=True)
    disk.make_folder(f"{root}/a/b/c/0")
    for name, sync_folder in (("a/b/log", True), ("a/b/c/0/queue", False)):
        file = disk.file(f"{root}/{name}", 8192)
        file.create(sync_folder=sync_folder)
        file.create(sync_folder=sync_folder)
        file.reserve(8192)
        file.sync()
        buffer = file.map(readahead=True)
        buffer[5000:5003] = b"abc"
        file.unmap()
        assert file.zero_from(0)
        assert not file.zero_from(0)
        disk.sync_many([file])
    for data in (b"one", b"another", b"x"):
        disk.write_bytes(f"{root}/a/checkpoint", data)
    for data in (b"one", b"another"):
        disk.append(f"{root}/a/changes", data, 0)
        disk.append(f"{root}/a/changes", b"more", len(data))
    for text in ("one", "two", "three"):
        disk.write_atomically(f"{root}/a/table", text)
        await disk.write_text(f"{root}/a/b/table", text)
    disk.resize_file(f"{root}/a/b/log", 4096)
    disk.remove_file(f"{root}/a/b/log")
    disk.remove_file(f"{root}/a/b/log")
    disk.sync_folder(f"{root}/a/b")
    disk.remove_folder(f"{root}/a/b/c")
    disk.remove_folder(f"{root}/a/b/c")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the path behind a descriptor")
async def test_it_makes_the_steps_of_the_real_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_steps: Steps = []
    traced = TracedOs(real_steps)

    async def fsync_off_loop(descriptor: int) -> None:
        traced.fsync(descriptor)

    for module in (disk_calls, disk_files, system_disk):
        monkeypatch.setattr(module, "os", traced)
    monkeypatch.setattr(system_disk, "_fsync_off_loop", fsync_off_loop)
    await work(SystemDisk(), str(tmp_path))

    sim_steps: Steps = []
    disk = SimDisk()
    disk.make_folder(str(tmp_path))
    disk.before = lambda action, path: sim_steps.append((action, path))
    await work(disk, str(tmp_path))

    def comparable(steps: Steps) -> Steps:
        """Not who writes what, nor how a whole folder goes, nor the making of a file that gets a name."""
        return [
            (action, path.removeprefix(str(tmp_path)))
            for action, path in steps
            if path.startswith(str(tmp_path))
            and action not in ("write", "reserve")
            and (action, path[-4:]) != ("create", ".tmp")
            and not (action == "remove" and "/a/b/c" in path)
        ]

    assert len(sim_steps) > 50
    assert comparable(sim_steps) == comparable(real_steps)


def after_cuts(disk: SimDisk) -> list[SimDisk]:
    """What many power cuts would leave."""
    return [disk.crash(seed) for seed in range(60)]


def test_what_was_not_synced_may_be_there_or_not_or_in_part() -> None:
    disk = SimDisk()
    disk.make_folder("/s/f", sync=True)
    file = disk.file("/s/f/log", 8192)
    file.create(sync_folder=True)
    file.sync()
    buffer = file.map(readahead=True)
    buffer[0:2048] = b"o" * 2048
    file.sync()
    buffer[0:2048] = b"n" * 2048
    left = {after.contents["/s/f/log"].data()[:2048] for after in after_cuts(disk)}
    assert {b"o" * 2048, b"n" * 2048} < left, "all, nothing, and parts"
    assert {data[at : at + 512] for data in left for at in range(0, 2048, 512)} == {b"o" * 512, b"n" * 512}
    file.sync()
    assert {after.contents["/s/f/log"].data()[:2048] for after in after_cuts(disk)} == {b"n" * 2048}


def test_names_and_sizes_that_were_not_synced_may_be_there_or_not() -> None:
    disk = SimDisk()
    disk.make_folder("/s/f", sync=True)
    disk.file("/s/f/kept", 4096).create(sync_folder=True)
    disk.file("/s/f/new", 4096).create(sync_folder=False)
    disk.remove_file("/s/f/kept")
    disk.make_folder("/s/g")
    disk.write_bytes("/s/g/inner", b"synced, in a folder that is not")
    found = [
        (disk.exists("/s/f/kept"), disk.exists("/s/f/new"), disk.exists("/s/g"), disk.exists("/s/g/inner"))
        for disk in after_cuts(disk)
    ]
    assert {kept for kept, _, _, _ in found} == {True, False}
    assert {new for _, new, _, _ in found} == {True, False}
    assert {(folder, inner) for _, _, folder, inner in found} == {(True, True), (False, False)}
    sizes = {after.file_size("/s/f/new") for after in after_cuts(disk) if after.exists("/s/f/new")}
    assert sizes == {0, 4096}
    disk.sync_folder("/s/f")
    assert {(d.exists("/s/f/kept"), d.exists("/s/f/new")) for d in after_cuts(disk)} == {(False, True)}


def test_a_killed_process_loses_nothing_that_a_power_cut_still_may() -> None:
    disk = SimDisk()
    disk.make_folder("/s", sync=True)
    disk.file("/s/new", 4096).create(sync_folder=False)
    after = disk.kill()
    assert after.exists("/s/new")
    assert {d.exists("/s/new") for d in after_cuts(after)} == {True, False}
