"""The body of REGISTER_BROKER (103), in its two forms: JSON and compressed (wire.md §7.2)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from struct import Struct
from typing import cast

import msgspec
from msgspec import field

from pymq.errors import BodyError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies.body import Body
from pymq.protocol.bodies.topic_config import DataVersion, TopicConfig, TopicConfigSerializeWrapper

MAX_INFLATED_BYTES = 64 * 1024 * 1024
"""A compressed body that unfolds to more is refused: 16 MiB of zlib can hold 16 GiB."""

_INT = Struct(">i")
"""Lengths and counts of the compressed form."""

_DEFLATE = 8
"""Low four bits of the first byte of a zlib stream; no JSON text begins so."""


class RegisterBrokerBody(Body):
    """A broker's topics and filter servers."""

    topic_config_serialize_wrapper: TopicConfigSerializeWrapper = field(
        default_factory=TopicConfigSerializeWrapper
    )
    filter_server_list: list[str] = field(default_factory=list)

    @property
    def data_version(self) -> DataVersion:
        """The version of the broker's topic table."""
        return self.topic_config_serialize_wrapper.data_version

    @property
    def topics(self) -> dict[str, TopicConfig]:
        """Topic name → configuration."""
        return self.topic_config_serialize_wrapper.topic_config_table

    def encode(self, *, compressed: bool = False) -> bytes:
        """The body as JSON, or compressed: smaller, but `order` and `topic_sys_flag` are lost."""
        return zlib.compress(b"".join(self._blocks())) if compressed else tolerant_json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> RegisterBrokerBody:
        """Read either form, told apart by the first byte: 5.x brokers set `compressed` wrongly.

        No body is an empty table. Brokers before 3.0.11 send the bare wrapper. Raises BodyError.
        """
        if not data:
            return cls()
        if data[0] & 0x0F == _DEFLATE:
            return _Blocks(_inflate(data)).body()
        either = tolerant_json.decode(data, _EitherBody)
        if isinstance(either.topic_config_serialize_wrapper, TopicConfigSerializeWrapper):
            return cls(either.topic_config_serialize_wrapper, either.filter_server_list)
        return cls(tolerant_json.decode(data, TopicConfigSerializeWrapper))

    def _blocks(self) -> Iterator[bytes]:
        yield _block(self.data_version.encode())
        yield _INT.pack(len(self.topics))
        for name, topic in self.topics.items():
            numbers = f"{topic.read_queue_nums} {topic.write_queue_nums} {topic.perm}"
            yield _block(f"{name} {numbers} {topic.topic_filter_type}".encode())
        yield _block(tolerant_json.encode(self.filter_server_list))


def body_crc32(body: bytes) -> int:
    """The value of `bodyCrc32` for a register body."""
    return zlib.crc32(body) & 0x7FFFFFFF


class _EitherBody(msgspec.Struct, rename="camel"):
    topic_config_serialize_wrapper: TopicConfigSerializeWrapper | None = None
    filter_server_list: list[str] = field(default_factory=list)


def _block(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(data, MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise BodyError(f"compressed body: {error}") from None
    if stream.unconsumed_tail:
        raise BodyError(f"compressed body: unfolds to more than {MAX_INFLATED_BYTES} bytes")
    if not stream.eof:
        raise BodyError("compressed body: its end is missing")
    return inflated


class _Blocks:
    """Reads the compressed form, once inflated, front to back. What follows (5.x static topics) is left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def body(self) -> RegisterBrokerBody:
        version = tolerant_json.decode(self._block(), DataVersion)
        topics = dict(self._topic() for _ in range(self._int()))
        filter_servers = tolerant_json.decode(self._block(), list[str])
        return RegisterBrokerBody(TopicConfigSerializeWrapper(version, topics), filter_servers)

    def _int(self) -> int:
        if self._at + _INT.size > len(self._data):
            raise BodyError(f"compressed body: ends at byte {len(self._data)}, within a length")
        (value,) = _INT.unpack_from(self._data, self._at)
        self._at += _INT.size
        return cast(int, value)

    def _block(self) -> bytes:
        size = self._int()
        if size < 0 or self._at + size > len(self._data):
            left = len(self._data) - self._at
            raise BodyError(f"compressed body: a length of {size} at byte {self._at - 4}, {left} bytes left")
        self._at += size
        return self._data[self._at - size : self._at]

    def _topic(self) -> tuple[str, TopicConfig]:
        block = self._block()
        try:
            name, read, write, perm, filter_type = block.decode().split(" ")[:5]
            topic = TopicConfig(name, int(read), int(write), int(perm), filter_type)
        except ValueError:  # UnicodeDecodeError is one too
            raise BodyError(f"compressed body: {block[:200]!r} is no topic") from None
        return name, topic
