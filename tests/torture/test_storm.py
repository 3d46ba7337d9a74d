"""Kills and power cuts at random steps; `make torture` runs thousands of other seeds."""

from __future__ import annotations

import pytest

from tests.torture.storm import Storm

pytestmark = pytest.mark.once


@pytest.mark.parametrize("first_seed", range(0, 200, 20))
def test_what_was_flushed_stays_and_what_was_lost_never_comes_back(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 20):
        storm = Storm(seed)
        try:
            storm.run()
        except BaseException as error:
            error.add_note(f"seed {seed}: {'; '.join(storm.story[-12:])}")
            error.add_note(f"to see it again: python -m tests.torture storm --once --seed {seed}")
            raise


def test_the_same_seed_is_the_same_storm() -> None:
    first, second = Storm(4), Storm(4)
    first.run()
    second.run()
    assert first.story == second.story
    assert first.luck.random() == second.luck.random()
