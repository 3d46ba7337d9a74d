"""Copies of the golden store, and how they are damaged and looked at."""

from __future__ import annotations

from pathlib import Path

from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.problems import Problem
from pymq.store.inspection.verify import Summary, verify
from pymq.system_disk import SystemDisk

LOG_FILE_BYTES = 65536


def problems(root: Path) -> list[Problem]:
    """What is wrong with a store, notes left out."""
    return [problem for problem in checked(root)[1] if not problem.is_note]


def checked(root: Path) -> tuple[Summary, list[Problem]]:
    """All that a check says."""
    found: list[Problem] = []
    return verify(StoreFolder(str(root), SystemDisk()), found.append), found


def places(root: Path) -> list[tuple[str, int]]:
    """Where something is wrong: file (from the root) and byte position."""
    return [(str(Path(problem.path).relative_to(root)), problem.position) for problem in problems(root)]


def overwrite(path: Path, position: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(position)
        file.write(data)


def flip(path: Path, position: int, mask: int = 1) -> None:
    """Change bits of a byte."""
    data = path.read_bytes()
    overwrite(path, position, bytes((data[position] ^ mask,)))


def log_file(root: Path, offset: int) -> tuple[Path, int]:
    """The commit-log file that holds a physical offset, and the position in it."""
    base = offset - offset % LOG_FILE_BYTES
    return root / "commitlog" / f"{base:020d}", offset - base


def queue_file(root: Path, topic: str, queue_id: int) -> Path:
    """The first file of a consume queue."""
    return root / "consumequeue" / topic / str(queue_id) / f"{0:020d}"
