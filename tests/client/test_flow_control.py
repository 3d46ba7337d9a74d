"""A slow consumer holds a bounded part of what is there, and asks for no more (semantics.md §12.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pymq.client import Client, Consumer, FlowControl, ReceivedMessage
from pymq.errors import ConfigError
from pymq.protocol.headers.messaging import PullMessageRequest
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, until

QUIET_S = 0.15
QUEUES = 16


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(topics=("orders", "bills"), queues=QUEUES) as cluster:
        yield cluster


def fill(broker: FakeBroker, each: int, body: bytes = b"x" * 100, topic: str = "orders") -> None:
    for queue_id in range(QUEUES):
        for _ in range(each):
            broker.put(topic, queue_id, body)


def pulls(broker: FakeBroker) -> int:
    return len(broker.requests(PullMessageRequest))


async def quiet(broker: FakeBroker) -> int:
    """Wait until no more is pulled; gives the number of pulls."""
    before = -1
    async with asyncio.timeout(30):
        while before != pulls(broker):
            before = pulls(broker)
            await asyncio.sleep(QUIET_S)
    return before


def held(consumer: Consumer) -> tuple[int, int]:
    """Messages that it holds, and bytes of their bodies."""
    owned = consumer._joined()._owned.values()
    return sum(map(len, owned)), sum(each.size_bytes for each in owned)


async def settle_all(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    """All messages, acknowledged: so many, and what comes in the moment behind them."""
    got: list[ReceivedMessage] = []
    while batch := await consumer.fetch(64, wait=10.0 if len(got) < count else QUIET_S):
        got += batch
        for message in batch:
            message.ack()
    return got


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_a_consumer_that_does_nothing_holds_no_more_than_its_count_and_loses_nothing(
    broker: FakeBroker, mq: Client, order: str
) -> None:
    fill(broker, each=100)
    async with mq.consumer("g", "orders", start="first", prefetch=160, order=order) as consumer:  # type: ignore[arg-type]
        asked = await quiet(broker)
        assert held(consumer)[0] <= 160
        await asyncio.sleep(QUIET_S)
        assert pulls(broker) == asked, "a full consumer asks for nothing"
        got = await settle_all(consumer, QUEUES * 100)
    assert len(got) == len({(each.queue, each.queue_offset) for each in got}) == QUEUES * 100


async def test_long_messages_are_bounded_by_their_bytes(broker: FakeBroker, mq: Client) -> None:
    body = b"x" * 10_000
    fill(broker, each=40, body=body)
    async with mq.consumer("g", "orders", start="first", prefetch_bytes=QUEUES * 50_000) as consumer:
        await quiet(broker)
        one_pull = FAST.pull_batch * len(body)
        assert held(consumer)[1] <= QUEUES * (50_000 + one_pull)
        assert held(consumer)[0] < QUEUES * 40
        assert len(await settle_all(consumer, QUEUES * 40)) == QUEUES * 40


async def test_a_message_longer_than_all_the_room_still_comes(broker: FakeBroker, mq: Client) -> None:
    fill(broker, each=2, body=b"x" * 5000)
    async with mq.consumer("g", "orders", start="first", prefetch=1, prefetch_bytes=1) as consumer:
        await quiet(broker)
        assert held(consumer)[0] == QUEUES  # one of each queue: more queues than messages are allowed
        assert len(await settle_all(consumer, QUEUES * 2)) == QUEUES * 2


async def test_topics_that_are_consumed_together_share_the_room(broker: FakeBroker, mq: Client) -> None:
    fill(broker, each=50)
    fill(broker, each=50, topic="bills")
    subscriptions = {"orders": "*", "bills": "*"}
    async with mq.consumer("g", subscriptions, start="first", prefetch=320) as consumer:
        await quiet(broker)
        assert held(consumer)[0] <= 320
        assert {queue.topic for queue in consumer.queues()} >= {"orders", "bills"}
        assert len(await settle_all(consumer, 2 * QUEUES * 50)) == 2 * QUEUES * 50


async def test_a_queue_whose_message_is_stuck_stops_at_the_span_and_the_others_go_on(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, each=200)
    flow = FlowControl(consume_concurrently_max_span=50)
    async with mq.consumer("g", "orders", start="first", flow=flow) as consumer:
        stuck = await consumer.receive()
        got = await settle_all(consumer, (QUEUES - 1) * 200 + 49)
        here = [each for each in got if each.queue == stuck.queue]
        assert 50 <= len(here) + 1 <= 50 + FAST.pull_batch
        assert len(got) - len(here) == (QUEUES - 1) * 200
        stuck.ack()
        assert len(here) + 1 + len(await settle_all(consumer, 199 - len(here))) == 200


def held_of(consumer: Consumer, topic: str) -> dict[int, int]:
    """Messages that it holds of each queue of a topic."""
    owned = consumer._joined()._owned.items()
    return {queue.queue_id: len(each) for queue, each in owned if queue.topic == topic}


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_each_queue_stops_at_its_own_threshold(broker: FakeBroker, mq: Client, order: str) -> None:
    fill(broker, each=80)
    flow = FlowControl(pull_threshold_for_queue=40)
    async with mq.consumer("g", "orders", start="first", prefetch=10_000, flow=flow, order=order) as consumer:  # type: ignore[arg-type]
        await quiet(broker)
        assert held_of(consumer, "orders") == dict.fromkeys(range(QUEUES), 40)
        assert len(await settle_all(consumer, QUEUES * 80)) == QUEUES * 80


async def test_each_queue_stops_at_its_own_bytes(broker: FakeBroker, mq: Client) -> None:
    body = b"x" * 30_000
    fill(broker, each=80, body=body)
    flow = FlowControl(pull_threshold_size_for_queue=1)
    unbounded = {"prefetch": 10_000, "prefetch_bytes": 1 << 30}
    async with mq.consumer("g", "orders", start="first", flow=flow, **unbounded) as consumer:  # type: ignore[arg-type]
        await quiet(broker)
        # One pull does not reach 1 MiB, two do.
        assert set(held_of(consumer, "orders").values()) == {2 * FAST.pull_batch}
        assert len(await settle_all(consumer, QUEUES * 80)) == QUEUES * 80


async def test_a_topic_stops_at_its_threshold_shared_by_its_queues_and_another_goes_on(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, each=30)
    fill(broker, each=30, topic="bills")
    topics = {"orders": "*", "bills": "*"}
    flow = FlowControl(pull_threshold_for_topic=QUEUES * 5)
    async with mq.consumer("g", topics, start="first", prefetch=10_000, flow=flow) as consumer:
        await quiet(broker)
        assert held_of(consumer, "orders") == held_of(consumer, "bills") == dict.fromkeys(range(QUEUES), 5)
        assert len(await settle_all(consumer, 2 * QUEUES * 30)) == 2 * QUEUES * 30


async def test_a_topic_stops_at_its_bytes(broker: FakeBroker, mq: Client) -> None:
    fill(broker, each=80, body=b"x" * 30_000)
    flow = FlowControl(pull_threshold_size_for_topic=QUEUES // 2)
    unbounded = {"prefetch": 10_000, "prefetch_bytes": 1 << 30}
    async with mq.consumer("g", "orders", start="first", flow=flow, **unbounded) as consumer:  # type: ignore[arg-type]
        await quiet(broker)
        assert set(held_of(consumer, "orders").values()) == {FAST.pull_batch}


async def test_an_ordered_queue_has_no_bound_on_its_span(broker: FakeBroker, mq: Client) -> None:
    """Its messages are settled one after the other, so that gaps behind the oldest mean nothing."""
    fill(broker, each=100)
    flow = FlowControl(consume_concurrently_max_span=10)
    async with mq.consumer(
        "g", "orders", start="first", prefetch=10_000, flow=flow, order="ordered"
    ) as consumer:
        await quiet(broker)
        assert set(held_of(consumer, "orders").values()) == {100}


def test_the_defaults_are_javas() -> None:
    flow = FlowControl()
    assert (flow.pull_threshold_for_queue, flow.pull_threshold_size_for_queue) == (1000, 100)
    assert (flow.pull_threshold_for_topic, flow.pull_threshold_size_for_topic) == (-1, -1)
    assert flow.consume_concurrently_max_span == 2000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pull_threshold_for_queue", 0),
        ("pull_threshold_for_queue", -1),
        ("pull_threshold_size_for_queue", 1025),
        ("pull_threshold_for_topic", 0),
        ("pull_threshold_size_for_topic", True),
        ("consume_concurrently_max_span", "9"),
    ],
)
async def test_a_threshold_that_cannot_be_is_refused(mq: Client, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name}={value!r}: expected a whole number from 1 to"):
        FlowControl(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"flow=.*: expected a FlowControl"):
        mq.consumer("g", "orders", flow=value)  # type: ignore[arg-type]


async def test_queues_that_come_and_go_leave_nothing_with_a_consumer_that_is_stuck(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, each=20)
    async with mq.consumer("g", "orders", start="first", prefetch=QUEUES * 10) as consumer:
        member = consumer._joined()
        await quiet(broker)
        for _ in range(20):
            before = pulls(broker)
            await member.reset({queue(queue_id): 0 for queue_id in range(QUEUES)})
            await until(lambda before=before: pulls(broker) >= before + QUEUES)  # type: ignore[misc]
        await quiet(broker)
        assert len(member.inbox) <= QUEUES * 10
        assert len(await settle_all(consumer, QUEUES * 20)) == QUEUES * 20
