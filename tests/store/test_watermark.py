"""A watermark grows, and those who follow it hear of it; it may come to an end."""

from __future__ import annotations

from pymq.errors import StoreBroken, StoreError
from pymq.store.watermark import Watermark


def test_followers_hear_of_each_step_forward_and_of_none_back() -> None:
    mark = Watermark(10)
    seen: list[int] = []
    mark.on_change.append(lambda: seen.append(mark.position))
    for position in (20, 15, 20, 30):
        mark.advance(position)
    assert seen == [20, 30]


def test_followers_hear_once_that_it_will_grow_no_more_and_why() -> None:
    mark = Watermark()
    seen: list[StoreError | None] = []
    mark.on_change.append(lambda: seen.append(mark.failure))
    first = StoreBroken("no sync")
    mark.fail(first)
    mark.fail(StoreBroken("neither later"))
    assert seen == [first]
