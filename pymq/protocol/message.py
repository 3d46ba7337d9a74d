"""The message record, the same bytes on the wire and in the commit log; the batch block (wire.md §6, 4.2)."""

from __future__ import annotations

import importlib
import mmap
import zlib
from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as StructError
from typing import Any, Final

import msgspec

from pymq.errors import MessageIllegal, ProtocolError, PymqError
from pymq.protocol import sysflags
from pymq.protocol.message_ids import encode_offset_msg_id
from pymq.protocol.properties import PROPERTIES_MAX_LENGTH, decode_properties

Buffer = bytes | bytearray | memoryview | mmap.mmap

MESSAGE_MAGIC: Final = 0xDAA320A7
MESSAGE_MAGIC_V2: Final = 0xDAA320AB
"""5.x only: the length of the topic takes 2 bytes. Read here, never written."""
BLANK_MAGIC: Final = 0xCBD43194
"""The filler at the end of a commit-log file."""
TOPIC_MAX_LENGTH: Final = 127
"""In bytes: the length of the topic is a signed byte."""
RECORD_FIXED_SIZE: Final = 91
"""Size of a record with two v4 hosts and without body, topic and properties."""

_HEAD_LAYOUT = ">iIIiiqqiq{born}sq{store}siqi"
RECORD_HEADS: Final = tuple(
    Struct(_HEAD_LAYOUT.format(born=born, store=store)) for store in (8, 20) for born in (8, 20)
)
"""Fields 1–14 and the body's length, by the host bits of sysFlag (`(sys_flag & 0x30) >> 4`):
totalSize (4), magic (4), bodyCRC (4), queueId (4), flag (4), queueOffset (8), physicalOffset (8),
sysFlag (4), bornTimestamp (8), bornHost (8 or 20), storeTimestamp (8), storeHost (8 or 20),
reconsumeTimes (4), preparedTransactionOffset (8), bodyLength (4)."""
assert [head.size for head in RECORD_HEADS] == [88, 100, 100, 112]

QUEUE_OFFSET_POSITION: Final = 20
PHYSICAL_OFFSET_POSITION: Final = 28
SYS_FLAG_POSITION: Final = 36
_INT = Struct(">i")
_SIZE_AND_MAGIC = Struct(">iI")
_SHORT = Struct(">h")
_TOPIC_LENGTHS = tuple(bytes((n,)) for n in range(TOPIC_MAX_LENGTH + 1))
PROPERTIES_LENGTH = Struct(">H")

_BATCH_HEAD = Struct(">iiiii")
"""Entry of a batch block: totalSize, magic (0), bodyCRC (0), flag, bodyLength, 4 bytes each."""
_BATCH_FIXED_SIZE = _BATCH_HEAD.size + _SHORT.size


class UnreadableBody(PymqError):
    """A body whose compression cannot be undone here: damaged, or of a kind whose library is missing."""


class MessageRecord(msgspec.Struct, gc=False):
    """The 17 fields of a stored message. Times in ms since 1970, hosts packed (8 bytes v4, 20 bytes v6)."""

    total_size: int
    magic: int
    body_crc: int
    queue_id: int
    flag: int
    queue_offset: int
    physical_offset: int
    sys_flag: int
    born_timestamp: int
    born_host: bytes
    store_timestamp: int
    store_host: bytes
    reconsume_times: int
    prepared_transaction_offset: int
    body: bytes
    """As stored, maybe compressed: `read_body`."""
    topic: str
    properties: str
    """As stored: `decode_properties`."""

    def read_body(self) -> bytes:
        """The body as the producer gave it, decompressed. UnreadableBody when that is not possible."""
        return read_body(self.body, self.sys_flag)

    def read_properties(self) -> dict[str, str]:
        """The properties as a new dict."""
        return decode_properties(self.properties)

    @property
    def offset_msg_id(self) -> str:
        """The broker's id of this message."""
        return encode_offset_msg_id(self.store_host, self.physical_offset)


def body_crc(body: Buffer) -> int:
    """CRC-32 of the stored body, masked to 31 bits."""
    return zlib.crc32(body) & 0x7FFFFFFF


def record_size(
    body_length: int, topic_length: int, properties_length: int, born_host: bytes, store_host: bytes
) -> int:
    """The total size of a record in bytes, from the lengths of its encoded parts."""
    return (
        RECORD_FIXED_SIZE
        - 16
        + len(born_host)
        + len(store_host)
        + body_length
        + topic_length
        + properties_length
    )


