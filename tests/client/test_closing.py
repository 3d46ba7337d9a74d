"""Closing goes to its end, whoever is cancelled meanwhile, and whatever else is under way."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pymq.client import Client, ClientClosed, ReceivedMessage
from pymq.protocol.bodies import ConsumerList
from pymq.protocol.headers.groups import (
    GetConsumerListByGroupRequest,
    UnregisterClientRequest,
)
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.transport.dispatch import Answer, Request
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, until

STEPS = [0, 1, 2, 3, 5, 8, 12, 20]


async def steps(count: int) -> None:
    """Let the others go on a little."""
    for _ in range(count):
        await asyncio.sleep(0)


def pulls() -> list[str]:
    """The names of the tasks that pull."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("pymq pull")]


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
@pytest.mark.parametrize("count", STEPS)
async def test_a_consumer_whose_closing_is_cancelled_leaves_its_group_all_the_same(
    cluster: FakeCluster, broker: FakeBroker, order: str, count: int
) -> None:
    broker.put("orders", 0, b"x")
    async with Client(cluster.name_servers, settings=FAST) as mq:
        consumer = mq.consumer("g", "orders", start="first", order=order)  # type: ignore[arg-type]
        await consumer.start()
        (m,) = await consumer.fetch(wait=2)
        m.ack()
        closing = asyncio.create_task(consumer.close())
        await steps(count)
        closing.cancel()
        await asyncio.wait([closing])
        await consumer.close()
        if count:  # it had begun
            await until(lambda: broker.members["g"] == {} and not pulls())
            assert broker.offsets["g", "orders", 0] == 1
            async with mq.consumer("g", "orders", order=order) as again:  # type: ignore[arg-type]
                await until(lambda: len(again.queues()) == 4)


async def test_a_group_can_be_joined_again_while_the_former_member_leaves(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    async with Client(cluster.name_servers, settings=FAST) as mq:
        former = mq.consumer("g", "orders")
        await former.start()
        closing = asyncio.create_task(former.close())
        await steps(1)
        async with mq.consumer("g", "orders") as consumer:
            assert closing.done()
            await until(lambda: len(consumer.queues()) == 4)
            assert mq.client_id in broker.members["g"]


@pytest.mark.parametrize("count", STEPS)
async def test_a_client_whose_closing_is_cancelled_closes_all_the_same(
    cluster: FakeCluster, broker: FakeBroker, count: int
) -> None:
    before = asyncio.all_tasks()
    mq = Client(cluster.name_servers, settings=FAST)
    await mq.start()
    consumer = mq.consumer("g", "orders", start="first")
    await consumer.start()
    closing = asyncio.create_task(mq.close())
    await steps(count)
    closing.cancel()
    await asyncio.wait([closing])
    await mq.close()
    await until(lambda: broker.members["g"] == {} and broker.connections == [])
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert not [name for name in names if name.startswith("pymq")]


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
@pytest.mark.parametrize("count", range(1, 40, 3))
async def test_a_start_that_meets_the_closing_of_its_client_says_so_and_leaves_nothing(
    cluster: FakeCluster, broker: FakeBroker, order: str, count: int
) -> None:
    mq = Client(cluster.name_servers, settings=FAST)
    await mq.start()
    consumer = mq.consumer("g", "orders", order=order)  # type: ignore[arg-type]
    starting = asyncio.create_task(consumer.start())
    await steps(count)
    begun = not starting.done()
    await mq.close()
    await asyncio.wait([starting], timeout=3)
    if begun:
        assert isinstance(starting.exception(), ClientClosed)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith("pymq")]
    await until(lambda: broker.members["g"] == {})


@pytest.mark.parametrize("count", range(0, 24, 2))
async def test_a_reset_that_meets_a_closing_consumer_leaves_no_pull_and_its_offset(
    cluster: FakeCluster, broker: FakeBroker, count: int
) -> None:
    for queue_id in range(4):
        broker.put("orders", queue_id, b"x")
    async with Client(cluster.name_servers, settings=FAST) as mq:
        consumer = mq.consumer("g", "orders", start="first")
        await consumer.start()
        got = 0
        while got < 4:
            for m in await consumer.fetch(wait=2):
                m.ack()
                got += 1
        member = mq._instance._members["g"]
        resetting = asyncio.create_task(member.reset({queue(queue_id): 0 for queue_id in range(4)}))
        await steps(count)
        await consumer.close()
        await resetting
        assert pulls() == []
        assert {broker.offsets["g", "orders", queue_id] for queue_id in range(4)} <= {0, 1}
        if count < 4:  # nothing was consumed since
            assert [broker.offsets["g", "orders", queue_id] for queue_id in range(4)] == [0] * 4


async def test_a_broker_that_is_silent_is_waited_for_once_and_the_others_hear_everything() -> None:
    settings = msgspec.structs.replace(FAST, close_timeout_s=1.2, lock_timeout_s=1.2, commit_s=60)
    async with FakeCluster(brokers=2) as cluster:
        living, silent = cluster.brokers
        for broker in cluster.brokers:
            for queue_id in range(4):
                broker.put("orders", queue_id, b"x")
        mq = Client(cluster.name_servers, settings=settings)
        await mq.start()
        consumers = [
            mq.consumer("g", "orders", start="first"),
            mq.consumer("in-order", "orders", start="first", order="ordered"),
        ]
        for consumer in consumers:
            await consumer.start()
            got: list[ReceivedMessage] = []
            while len(got) < 8:
                got += await consumer.fetch(8 - len(got), wait=10)
            for message in got:
                message.ack()
        await mq.send("orders", b"so that it is a producer, too", queue=queue(0))
        silent.silent.update(range(400))
        silent.seen.clear()
        await mq.close()
        for group in ("g", "in-order"):
            assert [living.offsets[group, "orders", queue_id] for queue_id in range(4)] == [1] * 4
        left = living.requests(UnregisterClientRequest)
        assert {header.consumer_group for header in left if header.consumer_group} == {"g", "in-order"}
        assert living.locks == {}
        commits = silent.requests(UpdateConsumerOffsetRequest)
        tried = [(header.consumer_group, header.queue_id) for header in commits]
        assert tried
        assert len(tried) == len(set(tried)), "each was tried once"
        assert silent.requests(UnregisterClientRequest) == []


async def test_an_error_nobody_thought_of_does_not_end_a_queue(
    cluster: FakeCluster, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Client(cluster.name_servers, settings=FAST) as mq,
        mq.consumer("g", "orders", start="first") as consumer,
    ):
        member = mq._instance._members["g"]
        arrived = member.arrived
        failures = [RuntimeError("once")]

        def failing(*args: object) -> None:
            if failures:
                raise failures.pop()
            arrived(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(member, "arrived", failing)
        broker.put("orders", 0, b"x")
        assert [m.body for m in await consumer.fetch(wait=3)] == [b"x"]
        assert failures == []


async def test_an_id_that_a_broker_names_twice_gets_all_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does after a connection died unseen and the client came back on another one."""

    def twice(self: FakeBroker, request: Request[GetConsumerListByGroupRequest]) -> Answer:
        return Answer(body=ConsumerList([*self.members["g"]] * 2).encode())

    monkeypatch.setattr(FakeBroker, "_list_members", twice)
    async with (
        FakeCluster() as cluster,
        Client(cluster.name_servers, settings=FAST) as mq,
        mq.consumer("g", "orders") as consumer,
    ):
        assert len(consumer.queues()) == 4
