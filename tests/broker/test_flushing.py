"""What was acknowledged reaches the disk in time, whatever goes wrong beside it."""

from __future__ import annotations

import asyncio

import pytest

from pymq.broker.app import _flush_in_time
from pymq.store.messagestore import MessageStore
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk


async def test_an_error_nobody_thought_of_is_told_and_ends_no_flushing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(SimDisk(), "/s")
    put(store)
    tick, pauses = store.tick, list[float]()

    def faulty(_: MessageStore) -> float:
        if not pauses:
            raise IndexError("out of range")
        tick()
        store.flush_now()
        return 0.0

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(MessageStore, "tick", faulty)
    monkeypatch.setattr("pymq.broker.app.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        await _flush_in_time(store)
    assert pauses[0] == 1.0
    assert store.remaining_to_flush == 0
    assert "flushing failed; it is tried again" in caplog.text
