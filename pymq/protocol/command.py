"""The remoting command: one request or answer, in any of the header serialisations (wire.md §1).

JSON (0) and ROCKETMQ binary (1) are Apache's. MSGPACK (100) is spoken only between pymq peers that agreed
on it on this connection (ARCHITECTURE.md, "msgpack between pymq peers").
"""

from __future__ import annotations

import enum
from struct import Struct
from struct import error as StructError
from typing import Any

import msgpack
import msgspec
from msgspec import field

from pymq.errors import HeaderError, ProtocolError
from pymq.protocol.codes import VERSION, LanguageCode
from pymq.protocol.framing import FRAME_HEAD, frame_head
from pymq.protocol.header import H, Header, from_fields, from_json, from_native, to_native, to_text
from pymq.protocol.headers.messaging import SendMessageRequestV2

FLAG_RESPONSE = 1
FLAG_ONEWAY = 2

AGREE_MSGPACK = ("pymqSerialize", "MSGPACK")
"""The ext field by which a pymq client offers, and a pymq server accepts, headers of type 100."""


class Serialization(enum.IntEnum):
    """Header serialisation types: the top byte of a frame's header word."""

    JSON = 0
    ROCKETMQ = 1
    MSGPACK = 100


BINARY_HEAD = Struct(">hBhiii")
"""code (2), language (1), version (2), opaque (4), flag (4), remark length (4): wire.md §1.2."""

_JSON_TAIL = f'"serializeTypeCurrentRPC":"JSON","version":{VERSION}}}'
_pack_frame_head = FRAME_HEAD.pack
_LANGUAGES = tuple(language.name for language in LanguageCode)
_INT = Struct(">i")
_KEY_LENGTH = Struct(">H")
_VALUE_LENGTH = Struct(">I")

_NO_FIELDS = msgspec.Raw(b"{}")


class Command(
    msgspec.Struct,
    gc=False,
    rename={
        "raw_fields": "extFields",
        "fields": "#fields",
        "body": "#body",
        "serialization": "#serialization",
        "header": "#header",
    },
):
    """One request or answer as it came.

    The header fields stand in `raw_fields` as JSON, in `fields` where the header was no JSON, or in `header`
    where they were read along with the rest; read them typed with `read`. A JSON header is decoded right into
    this struct; what it cannot hold is set behind it, whatever it says.
    """

    code: int = 0
    flag: int = 0
    opaque: int = 0
    version: int = 0
    language: str = "JAVA"
    remark: str | None = None
    raw_fields: msgspec.Raw = _NO_FIELDS
    fields: dict[str, Any] | None = None
    body: bytes = b""
    serialization: int = 0
    header: Header | None = None

    @property
    def is_response(self) -> bool:
        """Whether this answers a request of ours."""
        return bool(self.flag & FLAG_RESPONSE)

    @property
    def is_oneway(self) -> bool:
        """Whether the sender wants no answer."""
        return bool(self.flag & FLAG_ONEWAY)

    def let_go(self) -> None:
        """Keep what an answer needs, and no header and no body.

        For requests whose answers wait: hundreds of them at once would crowd out the processor's caches.
        """
        self.raw_fields = _NO_FIELDS
        self.fields = self.header = None
        self.body = b""

    def read(self, cls: type[H]) -> H:
        """The header fields as `cls`. Raises HeaderError, which names the field."""
        if type(self.header) is cls:
            return self.header
        fields = self.fields
        if fields is None:
            return from_json(cls, self.raw_fields)
        return from_native(cls, fields) if self.serialization == 100 else from_fields(cls, fields)

    def field(self, name: str) -> str | None:
        """One header field as text, or None. For the few that go with any request."""
        fields: Any = self.fields
        if fields is None:
            try:
                fields = msgspec.json.decode(self.raw_fields)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
            if type(fields) is not dict:
                return None
        value = fields.get(name)
        return None if value is None else str(value)


