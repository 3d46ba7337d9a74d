"""A broker that is killed in the middle of its work has lost nothing that it acknowledged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import pymq
from tests.integration.conftest import start_standalone

pytestmark = pytest.mark.once


async def test_every_acknowledged_message_is_there_after_kill_9(tmp_path: Path) -> None:
    acknowledged: set[bytes] = set()

    def settled(sent: asyncio.Future[pymq.SendResult], body: bytes) -> None:
        if not sent.cancelled() and sent.exception() is None:
            acknowledged.add(body)

    for life in range(2):
        running = start_standalone(tmp_path)
        async with pymq.Client(running.namesrv) as mq:
            for number in range(200_000):
                body = b"%d-%d" % (life, number)
                try:
                    sent = mq.send_nowait("orders", body, timeout=1)
                except pymq.BufferFull:
                    await asyncio.sleep(0.001)
                    continue
                sent.add_done_callback(lambda done, body=body: settled(done, body))  # type: ignore[misc]
                if number % 100 == 0:
                    await asyncio.sleep(0.001)
                if len(acknowledged) >= 3_000 * (life + 1):
                    break
            running.process.kill()
            running.process.wait()
            await asyncio.sleep(1.1)  # what is still under way gets no answer any more

    running = start_standalone(tmp_path)
    found: set[bytes] = set()
    async with pymq.Client(running.namesrv) as mq, mq.consumer("audit", "orders", start="first") as consumer:
        while acknowledged - found:
            messages = await consumer.fetch(max=1000, wait=60)
            assert messages, f"{len(acknowledged - found)} of {len(acknowledged)} are lost"
            for message in messages:
                found.add(message.body)
                message.ack()
    running.process.terminate()
    running.process.wait(timeout=60)
    assert len(acknowledged) >= 6_000
