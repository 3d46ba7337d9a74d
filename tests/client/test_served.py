"""What brokers ask of clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from pymq.client import Client
from pymq.protocol import tolerant_json
from pymq.protocol.bodies import ConsumerRunningInfo
from pymq.protocol.headers.groups import (
    GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest,
    NotifyConsumerIdsChangedRequest,
    ResetConsumerClientOffsetRequest,
)
from pymq.transport.connection import Connection
from tests.client.fake_cluster import FakeCluster, queue, until
from tests.client.test_consuming import committed, take


@asynccontextmanager
async def asked(cluster: FakeCluster, client: Client) -> AsyncIterator[Connection]:
    """The connection by which the broker asks `client`."""
    await until(lambda: client.client_id in cluster.brokers[0].members["g"])
    yield cluster.brokers[0].members["g"][client.client_id]


async def test_the_running_info_tells_mqadmin_what_it_reads(cluster: FakeCluster, mq: Client) -> None:
    cluster.brokers[0].put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer, asked(cluster, mq) as connection:
        await take(consumer, 1)
        answer = await connection.call(GetConsumerRunningInfoRequest("g", mq.client_id))
        info = ConsumerRunningInfo.decode(answer.body)
    assert set(info.mq_table) == {queue(index) for index in range(4)}
    assert info.mq_table[queue(0)].cached_msg_count == 1
    assert info.properties["PROP_NAMESERVER_ADDR"] == cluster.name_servers + ";"
    assert info.properties["PROP_CLIENT_VERSION"] == "V4_9_4"
    for name in (
        "PROP_CONSUME_TYPE",
        "PROP_CONSUMEORDERLY",
        "PROP_THREADPOOL_CORE_SIZE",
        "PROP_CONSUMER_START_TIMESTAMP",
    ):
        assert info.properties[name]


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_the_running_info_tells_how_fast_it_is_and_what_failed(
    cluster: FakeCluster, mq: Client, order: str
) -> None:
    for index in range(10):
        cluster.brokers[0].put("orders", 0, str(index).encode())
    async with (
        mq.consumer("g", "orders", start="first", order=order, suspend=0.01) as consumer,  # type: ignore[arg-type]
        asked(cluster, mq) as connection,
    ):
        for index in range(10):
            (m,) = await take(consumer, 1)
            await asyncio.sleep(0.002)
            if index < 3:
                await m.retry()
            else:
                m.ack()
        answer = await connection.call(GetConsumerRunningInfoRequest("g", mq.client_id))
        status = ConsumerRunningInfo.decode(answer.body).status_table["orders"]
    assert status.pull_tps > 0
    assert status.pull_rt >= 0
    assert status.consume_rt >= 2
    assert status.consume_failed_msgs == 3
    assert status.consume_ok_tps == pytest.approx(status.consume_failed_tps * 7 / 3)


async def test_a_group_that_is_not_here_is_an_error(cluster: FakeCluster, mq: Client) -> None:
    async with mq.consumer("g", "orders"), asked(cluster, mq) as connection:
        answer = await connection.call(GetConsumerRunningInfoRequest("other", mq.client_id))
    assert (answer.code, answer.remark) == (1, "The Consumer Group <other> not exist in this consumer")


async def test_the_status_tells_how_far_each_queue_has_come(cluster: FakeCluster, mq: Client) -> None:
    cluster.brokers[0].put("orders", 2, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer, asked(cluster, mq) as connection:
        (m,) = await take(consumer, 1)
        m.ack()
        answer = await connection.call(GetConsumerStatusFromClientRequest("orders", "g"))
    body = tolerant_json.parse(answer.body, lambda members: msgspec.json.encode(members["queueId"]))
    assert body["messageQueueTable"] == {b"0": 0, b"1": 0, b"2": 1, b"3": 0}


@pytest.mark.parametrize(
    "offsets",
    [
        b'{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:1}',
        b'[{"brokerName":"broker-a","offset":1,"queueId":0,"topic":"orders"}]',
    ],
    ids=["map", "list"],
)
async def test_a_reset_lets_messages_come_again(cluster: FakeCluster, mq: Client, offsets: bytes) -> None:
    """The list is for clients in C++; with `-c`, mqadmin has Apache's broker send it to all."""
    broker = cluster.brokers[0]
    for index in range(3):
        broker.put("orders", 0, str(index).encode())
    async with mq.consumer("g", "orders", start="first") as consumer, asked(cluster, mq) as connection:
        old = await take(consumer, 3)
        for m in old[:2]:
            m.ack()
        connection.oneway(
            ResetConsumerClientOffsetRequest("orders", "g", 0, True), b'{"offsetTable":%b}' % offsets
        )
        assert [m.body for m in await take(consumer, 2)] == [b"1", b"2"]
        await until(lambda: committed(broker) == 1)
        old[2].ack()  # of the time before: of no effect
        await asyncio.sleep(0.05)
        assert committed(broker) == 1


async def test_a_change_of_the_group_is_followed_at_once(cluster: FakeCluster, mq: Client) -> None:
    broker = cluster.brokers[0]
    async with mq.consumer("g", "orders") as consumer, asked(cluster, mq) as connection:
        broker.members["g"]["0-before-all-others"] = connection
        connection.oneway(NotifyConsumerIdsChangedRequest("g"))
        await until(lambda: consumer.queues() == [queue(2), queue(3)], within_s=0.4)
