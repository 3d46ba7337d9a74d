"""Tag subscriptions and Java's hash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.protocol.tag_filter import TagExpressionError, java_hash, parse_tags, tag_codes, tags_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("a", 97),
        ("TagA", 2598919),
        ("Aa", 2112),
        ("BB", 2112),
        ("polygenelubricants", -(2**31)),
        ("中文", 646394),
        ("\U0001f600", 0xD83D * 31 + 0xDE00),
    ],
)
def test_the_hash_is_javas(text: str, code: int) -> None:
    assert java_hash(text) == code
    assert tags_code(text) == code


def test_no_tags_have_code_0() -> None:
    assert tags_code(None) == tags_code("") == 0


@given(st.text(), st.text())
def test_a_hash_goes_on_from_a_prefix(first: str, second: str) -> None:
    assert java_hash(second, java_hash(first)) == java_hash(first + second)
    assert -(2**31) <= java_hash(first) < 2**31


@pytest.mark.parametrize("expression", [None, "", "*", " * ", "  "])
def test_these_take_all(expression: str | None) -> None:
    assert parse_tags(expression) is None
    assert tag_codes(expression) is None


@pytest.mark.parametrize(
    ("expression", "tags"),
    [
        ("a", {"a"}),
        ("a || b", {"a", "b"}),
        (" a||b  || a||", {"a", "b"}),
        ("a b || c|d", {"a b", "c|d"}),
        ("a || *", {"a", "*"}),
    ],
)
def test_tags_are_split_and_trimmed(expression: str, tags: set[str]) -> None:
    assert parse_tags(expression) == frozenset(tags)
    assert tag_codes(expression) == frozenset(java_hash(tag) for tag in tags)


@pytest.mark.parametrize("expression", ["||", " || || "])
def test_separators_alone_are_no_subscription(expression: str) -> None:
    with pytest.raises(TagExpressionError):
        parse_tags(expression)
