"""Commit logs as they lie on the disk, a master's and its slave's side by side."""

from __future__ import annotations

from pathlib import Path


def log_bytes(folder: Path) -> tuple[int, bytes]:
    """Where a commit log begins, and its bytes without the room behind them."""
    files = sorted((folder / "store" / "commitlog").iterdir())
    return int(files[0].name), b"".join(file.read_bytes() for file in files).rstrip(b"\0")


def assert_same(master: Path, slave: Path) -> None:
    """Over the range that both hold the logs are the same, and the slave has all to the end."""
    (master_start, mine), (slave_start, theirs) = log_bytes(master), log_bytes(slave)
    both = max(master_start, slave_start)
    assert theirs[both - slave_start :] == mine[both - master_start :]
    assert len(theirs[both - slave_start :]) > 1000
