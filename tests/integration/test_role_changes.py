"""Masters and slaves change places: by plan, and after a death."""

from __future__ import annotations

import asyncio
import datetime
import logging

import pytest

import pymq
from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerRole
from pymq.broker.replication.metadata import MasterTables
from pymq.client.settings import Settings
from pymq.protocol.bodies.offsets import ConsumerOffsets
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteTopicInBrokerRequest,
    GetAllConsumerOffsetRequest,
    GetAllTopicConfigRequest,
)
from tests.broker.asking import send
from tests.integration.replicated_cluster import Cluster, cluster, stop, until, until_answered, until_code

pytestmark = pytest.mark.once

__all__ = ["cluster"]

LEVELS = "1s 2s"


async def take_all(consumer: pymq.Consumer, count: int) -> list[str]:
    """Acknowledge messages until there are so many; gives their bodies."""
    got: list[str] = []
    async with asyncio.timeout(90):
        while len(got) < count:
            for message in await consumer.fetch(wait=1):
                got.append(message.body.decode())
                message.ack()
    return got


async def test_master_and_slave_change_places_and_back_with_messages_that_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way with a delayed and a timed message under way: they come once, from the master of then."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", 0.1)
    monkeypatch.setattr("pymq.broker.replication.metadata.PERIOD_S", 0.1)
    roles = ["one", "other"]

    async def offsets(broker: Broker) -> object:
        reply = await cluster.pool.call(broker.address, GetAllConsumerOffsetRequest())
        return ConsumerOffsets.decode(reply.body).offset_table

    for number in range(3):
        master = await cluster.broker(roles[0], BrokerRole.SYNC_MASTER, message_delay_level=LEVELS)
        slave = await cluster.broker(roles[1], BrokerRole.SLAVE, message_delay_level=LEVELS)
        await until_code(cluster, master, 0)
        async with (
            pymq.Client(cluster.names.address, settings=Settings(commit_s=0.05)) as mq,
            mq.consumer("consumers", "later", start="first") as consumer,
        ):
            if number:
                got = await take_all(consumer, 2)
                assert sorted(got) == [f"delayed {number - 1}", f"timed {number - 1}"]
            await mq.send("later", f"delayed {number}", delay_level=2, timeout=30)
            in_time = datetime.timedelta(seconds=2, milliseconds=number)
            await mq.send("later", f"timed {number}", delay=in_time, timeout=30)
        async with asyncio.timeout(60):
            while await offsets(slave) != await offsets(master):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await stop(master)
        await stop(slave)
        assert cluster.log(roles[1]) == cluster.log(roles[0])
        roles.reverse()


async def test_a_topic_whose_messages_are_all_to_come_is_there_after_a_promotion(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the log has told the slave of it, and it had not asked yet when the master went."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", 1e6)
    often = {
        "transaction_check_interval": 100,
        "transaction_time_out": 100,
        "transaction_check_max": 10_000,
    }
    master = await cluster.broker("one", BrokerRole.SYNC_MASTER, message_delay_level=LEVELS)
    slave = await cluster.broker("other", BrokerRole.SLAVE, message_delay_level=LEVELS)
    await until_code(cluster, master, 0)
    await until_answered(cluster, slave, "T", 1)
    async with pymq.Client(cluster.names.address, producer_group="producers") as mq:
        await mq.send("delayed", "a", delay_level=2, timeout=30)
        await mq.send("timed", "b", delay=datetime.timedelta(seconds=2.5), timeout=30)
        async with mq.transaction("half", "c") as transaction:
            await transaction.unknown()
    await stop(master)
    await stop(slave)
    await cluster.broker("other", BrokerRole.ASYNC_MASTER, message_delay_level=LEVELS, **often)
    async with pymq.Client(
        cluster.names.address,
        producer_group="producers",
        transaction_checker=lambda message: pymq.TransactionState.COMMIT,
    ) as mq:
        for topic, body in (("delayed", "a"), ("timed", "b"), ("half", "c")):
            async with mq.consumer("consumers", topic, start="first") as consumer:
                assert await take_all(consumer, 1) == [body]


