"""SQL92 expressions for tests: made at random from the grammar, right ones and broken ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec

GOLDEN = Path(__file__).parent / "golden" / "sql92.jsonl"
"""The first line has the messages' properties; each further one an expression, and what RocketMQ 4.9.4 makes
of it: null when it does not compile, else for each message `t`, `f`, `n` (NULL) or `e` (it fails)."""

MESSAGES: list[dict[str, str]] = [
    {},
    {"a": "5", "b": "x", "flag": "true", "TAGS": "tg"},
    {"a": "7.5", "b": "5", "c": "-3", "flag": "FALSE"},
    {"a": "-0.0", "b": "0.0", "c": "+4"},
    {"a": "NaN", "b": " 5 ", "c": "1e3"},
    {"a": "2147483648", "b": "9223372036854775808", "c": "-2147483648"},
    {"a": "007", "b": "7", "c": "0x1p3", "flag": "TrUe"},
    {"a": "it's", "b": "-Infinity", "c": "5d"},
    {"a": "٣", "b": "1_000", "c": "", "x1": "north"},
    {"b": "5", "c": "5", "x1": "east", "_u$": "5.5"},
]

_NAMES = ("a", "b", "c", "flag", "TAGS", "x1", "_u$", "missing")
_TEXTS = ("''", "'5'", "'x'", "'tg'", "'it''s'", "'true'", "'north'", "'7.5'", "'-0.0'")
_NUMBERS = (
    *("0", "1", "5", "7", "5L", "2147483647", "2147483648", "9223372036854775807", "3l", "1000"),
    *("5.5", "7.5", ".5", "5.", "1E3", "1e-3", "4.9E-324", "1.7E308"),
)
_OTHERS = ("TRUE", "FALSE", "true", "NULL", "null", "9223372036854775808", "0.0", "1E400", "007", "5x")
_SPLITS = ("", " ", "\n", "\t", " /* so */ ", " -- so\n")


class Expressions:
    """A source of expressions, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def right(self) -> str:
        """One that may compile: by its form, but maybe not by its types."""
        return self._either(self._random.choice((0, 1, 1, 2, 2, 3)))

    def broken(self) -> str:
        """One that lost or got something in its middle."""
        text = self.right()
        at = self._random.randrange(len(text))
        match self._random.randrange(3):
            case 0:
                return text[:at] + text[at + self._random.randrange(1, 4) :]
            case 1:
                return text[:at] + self._random.choice("()'=<>,.-+#\"&5aL\0é") + text[at:]
            case _:
                return text[:at]

    def _either(self, depth: int) -> str:
        if depth == 0:
            return self._comparison(0)
        kind = self._random.randrange(6)
        one = self._either(depth - 1)
        if kind < 2:
            return f"{one}{self._blank()}{self._case('AND')}{self._blank()}{self._either(depth - 1)}"
        if kind < 4:
            return f"{one}{self._blank()}{self._case('OR')}{self._blank()}{self._either(depth - 1)}"
        return f"{self._case('NOT')} ({one})" if kind == 4 else f"({one})"

    def _comparison(self, depth: int) -> str:
        left = self._value(depth)
        negation = self._random.choice(("", "NOT "))
        match self._random.randrange(10):
            case 0 | 1 | 2:
                return left + self._sign(("=", "=", "<>")) + self._value(depth)
            case 3 | 4 | 5:
                return left + self._sign((">", ">=", "<", "<=")) + self._number(depth)
            case 6:
                low, high = self._number(depth), self._number(depth)
                return f"{left} {negation}BETWEEN {low} AND {high}"
            case 7:
                texts = ", ".join(self._random.choices(_TEXTS, k=self._random.randrange(1, 7)))
                return f"{left} {negation}IN ({texts})"
            case 8:
                return f"{left} IS {negation}{self._case('NULL')}"
            case _:
                return left

    def _value(self, depth: int) -> str:
        kind = self._random.randrange(20)
        if kind < 11:
            return self._random.choice(_NAMES)
        if kind < 13:
            return self._random.choice(_TEXTS)
        if kind < 16:
            return self._random.choice(_NUMBERS)
        if kind == 16:
            return self._random.choice(_OTHERS)
        if kind == 17 and depth < 2:
            return f"({self._comparison(depth + 1)})"
        if kind == 18:
            return self._random.choice(("- ", "-", "+", "NOT ")) + self._value(depth)
        return self._random.choice(_NAMES)

    def _number(self, depth: int) -> str:
        kind = self._random.randrange(10)
        if kind < 6:
            return self._random.choice(_NUMBERS)
        return "-" + self._random.choice(_NUMBERS) if kind == 6 else self._value(depth)

    def _sign(self, signs: tuple[str, ...]) -> str:
        return self._random.choice(_SPLITS) + self._random.choice(signs) + self._random.choice(_SPLITS)

    def _blank(self) -> str:
        return self._random.choice(_SPLITS[1:])

    def _case(self, keyword: str) -> str:
        return self._random.choice((keyword, keyword.lower(), keyword.capitalize()))


class Golden(msgspec.Struct):
    """One line of the golden table."""

    expression: str
    results: str | None


def read_golden() -> tuple[list[dict[str, str]], list[Golden]]:
    """The messages' properties, and the lines."""
    first, *lines = GOLDEN.read_text("utf-8").splitlines()
    return json.loads(first), [msgspec.json.decode(line, type=Golden) for line in lines]


def write_golden(lines: list[Golden]) -> None:
    """Make the table anew (see tests/interop/test_sql92.py)."""
    texts = [json.dumps(MESSAGES), *[json.dumps(msgspec.to_builtins(line)) for line in lines]]
    GOLDEN.write_text("\n".join(texts) + "\n", "utf-8")
