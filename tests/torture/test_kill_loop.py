"""A broker that is killed in the middle of its work, again and again; `make torture` does it for hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.kill_loop import kill_loop

pytestmark = pytest.mark.once


@pytest.mark.parametrize("flush", ["ASYNC_FLUSH", "SYNC_FLUSH"])
async def test_what_was_acknowledged_outlives_every_kill(tmp_path: Path, flush: str) -> None:
    print(await kill_loop(tmp_path, seed=1, rounds=10, flush=flush))
