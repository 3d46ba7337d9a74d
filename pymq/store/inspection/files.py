"""The files of a store's folder as they are found, whoever wrote them; nothing is changed (store.md §1)."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from pymq.disk import Disk
from pymq.errors import StoreError
from pymq.store.consumequeue import CQ_STORE_UNIT_SIZE
from pymq.store.inspection.problems import Problem, Report
from pymq.store.segments import NAME_LENGTH

INDEX_NAME_LENGTH = 17
CONFIG_TABLES = (
    "topics",
    "subscriptionGroup",
    "consumerOffset",
    "delayOffset",
    "consumerFilter",
)
"""Names of the tables in `config/`, without `.json`."""
_CHUNK = 1 << 20


class FoundFile(msgspec.Struct, gc=False):
    """A file with its size in bytes; `base` is what its name says: the offset of its first byte."""

    path: str
    base: int
    size: int


class Range:
    """The files of one folder that form a range of bytes. Reads copy, and open a file only for the moment."""

    def __init__(self, disk: Disk, folder: str, file_bytes: int, found: list[FoundFile]) -> None:
        self.folder = folder
        self.file_bytes = file_bytes
        """The size that most files have; 0 without any."""
        self.files: list[FoundFile] = []
        """Those of this size, in order. There may be gaps between them."""
        self.odd: list[FoundFile] = []
        """Those of another size, or named by an offset at which no file can begin."""
        for file in found:
            fits = file.size == file_bytes > 0 and file.base % file_bytes == 0
            (self.files if fits else self.odd).append(file)
        self._disk = disk
        self._by_base = {file.base: file for file in self.files}

    @property
    def start(self) -> int:
        """Offset of the first byte, 0 without files."""
        return self.files[0].base if self.files else 0

    @property
    def end(self) -> int:
        """Offset behind the last file, 0 without files."""
        return self.files[-1].base + self.file_bytes if self.files else 0

    def at(self, offset: int) -> FoundFile | None:
        """The file that holds the byte at `offset`."""
        return self._by_base.get(offset - offset % self.file_bytes) if self.file_bytes else None

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer at the end of the file, none where there is no file."""
        file = self.at(offset)
        if file is None:
            return b""
        size = min(size, file.base + file.size - offset)
        return self._disk.file(file.path, file.size).read(offset - file.base, size)

    def place(self, offset: int) -> tuple[str, int]:
        """The path and the byte position in that file of `offset`; (folder, −1) where there is no file."""
        file = self.at(offset)
        return (file.path, offset - file.base) if file else (self.folder, -1)


