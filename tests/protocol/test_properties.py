"""Property text in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.protocol.properties import (
    RESERVED,
    decode_properties,
    encode_properties,
    get_property,
    is_encodable,
)

words = st.text(st.characters(exclude_characters="\x01\x02"), min_size=1)


@given(st.dictionaries(words, words), st.sampled_from(["", "\x02"]))
def test_properties_come_back_with_and_without_the_last_separator(
    properties: dict[str, str], end: str
) -> None:
    text = encode_properties(properties)
    assert not text.endswith("\x02")
    assert decode_properties(text + end) == properties
    for name, value in properties.items():
        assert get_property(text + end, name) == value


@given(st.text(st.sampled_from("AB\x01\x02")), st.sampled_from(["A", "B", "AB"]))
def test_one_property_is_found_as_in_the_whole(text: str, name: str) -> None:
    pairs = [pair.partition("\x01") for pair in text.split("\x02")]
    if len([1 for found, mark, _ in pairs if mark and found == name]) <= 1:
        assert get_property(text, name) == decode_properties(text).get(name)


@pytest.mark.parametrize("text", ["", "\x02", "name", "\x01value", "name\x01", "\x01", "a\x02b\x02\x02"])
def test_pairs_that_are_none_are_skipped(text: str) -> None:
    assert decode_properties(text) == {}


def test_empty_names_and_values_are_not_written() -> None:
    assert encode_properties({"": "x", "a": "", "b": "c", "d": "e"}) == "b\x01c\x02d\x01e"


def test_a_separator_cannot_stand_in_a_value() -> None:
    assert is_encodable("blank and\nline")
    assert not is_encodable("a\x01b")
    assert not is_encodable("a\x02b")


def test_the_names_of_the_system_are_reserved() -> None:
    assert {"KEYS", "TAGS", "UNIQ_KEY", "DELAY", "CLUSTER", "__SHARDINGKEY"} <= RESERVED
