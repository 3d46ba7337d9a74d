"""How members share queues: exactly as Apache's clients do, or a mixed group overlaps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.client.allocation import allocate_averagely
from pymq.protocol.bodies import MessageQueue


def queues(count: int) -> list[MessageQueue]:
    return [MessageQueue("t", "b", queue_id) for queue_id in range(count)]


@pytest.mark.parametrize(
    ("count", "members", "shares"),
    [
        (8, 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (2, 3, [[0], [1], []]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 4, [[0, 1], [2], [3], [4]]),
        (0, 2, [[], []]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_the_first_members_get_the_longer_runs(count: int, members: int, shares: list[list[int]]) -> None:
    ids = [f"c{index}" for index in range(members)]
    found = [[queue.queue_id for queue in allocate_averagely(own, queues(count), ids)] for own in ids]
    assert found == shares


def test_queues_and_ids_are_sorted_first() -> None:
    mixed = [MessageQueue("t", "b", 1), MessageQueue("t", "a", 2), MessageQueue("t", "a", 10)]
    assert allocate_averagely("x", mixed, ["y", "x"]) == [
        MessageQueue("t", "a", 2),
        MessageQueue("t", "a", 10),
    ]
    # Ids sort as text: 10 stands before 9.
    assert allocate_averagely("1.1.1.1@10", queues(1), ["1.1.1.1@9", "1.1.1.1@10"]) == queues(1)


def test_who_is_no_member_gets_nothing() -> None:
    assert allocate_averagely("stranger", queues(4), ["a", "b"]) == []
    assert allocate_averagely("stranger", queues(4), []) == []


@given(count=st.integers(0, 70), members=st.integers(1, 40))
def test_every_queue_has_exactly_one_owner(count: int, members: int) -> None:
    ids = [f"{index:03}" for index in range(members)]
    shares = [allocate_averagely(own, queues(count), ids) for own in ids]
    assert list(itertools.chain.from_iterable(shares)) == queues(count)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(count=st.integers(0, 70), members=st.integers(1, 40))
def test_the_formula_is_the_published_one(count: int, members: int) -> None:
    ids = [f"{index:03}" for index in range(members)]
    for i in range(members):
        left = count % members
        size = 1 if count <= members else count // members + (1 if left and i < left else 0)
        start = i * size if left and i < left else i * size + left
        expected = queues(count)[start : start + max(0, min(size, count - start))]
        assert allocate_averagely(ids[i], queues(count), ids) == expected
