"""Frames come whole out of a stream cut anywhere; a bad length is refused as soon as it is seen."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import FrameTooLarge, ProtocolError
from pymq.protocol.framing import FRAME_MAX_LENGTH, FrameReader, frame, frame_head

Frame = tuple[int, bytes, bytes]

frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40), st.binary(max_size=60)), max_size=6)


def cut(stream: bytes, cuts: list[int]) -> list[Frame]:
    reader = FrameReader()
    given: list[Frame] = []
    at = 0
    for stop in [*sorted(cuts), len(stream)]:
        reader.feed(stream[at:stop])
        given += reader
        at = stop
    assert reader.pending == 0
    return given


@given(frames, st.data())
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[Frame], data: st.DataObject
) -> None:
    stream = b"".join(frame(*one) for one in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert cut(stream, cuts) == sent
    assert cut(stream, list(range(len(stream)))) == sent


@given(frames, st.integers(1, 4), st.data())
def test_an_iteration_may_be_broken_off_and_taken_up_again(
    sent: list[Frame], at_once: int, data: st.DataObject
) -> None:
    stream = b"".join(frame(*one) for one in sent)
    middle = data.draw(st.integers(0, len(stream)))
    reader = FrameReader()
    reader.feed(stream[:middle])
    got: list[Frame] = []
    for one in reader:
        got.append(one)
        if len(got) >= at_once:
            break
    reader.feed(stream[middle:])
    for _ in range(len(sent) + 1):
        for one in reader:
            got.append(one)
            break
    assert got == sent
    assert reader.pending == 0


def test_what_arrives_during_an_iteration_is_kept() -> None:
    reader = FrameReader()
    reader.feed(frame(0, b"a"))
    iteration = iter(reader)
    assert next(iteration) == (0, b"a", b"")
    reader.feed(frame(0, b"b"))
    assert list(iteration) == []
    assert list(reader) == [(0, b"b", b"")]


@pytest.mark.parametrize(
    "start",
    [
        "00fffffd",  # one byte past the limit
        "7fffffff",
        "fffffffb",  # negative
        "00000000",
        "00000003",
        "16030100",  # a TLS hello
        b"GET ".hex(),
    ],
)
def test_a_bad_length_is_refused_as_soon_as_its_four_bytes_are_there(start: str) -> None:
    reader = FrameReader()
    reader.feed(bytes.fromhex(start)[:3])
    assert list(reader) == []
    reader.feed(bytes.fromhex(start)[3:])
    with pytest.raises(ProtocolError):
        list(reader)


def test_frames_before_a_bad_length_are_given_first() -> None:
    reader = FrameReader()
    reader.feed(frame(0, b"{}") + b"\0\0\0\3")
    got: list[Frame] = []
    with pytest.raises(ProtocolError):
        got.extend(reader)
    assert got == [(0, b"{}", b"")]


def test_a_header_longer_than_its_frame_is_refused() -> None:
    reader = FrameReader()
    reader.feed(bytes.fromhex("000000080000006400000000"))
    with pytest.raises(ProtocolError, match="a header of 100 bytes in a frame of 8"):
        list(reader)


def test_the_limit_counts_the_length_field_too() -> None:
    reader = FrameReader()
    reader.feed((FRAME_MAX_LENGTH - 4).to_bytes(4, "big"))
    assert list(reader) == []
    reader = FrameReader()
    reader.feed((FRAME_MAX_LENGTH - 3).to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge) as refused:
        list(reader)
    assert (refused.value.size, refused.value.limit) == (FRAME_MAX_LENGTH + 1, FRAME_MAX_LENGTH)
    assert str(refused.value) == "frame of 16777217 bytes is over the limit of 16777216"


def test_a_header_that_does_not_fit_into_24_bits_is_not_written() -> None:
    with pytest.raises(ProtocolError, match="16777216 bytes"):
        frame_head(0, bytes(0x1000000), 0)


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_random_bytes_raise_nothing_but_protocol_errors(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks:
            reader.feed(chunk)
            list(reader)
    except ProtocolError:
        pass


def test_the_largest_frame_in_small_reads_costs_no_more_than_a_few_copies() -> None:
    body = bytes(FRAME_MAX_LENGTH - 10)
    stream = frame(0, b"{}", body)
    reader = FrameReader()
    started = time.perf_counter()
    got: list[Frame] = []
    for at in range(0, len(stream), 65536):
        reader.feed(stream[at : at + 65536])
        got += reader
    assert got == [(0, b"{}", body)]
    assert time.perf_counter() - started < 1.0  # 0.01 s; 256 joins of what is there so far take 2 s


def test_a_frame_that_comes_byte_by_byte_holds_little_more_than_its_bytes() -> None:
    stream = frame(0, b"{}", bytes(30_000))[:-1]
    reader = FrameReader()
    tracemalloc.start()
    try:
        for at in range(len(stream)):
            reader.feed(stream[at : at + 1])
            assert not list(reader)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.pending == len(stream)
    assert held < 2 * len(stream)


def test_a_reader_that_rests_holds_no_bytes() -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        reader.feed(frame(0, b"{}", bytes(4_000_000)))
        assert len(list(reader)) == 1
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
