"""Stores that were filled and then damaged."""

from __future__ import annotations

from pymq.store.messagestore import MessageStore
from tests.store.making import open_store, put, read_queue
from tests.store.sim_disk import SimDisk

FIRST_LOG = f"/s/commitlog/{0:020d}"


def queue_path(topic: str = "T", queue_id: int = 0, base: int = 0) -> str:
    return f"/s/consumequeue/{topic}/{queue_id}/{base:020d}"


def write(disk: SimDisk, path: str, position: int, data: bytes) -> None:
    """Damage a file, on the disk too."""
    content = disk.contents[path]
    content.buffer[position : position + len(data)] = data
    content.sync()


def flip(disk: SimDisk, path: str, position: int, bit: int = 0) -> None:
    write(disk, path, position, bytes((disk.contents[path].buffer[position] ^ 1 << bit,)))


def filled(disk: SimDisk, count: int, *, topics: int = 3, **settings: int) -> list[tuple[str, bytes]]:
    """A store that was closed, and what was put."""
    store = open_store(disk, "/s", None, **settings)
    sent = [(f"T{i % topics}", b"%d " % i * 30) for i in range(count)]
    for topic, body in sent:
        put(store, topic, body=body)
    store.close()
    return sent


def serves(store: MessageStore, sent: list[tuple[str, bytes]]) -> None:
    """Exactly that is served, each message at its number."""
    for topic in sorted({topic for topic, _ in sent}):
        found = read_queue(store, topic, 0)
        assert [r.body for r in found] == [body for name, body in sent if name == topic]
        assert [r.queue_offset for r in found] == list(range(len(found)))


def killed(disk: SimDisk) -> SimDisk:
    """The disk as a process leaves it that is killed right after a start."""
    disk.write_bytes("/s/abort", b"")
    return disk.kill()
