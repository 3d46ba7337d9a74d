"""How SQL92 filters read numbers from texts and compare them: as Java does (semantics.md §2.3).

Apache turns a property's text into the type of what it is compared with, by `Integer.valueOf` and its like,
and compares by `compareTo`. What those take differs from Python's `int` and `float`, and so does the order of
zeros and of not-a-numbers.
"""

from __future__ import annotations

import math
import re

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1

_LONG_DIGITS = 19
_SURELY_FITS = 10
"""Digits: the usual case, which is to be quick."""
_INTEGER = re.compile(r"[+-]?[\d]+")
"""Digits of any script: `Character.digit` takes them as well."""
_DOUBLE = re.compile(
    r"""[+-]?(?:
        (?P<special> NaN | Infinity )
      | (?: [0-9]+\.?[0-9]* | \.[0-9]+ ) (?: [eE][+-]?[0-9]+ )? [fFdD]?
      | (?P<hex> 0[xX] (?: [0-9a-fA-F]+\.? | [0-9a-fA-F]*\.[0-9a-fA-F]+ ) [pP][+-]?[0-9]+ ) [fFdD]?
    )""",
    re.VERBOSE,
)
_TRIMMED = "".join(map(chr, range(33)))
"""What Java's `String.trim` takes away."""
_LAST_OF_PLANE_0 = "\uffff"


class Unmatched(Exception):
    """The evaluation fails in Java, by a NumberFormatException say: the message does not match."""


def java_integer(text: str, maximum: int) -> int:
    """`Integer.valueOf` or `Long.valueOf`, by the type's maximum. Raises Unmatched."""
    if len(text) < _SURELY_FITS and text.isascii() and text.isdigit():
        return int(text)
    if _INTEGER.fullmatch(text) is None or max(text) > _LAST_OF_PLANE_0:
        raise Unmatched
    digits = text.lstrip("+-")
    if len(digits) > _LONG_DIGITS:
        digits = "".join([str(int(digit)) for digit in digits]).lstrip("0") or "0"
        if len(digits) > _LONG_DIGITS:
            raise Unmatched
    value = -int(digits) if text[0] == "-" else int(digits)
    if not -maximum - 1 <= value <= maximum:
        raise Unmatched
    return value


def java_double(text: str) -> float:
    """`Double.valueOf`. Raises Unmatched."""
    trimmed = text.strip(_TRIMMED)
    match = _DOUBLE.fullmatch(trimmed)
    if match is None:
        raise Unmatched
    sign = -1.0 if trimmed[0] == "-" else 1.0
    if match["special"]:
        return sign * math.inf if match["special"] == "Infinity" else math.nan
    if match["hex"]:
        try:
            return sign * float.fromhex(match["hex"])
        except OverflowError:
            return sign * math.inf
    return float(trimmed.rstrip("fFdD"))


def compare_doubles(left: float, right: float) -> int:
    """`Double.compare`: -0.0 stands before 0.0, and NaN behind all."""
    if left < right:
        return -1
    if left > right:
        return 1
    if left == right:
        if left:
            return 0
        left, right = math.copysign(1.0, left), math.copysign(1.0, right)
    else:
        left, right = math.isnan(left), math.isnan(right)
    return (left > right) - (left < right)
