"""A message with `shard_by` goes to the queue of its key and to no other, however often it is tried."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from pymq.client import Client, SendFailed
from pymq.errors import ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until

PATIENT = msgspec.structs.replace(FAST, retry_pause_s=1.0)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(brokers=2) as cluster:
        yield cluster


@pytest.fixture
async def mq(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.name_servers, settings=PATIENT) as client:
        yield client


def broker_named(cluster: FakeCluster, name: str) -> FakeBroker:
    return next(broker for broker in cluster.brokers if broker.name == name)


async def test_a_broker_that_is_away_for_a_moment_gets_it_when_it_is_back(
    cluster: FakeCluster, mq: Client
) -> None:
    before = await mq.send("orders", b"0", shard_by="key")
    broker = broker_named(cluster, before.queue.broker_name)
    await broker.stop()
    sending = asyncio.create_task(mq.send("orders", b"1", shard_by="key", timeout=30))
    await asyncio.sleep(0.1)
    await broker.restart()
    after = await sending
    assert after.queue == before.queue
    assert sum(cluster.bodies()) == 2


async def test_it_stays_with_its_queue_when_the_queues_change_between_two_attempts(
    cluster: FakeCluster, mq: Client
) -> None:
    before = await mq.send("orders", b"0", shard_by="key")
    broker = broker_named(cluster, before.queue.broker_name)
    await broker.stop()
    sending = asyncio.create_task(mq.send("orders", b"1", shard_by="key", timeout=30))
    await asyncio.sleep(0.05)  # the first attempt has failed, the second comes after a second
    cluster.queue_nums = 7
    asked = len(cluster.asked)
    await mq._instance.routes.refresh("orders")
    assert len(cluster.asked) > asked
    await asyncio.sleep(1.2)  # the third comes after two seconds more
    await broker.restart()
    assert (await sending).queue == before.queue
    later = await mq.send("orders", b"2", shard_by="key")
    assert later.queue != before.queue  # else this test shows nothing: take another key


async def test_a_refusal_does_not_send_it_to_another_broker(cluster: FakeCluster, mq: Client) -> None:
    before = await mq.send("orders", b"0", shard_by="key")
    broker = broker_named(cluster, before.queue.broker_name)
    refusal = ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, "full")
    broker.refusals[RequestCode.SEND_MESSAGE_V2] = [refusal] * 9
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"1", shard_by="key")
    assert {attempt.broker for attempt in failed.value.attempts} == {broker.name}
    assert sum(cluster.bodies()) == 1


async def test_messages_of_one_key_keep_their_order_through_a_restart_of_their_broker(
    cluster: FakeCluster, mq: Client
) -> None:
    async def send_all() -> set[int]:
        return {
            (await mq.send("orders", str(number), shard_by="key", timeout=30)).queue.queue_id
            for number in range(30)
        }

    first = await mq.send("orders", "first", shard_by="key")
    broker = broker_named(cluster, first.queue.broker_name)
    sending = asyncio.create_task(send_all())
    await until(lambda: sum(cluster.bodies()) > 10)
    await broker.stop()
    await asyncio.sleep(0.05)
    await broker.restart()
    assert await sending == {first.queue.queue_id}
    assert [each for each in cluster.bodies() if each] == [31]
