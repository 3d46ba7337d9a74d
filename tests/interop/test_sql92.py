"""SQL92 filters as RocketMQ's own parser understands them: the same expressions given to both."""

from __future__ import annotations

import os
import random

import pytest

from pymq.protocol.bloom import BloomFilter
from pymq.protocol.sql92 import compile_sql92
from pymq.protocol.sql92_tokens import Sql92Error
from tests.interop.conftest import JavaDrivers
from tests.interop.drivers import Driver
from tests.protocol.sql92_cases import MESSAGES, Expressions, Golden, read_golden, write_golden
from tests.protocol.test_sql92 import CHOSEN, IS_STRICTER, outcome

SEED = int(os.environ.get("PYMQ_SQL92_SEED", "1"))


@pytest.fixture(scope="module")
def java494(java_drivers: JavaDrivers) -> Driver:
    return java_drivers("4.9.4")


def by_java(java: Driver, expressions: list[str]) -> list[str | None]:
    results: list[str | None] = java.ask("sql92", expressions=expressions, properties=MESSAGES)
    return results


def test_thousands_of_expressions_mean_the_same_to_java(java494: Driver) -> None:
    source = Expressions(SEED)
    expressions = [source.right() for _ in range(4000)] + [source.broken() for _ in range(2000)]
    different = []
    for expression, java in zip(expressions, by_java(java494, expressions), strict=True):
        ours = outcome(expression, MESSAGES)
        if ours != java and not (ours is None and is_stricter(expression)):
            different.append((expression, java, ours))
    assert not different, f"{len(different)} of {len(expressions)}: {different[:10]}"


def is_stricter(expression: str) -> bool:
    """Whether it was refused for what stands behind its end, which Java passes over."""
    try:
        compile_sql92(expression)
    except Sql92Error as error:
        return IS_STRICTER in error.reason
    return False


def test_the_golden_table_is_what_java_says(java494: Driver) -> None:
    if os.environ.get("PYMQ_SQL92_GOLDEN") == "write":
        source = Expressions(494)
        expressions = [*CHOSEN, *(source.right() for _ in range(450)), *(source.broken() for _ in range(150))]
        write_golden([Golden(*pair) for pair in zip(expressions, by_java(java494, expressions), strict=True)])
    messages, lines = read_golden()
    assert messages == MESSAGES
    assert len(lines) > 500
    assert by_java(java494, [line.expression for line in lines]) == [line.results for line in lines]


def test_texts_are_read_as_numbers_as_java_reads_them(java494: Driver) -> None:
    source = random.Random(SEED)
    expressions = ["a = 5", "a = 2147483648", "a > 1.5", "a <= b", "a = TRUE", "5.0 = a", "a = b"]
    pieces = [
        *"0123456789+-.eExXpPfFdDlL_ \t５\N{MATHEMATICAL DOUBLE-STRUCK DIGIT FIVE}",
        "NaN",
        "Infinity",
        "0x",
        "99999999999",
        "000000000000000000000",
        "٣",
    ]
    messages = [
        {name: "".join(source.choices(pieces, k=source.choice((1, 1, 2, 2, 3, 4, 6)))) for name in "ab"}
        for _ in range(8000)
    ]
    java = java494.ask("sql92", expressions=expressions, properties=messages)
    for expression, results in zip(expressions, java, strict=True):
        ours = outcome(expression, messages) or ""
        different = [case for case in zip(messages, results, ours, strict=True) if case[1] != case[2]]
        assert not different, f"{expression}: {len(different)}, {different[:5]}"


@pytest.mark.parametrize(("error_rate", "count"), [(20, 32), (10, 128), (1, 1), (50, 7), (99, 3)])
def test_bloom_filters_have_javas_bits(java494: Driver, error_rate: int, count: int) -> None:
    texts = ["", "g#t", "group#topic", "0123456789abcdef", "0123456789abcdef0", "组#主题", "x" * 100]
    java = java494.ask("bloom", error_rate=error_rate, count=count, texts=texts)
    bloom = BloomFilter(error_rate, count)
    assert [bloom.positions(text) for text in texts] == java["positions"]
    assert bloom.bits == java["bits"]
