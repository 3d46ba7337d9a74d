"""Some seeds of the losses; `make torture` has more."""

from __future__ import annotations

import pytest

from tests.torture.losses import Losses

pytestmark = pytest.mark.once


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_what_is_not_lost_is_served_and_the_units_are_such_as_apache_takes(first: int) -> None:
    checked = 0
    for seed in range(first, first + 10):
        losses = Losses(seed)
        try:
            losses.run()
        except BaseException as error:
            error.add_note(f"seed {seed}: {'; '.join(losses.story[-20:])}")
            error.add_note(f"to see it again: python -m tests.torture loss --once --seed {seed}")
            raise
        checked += losses.checked
    assert checked > 300
