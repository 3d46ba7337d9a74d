"""Consumers that do not keep up: neither they nor the broker grow, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

import pymq
from tests.integration.conftest import Standalone

pytestmark = pytest.mark.once

BODY = bytes(4096)
WAVE = 1_500
PREFETCH = 200
MIB = 1024 * 1024


async def send_many(mq: pymq.Client, topic: str, count: int) -> None:
    for _ in range(0, count, 250):
        await mq.send_batch(topic, [pymq.Message(BODY) for _ in range(250)], timeout=60)


async def test_a_stuck_consumer_grows_neither_itself_nor_the_broker(standalone: Standalone) -> None:
    topic, group = "stuck", "stuck-group"
    async with (
        pymq.Client(standalone.namesrv) as producer,
        pymq.Client(standalone.namesrv) as mq,
    ):
        await send_many(producer, topic, WAVE)
        consumer = mq.consumer(group, topic, start="first", prefetch=PREFETCH)
        async with consumer:
            held = [await consumer.receive()]
            while batch := await consumer.fetch(PREFETCH, wait=3):
                held += batch
            assert len(held) <= PREFETCH
            gc.collect()
            tracemalloc.start()
            try:
                broker_mib = standalone.anonymous_mib
                for _ in range(3):
                    await send_many(producer, topic, WAVE)
                gc.collect()
                grown, _ = tracemalloc.get_traced_memory()
                # 4,500 messages of 4 KiB: had they come, these would be 18 MiB here
                assert grown < 4 * MIB
                assert await consumer.fetch(wait=0.2) == []
            finally:
                tracemalloc.stop()
            assert standalone.anonymous_mib - broker_mib < 6
            for message in held:
                message.ack()
            seen = {(each.queue, each.queue_offset) for each in held}
            async with asyncio.timeout(180):
                while len(seen) < 4 * WAVE:
                    for message in await consumer.fetch(100):
                        seen.add((message.queue, message.queue_offset))
                        message.ack()
            assert len(seen) == 4 * WAVE
            assert await consumer.fetch(wait=0.2) == []


async def test_a_slow_handler_is_given_no_more_than_its_share_and_gets_all_in_the_end(
    standalone: Standalone,
) -> None:
    topic, count = "slow", 1_500
    seen: set[tuple[pymq.MessageQueue, int]] = set()
    async with pymq.Client(standalone.namesrv) as mq:
        await send_many(mq, topic, count)

        async def slow(messages: list[pymq.ReceivedMessage]) -> None:
            await asyncio.sleep(0.002)
            seen.update((each.queue, each.queue_offset) for each in messages)

        consuming = asyncio.ensure_future(
            mq.consume("slow-group", topic, slow, batch=10, concurrency=2, prefetch=50, start="first")
        )
        async with asyncio.timeout(180):
            while len(seen) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        assert len(seen) == count
