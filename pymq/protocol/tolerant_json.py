"""JSON as fastjson writes it (wire.md §1.4): a reader for its quirks, a writer for those that peers expect.

What strict JSON lacks: integers and objects as map keys, without quotes. fastjson also reads single quotes,
bare names as keys and trailing commas; so does this reader, though nobody sends them.

Most bodies are strict JSON and are read by msgspec alone. Those with integer keys get these quoted first; the
parser here, some twenty times slower, runs only on what msgspec refuses even then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import msgspec

from pymq.errors import BodyError

MAX_DEPTH = 64
"""Objects and arrays within each other. RocketMQ's bodies need 5."""

MAX_NUMBER_LENGTH = 320
"""Characters of a number: the longest a Java double prints as, and a guard against quadratic int()."""

Json = Any
"""dict, list, str, int, float, bool or None; dict keys are str, int, or what `object_key` gave."""

T = TypeVar("T")

_encode_sorted: Callable[[Any], bytes] = msgspec.json.Encoder(order="sorted").encode
_SMALL_MAP = 100

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

_BLANKS = " \t\r\n\f\b"
_BLANK = re.compile(f"[{_BLANKS}]*")
_INTEGER_KEY = re.compile(rb"(?<=[{,])(-?\d+)(?=:)")
_PLAIN_STRING = re.compile(r'"([^"\\]*)"')
_STRINGS = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_DIGITS = "-0123456789"
_NAME = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)
_WORDS: dict[str, Json] = {"true": True, "false": False, "null": None}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX = {"u": 4, "x": 2}
_END = "\0"
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def members(key: dict[str, Json]) -> Hashable:
    """What an object that is a map key becomes by default: its members as a sorted tuple of pairs."""
    return tuple(sorted(key.items()))


def parse(data: bytes, object_key: Callable[[dict[str, Json]], Hashable] = members) -> Json:
    """Read a whole JSON text, quirks and all.

    Members whose value is null are left out, as fastjson leaves them out when it writes.

    Args:
        data: UTF-8 text.
        object_key: turns an object that stands as a map key into something hashable.

    Raises BodyError, which names the position.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise BodyError(f"JSON body: byte {error.start} is not UTF-8") from None
    return _Parser(text, object_key).whole()


def decode(data: bytes, type_: type[T], object_key: Callable[[dict[str, Json]], Hashable] = members) -> T:
    """Read a body as `type_`, in one pass when it is strict JSON. Numbers may come as text.

    Raises BodyError, which names the position, or the member that is missing or of the wrong type.
    """
    decoder = _decoders.get(type_)
    if decoder is None:
        decoder = _decoders[type_] = msgspec.json.Decoder(type_, strict=False)
    strict: Callable[[bytes], T] = decoder.decode
    try:
        return strict(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return strict(_quote_integer_keys(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(parse(data, object_key), type_, strict=False)
    except msgspec.ValidationError as error:
        raise BodyError(f"JSON body: {error}") from None


def _quote_integer_keys(data: bytes) -> bytes:
    """Make integer keys strict JSON, where that is simple: a text with backslashes is given back as it is."""
    if b"\\" in data or b"\1" in data:
        return data
    # Every second part lies outside of strings. \1 stands for the new quotes until the parts are joined.
    parts = data.split(b'"')
    outside = b"\1".join(_INTEGER_KEY.split(b'"'.join(parts[::2])))
    parts[::2] = outside.split(b'"')
    return b'"'.join(parts).replace(b"\1", b'"')


def encode(value: Any) -> bytes:
    """Strict JSON as Apache orders it: compact, keys sorted, in UTF-8. Map keys have to be strings."""
    return _encode_sorted(_in_order(value))


def _in_order(value: Any) -> Any:
    """The same value, its large maps in order.

    msgspec's own sort takes quadratic time for some that are not: three seconds for 40,000 keys in order with
    a small one behind them, and no other thread runs meanwhile.
    """
    if isinstance(value, dict):
        large = {
            key: _in_order(inner)
            for key, inner in value.items()
            if type(inner) is dict and len(inner) > _SMALL_MAP
        }
        merged = value | large if large else value
        return {key: merged[key] for key in sorted(merged)} if len(merged) > _SMALL_MAP else merged
    if isinstance(value, msgspec.Struct):
        changed = {}
        for name in value.__struct_fields__:
            member = getattr(value, name)
            if isinstance(member, dict | msgspec.Struct):
                ordered = _in_order(member)
                if ordered is not member:
                    changed[name] = ordered
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def encode_map(mapping: Mapping[Any, Any], value: Callable[[Any], bytes] = encode) -> msgspec.Raw:
    """A map whose keys stand without quotes unless they are strings: `{0:"a"}`, `{{"queueId":0}:1}`.

    Sorted by key. The result can be a member of a struct that is encoded in turn; `value` writes the values.
    """
    entries = [encode(key) + b":" + value(mapping[key]) for key in sorted(mapping)]
    return msgspec.Raw(b"{%b}" % b",".join(entries))


def escape_non_ascii(json: bytes) -> bytes:
    """Replace what is not ASCII by `\\uXXXX`, as 4.9.4's route answers do (wire.md §7.4)."""
    return json if json.isascii() else _NOT_ASCII.sub(_escape, json.decode()).encode("ascii")


