"""Where a group's filter stands in a message's bitmap: as RocketMQ's BloomFilter works it out (store.md §8).

pymq keeps no such bitmaps. But consumerFilter.json has the positions, and an Apache broker that finds others
in it than its own throws all persisted filters away.
"""

from __future__ import annotations

import math
from struct import Struct

_MASK = (1 << 64) - 1
_BLOCK = Struct("<QQ")


class BloomFilter:
    """Bit positions for up to `count` texts with an error rate in percent (1 to 99).

    Attributes:
        bits: how long the bitmap is, a multiple of 8.
        hashes: how many positions each text has.
    """

    def __init__(self, error_rate: int, count: int) -> None:
        rate = error_rate / 100
        self.hashes = math.ceil(math.log(rate) / math.log(0.5))
        # As Java reckons it, step by step: a product in other order may round to another whole number.
        bits = math.ceil(count * (math.log(1 / rate) / math.log(2)) * (math.log(math.e) / math.log(2)))
        self.bits = 8 * math.ceil(bits / 8)

    def positions(self, text: str) -> list[int]:
        """The positions of a text: two halves of its hash combined, reckoned in Java ints."""
        hashed = murmur3(text.encode())
        first, second = hashed & 0xFFFFFFFF, hashed >> 32
        positions = []
        for number in range(1, self.hashes + 1):
            combined = (first + number * second) & 0xFFFFFFFF
            if combined & 0x80000000:
                combined ^= 0xFFFFFFFF
            positions.append(combined % self.bits)
        return positions


def murmur3(data: bytes) -> int:
    """The first 64 bits of MurmurHash3 x64 128 with seed 0."""
    low = high = 0
    whole = len(data) & ~15
    for a, b in _BLOCK.iter_unpack(data[:whole]):
        low = ((_rotated(low ^ _mixed_a(a), 27) + high) * 5 + 0x52DCE729) & _MASK
        high = ((_rotated(high ^ _mixed_b(b), 31) + low) * 5 + 0x38495AB5) & _MASK
    if tail := data[whole:]:
        a, b = _BLOCK.unpack(tail.ljust(16, b"\0"))
        low, high = low ^ _mixed_a(a), high ^ _mixed_b(b)
    low, high = low ^ len(data), high ^ len(data)
    low = (low + high) & _MASK
    high = (high + low) & _MASK
    return (_final(low) + _final(high)) & _MASK


def _mixed_a(part: int) -> int:
    return _rotated(part * 0x87C37B91114253D5 & _MASK, 31) * 0x4CF5AD432745937F & _MASK


def _mixed_b(part: int) -> int:
    return _rotated(part * 0x4CF5AD432745937F & _MASK, 33) * 0x87C37B91114253D5 & _MASK


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> (64 - by)) & _MASK


def _final(value: int) -> int:
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & _MASK
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return value ^ value >> 33
