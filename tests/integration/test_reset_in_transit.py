"""A reset that comes while queues go from one member to another reaches all of them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

import pymq
from pymq.client import Settings
from pymq.client.group_member import GroupMember
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.transport.pool import Pool
from tests.integration.conftest import Standalone

pytestmark = pytest.mark.once

TOPIC, GROUP = "in-transit", "travellers"


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_no_queue_keeps_its_old_place(
    standalone: Standalone, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """The second member has heard of the reset when it owned nothing yet, the first when it owned no more."""
    topic, group = f"{TOPIC}-{order}", f"{GROUP}-{order}"
    pool = Pool(SystemNetwork(), {})
    await pool.call(standalone.broker, CreateTopicRequest(topic, 4, 4, 6))
    await pool.close()
    may_own = asyncio.Event()
    rebalance = GroupMember._rebalance_all

    async def slow_rebalance(self: GroupMember) -> None:
        if self._heartbeats._client_id == second.client_id:
            await may_own.wait()
        await rebalance(self)

    monkeypatch.setattr(GroupMember, "_rebalance_all", slow_rebalance)
    quick = Settings(commit_s=0.05, call_timeout_s=20.0)
    got: Counter[str] = Counter()

    async def handle(message: pymq.ReceivedMessage) -> None:
        got[message.body.decode()] += 1

    async def all_came(times: int) -> None:
        async with asyncio.timeout(90):
            while len(got) < 8 or min(got.values()) < times:  # noqa: ASYNC110 - the handlers run beside
                await asyncio.sleep(0.01)

    async def all_committed() -> None:
        async with asyncio.timeout(90):
            while (await first.lag(group, topic)).messages:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def free_queues(consumer: pymq.Consumer) -> None:
        async with asyncio.timeout(90):
            while len([queue for queue in consumer.queues() if queue.topic == topic]) != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def work(consumer: pymq.Consumer) -> None:
        async for message in consumer:
            async with message.process():
                await handle(message)

    async with (
        pymq.Client(standalone.namesrv, settings=quick) as first,
        pymq.Client(standalone.namesrv, settings=quick) as second,
    ):
        for number, queue in enumerate((await first.queues(topic)) * 2):
            await first.send(topic, str(number), queue=queue)
        options = {"order": order, "start": "first"}
        async with first.consumer(group, topic, **options) as one:  # type: ignore[arg-type]
            working = [asyncio.create_task(work(one))]
            await all_came(1)
            await all_committed()
            joining = asyncio.create_task(_joined(second.consumer(group, topic, **options)))  # type: ignore[arg-type]
            await free_queues(one)
            await first.reset_offsets(group, topic, "first")
            may_own.set()
            two = await joining
            working.append(asyncio.create_task(work(two)))
            await all_came(2)
            await two.close()
        await asyncio.gather(*working)
        await all_committed()


async def _joined(consumer: pymq.Consumer) -> pymq.Consumer:
    await consumer.start()
    return consumer
