"""Java's hash of `topic#key` for many keys at a time (store.md §4).

`String.hashCode` is a polynomial in 31 over the characters. Character by character it would cost Python as
much as the rest of a send; so all keys of a batch stand side by side, in lanes of one large integer, and each
step joins neighbours in all lanes at once: characters to pairs, pairs to fours, and so on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from pymq.protocol.tag_filter import java_hash

_WIDTHS = (32, 64)
"""Bytes of a lane: a UNIQ_KEY has 32 characters, and 56 from a host with IPv6."""
_LANES = 1024
_MASK = 0xFFFF_FFFF
_SIGN = 0x8000_0000
_POSITIVE = 0x7FFF_FFFF
_POWERS = [pow(31, n, 1 << 32) for n in range(_WIDTHS[-1] + 1)]
_TOPICS_MAX = 1024


def _steps(width: int) -> list[tuple[int, int, int]]:
    """For each step: bits of a half, the mask of all lower halves (mod 2³²), 31^(bytes of a half)."""
    steps = []
    half = 1
    while half < width:
        lower = (256 ** min(half, 4) - 1).to_bytes(2 * half, "big")
        steps.append((8 * half, int.from_bytes(lower * (_LANES * width // (2 * half)), "big"), _POWERS[half]))
        half *= 2
    return steps


_STEPS = {width: _steps(width) for width in _WIDTHS}
_LAST_INT = {width: f"{width - 4}xI" for width in _WIDTHS}


def java_hashes(texts: Sequence[str]) -> list[int]:
    """Java's hashes of many texts, each from 0 to 2³² − 1 (its 32 bits without their sign)."""
    hashes = _lane_hashes(texts)
    if hashes is not None:
        return list(hashes)
    # Those that fit a lane together, the others one by one.
    fit = [text if text.isascii() and len(text) <= _WIDTHS[-1] else "" for text in texts]
    codes: list[int] = []
    for start in range(0, len(fit), _LANES):
        codes += _lane_hashes(fit[start : start + _LANES]) or []
    return [
        code if len(text) == len(short) else java_hash(text) & _MASK
        for code, text, short in zip(codes, texts, fit, strict=True)
    ]


def _lane_hashes(texts: Sequence[str]) -> Sequence[int] | None:
    """The hashes of texts that are all ASCII and fit a lane; None when one is not, or they are too many."""
    longest = max(map(len, texts), default=0)
    width = next((width for width in _WIDTHS if longest <= width), 0)
    if not width or len(texts) > _LANES:
        return None
    padded = "".join([text.rjust(width, "\0") for text in texts])  # leading zeros change no hash
    if not padded.isascii():
        return None
    lanes = int.from_bytes(padded.encode(), "big")
    for bits, mask, power in _STEPS[width]:
        lanes = (lanes >> bits & mask) * power + (lanes & mask)
    return struct.unpack(">" + _LAST_INT[width] * len(texts), lanes.to_bytes(len(padded), "big"))


class TopicHashes(dict[str, list[int]]):
    """By topic: what `topic#` adds to the hash of a key of 0, 1, … 64 characters behind it.

    Worked out when a topic is first asked for.
    """

    def __missing__(self, topic: str) -> list[int]:
        if len(self) >= _TOPICS_MAX:
            self.clear()
        code = java_hash(topic + "#")
        starts = self[topic] = [code * power & _MASK for power in _POWERS]
        return starts


def entry_hashes(keys: Sequence[str], starts: Sequence[list[int]]) -> list[int]:
    """The hashes of `topic#key` as index entries have them: never negative, 0 for −2³¹ (store.md §4).

    `starts`: for each key what its topic adds, from `TopicHashes`.
    """
    found: list[int] = []
    for start in range(0, len(keys), _LANES):
        part = slice(start, start + _LANES)
        found += _entry_hashes(keys[part], starts[part])
    return found


def _entry_hashes(keys: Sequence[str], starts: Sequence[list[int]]) -> list[int]:
    hashes = _lane_hashes(keys)
    if hashes is not None:
        return [
            code if (code := own + start[len(key)] & _MASK) < _SIGN else -code & _POSITIVE
            for own, start, key in zip(hashes, starts, keys, strict=True)
        ]
    return [
        abs((own + start[0] * pow(31, _units(key), 1 << 32) + _SIGN & _MASK) - _SIGN) & _POSITIVE
        for own, start, key in zip(java_hashes(keys), starts, keys, strict=True)
    ]


def _units(text: str) -> int:
    """How many UTF-16 units a text has, which is its length in Java."""
    return len(text.encode("utf-16-be", "surrogatepass")) // 2


def key_hash(topic: str, key: str) -> int:
    """The hash under which a message of `topic` with `key` stands in the index."""
    return abs(java_hash(f"{topic}#{key}")) & _POSITIVE
