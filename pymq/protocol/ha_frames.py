"""The replication stream between master and slave: bytes in, reports and blocks out (store.md §9).

A slave sends reports, eight bytes each: where its commit log ends. A master sends blocks: the physical offset
(8), a size (4), and so many bytes of its commit log; a size of 0 is a heartbeat.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from pymq.errors import ProtocolError

REPORT: Final = Struct(">q")
"""Physical offset at which the slave's log ends (8)."""
BLOCK_HEAD: Final = Struct(">qi")
"""Physical offset of the bytes that follow (8), how many there are (4)."""


class Block(NamedTuple):
    """A piece of the master's commit log."""

    physical_offset: int
    data: bytes
    """Empty in a heartbeat: then the offset is that of the next block."""


class ReportReader:
    """Cuts what a slave sends into reports."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[int]:
        """The next bytes of the stream; gives the reports that are whole. ProtocolError: a negative one."""
        data = self._rest + data
        whole = len(data) - len(data) % REPORT.size
        self._rest = data[whole:]
        reports = [offset for (offset,) in REPORT.iter_unpack(data[:whole])]
        if reports and min(reports) < 0:
            raise ProtocolError(f"a slave reports the offset {min(reports)}")
        return reports


class BlockReader:
    """Cuts what a master sends into blocks, or pieces of them as they come: a large block holds nobody up."""

    __slots__ = ("_head", "_left", "_limit", "_offset")

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of a block, at most. A master never sends more than one file of its log."""
        self._limit = limit
        self._head = b""
        self._offset = self._left = 0
        """Of the block that has not come whole: where it goes on, and how much of it is to come."""

    def feed(self, data: bytes) -> list[Block]:
        """The next bytes of the stream; gives all that they hold.

        ProtocolError when an offset or a size cannot be one: the stream cannot be read on.
        """
        blocks = []
        at = 0
        if self._head:
            data, self._head = self._head + data, b""
        while at < len(data):
            if not self._left:
                if len(data) - at < BLOCK_HEAD.size:
                    self._head = data[at:]
                    break
                self._offset, size = BLOCK_HEAD.unpack_from(data, at)
                if self._offset < 0 or not 0 <= size <= self._limit:
                    raise ProtocolError(
                        f"the master sends a block of {size} bytes at {self._offset}, {self._limit} at most"
                    )
                at += BLOCK_HEAD.size
                self._left = size
                if not size:
                    blocks.append(Block(self._offset, b""))
                    continue
            piece = data[at : at + self._left]
            if piece:
                blocks.append(Block(self._offset, piece))
            at += len(piece)
            self._offset += len(piece)
            self._left -= len(piece)
        return blocks


def encode_report(end: int) -> bytes:
    """A slave's report: its log ends at the physical offset `end`."""
    return REPORT.pack(end)


def encode_block_head(physical_offset: int, size: int) -> bytes:
    """What stands before `size` bytes of the log from `physical_offset` on."""
    return BLOCK_HEAD.pack(physical_offset, size)
