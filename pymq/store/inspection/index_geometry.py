"""How many slots and entries the index files of a folder have: they do not say it themselves (store.md §4).

Their size and the contents tell: the newest entry stands where the header's count says, holds the header's
last offset, and is the head of the slot of its hash. That holds for hardly any wrong number of slots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from pymq.disk import Disk
from pymq.store.index_file import INDEX_ENTRY, INDEX_HEADER, INDEX_SLOT_SIZE, IndexEntry, IndexHeader
from pymq.store.inspection.files import FoundFile, chunks

_SLOT = Struct(">i")
_OFFSET = Struct(">q")
_OFFSET_POSITION = 4
"""Of the physical offset in an entry."""
_PROBES = 300
_CANDIDATES_MAX = 8


class Geometry(NamedTuple):
    """maxHashSlotNum and maxIndexNum."""

    slots: int
    entries: int

    @property
    def entries_start(self) -> int:
        """Position of entry 0, which is never used."""
        return INDEX_HEADER.size + self.slots * INDEX_SLOT_SIZE

    @property
    def file_bytes(self) -> int:
        """Size of such a file."""
        return self.entries_start + self.entries * INDEX_ENTRY.size


DEFAULT_GEOMETRY = Geometry(5_000_000, 20_000_000)


def read_header(disk: Disk, file: FoundFile) -> IndexHeader | None:
    """The header of an index file; None when the file is too short for one."""
    data = disk.file(file.path, file.size).read(0, INDEX_HEADER.size)
    return IndexHeader.decode(data) if len(data) == INDEX_HEADER.size else None


def find_geometries(disk: Disk, files: list[FoundFile]) -> list[Geometry]:
    """All that fit the files, the likeliest first; more than one when the files hold too little to tell.

    Files of another size than most do not count. Empty when none fits, or when the files are empty.
    """
    sizes = [file.size for file in files]
    usual = max(set(sizes), key=sizes.count, default=0)
    used: list[tuple[FoundFile, IndexHeader]] = []
    for file in files:
        header = read_header(disk, file) if file.size == usual else None
        if header is not None and header.index_count > 1:
            used.append((file, header))
    if not used:
        return [DEFAULT_GEOMETRY] if usual == DEFAULT_GEOMETRY.file_bytes else []
    return _agreed(disk, used, usual)


def _agreed(disk: Disk, used: list[tuple[FoundFile, IndexHeader]], size: int) -> list[Geometry]:
    """Those that most of the files agree on: one may be damaged."""
    fullest = max(header.index_count for _, header in used)
    quick = [DEFAULT_GEOMETRY, *_of_entries(size, fullest)]  # a file before the last one is full
    certain = [geometry for geometry in quick if geometry.file_bytes == size]
    certain = [g for g in certain if _votes(disk, used, g) * 2 > len(used)][:1]
    if certain and (len(used) > 1 or certain[0] == DEFAULT_GEOMETRY):
        return certain
    for file, header in reversed(used):
        found = [g for g in _scan(disk, file, header) if _fits(disk, file, header, g)][:_CANDIDATES_MAX]
        if found:
            found.sort(key=lambda geometry: -_votes(disk, used, geometry))
            best = _votes(disk, used, found[0])
            return [geometry for geometry in found if _votes(disk, used, geometry) == best]
    return []


def _of_entries(size: int, entries: int) -> Iterable[Geometry]:
    left = size - INDEX_HEADER.size - entries * INDEX_ENTRY.size
    return [Geometry(left // INDEX_SLOT_SIZE, entries)] if left > 0 and left % INDEX_SLOT_SIZE == 0 else []


def _votes(disk: Disk, used: list[tuple[FoundFile, IndexHeader]], geometry: Geometry) -> int:
    return sum(_fits(disk, file, header, geometry) for file, header in used)


def _scan(disk: Disk, file: FoundFile, header: IndexHeader) -> Iterator[Geometry]:
    """Those in which the newest entry, or one of the same record, has the header's last offset."""
    wanted = _OFFSET.pack(header.end_phy_offset)
    newest = (header.index_count - 1) * INDEX_ENTRY.size + _OFFSET_POSITION
    before = b""
    for start, data in chunks(disk, file, INDEX_HEADER.size, file.size):
        data, at = before + data, start - len(before)
        before = data[-len(wanted) + 1 :]
        found = data.find(wanted)
        while found >= 0:
            slots, rest = divmod(at + found - newest - INDEX_HEADER.size, INDEX_SLOT_SIZE)
            left = file.size - INDEX_HEADER.size - slots * INDEX_SLOT_SIZE
            entries, over = divmod(left, INDEX_ENTRY.size)
            if rest == 0 and over == 0 and slots > 0 and entries >= header.index_count:
                yield Geometry(slots, entries)
            found = data.find(wanted, found + 1)


def _fits(disk: Disk, file: FoundFile, header: IndexHeader, geometry: Geometry) -> bool:
    """Whether the entries, as many as are looked at, stand in the slots that they belong to."""
    count = header.index_count
    if not 1 < count <= geometry.entries:
        return False
    handle = disk.file(file.path, file.size)

    def entry(number: int) -> IndexEntry:
        return IndexEntry(
            *INDEX_ENTRY.unpack(
                handle.read(geometry.entries_start + number * INDEX_ENTRY.size, INDEX_ENTRY.size)
            )
        )

    def head(key_hash: int) -> int:
        position = INDEX_HEADER.size + key_hash % geometry.slots * INDEX_SLOT_SIZE
        value: int = _SLOT.unpack(handle.read(position, INDEX_SLOT_SIZE))[0]
        return value

    newest = entry(count - 1)
    if (
        newest.phy_offset != header.end_phy_offset
        or newest.key_hash < 0
        or head(newest.key_hash) != count - 1
    ):
        return False
    for number in range(count - 1, 0, -max(1, count // _PROBES)):
        each = entry(number)
        if each.key_hash < 0 or not 0 <= each.previous < number or each.phy_offset > header.end_phy_offset:
            return False
        if not number <= head(each.key_hash) < count:
            return False
    return True
