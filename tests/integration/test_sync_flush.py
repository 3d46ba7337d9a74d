"""A real broker with flushDiskType=SYNC_FLUSH: senders share flushes, and one alone waits for no other."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from pymq.errors import PymqError
from pymq.network import SystemNetwork
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.integration.conftest import start_standalone
from tests.transport.peers import until

CONF = """
flushDiskType=SYNC_FLUSH
syncFlushTimeout=60000
mappedFileSizeCommitLog=1048576
maxMessageSize=65536
"""
SENDERS = 64


async def test_a_broker_that_is_stopped_answers_or_refuses_all_who_wait_and_keeps_what_it_answered(
    tmp_path: Path,
) -> None:
    running = start_standalone(tmp_path, CONF)
    pools = [Pool(SystemNetwork(), {}) for _ in range(4)]
    acknowledged: dict[int, bytes] = {}
    unanswered = 0

    async def sender(number: int) -> None:
        nonlocal unanswered
        for count in range(100_000):
            body = b"%d-%d" % (number, count)
            try:
                sent = await send(pools[number % 4], running.broker, "orders", body)
            except PymqError:
                unanswered += 1
                return
            assert sent.queue_offset not in acknowledged
            acknowledged[sent.queue_offset] = body

    senders = [asyncio.ensure_future(sender(number)) for number in range(SENDERS)]
    await until(lambda: len(acknowledged) >= 2000)
    running.process.terminate()
    await asyncio.gather(*senders)
    assert running.process.wait(timeout=60) == 0
    assert unanswered == SENDERS, "each was refused or cut off in the end, none hung"
    assert "Traceback" not in running.log.read_text()
    for pool in pools:
        await pool.close()

    again = start_standalone(tmp_path, CONF)
    pool = Pool(SystemNetwork(), {})
    found: list[bytes] = []
    while len(found) < len(acknowledged):
        batch = records(await pull(pool, again.broker, "orders", offset=len(found)))
        assert batch, "less is there than was acknowledged"
        found += [record.body for record in batch]
    await pool.close()
    again.process.terminate()
    again.process.wait(timeout=60)
    assert {offset: found[offset] for offset in acknowledged} == acknowledged


async def test_a_lone_sender_is_not_kept_waiting_for_an_interval(tmp_path: Path) -> None:
    running = start_standalone(tmp_path, CONF + "flushIntervalCommitLog=60000\n")
    pool = Pool(SystemNetwork(), {})
    await send(pool, running.broker, "orders", b"warm")
    took = []
    for _ in range(20):
        start = time.monotonic()
        await send(pool, running.broker, "orders", b"alone")
        took.append(time.monotonic() - start)
    await pool.close()
    running.process.terminate()
    running.process.wait(timeout=60)
    assert sorted(took)[len(took) // 2] < 6.0