class StoreFolder:
    """What the folder of a store holds. Sizes are those that the files have.

    StoreError when `root` holds no store.
    """

    def __init__(self, root: str, disk: Disk, commit_log_folder: str = "") -> None:
        """`commit_log_folder`: where the commit log is when it is not in `root` (storePathCommitLog)."""
        self.root = root
        self.disk = disk
        self.commit_log_folder = commit_log_folder or os.path.join(root, "commitlog")
        self.consume_queue_folder = os.path.join(root, "consumequeue")
        self.index_folder = os.path.join(root, "index")
        self.foreign: list[str] = []
        """Paths of files that have no place where they are: no broker starts with some of them there."""
        names = disk.list_folder(root)
        if not {"commitlog", "consumequeue", "checkpoint", "config"} & set(names) and not disk.exists(
            self.commit_log_folder
        ):
            raise StoreError(f"{root} is no folder of a store: neither commitlog nor consumequeue is in it")
        self.was_closed_cleanly = "abort" not in names
        found = self._numbered(self.commit_log_folder)
        self.commit_log = Range(disk, self.commit_log_folder, _usual_size(found), found)
        self.queues = self._find_queues()
        self.index_files = self._find_index_files()

    def _numbered(self, folder: str) -> list[FoundFile]:
        """Files whose names are offsets; the others are foreign."""
        found = []
        for name in self.disk.list_folder(folder):
            path = os.path.join(folder, name)
            if len(name) == NAME_LENGTH and name.isascii() and name.isdecimal():
                found.append(FoundFile(path, int(name), self.disk.file_size(path)))
            else:
                self.foreign.append(path)
        return found

    def _find_queues(self) -> dict[tuple[str, int], Range]:
        found: dict[tuple[str, int], list[FoundFile]] = {}
        for topic in self.disk.list_folder(self.consume_queue_folder):
            for name in self.disk.list_folder(os.path.join(self.consume_queue_folder, topic)):
                if name.isascii() and name.isdecimal():  # others are skipped by brokers too
                    folder = os.path.join(self.consume_queue_folder, topic, name)
                    found[topic, int(name)] = self._numbered(folder)
        size = _usual_size(file for files in found.values() for file in files)
        return {
            (topic, queue_id): Range(
                self.disk, os.path.join(self.consume_queue_folder, topic, str(queue_id)), size, files
            )
            for (topic, queue_id), files in sorted(found.items())
        }

    def _find_index_files(self) -> list[FoundFile]:
        found = []
        for name in self.disk.list_folder(self.index_folder):
            path = os.path.join(self.index_folder, name)
            if len(name) == INDEX_NAME_LENGTH and name.isascii() and name.isdecimal():
                found.append(FoundFile(path, int(name), self.disk.file_size(path)))
            else:
                self.foreign.append(path)
        return found

    @property
    def consume_queue_file_bytes(self) -> int:
        """The size that most consume-queue files have, 0 without any."""
        return next((queue.file_bytes for queue in self.queues.values()), 0)

    def config_path(self, table: str) -> str:
        """The path of a table of `config/`."""
        return os.path.join(self.root, "config", f"{table}.json")

    def relative(self, path: str) -> str:
        """A path as it is shown: from the root, where it lies below it."""
        below = self.root.rstrip(os.sep) + os.sep
        return path[len(below) :] if path.startswith(below) else path

    def data_bytes(self) -> int:
        """Bytes of commit log, queues and index together: what a whole check goes through, holes included."""
        queues = sum(file.size for queue in self.queues.values() for file in queue.files)
        return sum(file.size for file in (*self.commit_log.files, *self.index_files)) + queues

    def check(self, report: Report) -> None:
        """Report files of another size, out of place or missing between others."""
        for path in self.foreign:
            name = os.path.basename(path)
            if name.startswith("."):
                text = "a hidden file: Apache's broker does not start with it here, pymq ignores it"
            else:
                text = "does not belong here: no broker starts with it"
            report(Problem("files", path, -1, text))
        for part, files in (
            ("commitlog", self.commit_log),
            *(("consumequeue", q) for q in self.queues.values()),
        ):
            for file in files.odd:
                report(Problem(part, file.path, -1, self._why_odd(file, files.file_bytes)))
            for before, after in zip(files.files, files.files[1:], strict=False):
                if before.base + files.file_bytes != after.base:
                    missing = before.base + files.file_bytes
                    text = f"the file before it, {missing:0{NAME_LENGTH}d}, is missing"
                    report(Problem(part, after.path, -1, text, offset=missing))
        if self.consume_queue_file_bytes % CQ_STORE_UNIT_SIZE:
            text = f"files of {self.consume_queue_file_bytes} bytes hold no whole number of units"
            report(Problem("consumequeue", self.consume_queue_folder, -1, text))

    def _why_odd(self, file: FoundFile, size: int) -> str:
        if file.size != size:
            return f"has {file.size:,} bytes, the other files have {size:,}"
        return f"no file of {size:,} bytes begins at {file.base:,}"


def _usual_size(files: Iterable[FoundFile]) -> int:
    """The size that most files have, the larger one if there are two; empty files are none of them."""
    sizes = Counter(file.size for file in files if file.size)
    return max(sizes, key=lambda size: (sizes[size], size), default=0)


def chunks(disk: Disk, file: FoundFile, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The bytes of a file from `start` to `end` in pieces of at most 1 MiB, with their positions."""
    handle = disk.file(file.path, file.size)
    while start < end:
        data = handle.read(start, min(_CHUNK, end - start))
        if not data:
            return
        yield start, data
        start += len(data)
