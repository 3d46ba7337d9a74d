"""Bits flipped and files cut off in the golden store, at some places; `make torture` takes all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.store.golden_store import unpack
from tests.torture.damage import Golden

_SAMPLES = 30


@pytest.fixture(scope="module", params=["left by Apache", "left by pymq"])
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    """The store's files, read once."""
    folder: Path = tmp_path_factory.mktemp("golden")
    return Golden(unpack(folder), is_ours=request.param == "left by pymq")


@pytest.mark.parametrize("first", range(0, _SAMPLES, 10))
def test_whatever_is_damaged_nothing_untrue_is_served(golden: Golden, first: int) -> None:
    for number in range(first, first + 10):
        damage = golden.damage(number * (2 * len(golden.spots) // _SAMPLES) + number % 2)
        try:
            golden.check(damage)
        except BaseException as error:
            error.add_note(str(damage))
            raise


def test_the_golden_store_itself_is_whole(golden: Golden) -> None:
    assert len(golden.spots) > 250_000
    golden.undetected.clear()
    golden.check(golden.damage(0)._replace(path="none"))
    assert not +golden.undetected
