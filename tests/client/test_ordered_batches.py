"""Ordered consumption in batches, as Java's MessageListenerOrderly gets them (semantics.md §12.7)."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pymq.client import Client, ReceivedMessage, RetryLater
from pymq.protocol.headers.messaging import SendMessageRequestV2
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, until
from tests.client.ordering import committed, fill, holder

Batches = list[list[str]]


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(topics=("orders", "%RETRY%g")) as cluster:
        yield cluster


@contextlib.asynccontextmanager
async def consuming(
    mq: Client, handler: Callable[[list[ReceivedMessage]], object], batch: int = 4, **options: Any
) -> AsyncIterator[None]:
    options = {"concurrency": 8, "grace": 1, "start": "first", "suspend": 0.01, **options}
    task = asyncio.ensure_future(mq.consume("g", "orders", handler, batch=batch, order="ordered", **options))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def bodies(messages: list[ReceivedMessage]) -> list[str]:
    return [message.body.decode() for message in messages]


async def test_a_batch_is_of_one_queue_in_its_order_and_one_at_a_time(broker: FakeBroker, mq: Client) -> None:
    for queue_id in range(4):
        fill(broker, 40, queue_id)
    got: defaultdict[int, list[str]] = defaultdict(list)
    busy: set[int] = set()
    sizes: set[int] = set()

    async def handle(messages: list[ReceivedMessage]) -> None:
        (queue_id,) = {message.queue.queue_id for message in messages}
        assert queue_id not in busy
        busy.add(queue_id)
        await asyncio.sleep(0.001)
        busy.remove(queue_id)
        got[queue_id] += bodies(messages)
        sizes.add(len(messages))

    async with consuming(mq, handle, batch=7):
        await until(lambda: all(committed(broker, queue_id) == 40 for queue_id in range(4)), within_s=10)
    assert got == {queue_id: [str(number) for number in range(40)] for queue_id in range(4)}
    assert max(sizes) == 7


async def test_a_queue_of_one_message_makes_a_batch_of_its_own(broker: FakeBroker, mq: Client) -> None:
    for queue_id in range(4):
        fill(broker, 1, queue_id)
    async with mq.consumer("g", "orders", order="ordered", start="first") as consumer:
        await until(lambda: len(consumer._joined().inbox) == 4)
        batches = [await consumer.receive_batch(8) for _ in range(4)]
        assert sorted(batch[0].queue.queue_id for batch in batches) == [0, 1, 2, 3]
        assert {len(batch) for batch in batches} == {1}
        for (message,) in batches:
            message.ack()


async def test_a_batch_that_fails_comes_again_whole_and_before_what_stands_behind_it(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 6)
    got: list[tuple[list[str], list[int]]] = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        got.append((bodies(messages), [message.reconsume_times for message in messages]))
        if len(got) < 3:
            raise ValueError("not yet")

    async with consuming(mq, handle):
        await until(lambda: committed(broker) == 6)
    four = ["0", "1", "2", "3"]
    assert got == [(four, [0] * 4), (four, [1] * 4), (four, [2] * 4), (["4", "5"], [0] * 2)]


async def test_of_a_batch_only_what_failed_comes_again_in_its_place(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 6)
    got: Batches = []
    stood: list[int | None] = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        got.append(bodies(messages))
        if len(got) == 1:
            raise RetryLater("two of them", messages=[messages[3], messages[1]])
        if len(got) == 2:
            await asyncio.sleep(FAST.commit_s * 3)
            stood.append(committed(broker))

    async with consuming(mq, handle):
        await until(lambda: committed(broker) == 6)
    assert got == [["0", "1", "2", "3"], ["1", "3", "4", "5"]]
    assert stood == [1], "what is behind a failed message is not committed"


async def test_nothing_behind_a_batch_is_given_out_before_all_of_it_is_settled(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 6)
    async with mq.consumer("g", "orders", order="ordered", start="first") as consumer:
        await until(lambda: len(consumer._joined().inbox) > 0)
        batch = await consumer.receive_batch(3)
        assert bodies(batch) == ["0", "1", "2"]
        for message in (batch[2], batch[0]):
            message.ack()
            assert await consumer.fetch(1, wait=0.05) == []
        batch[1].ack()
        assert bodies(await consumer.fetch(4, wait=2)) == ["3"], "one of each queue, as ever"


async def test_what_fails_too_often_goes_to_the_dead_letters_one_by_one(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 3)
    got: Batches = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        got.append(bodies(messages))
        for message in messages:
            if message.body == b"1":
                message.ack()
        if "0" in got[-1]:
            raise ValueError("never")

    async with consuming(mq, handle, batch=2, max_retries=1):
        await until(lambda: committed(broker) == 3)
    assert got == [["0", "1"], ["0", "2"], ["2"]]
    buried = broker.requests(SendMessageRequestV2)
    assert [header.topic for header in buried] == ["%RETRY%g"]
    assert len(broker.queues["%DLQ%g", 0]) == 1


async def test_a_queue_goes_to_another_member_only_when_its_whole_batch_is_settled(
    broker: FakeBroker, mq: Client
) -> None:
    for queue_id in range(4):
        fill(broker, 6, queue_id)
    async with mq.consumer("g", "orders", order="ordered", start="first") as consumer:
        batches = [await consumer.receive_batch(3) for _ in range(4)]
        leaving = next(batch for batch in batches if batch[0].queue == queue(0))
        broker.members["g"]["0-before-all-others"] = broker.members["g"][mq.client_id]
        broker.notify("g")
        for message in leaving[:2]:
            message.ack()
        await asyncio.sleep(FAST.surrender_s + 0.1)
        assert holder(broker, 0) == mq.client_id
        leaving[2].ack()
        await until(lambda: holder(broker, 0) is None)
        assert committed(broker, 0) == 3
        for batch in batches:
            for message in batch:
                message.ack()


async def test_a_batch_that_is_given_up_half_way_comes_again_uncounted(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 3)
    async with mq.consumer("g", "orders", order="ordered", start="first") as consumer:
        for message in await consumer.receive_batch(3):
            message.release()
        again = await consumer.receive_batch(3)
        assert [(message.body, message.reconsume_times) for message in again] == [
            (b"0", 0),
            (b"1", 0),
            (b"2", 0),
        ]
