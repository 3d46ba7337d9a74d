"""A watermark tells those who wait for it, in time or not."""

from __future__ import annotations

from functools import partial

from pymq.store.watermark import Watermark
from tests.sim import SimClock


def test_waiters_are_told_in_the_order_of_their_positions() -> None:
    mark = Watermark(SimClock())
    told: list[tuple[str, bool]] = []
    for position in (30, 10, 20):
        mark.reached(position, lambda ok, p=position: told.append((f"{p}", ok)), 1000)  # type: ignore[misc]
    mark.advance(20)
    assert told == [("10", True), ("20", True)]
    mark.advance(15)
    assert mark.position == 20
    mark.reached(5, lambda ok: told.append(("past", ok)), 1000)
    mark.advance(99)
    assert told[2:] == [("past", True), ("30", True)]
    assert mark.next_deadline() is None


def test_time_runs_out_for_those_who_wait_too_long() -> None:
    clock = SimClock()
    mark = Watermark(clock)
    told: dict[str, bool] = {}
    mark.reached(10, partial(told.__setitem__, "short"), 100)
    mark.reached(10, partial(told.__setitem__, "long"), 500)
    assert mark.next_deadline() == clock.monotonic() + 0.1
    clock.advance(100)
    mark.expire()
    assert told == {"short": False}
    mark.advance(10)
    assert told == {"short": False, "long": True}
    clock.advance(1000)
    mark.expire()
    assert told["long"], "told once"


def test_who_forgets_is_not_told() -> None:
    clock = SimClock()
    mark = Watermark(clock)
    told: list[bool] = []
    number = mark.reached(10, told.append, 100)
    mark.forget(number)
    mark.forget(number)
    assert mark.next_deadline() is None
    mark.advance(10)
    clock.advance(1000)
    mark.expire()
    assert told == []


def test_abandoning_tells_everyone() -> None:
    mark = Watermark(SimClock())
    told: list[bool] = []
    mark.reached(1, told.append, 100)
    mark.reached(2, told.append, 100)
    mark.abandon()
    mark.advance(5)
    assert told == [False, False]
