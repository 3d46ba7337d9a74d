"""The replication stream: whatever the pieces it comes in, the same reports and blocks come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import ProtocolError
from pymq.protocol.ha_frames import Block, BlockReader, ReportReader, encode_block_head, encode_report

OFFSETS = st.integers(0, (1 << 63) - 1)
BLOCKS = st.lists(st.builds(Block, OFFSETS, st.binary(max_size=50)), max_size=8)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data`, cut at some places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(st.lists(OFFSETS, max_size=20), st.lists(st.integers(0, 1000)))
def test_reports_come_out_as_they_went_in(offsets: list[int], cuts: list[int]) -> None:
    reader = ReportReader()
    stream = b"".join(map(encode_report, offsets))
    assert [offset for piece in pieces(stream, cuts) for offset in reader.feed(piece)] == offsets


@given(BLOCKS, st.lists(st.integers(0, 1000)))
def test_blocks_come_out_as_they_went_in(blocks: list[Block], cuts: list[int]) -> None:
    reader = BlockReader(50)
    stream = b"".join(encode_block_head(offset, len(data)) + data for offset, data in blocks)
    found = [block for piece in pieces(stream, cuts) for block in reader.feed(piece)]
    for offset, data in blocks:
        if data:
            came = b""
            while len(came) < len(data):
                at, piece = found.pop(0)
                assert at == offset + len(came)
                assert piece
                came += piece
            assert came == data
        else:
            assert found.pop(0) == (offset, b"")
    assert found == []


def test_what_has_come_of_a_block_is_there_at_once() -> None:
    reader = BlockReader(50)
    stream = encode_block_head(7, 3) + b"abc"
    assert [reader.feed(stream[:13]), reader.feed(stream[13:])] == [[Block(7, b"a")], [Block(8, b"bc")]]


def test_the_bytes_are_those_of_apache() -> None:
    """store.md §9: 8 bytes of a report; 8 of an offset and 4 of a size before a block."""
    assert encode_report(0x0102030405060708) == bytes(range(1, 9))
    assert encode_block_head(1, 2) == bytes((0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2))


@pytest.mark.parametrize(("offset", "size"), [(-1, 0), (0, -1), (0, 51)])
def test_a_block_that_cannot_be_one_is_an_error(offset: int, size: int) -> None:
    with pytest.raises(ProtocolError, match=f"a block of {size} bytes at {offset}"):
        BlockReader(50).feed(encode_block_head(offset, size))


def test_a_negative_report_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="offset -1"):
        ReportReader().feed(encode_report(5) + encode_report(-1))