class _LenientHeader(msgspec.Struct):
    """A JSON header whose language is no name: a number, or null."""

    code: int = 0
    extFields: msgspec.Raw = _NO_FIELDS
    flag: int = 0
    language: Any = None
    opaque: int = 0
    remark: str | None = None
    version: int = 0


class _SendCommand(Command):
    """A SEND_MESSAGE_V2 in JSON, its fields read along with the rest: what Java producers send."""

    raw_fields: msgspec.Raw = field(default=_NO_FIELDS, name="#raw_fields")
    header: SendMessageRequestV2 | None = field(default=None, name="extFields")


_SEND_PREFIX = b'{"code":310,'
_send_decoder = msgspec.json.Decoder(_SendCommand, strict=False)
_json_decoder = msgspec.json.Decoder(Command, strict=False)
_lenient_decoder = msgspec.json.Decoder(_LenientHeader, strict=False)
_json_encode = msgspec.json.Encoder().encode


def decode(kind: int, header: bytes, body: bytes, at_once: bool = False) -> Command:
    """Read one frame's header. Raises ProtocolError when it cannot be read at all (wire.md §2).

    `at_once`: the fields of a plain send are read in the same pass, which takes half the time; fields that
    are not the request's own (`Command.field`) are then lost.
    """
    if kind == 0:
        if at_once and header.startswith(_SEND_PREFIX):
            try:
                send = _send_decoder.decode(header)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return decode(kind, header, body)  # which finds out what is wrong
            if send.header is not None:
                send.fields = None
                send.body = body
                send.serialization = 0
                return send
        try:
            command = _json_decoder.decode(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            command = _decode_lenient(header)
        command.fields = None
        command.header = None
        command.body = body
        command.serialization = 0
        return command
    if kind == 1:
        return _decode_binary(header, body)
    if kind == 100:
        return _decode_msgpack(header, body)
    raise ProtocolError(f"unknown header serialisation type {kind}")


def _decode_lenient(header: bytes) -> Command:
    try:
        h = _lenient_decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"JSON header: {error}") from None
    return Command(h.code, h.flag, h.opaque, h.version, "OTHER", h.remark, h.extFields)


def _decode_binary(header: bytes, body: bytes) -> Command:
    try:
        code, language, version, opaque, flag, size = BINARY_HEAD.unpack_from(header)
        at = BINARY_HEAD.size
        remark = _take(header, at, size).decode() if size > 0 else None
        at += max(size, 0)
        (size,) = _INT.unpack_from(header, at)
        fields = _decode_map(_take(header, at + 4, size)) if size > 0 else {}
    except (StructError, UnicodeDecodeError) as error:
        raise ProtocolError(f"binary header: {error}") from None
    name = _LANGUAGES[language] if language < len(_LANGUAGES) else "OTHER"
    return Command(code, flag, opaque, version, name, remark, _NO_FIELDS, fields, body, 1)


def _take(data: bytes, at: int, size: int) -> bytes:
    if size < 0 or at + size > len(data):
        raise ProtocolError(f"binary header: {size} bytes announced, {len(data) - at} there")
    return data[at : at + size]


def _decode_map(block: bytes) -> dict[str, Any]:
    # Lengths are read unsigned: a negative one is then simply too long.
    fields: dict[str, Any] = {}
    at, end = 0, len(block)
    while at < end:
        value_at = at + 2 + _KEY_LENGTH.unpack_from(block, at)[0]
        stop = value_at + 4 + _VALUE_LENGTH.unpack_from(block, value_at)[0]
        if stop > end:
            raise ProtocolError(f"binary header: a field ends {stop - end} bytes past the fields")
        fields[block[at + 2 : value_at].decode()] = block[value_at + 4 : stop].decode()
        at = stop
    return fields


class _MsgpackHeader(msgspec.Struct):
    code: int
    opaque: int
    extFields: dict[str, Any] = {}
    flag: int = 0
    language: str = "PYTHON"
    remark: str | None = None
    version: int = 0


