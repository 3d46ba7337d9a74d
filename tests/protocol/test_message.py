"""Message records, bodies and batch blocks, in both directions and cut anywhere."""

from __future__ import annotations

import contextlib
import importlib.util
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.errors import MessageIllegal, ProtocolError
from pymq.protocol import sysflags
from pymq.protocol.message import (
    MESSAGE_MAGIC,
    MESSAGE_MAGIC_V2,
    RECORD_FIXED_SIZE,
    BatchEntry,
    UnreadableBody,
    batch_parts,
    body_crc,
    compress_body,
    decode_record,
    decode_records,
    encode_batch,
    encode_record,
    read_body,
    read_properties,
    record_size,
)
from pymq.protocol.sysflags import with_host_bits

ints = st.integers(-(2**31), 2**31 - 1)
longs = st.integers(-(2**63), 2**63 - 1)
hosts = st.one_of(st.binary(min_size=8, max_size=8), st.binary(min_size=20, max_size=20))
texts = st.text(st.characters(codec="utf-8"))
topics = texts.filter(lambda topic: len(topic.encode()) <= 127)


def simple(body: bytes = b"body", topic: bytes = b"T", properties: bytes = b"A\x01b") -> bytes:
    """A record with the usual fields."""
    return encode_record(topic, body, properties, 1, 2, 3, 4, 0, 5, b"born.prt", 6, b"stor.prt")


@given(topics, st.binary(), texts, ints, longs, longs, ints, ints, longs, hosts, longs, hosts, ints, longs)
def test_a_record_comes_back_with_all_its_fields(
    topic: str,
    body: bytes,
    properties: str,
    queue_id: int,
    queue_offset: int,
    physical_offset: int,
    flag: int,
    sys_flag: int,
    born_timestamp: int,
    born_host: bytes,
    store_timestamp: int,
    store_host: bytes,
    reconsume_times: int,
    prepared: int,
) -> None:
    sys_flag = with_host_bits(sys_flag, born_host, store_host)
    encoded = encode_record(
        topic.encode(),
        body,
        properties.encode(),
        queue_id,
        queue_offset,
        physical_offset,
        flag,
        sys_flag,
        born_timestamp,
        born_host,
        store_timestamp,
        store_host,
        reconsume_times,
        prepared,
    )
    lengths = len(body), len(topic.encode()), len(properties.encode())
    assert len(encoded) == record_size(*lengths, born_host, store_host)
    record = decode_record(b"before" + encoded + b"behind", 6, check_crc=True)
    assert (record.total_size, record.magic, record.body_crc) == (len(encoded), MESSAGE_MAGIC, body_crc(body))
    assert (record.topic, record.body, record.properties) == (topic, body, properties)
    assert (record.queue_id, record.queue_offset, record.physical_offset) == (
        queue_id,
        queue_offset,
        physical_offset,
    )
    assert (record.flag, record.sys_flag, record.reconsume_times) == (flag, sys_flag, reconsume_times)
    assert (record.born_timestamp, record.born_host) == (born_timestamp, born_host)
    assert (record.store_timestamp, record.store_host) == (store_timestamp, store_host)
    assert record.prepared_transaction_offset == prepared
    assert read_properties(b"before" + encoded + b"behind", 6) == properties


def test_the_layout_is_apaches() -> None:
    assert simple() == bytes.fromhex(
        "00000063"
        "daa320a7"
        f"{zlib.crc32(b'body') & 0x7FFFFFFF:08x}"
        "00000001"
        "00000004"
        "0000000000000002"
        "0000000000000003"
        "00000000"
        "0000000000000005"
        "626f726e2e707274"
        "0000000000000006"
        "73746f722e707274"
        "00000000"
        "0000000000000000"
        "00000004"
        "626f6479"
        "0154"
        "0003"
        "410162"
    )


def test_a_record_of_layout_2_is_read() -> None:
    topic = b"t" * 300
    v1 = simple(topic=b"")
    head, tail = v1[:92], v1[93:]
    v2 = bytearray(head + len(topic).to_bytes(2, "big") + topic + tail)
    v2[:8] = len(v2).to_bytes(4, "big") + MESSAGE_MAGIC_V2.to_bytes(4, "big")
    record = decode_record(v2)
    assert (record.topic, record.body, record.read_properties()) == ("t" * 300, b"body", {"A": "b"})
    assert read_properties(v2) == record.properties