def encode_record(
    topic: bytes,
    body: bytes,
    properties: bytes,
    queue_id: int,
    queue_offset: int,
    physical_offset: int,
    flag: int,
    sys_flag: int,
    born_timestamp: int,
    born_host: bytes,
    store_timestamp: int,
    store_host: bytes,
    reconsume_times: int = 0,
    prepared_transaction_offset: int = 0,
) -> bytes:
    """Write one v1 record; the CRC is computed here.

    The host bits of `sys_flag` must fit the hosts (`sysflags.with_host_bits`), topic and properties must keep
    their limits. MessageIllegal when a number does not fit its field.
    """
    host_bits = (sys_flag & 0x30) >> 4
    size = len(body) + len(topic) + len(properties) + (RECORD_FIXED_SIZE, 103, 103, 115)[host_bits]
    try:
        return b"".join(
            (
                RECORD_HEADS[host_bits].pack(
                    size,
                    MESSAGE_MAGIC,
                    zlib.crc32(body) & 0x7FFFFFFF,
                    queue_id,
                    flag,
                    queue_offset,
                    physical_offset,
                    sys_flag,
                    born_timestamp,
                    born_host,
                    store_timestamp,
                    store_host,
                    reconsume_times,
                    prepared_transaction_offset,
                    len(body),
                ),
                body,
                _TOPIC_LENGTHS[len(topic)],
                topic,
                PROPERTIES_LENGTH.pack(len(properties)),
                properties,
            )
        )
    except StructError as e:
        raise MessageIllegal(f"a field of the message does not fit the record: {e}") from None


def decode_record(buffer: Buffer, offset: int = 0, *, check_crc: bool = False) -> MessageRecord:
    """Read the record that begins at `offset`, of layout v1 or v2. All fields are copies.

    As Java's clients do, any magic but v2's is read as v1. Text that is not UTF-8 is replaced, not refused.
    ProtocolError when the record is cut off, its lengths contradict each other, or (with `check_crc`) its
    body does not have its checksum.
    """
    try:
        sys_flag = _INT.unpack_from(buffer, offset + SYS_FLAG_POSITION)[0]
        head = RECORD_HEADS[(sys_flag & 0x30) >> 4]
        fields = head.unpack_from(buffer, offset)
        body_start = offset + head.size
        body_end = body_start + fields[14]
        topic_start = body_end + 1
        topic_length = buffer[body_end]
        if fields[1] == MESSAGE_MAGIC_V2:
            topic_length = topic_length << 8 | buffer[topic_start]
            topic_start += 1
        topic_end = topic_start + topic_length
        properties_start = topic_end + 2
        properties_length = _SHORT.unpack_from(buffer, topic_end)[0]
    except (StructError, IndexError):
        raise ProtocolError(f"the message record at {offset} is cut off") from None
    end = properties_start + properties_length
    if fields[14] < 0 or properties_length < 0 or end - offset != fields[0]:
        raise ProtocolError(
            f"the message record at {offset} says {fields[0]} bytes, its parts have {end - offset}"
        )
    if end > len(buffer):
        raise ProtocolError(f"the message record at {offset} is cut off")
    body = bytes(buffer[body_start:body_end])
    if check_crc and zlib.crc32(body) & 0x7FFFFFFF != fields[2]:
        raise ProtocolError(f"the body of the message record at {offset} does not have its CRC {fields[2]}")
    topic = str(buffer[topic_start:topic_end], "utf-8", "replace")
    properties = str(buffer[properties_start:end], "utf-8", "replace")
    values: tuple[Any, ...] = (*fields[:14], body, topic, properties)
    return MessageRecord(*values)


def read_properties(buffer: Buffer, offset: int = 0) -> str:
    """Only the property text of the record that begins at `offset`, as stored.

    ProtocolError when the record is cut off; what else is wrong with it goes unseen.
    """
    try:
        sys_flag = _INT.unpack_from(buffer, offset + SYS_FLAG_POSITION)[0]
        body_start = offset + RECORD_HEADS[(sys_flag & 0x30) >> 4].size
        topic_length_at = body_start + _INT.unpack_from(buffer, body_start - _INT.size)[0]
        start = topic_length_at + 3 + buffer[topic_length_at]
        if _SIZE_AND_MAGIC.unpack_from(buffer, offset)[1] == MESSAGE_MAGIC_V2:
            start = topic_length_at + 4 + _SHORT.unpack_from(buffer, topic_length_at)[0]
        end = start + _SHORT.unpack_from(buffer, start - _SHORT.size)[0]
    except (StructError, IndexError):
        raise ProtocolError(f"the message record at {offset} is cut off") from None
    return str(buffer[start:end], "utf-8", "replace")


