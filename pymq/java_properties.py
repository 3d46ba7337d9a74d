"""The syntax of java.util.Properties (store.md §11), on text.

Beside each value as Java gives it stands the one that was meant: without a trailing ` # comment`, which Java
does not know, and without blanks at its end, which Java keeps. `\\#` keeps a hash, `\\ ` a blank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pymq.errors import ConfigError

BLANKS = " \t\f"
ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
ESCAPED = re.compile(r"((?:\\u[0-9A-Fa-f]{4})+)|\\(.)|\\$", re.DOTALL)


@dataclass(frozen=True)
class Entry:
    """One setting of a properties text."""

    key: str
    value: str
    """The value without a trailing comment and trailing blanks."""
    apache_value: str
    """The value as java.util.Properties gives it."""
    line: int
    """Number of its first line, from 1."""


def parse_properties(text: str, source: str = "properties") -> list[Entry]:
    """Read a properties text. `source` names it in errors. Raises ConfigError for a broken `\\u` escape."""
    entries = []
    for number, line in _logical_lines(text):
        try:
            entries.append(_entry(line, number))
        except ValueError as error:
            raise ConfigError(f"{source}:{number}: {error}") from None
    return entries


def escape(value: str) -> str:
    """Give a value as a properties text holds it, in ASCII, for Java and `parse_properties`."""
    out = re.sub(r"[\\#]|^ | $", lambda match: "\\" + match[0], value)
    for char, plain in ESCAPES.items():
        out = out.replace(plain, f"\\{char}")
    units = out.encode("utf-16-be", "replace")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 0x7F else f"\\u{code:04X}" for code in codes)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Join continued lines; drop empty ones and comments. A comment line cannot be continued."""
    lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
    for number, line in lines:
        line = line.lstrip(BLANKS)
        if not line or line[0] in "#!":
            continue
        while _ends_in_backslash(line):
            _, following = next(lines, (0, ""))
            line = line[:-1] + following.lstrip(BLANKS)
        yield number, line


def _ends_in_backslash(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _entry(line: str, number: int) -> Entry:
    end = _scan(line, 0, lambda char: char in BLANKS or char in "=:")
    start = _skip_blanks(line, end)
    if start < len(line) and line[start] in "=:":
        start = _skip_blanks(line, start + 1)
    meant = _without_trailing_blanks(line[start : _comment_start(line, start)])
    return Entry(_unescape(line[:end]), _unescape(meant), _unescape(line[start:]), number)


def _scan(line: str, start: int, wanted: Callable[[str], bool]) -> int:
    """Give the index of the first unescaped character that is wanted, else the length."""
    index = start
    while index < len(line) and not wanted(line[index]):
        index += 2 if line[index] == "\\" else 1
    return min(index, len(line))


def _skip_blanks(line: str, index: int) -> int:
    while index < len(line) and line[index] in BLANKS:
        index += 1
    return index


def _comment_start(line: str, start: int) -> int:
    """Give where a ` #` begins a comment in the value, else the length."""
    index = start
    while (index := _scan(line, index, lambda char: char == "#")) < len(line):
        if line[index - 1] in BLANKS:
            return index
        index += 1
    return len(line)


def _without_trailing_blanks(value: str) -> str:
    short = value.rstrip(BLANKS)
    return value[: len(short) + 1] if _ends_in_backslash(short) else short


def _unescape(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1]:  # a run of \uXXXX: UTF-16, so that pairs of surrogates become one character
            return bytes.fromhex(match[1].replace("\\u", "")).decode("utf-16-be", "replace")
        if match[2] == "u":
            raise ValueError(r"\u must be followed by four hexadecimal digits")
        return ESCAPES.get(match[2], match[2] or "")

    return ESCAPED.sub(plain, text) if "\\" in text else text
