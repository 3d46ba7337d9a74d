"""Delayed and timed messages of a broker that is killed again and again: none is lost, none comes twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from pymq.errors import PymqError
from pymq.network import SystemNetwork
from pymq.protocol.message import MessageRecord
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.integration.conftest import Standalone, start_standalone

pytestmark = pytest.mark.once

LIVES = 5
IN_A_SECOND = "TAGS\x01a\x02DELAY\x011"
TIMED = "TAGS\x01a\x02TIMER_DELAY_MS\x011000"


async def send_until_killed(
    running: Standalone, luck: random.Random, life: int, properties: str
) -> set[bytes]:
    """Send delayed messages as fast as they are taken, kill the broker; gives those that it acknowledged.

    At that time it delivers what was sent a second earlier.
    """
    pool = Pool(SystemNetwork(), {})
    acknowledged: set[bytes] = set()

    async def producer(number: int) -> None:
        count = 0
        try:
            while True:
                body = b"%d-%d-%d" % (life, number, count)
                await send(pool, running.broker, "orders", body, properties=properties)
                acknowledged.add(body)
                count += 1
                await asyncio.sleep(0.002)
        except PymqError:
            return

    producers = [asyncio.ensure_future(producer(number)) for number in range(8)]
    await asyncio.sleep(1.2 + luck.random())
    running.process.kill()
    running.process.wait()
    await asyncio.gather(*producers)
    await pool.close()
    return acknowledged


async def all_of(running: Standalone, expected: set[bytes]) -> list[MessageRecord]:
    """All messages of the topic, once those expected are there."""
    pool = Pool(SystemNetwork(), {})
    found: list[MessageRecord] = []
    missing = set(expected)
    try:
        async with asyncio.timeout(90):
            while missing:
                answer = await pull(pool, running.broker, "orders", offset=len(found))
                found += records(answer)
                missing -= {record.body for record in records(answer)}
                if not records(answer):
                    await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{len(missing)} of {len(expected)} did not come") from None
    finally:
        await pool.close()
    return found


@pytest.mark.parametrize("properties", [IN_A_SECOND, TIMED])
async def test_no_delayed_message_is_lost_or_doubled_by_kill_9(tmp_path: Path, properties: str) -> None:
    luck = random.Random(7)
    acknowledged: set[bytes] = set()
    for life in range(LIVES):
        acknowledged |= await send_until_killed(start_standalone(tmp_path), luck, life, properties)
    assert len(acknowledged) > 1_000

    running = start_standalone(tmp_path)
    try:
        found = await all_of(running, acknowledged)
    finally:
        running.process.terminate()
        running.process.wait(timeout=60)
    counts = Counter(record.body for record in found)
    assert [body for body, count in counts.items() if count > 1] == []
    # One producer's messages are in the order in which it sent them, through all lives.
    for number in range(8):
        own = [
            (int(life), int(count))
            for life, producer, count in (body.split(b"-") for body in (record.body for record in found))
            if int(producer) == number
        ]
        assert own == sorted(own)


async def test_delayed_messages_come_within_100_ms_of_their_time(standalone: Standalone) -> None:
    """Most of them: a machine that pauses for some seconds is the others' excuse."""
    pool = Pool(SystemNetwork(), {})
    for number in range(400):
        await send(pool, standalone.broker, "timely", b"%d" % number, properties=IN_A_SECOND)
        await asyncio.sleep(0.02)
    async with asyncio.timeout(60):
        while not records(await pull(pool, standalone.broker, "timely", offset=399)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    waited = [
        record
        for offset in range(0, 400, 32)
        for record in records(await pull(pool, standalone.broker, "SCHEDULE_TOPIC_XXXX", offset=offset))
    ]
    delivered = [
        record
        for offset in range(0, 400, 32)
        for record in records(await pull(pool, standalone.broker, "timely", offset=offset))
    ]
    await pool.close()
    assert [record.body for record in delivered] == [record.body for record in waited]
    late = sorted(
        after.store_timestamp - before.store_timestamp - 1000
        for before, after in zip(waited, delivered, strict=True)
    )
    assert late[0] >= 0
    assert late[len(late) // 4] <= 100, late
