"""The disk that forgets: it shows what was written through it, and the real one stays as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pymq.disk import Disk
from pymq.dry_disk import dry_disk
from pymq.errors import StoreError, StoreLocked
from pymq.system_disk import SystemDisk

SIZE = 3 << 20


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def seen(disk: Disk, folder: str) -> dict[str, bytes]:
    """What a disk says stands below a folder."""
    found: dict[str, bytes] = {}
    for name in disk.list_folder(folder):
        path = f"{folder}/{name}"
        if name.startswith("d"):
            found |= seen(disk, path)
        else:
            found[path] = disk.read_bytes(path) or b""
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "large").write_bytes(bytes(SIZE - 3) + b"end")
    (tmp_path / "a" / "small").write_bytes(b"small")
    return tmp_path


def test_what_is_written_is_read_and_nothing_is_changed(folder: Path) -> None:
    before = contents(folder)
    disk = dry_disk(SystemDisk())
    large = disk.file(str(folder / "a/b/large"), SIZE)
    large.map(readahead=True)[10:15] = b"hello"
    large.unmap()
    assert (large.read(8, 9), large.read(SIZE - 3, 100)) == (b"\0\0hello\0\0", b"end")
    assert large.zero_from(SIZE // 2)
    assert not large.zero_from(SIZE // 2)
    assert large.read(SIZE - 3, 3) == bytes(3)
    disk.write_bytes(str(folder / "a/small"), b"SM")
    assert disk.read_bytes(str(folder / "a/small")) == b"SMall"
    disk.write_atomically(str(folder / "a/table"), "new")
    disk.write_atomically(str(folder / "a/table"), "newer")
    assert disk.read_bytes(str(folder / "a/table.bak")) == b"new"
    disk.resize_file(str(folder / "a/small"), 3)
    assert disk.file_size(str(folder / "a/small")) == 3
    assert contents(folder) == before


def test_what_is_removed_is_gone_and_can_be_made_again(folder: Path) -> None:
    before = contents(folder)
    disk = dry_disk(SystemDisk())
    path = str(folder / "a/b/large")
    disk.remove_folder(str(folder / "a"))
    assert disk.list_folder(str(folder)) == []
    assert (disk.exists(path), disk.read_bytes(path)) == (False, None)
    with pytest.raises(StoreError):
        disk.file(path, SIZE).read(0, 1)
    disk.make_folder(str(folder / "a/b"))
    disk.file(path, 100).create(sync_folder=True)
    assert disk.list_folder(str(folder / "a")) == ["b"]
    assert (disk.file_size(path), disk.read_bytes(path)) == (100, bytes(100))
    disk.remove_file(path)
    assert disk.list_folder(str(folder / "a/b")) == []
    assert contents(folder) == before


def test_what_was_written_outlives_the_mapping(folder: Path) -> None:
    disk = dry_disk(SystemDisk())
    file = disk.file(str(folder / "a/b/large"), SIZE)
    file.map(readahead=False)
    file.unmap()
    file.map(readahead=False)[7:8] = b"x"
    file.unmap()
    assert file.map(readahead=False)[6:9] == b"\0x\0"


def test_it_only_looks_whether_a_lock_could_be_taken(folder: Path) -> None:
    real = SystemDisk()
    disk = dry_disk(real)
    path = str(folder / "lock")
    disk.lock(path).release()
    assert not disk.exists(path)
    held = real.lock(path)
    with pytest.raises(StoreLocked):
        disk.lock(path)
    held.release()
    disk.lock(path).release()


@pytest.mark.parametrize("seed", range(8))
def test_it_shows_what_a_real_disk_shows(tmp_path: Path, seed: int) -> None:
    """The same random calls on both; then the folders are the same."""
    luck = random.Random(seed)
    real, below = tmp_path / "real", tmp_path / "below"
    for folder in (real, below):
        (folder / "d0").mkdir(parents=True)
        (folder / "d0" / "f0").write_bytes(b"0" * 100)
    disks: list[tuple[Disk, str]] = [(SystemDisk(), str(real)), (dry_disk(SystemDisk()), str(below))]
    for _ in range(60):
        name, call, data = f"d{luck.randrange(3)}", luck.randrange(6), luck.randbytes(luck.randrange(1, 50))
        file = f"{name}/f{luck.randrange(3)}"
        for disk, root in disks:
            path = f"{root}/{file}"
            disk.make_folder(f"{root}/{name}")
            if call == 0:
                disk.write_bytes(path, data)
            elif call == 1:
                disk.remove_file(path)
            elif call == 2:
                disk.remove_folder(f"{root}/{name}")
            elif call == 3:
                disk.write_atomically(path, data.hex())
            elif call == 4 and disk.exists(path):
                disk.resize_file(path, len(data))
            elif call == 5 and disk.exists(path):
                mapped = disk.file(path, disk.file_size(path))
                mapped.map(readahead=True)[:1] = data[:1]
                mapped.unmap()
    found = [
        {path.removeprefix(root): data for path, data in seen(disk, root).items()} for disk, root in disks
    ]
    assert found[0] == found[1]
    assert contents(below) == {"d0/f0": b"0" * 100}