async def test_a_deleted_topic_is_not_made_again_by_a_message_that_was_to_come(cluster: Cluster) -> None:
    master = await cluster.broker("one", BrokerRole.ASYNC_MASTER, message_delay_level="1s 2s")
    await send(cluster.pool, master.address, "T", b"x", properties="UNIQ_KEY\x01A\x02DELAY\x011")
    await cluster.pool.call(master.address, DeleteTopicInBrokerRequest("T"))
    end = len(cluster.log("one"))
    await until(lambda: len(cluster.log("one")) > end)
    reply = await cluster.pool.call(master.address, GetAllTopicConfigRequest())
    assert "T" not in TopicConfigSerializeWrapper.decode(reply.body).topic_config_table


async def test_a_former_master_with_messages_that_its_slave_had_not_is_refused_as_a_slave(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """They would be cut off, or stay among the new master's: somebody has to look at them first."""
    master = await cluster.broker("one", BrokerRole.ASYNC_MASTER)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    slave = await cluster.broker("other", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "T", b"both have it")
    await until_answered(cluster, slave, "T", 1)
    await stop(slave)
    await send(cluster.pool, master.address, "T", b"only one has it")
    await stop(master)
    before = cluster.log("one")

    promoted = await cluster.broker("other", BrokerRole.ASYNC_MASTER)
    for number in range(5):
        await send(cluster.pool, promoted.address, "T", b"%d" % number)
    caplog.set_level(logging.ERROR, "pymq.broker.replication")
    former = await cluster.broker("one", BrokerRole.SLAVE)
    await until(lambda: "stop this slave, move its store folder away" in caplog.text)
    await stop(former)
    assert cluster.log("one") == before, "nothing is cut or copied over"


async def test_a_former_master_that_is_refused_keeps_its_topics(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may decide for its log: then a topic that only it has must not count as deleted."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", 0.1)
    monkeypatch.setattr("pymq.broker.replication.metadata.PERIOD_S", 0.1)
    master = await cluster.broker("one", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("other", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "T", b"both")
    await until_answered(cluster, slave, "T", 1)
    await stop(slave)
    await send(cluster.pool, master.address, "mine", b"only here")
    await stop(master)
    promoted = await cluster.broker("other", BrokerRole.ASYNC_MASTER)
    await cluster.pool.call(promoted.address, CreateTopicRequest("another", 1, 1, 6))
    asked: list[str] = []
    copy = MasterTables.copy

    async def noted(tables: MasterTables) -> None:
        await copy(tables)
        asked.append(tables.master_address)

    monkeypatch.setattr(MasterTables, "copy", noted)
    refused = await cluster.broker("one", BrokerRole.SLAVE)
    await until(lambda: "nothing is copied" in caplog.text)
    await until(lambda: len(asked) >= 2)
    await stop(refused)
    await stop(promoted)
    again = await cluster.broker("one", BrokerRole.ASYNC_MASTER)
    reply = await cluster.pool.call(again.address, GetAllTopicConfigRequest())
    assert "mine" in TopicConfigSerializeWrapper.decode(reply.body).topic_config_table
    assert await until_answered(cluster, again, "mine", 1) == [b"only here"]


async def test_a_slow_consumer_goes_on_at_its_master_when_the_suggested_slave_has_gone(
    cluster: Cluster,
) -> None:
    settings = {"slave_read_enable": True, "access_message_in_memory_max_ratio": 0}
    master = await cluster.broker("one", BrokerRole.ASYNC_MASTER, **settings)
    slave = await cluster.broker("other", BrokerRole.SLAVE, **settings)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(60):
        await send(cluster.pool, master.address, "T", b"%d" % number)
    await until_answered(cluster, slave, "T", 1, offset=59)
    quick = Settings(pull_batch=10, poll_name_server_s=0.2)
    async with (
        pymq.Client(cluster.names.address, settings=quick) as mq,
        mq.consumer("consumers", "T", start="first", prefetch=1) as consumer,
        asyncio.timeout(90),
    ):
        got: list[bytes] = []
        while len(got) < 60:
            message = await consumer.receive()
            message.ack()
            got.append(message.body)
            if len(got) == 20:
                await stop(slave)
        assert got == [b"%d" % number for number in range(60)]
