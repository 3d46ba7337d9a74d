"""RocketMQ's bloom filter: the positions are those of its own class (see tests/interop/test_sql92.py)."""

from __future__ import annotations

import pytest

from pymq.protocol.bloom import BloomFilter


@pytest.mark.parametrize(
    ("error_rate", "count", "text", "bits", "positions"),
    [
        (20, 32, "group#topic", 112, [79, 21, 21]),
        (20, 32, "consumers#orders", 112, [17, 2, 9]),
        (20, 32, "组#主题", 112, [38, 9, 19]),
        (20, 32, "", 112, [0, 0, 0]),
        (1, 128, "0123456789abcdef0", 1232, [1068, 1075, 1082, 1089, 1096, 1103, 121]),
        (99, 3, "x" * 100, 8, [3]),
    ],
)
def test_positions_are_rocketmqs(
    error_rate: int, count: int, text: str, bits: int, positions: list[int]
) -> None:
    bloom = BloomFilter(error_rate, count)
    assert (bloom.bits, bloom.positions(text)) == (bits, positions)
