"""The words of SQL92 filters, and the error that points at one (semantics.md §2.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from pymq.errors import PymqError

KEYWORDS = frozenset(("NOT", "AND", "OR", "BETWEEN", "IN", "TRUE", "FALSE", "NULL", "IS"))
END = "the end"
"""The kind of the token behind the last one."""
WRONG = "wrong"
"""The kind of a token, the last one, that stands for what cannot be read; its text says why."""

_SHOWN_BEFORE, _SHOWN_BEHIND = 30, 20
"""Characters around the mistake that an error quotes."""

_TOKEN = re.compile(
    r"""
      (?P<blank>   [ \t\n\r\f]+ | --[^\n\r]*[\n\r] | /\*.*?\*/ )
    | (?P<float>   [0-9]+\.[0-9]*(?:E[+-]?[0-9]+)? | \.[0-9]+(?:E[+-]?[0-9]+)? | [0-9]+E[+-]?[0-9]+ )
    | (?P<decimal> [1-9][0-9]*L? | 0 )
    | (?P<string>  '[^']*(?:''[^']*)*' )
    | (?P<name>    [A-Z_$][A-Z0-9_$]* )
    | (?P<sign>    <> | >= | <= | [=<>(),+-] )
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)


class Sql92Error(PymqError):
    """An expression that is no SQL92 filter. The text says what is wrong, and marks where with a `^`.

    Attributes:
        position: index of the character in the expression, from 0.
        reason: what is wrong there.
    """

    def __init__(self, expression: str, position: int, reason: str) -> None:
        start, end = max(0, position - _SHOWN_BEFORE), position + _SHOWN_BEHIND
        before = ("..." if start else "") + expression[start:position]
        behind = expression[position:end] + ("..." if end < len(expression) else "")
        shown = " ".join(f"{before}^{behind}".split())
        super().__init__(f"SQL92 filter, character {position + 1}: {reason} [{shown}]")
        self.position = position
        self.reason = reason


class Token(msgspec.Struct, frozen=True, gc=False):
    """One word. `kind` is `name`, `string`, `decimal`, `float`, a keyword, a sign, END or WRONG."""

    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return END if self.kind == END else f'"{self.text}"'


def tokenize(expression: str) -> Iterator[Token]:
    """The words of an expression, END as the last; or WRONG, for a character that begins none.

    A `--` comment ends with its line. As in Apache it has to be a whole line: `--` in the last one are two
    minus signs (but the parser passes over them behind the end of the expression).
    """
    position, length = 0, len(expression)
    while position < length:
        match = _TOKEN.match(expression, position)
        if match is None:
            yield Token(WRONG, _unreadable(expression, position), position)
            return
        kind, text = match.lastgroup or "", match[0]
        if kind == "name" and text.upper() in KEYWORDS:
            kind = text.upper()
        elif kind == "sign":
            kind = text
        if kind != "blank":
            yield Token(kind, text, position)
        position = match.end()
    yield Token(END, "", length)


def _unreadable(expression: str, position: int) -> str:
    if expression[position] == "'":
        return "a text that does not end: the closing ' is missing"
    if expression.startswith("/*", position):
        return "a comment that does not end: */ is missing"
    return f"{expression[position]!r} means nothing here"
