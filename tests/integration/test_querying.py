"""The client looks up messages that a broker has stored."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

import pymq
from tests.integration.conftest import Standalone, start_standalone


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Standalone]:
    started = start_standalone(tmp_path)
    yield started
    started.process.terminate()
    started.process.wait(timeout=60)


async def test_messages_are_looked_up_by_key_and_by_id(running: Standalone) -> None:
    async with pymq.Client(running.namesrv) as mq:
        sent = [await mq.send("orders", f"{n}", keys=[f"o-{n}", "all"], tags="t") for n in range(5)]
        [found] = await mq.query("orders", "o-3")
        assert (found.body, found.keys, found.tags) == (b"3", ("o-3", "all"), "t")
        assert (found.msg_id, found.offset_msg_id) == (sent[3].msg_id, sent[3].offset_msg_id)
        assert (found.queue, found.queue_offset) == (sent[3].queue, sent[3].queue_offset)
        assert found.is_settled
        [by_id] = await mq.query("orders", sent[2].msg_id)
        assert by_id.body == b"2"
        assert [each.body for each in await mq.query("orders", "all")] == [b"0", b"1", b"2", b"3", b"4"]
        assert [each.body for each in await mq.query("orders", "all", max=2)] == [b"3", b"4"]
        assert await mq.query("orders", "none") == []
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)
        assert await mq.query("orders", "all", begin=later) == []
        assert len(await mq.query("orders", "all", end=later)) == 5