def _escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))


class _Parser:
    """Recursive descent with bounded depth. `at` is the next character to read."""

    __slots__ = ("at", "depth", "object_key", "text")

    def __init__(self, text: str, object_key: Callable[[dict[str, Json]], Hashable]) -> None:
        self.text = text + _END
        self.at = 0
        self.depth = 0
        self.object_key = object_key

    def whole(self) -> Json:
        value = self.value()
        self.peek()
        if self.at < len(self.text) - 1:
            raise self.error("nothing more")
        return value

    def error(self, expected: str) -> BodyError:
        got = repr(self.text[self.at]) if self.at < len(self.text) - 1 else "the end"
        return BodyError(f"JSON body: expected {expected} at character {self.at}, got {got}")

    def peek(self) -> str:
        """The next character that is not blank, `_END` at the end."""
        char = self.text[self.at]
        if char in _BLANKS:
            match = _BLANK.match(self.text, self.at)
            assert match is not None
            self.at = match.end()
            char = self.text[self.at]
        return char

    def value(self) -> Json:
        char = self.peek()
        if char == "{":
            return self.object()
        if char == "[":
            return self.array()
        if char in ('"', "'"):
            return self.string(char)
        if char in _DIGITS:
            return self.number()
        name = _NAME.match(self.text, self.at)
        if name is None or name[0] not in _WORDS:
            raise self.error("a value")
        self.at = name.end()
        return _WORDS[name[0]]

    def enter(self) -> None:
        self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise BodyError(f"JSON body: more than {MAX_DEPTH} levels deep at character {self.at}")

    def leave(self) -> None:
        self.at += 1
        self.depth -= 1

    def object(self) -> dict[Any, Json]:
        result: dict[Any, Json] = {}
        self.enter()
        while self.peek() != "}":
            key = self.key()
            if self.peek() != ":":
                raise self.error("':'")
            self.at += 1
            value = self.value()
            if value is not None:
                result[key] = value
            self.separator("}")
        self.leave()
        return result

    def array(self) -> list[Json]:
        result: list[Json] = []
        self.enter()
        while self.peek() != "]":
            result.append(self.value())
            self.separator("]")
        self.leave()
        return result

    def separator(self, closing: str) -> None:
        char = self.peek()
        if char == ",":
            self.at += 1
        elif char != closing:
            raise self.error(f"',' or {closing!r}")

    def key(self) -> Hashable:
        char = self.peek()
        if char in ('"', "'"):
            return self.string(char)
        start = self.at
        if char == "{":
            try:
                key = self.object_key(self.object())
                hash(key)
                return key
            except (TypeError, ValueError) as error:
                raise BodyError(f"JSON body: object key at character {start}: {error}") from None
        if char in _DIGITS:
            return self.number()
        name = _NAME.match(self.text, self.at)
        if name is None:
            raise self.error("a key")
        self.at = name.end()
        return name[0]

    def number(self) -> int | float:
        match = _NUMBER.match(self.text, self.at)
        if match is None or match.end() - self.at > MAX_NUMBER_LENGTH:
            raise self.error("a number")
        self.at = match.end()
        return int(match[0]) if match[1] is match[2] is None else float(match[0])

    def string(self, quote: str) -> str:
        plain = _PLAIN_STRING.match(self.text, self.at)
        if plain is not None:
            self.at = plain.end()
            return plain[1]
        self.at += 1
        parts = []
        surrogates = False
        while True:
            run = _STRINGS[quote].match(self.text, self.at)
            assert run is not None
            parts.append(run[0])
            self.at = run.end()
            if self.text[self.at : self.at + 1] == quote:
                break
            if self.at >= len(self.text) - 1:
                raise self.error(f"{quote} at the end of a string")
            parts.append(self.escape())
            surrogates = surrogates or "\ud800" <= parts[-1] <= "\udfff"
        self.at += 1
        text = "".join(parts)
        if surrogates:  # Java's strings are UTF-16: two escapes make one character, half a pair makes none
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def escape(self) -> str:
        """One escape sequence, from its backslash on."""
        char = self.text[self.at + 1]
        digits = _HEX.get(char)
        if digits is None:
            self.at += 2
            return _ESCAPES.get(char, char)
        code = self.text[self.at + 2 : self.at + 2 + digits]
        try:
            value = int(code, 16) if len(code) == digits and code.isalnum() else -1
        except ValueError:
            value = -1
        if value < 0:
            raise self.error(f"\\{char} and {digits} hexadecimal digits")
        self.at += 2 + digits
        return chr(value)