def _decode_msgpack(header: bytes, body: bytes) -> Command:
    try:
        h = msgspec.convert(msgpack.unpackb(header), _MsgpackHeader)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ProtocolError(f"msgpack header: {str(error) or type(error).__name__}") from None
    return Command(
        h.code, h.flag, h.opaque, h.version, h.language, h.remark, _NO_FIELDS, h.extFields, body, 100
    )


def encode(
    code: int,
    flag: int,
    opaque: int,
    header: Header | None = None,
    remark: str | None = None,
    body_length: int = 0,
    serialization: int = 0,
    extra: dict[str, str] | None = None,
) -> bytes:
    """A whole frame but for its body, whose bytes follow as they are.

    `extra` are header fields beyond the class's own (what goes with any request). A header of None leaves
    `extFields` out, as Apache does for requests without a header class. Raises ProtocolError when the
    code or the header does not fit the serialisation.
    """
    if serialization == 0:
        if extra is None and remark is None and header is not None:  # most answers: written out
            text = (
                f'{{"code":{code},"extFields":{header.to_json()},"flag":{flag},"language":"PYTHON",'
                f'"opaque":{opaque},{_JSON_TAIL}'
            ).encode()
            size = len(text)
            return _pack_frame_head(4 + size + body_length, size) + text
        return frame_head(0, _encode_json(code, flag, opaque, header, remark, extra), body_length)
    if serialization == 1:
        return frame_head(1, _encode_binary(code, flag, opaque, header, remark, extra), body_length)
    if serialization == 100:
        return frame_head(100, _encode_msgpack(code, flag, opaque, header, remark, extra), body_length)
    raise ProtocolError(f"unknown header serialisation type {serialization}")


def _encode_json(
    code: int,
    flag: int,
    opaque: int,
    header: Header | None,
    remark: str | None,
    extra: dict[str, str] | None,
) -> bytes:
    # Keys in alphabetical order and compact, as fastjson writes them (wire.md §1.1).
    if extra:
        text = to_text(header) if header is not None else {}
        fields = f'"extFields":{_json_encode({**text, **extra}).decode()},'
    elif header is not None:
        fields = f'"extFields":{header.to_json()},'
    else:
        fields = ""
    remark_text = "" if remark is None else f'"remark":{_json_encode(remark).decode()},'
    return (
        f'{{"code":{code},{fields}"flag":{flag},"language":"PYTHON","opaque":{opaque},{remark_text}'
        f"{_JSON_TAIL}"
    ).encode()


def _encode_binary(
    code: int,
    flag: int,
    opaque: int,
    header: Header | None,
    remark: str | None,
    extra: dict[str, str] | None,
) -> bytes:
    text = to_text(header) if header is not None else {}
    if extra:
        text.update(extra)
    parts = []
    for key, value in text.items():
        key_bytes, value_bytes = key.encode(), value.encode()
        parts += [
            _KEY_LENGTH.pack(len(key_bytes)),
            key_bytes,
            _VALUE_LENGTH.pack(len(value_bytes)),
            value_bytes,
        ]
    block = b"".join(parts)
    remark_bytes = remark.encode() if remark else b""
    try:
        head = BINARY_HEAD.pack(code, LanguageCode.PYTHON, VERSION, opaque, flag, len(remark_bytes))
    except StructError as error:
        raise ProtocolError(f"code {code} in a binary header: {error}") from None
    return b"".join((head, remark_bytes, _INT.pack(len(block)), block))


def _encode_msgpack(
    code: int,
    flag: int,
    opaque: int,
    header: Header | None,
    remark: str | None,
    extra: dict[str, str] | None,
) -> bytes:
    fields = to_native(header) if header is not None else {}
    if extra:
        fields.update(extra)
    packed = {"code": int(code), "flag": flag, "opaque": opaque, "version": VERSION, "extFields": fields}
    if remark is not None:
        packed["remark"] = remark
    result: bytes = msgpack.packb(packed)
    return result


__all__ = [
    "AGREE_MSGPACK",
    "FLAG_ONEWAY",
    "FLAG_RESPONSE",
    "Command",
    "HeaderError",
    "Serialization",
    "decode",
    "encode",
]