def read_commit_offset(record: Buffer) -> int | None:
    """Of a committed transactional message, the preparedTransactionOffset; None of any other record.

    ProtocolError when the record is cut off.
    """
    try:
        sys_flag = _INT.unpack_from(record, SYS_FLAG_POSITION)[0]
        if sys_flag & sysflags.TRANSACTION_MASK != sysflags.TRANSACTION_COMMIT:
            return None
        offset: int = RECORD_HEADS[(sys_flag & 0x30) >> 4].unpack_from(record, 0)[13]
    except StructError:
        raise ProtocolError("the message record is cut off") from None
    return offset


def decode_records(buffer: Buffer) -> list[MessageRecord]:
    """Read records that stand back to back, as in a pull answer; a cut-off last one is dropped.

    ProtocolError when one contradicts itself.
    """
    records = []
    offset, length = 0, len(buffer)
    while length - offset >= RECORD_FIXED_SIZE:
        size = _INT.unpack_from(buffer, offset)[0]
        if size < RECORD_FIXED_SIZE:
            raise ProtocolError(f"a message record of {size} bytes at {offset}")
        if size > length - offset:
            break
        records.append(decode_record(buffer, offset))
        offset += size
    return records


def read_body(body: bytes, sys_flag: int) -> bytes:
    """Undo the compression that `sys_flag` tells. UnreadableBody when that is not possible."""
    if not sys_flag & sysflags.COMPRESSED:
        return body
    kind = sys_flag & sysflags.COMPRESSION_MASK
    try:
        if kind in (0, sysflags.COMPRESSION_ZLIB):
            return zlib.decompress(body)
        if kind == sysflags.COMPRESSION_LZ4:
            return _decompress_lz4(body)
        if kind == sysflags.COMPRESSION_ZSTD:
            return _decompress_zstd(body)
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        raise UnreadableBody(
            f"the body is compressed with {package}, which is not installed here: pip install {package}"
        ) from None
    except Exception as e:  # each library raises its own
        raise UnreadableBody(f"the compressed body is damaged: {e}") from e
    raise UnreadableBody(f"the body is compressed in an unknown way ({kind:#x})")


def compress_body(body: bytes) -> bytes:
    """Compress as Java clients do: zlib (RFC 1950), level 5."""
    return zlib.compress(body, 5)


def _decompress_lz4(body: bytes) -> bytes:
    return bytes(importlib.import_module("lz4.frame").decompress(body))


def _decompress_zstd(body: bytes) -> bytes:
    # Java's stream writer leaves the content size out of the frame: only the streaming reader copes.
    decompressor = importlib.import_module("zstandard").ZstdDecompressor().decompressobj()
    return bytes(decompressor.decompress(body))


class BatchEntry(msgspec.Struct, gc=False):
    """One message of a batch block: `properties` is encoded property text."""

    body: bytes
    properties: str = ""
    flag: int = 0


def encode_batch(entries: Iterable[BatchEntry]) -> bytes:
    """Write the body of a batch send. MessageIllegal when a property text is over its limit."""
    block: list[bytes] = []
    for entry in entries:
        properties = entry.properties.encode()
        if len(properties) > PROPERTIES_MAX_LENGTH:
            raise MessageIllegal(
                f"properties of {len(properties)} bytes are over the limit of {PROPERTIES_MAX_LENGTH}"
            )
        size = _BATCH_FIXED_SIZE + len(entry.body) + len(properties)
        block += (
            _BATCH_HEAD.pack(size, 0, 0, entry.flag, len(entry.body)),
            entry.body,
            _SHORT.pack(len(properties)),
            properties,
        )
    return b"".join(block)


def batch_parts(block: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Flag, body and encoded properties of each message of a batch send, checked as it is reached.

    MessageIllegal when its lengths contradict each other.
    """
    unpack_head, head_size, unpack_short = _BATCH_HEAD.unpack_from, _BATCH_HEAD.size, _SHORT.unpack_from
    offset, length, number = 0, len(block), 0
    while offset < length:
        try:
            size, _, _, flag, body_length = unpack_head(block, offset)
            body_start = offset + head_size
            body_end = body_start + body_length
            if body_length < 0:
                raise MessageIllegal(f"batch entry {number} has a body of {body_length} bytes")
            properties_start = body_end + 2
            end = properties_start + unpack_short(block, body_end)[0]
        except StructError:
            raise MessageIllegal(f"batch entry {number} is cut off") from None
        if end < properties_start or end - offset != size or end > length:
            raise MessageIllegal(f"batch entry {number} says {size} bytes, its parts have {end - offset}")
        yield flag, block[body_start:body_end], block[properties_start:end]
        offset = end
        number += 1
