"""Faults by the hundred, each by a seed: the logs stay the same, and who cannot follow says so."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.broker.replication.sim_link import Trouble

pytestmark = pytest.mark.once

STEPS = 150


@pytest.fixture(autouse=True)
def simulated_disks_go() -> Iterator[None]:
    """Their files are mappings, of which a process may have so many only."""
    yield
    gc.collect()


def run(seed: int, *, power_cuts: bool) -> Trouble:
    """A life with its faults, and what has to hold at each step."""
    trouble = Trouble(seed, power_cuts=power_cuts)
    try:
        for number in range(STEPS):
            trouble.step()
            if not power_cuts:
                assert trouble.slave.commit_log_max_offset >= trouble.acknowledged, "acknowledged, not there"
                assert number % 25 or trouble.check_logs() is not None
        trouble.settle()
    except BaseException as error:
        error.add_note(f"seed {seed}: {'; '.join(trouble.story[-15:])}")
        raise
    return trouble


@pytest.mark.parametrize("first_seed", range(0, 100, 10))
async def test_after_kills_restarts_partitions_and_a_full_disk_the_logs_are_the_same(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 10):
        trouble = run(seed, power_cuts=False)
        assert trouble.refusals == 0, f"seed {seed}"
        assert trouble.is_level(), f"seed {seed}: {trouble.story[-10:]}"
        assert trouble.check_logs() > 0
        trouble.check_queues()


@pytest.mark.parametrize("first_seed", range(0, 100, 10))
async def test_after_power_cuts_a_slave_follows_or_refuses_for_a_reason(first_seed: int) -> None:
    """A master that lost its tail has another log than its slave: then nothing is copied, nor cut."""
    for seed in range(first_seed, first_seed + 10):
        trouble = run(seed, power_cuts=True)
        slave_end, master_end = trouble.slave.commit_log_max_offset, trouble.master.commit_log_max_offset
        if trouble.is_same():
            assert trouble.is_level(), f"seed {seed}"
            assert trouble.check_logs() == master_end
            trouble.check_queues()
        elif slave_end <= master_end:
            with pytest.raises(AssertionError):
                trouble.check_logs()
