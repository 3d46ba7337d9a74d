"""Hashes of many keys at once are those that Java makes of each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pymq.protocol.tag_filter import java_hash
from pymq.store.key_hashes import TopicHashes, entry_hashes, java_hashes, key_hash

ASCII = st.text(st.characters(max_codepoint=127), max_size=70)
ANY = st.text(st.characters(), max_size=140)  # lone surrogates too
TOPICS = st.sampled_from(["T", "orders", "%RETRY%g", "主题", "\N{PARTY POPPER}"])


@given(st.lists(ASCII) | st.lists(ANY))
def test_many_hashes_at_once_are_the_hashes_of_each(texts: list[str]) -> None:
    assert java_hashes(texts) == [java_hash(text) & 0xFFFFFFFF for text in texts]


@given(st.lists(st.tuples(TOPICS, ASCII | ANY)))
def test_entries_have_the_hash_of_topic_and_key(named: list[tuple[str, str]]) -> None:
    topics = TopicHashes()
    hashes = entry_hashes([key for _, key in named], [topics[topic] for topic, _ in named])
    assert hashes == [key_hash(topic, key) for topic, key in named]


def test_more_keys_than_lanes() -> None:
    texts = [f"key-{n}" for n in range(5000)]
    assert java_hashes(texts) == [java_hash(text) & 0xFFFFFFFF for text in texts]


def test_no_hash_is_negative() -> None:
    # "polygenelubricants" hashes to -2³¹, which has no positive counterpart: Java's broker takes 0.
    assert java_hash("polygenelubricants") == -(2**31)
    [entry] = entry_hashes(["polygenelubricants"], [[0] * 65])
    assert entry == 0
    assert key_hash("T", "k") == abs(java_hash("T#k"))
