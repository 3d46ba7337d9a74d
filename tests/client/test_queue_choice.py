"""Which queue a message goes to."""

from __future__ import annotations

import pytest

from pymq.client.queue_choice import QueueChoice, shard_queue
from pymq.protocol.bodies import MessageQueue
from tests.client.fake_cluster import queue
from tests.sim import SimClock

FOUR = [queue(index) for index in range(4)]
TWO_BROKERS = [queue(0, "a"), queue(1, "a"), queue(0, "b"), queue(1, "b")]


@pytest.mark.parametrize(
    ("shard_by", "hash_code"),
    [
        ("o-1", 108_115),
        ("order", 106_006_350),
        ("customer-42", -1_772_111_155),
        ("polygenelubricants", -(2**31)),  # has no positive counterpart among Java's ints
        ("", 0),
    ],
)
def test_a_shard_is_the_java_hash_of_its_key_modulo_the_queues(shard_by: str, hash_code: int) -> None:
    for count in (1, 4, 7):
        queues = [queue(index) for index in range(count)]
        assert shard_queue(queues, shard_by).queue_id == abs(hash_code) % count


def test_queues_are_taken_in_turn_from_a_random_one_on() -> None:
    choice = QueueChoice(SimClock())
    picked = [choice.pick("orders", FOUR).queue_id for _ in range(8)]
    assert sorted(picked[:4]) == [0, 1, 2, 3]
    assert picked[4:] == picked[:4]
    starts = {QueueChoice(SimClock(seed=seed)).pick("orders", FOUR).queue_id for seed in range(30)}
    assert starts == {0, 1, 2, 3}


def test_a_broker_to_avoid_is_passed_over() -> None:
    choice = QueueChoice(SimClock())
    picked = [choice.pick("orders", TWO_BROKERS, {"a"}) for _ in range(4)]
    assert {found.broker_name for found in picked} == {"b"}
    assert {found.queue_id for found in picked} == {0, 1}


def test_with_every_broker_to_avoid_the_next_queue_is_as_good_as_any() -> None:
    choice = QueueChoice(SimClock())
    picked = {choice.pick("orders", TWO_BROKERS, {"a", "b"}) for _ in range(4)}
    assert picked == set(TWO_BROKERS)


def test_topics_have_their_own_turns() -> None:
    choice = QueueChoice(SimClock())
    one = MessageQueue("t", "a", 0)
    first = choice.pick("orders", FOUR)
    for _ in range(5):
        choice.pick("t", [one])
    assert choice.pick("orders", FOUR) == FOUR[(first.queue_id + 1) % 4]
