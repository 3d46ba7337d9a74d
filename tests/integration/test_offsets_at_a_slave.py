"""What a group consumed from a slave while its master was away is not consumed again when that is back."""

from __future__ import annotations

import asyncio

import pytest

import pymq
from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerRole
from pymq.client import Settings
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import QueryConsumerOffsetRequest, QueryConsumerOffsetResponse
from tests.integration.replicated_cluster import Cluster, cluster, stop, until_answered

__all__ = ["cluster"]

QUICK = Settings(poll_name_server_s=0.2, heartbeat_s=0.5, rebalance_s=0.5, commit_s=0.1, pull_retry_s=0.1)
COUNT = 3


async def until_stands(cluster: Cluster, broker: Broker, offset: int) -> None:
    """Wait until a broker has this offset of the group."""
    header = QueryConsumerOffsetRequest("g", "orders", 0)
    async with asyncio.timeout(90):
        while True:
            reply = await cluster.pool.call(broker.address, header)
            if reply.read(QueryConsumerOffsetResponse).offset == offset:
                return
            await asyncio.sleep(0.05)


@pytest.mark.once
async def test_a_master_that_is_back_hears_how_far_its_group_has_come_meanwhile(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("orders", 1, 1, 6))
    async with pymq.Client(cluster.names.address, settings=QUICK) as mq:
        for number in range(COUNT):
            await mq.send("orders", str(number))
        await until_answered(cluster, slave, "orders", COUNT)
        async with mq.consumer("g", "orders", start="first") as consumer:
            messages: list[pymq.ReceivedMessage] = []
            while len(messages) < COUNT:
                messages += await consumer.fetch()
            await stop(master)
            for message in messages:
                message.ack()
            await until_stands(cluster, slave, COUNT)
            master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
            await until_stands(cluster, master, COUNT)
