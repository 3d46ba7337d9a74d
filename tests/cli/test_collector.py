"""The garbage collector does not look at the same many objects again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pymq.cli.collector import PAUSE_S, bound_pauses
from tests.sim import SimClock


class SlowClock(SimClock):
    """Each look at it takes some time."""

    step_ms = 0

    def monotonic(self) -> float:
        self.advance(self.step_ms)
        return super().monotonic()


@pytest.fixture
def clock() -> Iterator[SlowClock]:
    """The collector's clock; afterwards the collector is as it was."""
    before, clock = list(gc.callbacks), SlowClock()
    bound_pauses(clock)
    yield clock
    gc.callbacks[:] = before
    gc.unfreeze()


def test_what_survives_a_long_collection_is_set_aside(clock: SlowClock) -> None:
    gc.collect()
    before = gc.get_freeze_count()  # what the interpreter itself has set aside
    clock.step_ms = int(1000 * PAUSE_S) + 1
    kept = [[number] for number in range(1000)]
    gc.collect(1)
    assert gc.get_freeze_count() == before, "only a full one is long for what there is"
    gc.collect()
    assert gc.get_freeze_count() > before + len(kept)
    assert not any(each is kept for each in gc.get_objects())
