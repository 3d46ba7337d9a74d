"""What a power cut leaves of files and folders: the simulated disk's memory of what is not synced.

Of a file, any sectors that were written since it was synced may be there or not, and its new size too. Of a
folder, each name that was made, replaced or removed since the folder was synced may stand for what it stood
for at any moment since then, whatever became of the other names. That is more than any one file system does.
"""

from __future__ import annotations

import mmap
import os.path
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

PAGE: Final = 4096
SECTOR: Final = 512


class SimBuffer(mmap.mmap):
    """A mapping that can be told when a slice is written, and then loses power in the middle of it."""

    before_write: Callable[[], None] | None = None

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.before_write is not None and isinstance(key, slice):
            try:
                self.before_write()
            except PowerCut as cut:
                written = int(cut.part * len(value)) if key.step is None else 0
                start = key.start or 0
                super().__setitem__(slice(start, start + written), value[:written])
                raise
        super().__setitem__(key, value)


class PowerCut(BaseException):
    """The machine, or the process, ends here. Not an Exception: nobody handles it.

    Attributes:
        part: of the bytes that were just being written to a mapping, the share that was written.
    """

    def __init__(self, part: float = 0.0) -> None:
        super().__init__("the power was cut")
        self.part = part


class Content:
    """A file without its name: the current bytes, and those that are on the disk."""

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.buffer = SimBuffer(-1, max(size, 1))
        self.durable_size = 0
        self._durable = b""
        self.allocated: set[int] = set()
        """Numbers of the pages that have room."""

    @classmethod
    def of(cls, data: bytes) -> Content:
        """A file whose bytes are on the disk."""
        content = cls(len(data))
        content.buffer[: len(data)] = data
        content.sync()
        return content

    @property
    def durable(self) -> bytes:
        """The bytes that are on the disk, for as long as the file is now."""
        return self._durable.ljust(self.size, b"\0")

    def data(self) -> bytes:
        """The current bytes."""
        return self.buffer[: self.size]

    def resize(self, size: int) -> None:
        """Change the size of a file that is not mapped."""
        old = self.data()[:size]
        self.size = size
        self.buffer = SimBuffer(-1, max(size, 1))
        self.buffer[: len(old)] = old

    def sync(self) -> None:
        """All of it is on the disk from now on."""
        self._durable, self.durable_size = self.data(), self.size

    def write_back(self, luck: random.Random) -> None:
        """Bring some of it to the disk, as the system does when it likes."""
        left = self.survive(luck)
        self._durable, self.durable_size = left.data(), left.size

    def survive(self, luck: random.Random) -> Content:
        """What a power cut leaves of it."""
        left = self.data()
        if left != self._durable:
            size = luck.choice((self.durable_size, self.size))
            old = self._durable.ljust(size, b"\0")
            left = b"".join(_mixed(old, left.ljust(size, b"\0"), size, luck))
        content = Content.of(left)
        content.allocated = set(self.allocated)
        return content


def _mixed(old: bytes, new: bytes, size: int, luck: random.Random) -> Iterator[bytes]:
    """Sectors, or whole pages, of the one and the other; perhaps all the new ones up to some place."""
    unit = luck.choice((SECTOR, SECTOR, PAGE))
    share = luck.choice((0.0, 0.1, 0.5, 0.7, 0.9, 0.9, 1.0))
    in_order = luck.random() < 0.2
    reached = luck.randrange(size + 1)
    for start in range(0, size, unit):
        part = slice(start, min(start + unit, size))
        is_new = start + unit <= reached if in_order else luck.random() < share
        yield new[part] if is_new else old[part]


class Folder:
    """A folder without its name: one that is removed and made again is another one."""


Named = Content | Folder | None
"""What a name stands for."""


class Names:
    """All names there are, and what those stood for earlier whose folder was not synced since."""

    def __init__(self) -> None:
        self.contents: dict[str, Content] = {}
        self.folders: dict[str, Folder] = {}
        self._former: dict[str, list[tuple[Named, Named]]] = {}
        """Path → what it stood for at earlier moments, and in which folder; the one on the disk first."""

    def get(self, path: str) -> Named:
        """What a path stands for."""
        return self.folders.get(path) or self.contents.get(path)

    def set(self, path: str, named: Named) -> None:
        """Let a path stand for something else, not on the disk yet."""
        above = os.path.dirname(path)
        if above != "/":  # the disk's own folders are there, whoever made them
            self._former.setdefault(path, []).append((self.get(path), self.folders.get(above)))
        self.contents.pop(path, None)
        self.folders.pop(path, None)
        if isinstance(named, Folder):
            self.folders[path] = named
        elif isinstance(named, Content):
            self.contents[path] = named

    def move(self, path: str, new_path: str) -> None:
        """Let a folder, with all in it, have another place where nothing is; not on the disk yet."""
        paths = [*self.below(path), path]
        moved = [(new_path + old[len(path) :], self.get(old)) for old in paths]
        for old in paths:
            self.set(old, None)
        for new, named in reversed(moved):
            self.set(new, named)

    def sync_folder(self, folder: str) -> None:
        """What the folder's names stand for is on the disk from now on."""
        for path in [path for path in self._former if os.path.dirname(path) == folder]:
            del self._former[path]
            if self.get(path) is None:
                for inner in [inner for inner in self._former if inner.startswith(path + "/")]:
                    del self._former[inner]

    def below(self, folder: str) -> list[str]:
        """The paths below a folder, innermost first."""
        paths = [path for path in (*self.contents, *self.folders) if path.startswith(folder + "/")]
        return sorted(paths, reverse=True)

    def survive(self, luck: random.Random) -> Names:
        """What a power cut leaves of them."""
        share = luck.choice((0.0, 0.3, 0.7, 1.0))
        left = Names()
        survivors: dict[int, Content] = {}  # a file with two names is one file afterwards, too
        chosen: dict[str, Named] = {}
        for path in sorted({*self.contents, *self.folders, *self._former}):
            above = os.path.dirname(path)
            folder = chosen[above] if above in chosen else self.folders.get(above)
            if above in chosen and folder is None:
                chosen[path] = None
                continue
            possible = [named for named, inside in self._former.get(path, []) if inside is folder]
            is_here = self.folders.get(above) is folder
            if is_here and (not possible or luck.random() < share):
                possible = [self.get(path)]
            named = chosen[path] = luck.choice(possible) if possible else None
            if isinstance(named, Folder):
                left.folders[path] = named
            elif isinstance(named, Content):
                if id(named) not in survivors:
                    survivors[id(named)] = named.survive(luck)
                left.contents[path] = survivors[id(named)]
        return left