def test_every_cut_of_a_record_is_told_from_a_whole_one() -> None:
    record = simple()
    for length in range(len(record)):
        with pytest.raises(ProtocolError):
            decode_record(record[:length])


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoders(data: bytes) -> None:
    for decode in (decode_record, decode_records, read_properties):
        with contextlib.suppress(ProtocolError):
            decode(data)
    with contextlib.suppress(MessageIllegal):
        list(batch_parts(data))


@given(st.integers(0, 98), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_record_and_nothing_else(position: int, value: int) -> None:
    data = bytearray(simple())
    data[position] = value
    with contextlib.suppress(ProtocolError):
        assert decode_record(data).total_size == len(data)


def test_a_wrong_checksum_is_noticed_on_demand() -> None:
    data = bytearray(simple())
    data[88] ^= 1
    assert decode_record(data).body == b"cody"
    with pytest.raises(ProtocolError, match="CRC"):
        decode_record(data, check_crc=True)


def test_records_back_to_back_are_read_and_a_cut_off_last_one_is_dropped() -> None:
    parts = [simple(body=b"%d" % i * i) for i in range(5)]
    joined = b"".join(parts)
    assert [r.body for r in decode_records(memoryview(joined))] == [b"%d" % i * i for i in range(5)]
    for cut in range(1, len(parts[-1])):
        assert len(decode_records(joined[:-cut])) == 4
    with pytest.raises(ProtocolError):
        decode_records(joined + bytes(RECORD_FIXED_SIZE))


def test_a_number_that_does_not_fit_its_field_is_illegal() -> None:
    with pytest.raises(MessageIllegal):
        encode_record(b"T", b"", b"", 2**31, 2, 3, 4, 0, 5, b"born.prt", 6, b"stor.prt")


@given(st.binary(max_size=10_000))
def test_a_compressed_body_is_read(body: bytes) -> None:
    compressed = compress_body(body)
    assert read_body(body, 0) == body
    for kind in (0, sysflags.COMPRESSION_ZLIB):
        assert read_body(compressed, sysflags.COMPRESSED | kind) == body


def test_a_body_that_cannot_be_decompressed_says_why() -> None:
    with pytest.raises(UnreadableBody, match="damaged"):
        read_body(b"no zlib", sysflags.COMPRESSED)
    with pytest.raises(UnreadableBody, match="0x700"):
        read_body(b"", sysflags.COMPRESSED | 0x700)
    for name, kind in (("lz4", sysflags.COMPRESSION_LZ4), ("zstandard", sysflags.COMPRESSION_ZSTD)):
        if importlib.util.find_spec(name) is None:
            with pytest.raises(UnreadableBody, match=name):
                read_body(b"", sysflags.COMPRESSED | kind)


entries = st.builds(BatchEntry, st.binary(max_size=200), texts, ints)


def decode_batch(block: bytes) -> list[BatchEntry]:
    """What a batch's body holds."""
    return [BatchEntry(body, properties.decode(), flag) for flag, body, properties in batch_parts(block)]


@given(st.lists(entries, max_size=8))
def test_a_batch_comes_back(batch: list[BatchEntry]) -> None:
    assert decode_batch(encode_batch(batch)) == batch


def test_a_cut_off_batch_is_illegal_at_every_byte_but_between_entries() -> None:
    block = encode_batch([BatchEntry(b"one", "A\x01b", 7), BatchEntry(b"two")])
    first = len(encode_batch([BatchEntry(b"one", "A\x01b", 7)]))
    for cut in range(1, len(block)):
        if cut == first:
            assert len(decode_batch(block[:cut])) == 1
        else:
            with pytest.raises(MessageIllegal):
                decode_batch(block[:cut])


def test_a_batch_entry_that_lies_about_its_lengths_is_illegal() -> None:
    block = encode_batch([BatchEntry(b"one")])
    for position, value in ((3, 0), (3, 200), (16, 0x80), (19, 200), (23, 9)):
        broken = bytearray(block)
        broken[position] = value
        with pytest.raises(MessageIllegal):
            decode_batch(bytes(broken))
    with pytest.raises(MessageIllegal):
        encode_batch([BatchEntry(b"", "x" * 32768)])
