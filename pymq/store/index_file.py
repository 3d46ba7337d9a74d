"""The format of an index file: header, hash slots, entries chained newest to oldest (store.md §4).

Everything here works on bytes: `IndexFile` (index_writer.py) writes them, tools and tests read them.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

import msgspec

from pymq.errors import StoreCorrupt
from pymq.protocol.properties import KEY_SEPARATOR, KEYS, UNIQ_KEY, get_property

INDEX_HEADER = Struct(">qqqqii")
"""beginTimestamp, endTimestamp, beginPhyOffset, endPhyOffset (8 each), hashSlotCount, indexCount (4 each)."""
INDEX_HEADER_SIZE: Final = 40
INDEX_SLOT = Struct(">i")
"""Number of the slot's newest entry; 0: none."""
INDEX_SLOT_SIZE: Final = 4
INDEX_ENTRY = Struct(">iqii")
"""keyHash (4), phyOffset (8), timeDiff in seconds (4), number of the slot's previous entry (4)."""
INDEX_ENTRY_SIZE: Final = 20
assert [INDEX_HEADER.size, INDEX_ENTRY.size] == [INDEX_HEADER_SIZE, INDEX_ENTRY_SIZE]

INDEX_NAME_LENGTH: Final = 17
"""A file's name is the local time of its making: yyyyMMddHHmmssSSS."""
_BLOCK = 4096

Buffer = bytes | bytearray | memoryview | mmap.mmap
Read = Callable[[int, int], bytes]
"""Gives up to so many bytes (second) of a file from a position (first) on."""


class IndexEntry(NamedTuple):
    """One key of one message."""

    key_hash: int
    phy_offset: int
    """Where the message stands in the commit log."""
    seconds: int
    """When it was stored: whole seconds after the header's begin_timestamp."""
    previous: int
    """The next older entry of the same slot; 0: none."""


class IndexHeader(msgspec.Struct):
    """What a file holds. Times in ms since 1970, offsets in the commit log, of its first and last entry."""

    begin_timestamp: int = 0
    end_timestamp: int = 0
    begin_phy_offset: int = 0
    end_phy_offset: int = 0
    hash_slot_count: int = 0
    """Slots in use; as 4.3.2 writes it, the number of entries."""
    index_count: int = 1
    """The number of the next entry: one more than there are, for they begin with 1."""

    @classmethod
    def decode(cls, data: Buffer) -> IndexHeader:
        """Read the header at the start of `data`. StoreCorrupt when that is too short."""
        try:
            header = cls(*INDEX_HEADER.unpack_from(data))
        except StructError:
            raise StoreCorrupt(f"an index header of {len(data)} bytes") from None
        if header.index_count == 0:  # a new file
            header.index_count = 1
        return header

    def encode(self) -> bytes:
        """The header's 40 bytes."""
        return INDEX_HEADER.pack(
            self.begin_timestamp,
            self.end_timestamp,
            self.begin_phy_offset,
            self.end_phy_offset,
            self.hash_slot_count,
            self.index_count,
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is no entry."""
        return self.index_count <= 1

    def time_of(self, entry: IndexEntry) -> int:
        """When the entry's message was stored, ms since 1970, up to 999 ms too early."""
        return self.begin_timestamp + 1000 * entry.seconds

    def overlaps(self, begin: int, end: int) -> bool:
        """Whether an entry may be of a time (ms) from `begin` to `end`."""
        return not self.is_empty and self.begin_timestamp <= end and begin <= self.end_timestamp


def index_file_size(slot_num: int, index_num: int) -> int:
    """Size in bytes of a file with so many slots (maxHashSlotNum) and entries (maxIndexNum)."""
    return INDEX_HEADER_SIZE + INDEX_SLOT_SIZE * slot_num + INDEX_ENTRY_SIZE * index_num


def slot_position(slot: int) -> int:
    """Where slot number `slot` (from 0 on) lies in the file."""
    return INDEX_HEADER_SIZE + INDEX_SLOT_SIZE * slot


def entry_position(number: int, slot_num: int) -> int:
    """Where entry `number` (from 1 on; number 0 stays zero) lies in the file."""
    return INDEX_HEADER_SIZE + INDEX_SLOT_SIZE * slot_num + INDEX_ENTRY_SIZE * number


def header_fault(header: IndexHeader, slot_num: int, index_num: int) -> str | None:
    """Why no writer can have left this header, or None. `slot_num`, `index_num`: the file's geometry."""
    count = header.index_count
    if not 1 <= count <= max(index_num, 1):
        return f"indexCount {count} is not within 1 and {index_num}"
    if not 0 <= header.hash_slot_count <= count - 1:
        return f"hashSlotCount {header.hash_slot_count} does not fit indexCount {count}"
    if min(header.begin_phy_offset, header.begin_timestamp) < 0:
        return "it begins before the log does"
    if header.end_phy_offset < header.begin_phy_offset or header.end_timestamp < header.begin_timestamp:
        return "it ends before it begins"
    return None


def iter_slots(data: Buffer, slot_num: int) -> Iterator[tuple[int, int]]:
    """The used slots of a whole file: (slot, number of its newest entry)."""
    with memoryview(data)[INDEX_HEADER_SIZE : slot_position(slot_num)] as slots:
        for slot, (number,) in enumerate(INDEX_SLOT.iter_unpack(slots)):
            if number:
                yield slot, number


def iter_entries(data: Buffer, slot_num: int, index_count: int) -> Iterator[tuple[int, IndexEntry]]:
    """The entries of a whole file before number `index_count`, oldest first, with their numbers."""
    start, end = entry_position(1, slot_num), entry_position(index_count, slot_num)
    with memoryview(data)[start:end] as entries:
        for number, fields in enumerate(INDEX_ENTRY.iter_unpack(entries), 1):
            yield number, IndexEntry(*fields)


def chain(read: Read, header: IndexHeader, slot_num: int, slot: int) -> Iterator[IndexEntry]:
    """The entries of one slot, newest first.

    StoreCorrupt when the chain leaves the file's entries, turns back, or meets an entry of another slot.
    """
    limit = header.index_count
    (number,) = INDEX_SLOT.unpack(read(slot_position(slot), INDEX_SLOT_SIZE).ljust(INDEX_SLOT_SIZE, b"\0"))
    block, base = b"", 0
    while number:
        if not 0 < number < limit:
            raise StoreCorrupt(f"slot {slot} leads to entry {number}, where one from 1 to {limit - 1} can be")
        # Neighbours in a chain are often neighbours in the file: read by blocks.
        position = entry_position(number, slot_num)
        if not base <= position <= base + len(block) - INDEX_ENTRY_SIZE:
            base = max(0, position + INDEX_ENTRY_SIZE - _BLOCK)
            block = read(base, _BLOCK)
        try:
            entry = IndexEntry(*INDEX_ENTRY.unpack_from(block, position - base))
        except StructError:
            raise StoreCorrupt(f"the file ends before entry {number}") from None
        if entry.key_hash < 0 or entry.key_hash % slot_num != slot:
            raise StoreCorrupt(f"entry {number} in the chain of slot {slot} does not belong there")
        yield entry
        limit, number = number, entry.previous


def keys_of(properties: str) -> list[str]:
    """What a message with this property text is indexed under: its unique key, then each of its KEYS."""
    unique_key, keys = get_property(properties, UNIQ_KEY), get_property(properties, KEYS)
    found = [unique_key] if unique_key else []
    if keys:
        found += [key for key in keys.split(KEY_SEPARATOR) if key]
    return found
