"""Header classes: the typed fields of a request or an answer, and how they become text (wire.md §1.1, §4).

A class is the whole API of a request: its code, its fields, the class of its answer. Fields are camelCase
on the wire; a field with a default may be missing there; `None` is not written.
"""

from __future__ import annotations

import re
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from pymq.errors import HeaderError
from pymq.protocol.codes import RequestCode

if TYPE_CHECKING:
    Int = int
    Long = int
else:
    # msgspec's lax mode takes "1.0" and "1e2" for an int, which Java does not. Where a float may stand too
    # they are floats, and no float fits this one: exact at no cost.
    _NO_FLOAT = Annotated[float, Meta(gt=0, lt=0)]

    Int = Annotated[
        Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | _NO_FLOAT,
        Meta(description="A Java int: 32 bits, signed; as text [+-]?[0-9]+. In headers only."),
    ]
    Long = Annotated[
        Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | _NO_FLOAT,
        Meta(description="A Java long: 64 bits, signed; as text [+-]?[0-9]+. In headers only."),
    ]

Flag = Literal["true", "false"]
"""A boolean kept as its text. Exact at no cost, for the headers of the hot path; elsewhere use bool."""

_number = re.compile(r"(?:\+|(-))?0*([0-9]+)").fullmatch
_encode_json = msgspec.json.Encoder().encode


class Header(msgspec.Struct, rename="camel", gc=False):
    """Base of all header classes.

    Class attributes:
        code: the request code this header goes with; absent on answers.
        answer: the class of a successful answer's header.
    """

    code: ClassVar[RequestCode]
    answer: ClassVar[type[Header]]

    def to_json(self) -> str:
        """The JSON object that stands in `extFields`: every value as a string, `None` left out."""
        return _encode_json(to_text(self)).decode()


class NoFields(Header):
    """A header without fields."""


Header.answer = NoFields

H = TypeVar("H", bound=Header)


class _Codec:
    """What is known of one header class, worked out once."""

    __slots__ = ("booleans", "decoder", "exact", "fields", "numbers")

    def __init__(self, cls: type[Header]) -> None:
        self.decoder = msgspec.json.Decoder(cls, strict=False)
        self.fields = tuple(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        hints = typing.get_type_hints(cls)
        booleans = tuple(wire for name, wire in self.fields if _is(hints[name], bool))
        self.booleans = booleans + tuple(wire for name, wire in self.fields if _is(hints[name], Flag))
        self.numbers = tuple(wire for name, wire in self.fields if _is(hints[name], int))
        # msgspec's lax mode also takes "1" and "0" for booleans; Java and we do not: such classes are
        # read field by field.
        self.exact = bool(booleans)


def _is(annotation: Any, kind: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is(part, kind) for part in typing.get_args(annotation))
    return bool(annotation == kind)


_codecs: dict[type[Header], _Codec] = {}


def _codec(cls: type[Header]) -> _Codec:
    codec = _codecs.get(cls)
    if codec is None:
        codec = _codecs[cls] = _Codec(cls)
    return codec


def to_text(header: Header) -> dict[str, str]:
    """The header's fields as they stand in `extFields`: wire name → text. `None` is left out."""
    text: dict[str, str] = {}
    for name, wire in _codec(type(header)).fields:
        value = getattr(header, name)
        if type(value) is str:
            text[wire] = value
        elif value is True:
            text[wire] = "true"
        elif value is False:
            text[wire] = "false"
        elif value is not None:
            text[wire] = str(value)
    return text


def to_native(header: Header) -> dict[str, Any]:
    """The header's fields with their own types, for headers in msgpack. `None` is left out."""
    return {
        wire: value
        for name, wire in _codec(type(header)).fields
        if (value := getattr(header, name)) is not None
    }


def from_json(cls: type[H], raw: bytes | msgspec.Raw) -> H:
    """Read `extFields` as they stand in a JSON header.

    Raises HeaderError, which names the field, when one is missing or of the wrong type.
    """
    codec = _codecs.get(cls) or _codec(cls)
    if codec.exact:
        return from_fields(cls, _any_object(cls, raw))
    try:
        return typing.cast(H, codec.decoder.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return from_fields(cls, _any_object(cls, raw))


def from_fields(cls: type[H], fields: dict[str, Any]) -> H:
    """Read fields that were text, or msgpack's own types, one by one.

    Bare numbers and booleans are read by their text, nulls as absent (wire.md §1.1). Raises HeaderError,
    which names the field, when one is missing or of the wrong type.
    """
    codec = _codec(cls)
    text = {
        wire: _as_text(cls, wire, value)
        for _, wire in codec.fields
        if (value := fields.get(wire)) is not None
    }
    for wire in codec.booleans:
        if wire not in text:
            continue
        text[wire] = text[wire].lower()
        if text[wire] not in ("true", "false"):
            raise HeaderError(
                f"{cls.__name__}: expected true or false, got {text[wire]!r} - at field `{wire}`"
            )
    for wire in codec.numbers:
        if wire in text:
            text[wire] = _plain_number(cls, wire, text[wire])
    try:
        return msgspec.convert(text, cls, strict=False)
    except msgspec.ValidationError as error:
        raise HeaderError(f"{cls.__name__}: {_plain(error)}") from None


def from_native(cls: type[H], fields: dict[str, Any]) -> H:
    """Read fields that came with their own types (msgpack). Raises HeaderError, which names the field."""
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError:
        return from_fields(cls, fields)


def _any_object(cls: type[Header], raw: bytes | msgspec.Raw) -> dict[str, Any]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Any] | None) or {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HeaderError(f"{cls.__name__}: extFields: {error}") from None


def _as_text(cls: type[Header], wire: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise HeaderError(f"{cls.__name__}: expected text, got {type(value).__name__} - at field `{wire}`")


def _plain_number(cls: type[Header], wire: str, text: str) -> str:
    """A number as msgspec takes it: Java also allows a plus sign and leading zeros."""
    match = _number(text)
    if match is None:
        raise HeaderError(f"{cls.__name__}: expected a whole number, got {text[:40]!r} - at field `{wire}`")
    return (match[1] or "") + match[2]


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's text in the words of the wire: `$.queueId` becomes the field `queueId`."""
    return str(error).replace("Object missing", "missing").replace("`$.", "field `")
