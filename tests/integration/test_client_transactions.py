"""The client's transactions through a broker as users run it, and through its death."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

import pymq
from tests.integration.conftest import start_standalone

pytestmark = pytest.mark.once

COMMIT, ROLLBACK, UNKNOWN = pymq.TransactionState
CONF = "transactionTimeOut=500\ntransactionCheckInterval=500\ntransactionCheckMax=1000\n"
EACH = 20
ENOUGH = 2 * EACH + 50


async def test_transactions_through_a_kill_9_deliver_what_was_committed_once(tmp_path: Path) -> None:
    """The database of the application: which transactions have been done, by the body of their message."""
    done: set[str] = set()
    enough = asyncio.Event()
    running = start_standalone(tmp_path, CONF)
    async with pymq.Client(running.namesrv, producer_group="shop") as mq:

        async def commit(body: str) -> None:
            with contextlib.suppress(pymq.TransactionUnsettled, pymq.SendFailed):
                async with mq.transaction("orders", body, timeout=2):
                    done.add(body)
                    if len(done) >= ENOUGH:
                        enough.set()

        async def leave_open(body: str, is_done: bool) -> None:
            async with mq.transaction("orders", body) as tx:
                if is_done:
                    done.add(body)
                await tx.unknown()

        async def fail(body: str) -> None:
            with pytest.raises(KeyError):
                async with mq.transaction("orders", body):
                    raise KeyError(body)

        await commit("first")
        for number in range(EACH):
            await asyncio.gather(
                commit(f"commit {number}"),
                leave_open(f"open, done {number}", True),
                leave_open(f"open, not done {number}", False),
                fail(f"fail {number}"),
            )
        last = [asyncio.create_task(commit(f"last {number}")) for number in range(200)]
        await enough.wait()
        running.process.kill()
        running.process.wait()
        await asyncio.gather(*last)

    async def checker(message: pymq.ReceivedMessage) -> pymq.TransactionState:
        return COMMIT if message.body.decode() in done else ROLLBACK

    running = start_standalone(tmp_path, CONF)
    async with (
        pymq.Client(running.namesrv, producer_group="shop", transaction_checker=checker) as mq,
        mq.consumer("audit", "orders", start="first") as consumer,
    ):
        found: list[str] = []
        while messages := await consumer.fetch(max=1000, wait=3 if done <= set(found) else 90):
            for message in messages:
                found.append(message.body.decode())
                message.ack()
    running.process.terminate()
    running.process.wait(timeout=60)
    assert sorted(found) == sorted(done)
    assert len(done) >= ENOUGH
