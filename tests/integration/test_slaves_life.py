"""What a slave does besides copying the log: follows tables, serves reads, refuses writes, is promoted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import pymq
from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerRole
from pymq.client.settings import Settings
from pymq.errors import ResponseError
from pymq.protocol.bodies.ha_status import HaStatus
from pymq.protocol.bodies.offsets import ConsumerOffsets, DelayOffsets
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig, SubscriptionGroupWrapper
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.codes import ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteSubscriptionGroupRequest,
    DeleteTopicInBrokerRequest,
    GetAllConsumerOffsetRequest,
    GetAllDelayOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetAllTopicConfigRequest,
    GetBrokerHaStatusRequest,
    GetBrokerRuntimeInfoRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.groups import GetConsumerListByGroupRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    EndTransactionRequest,
    SendBatchMessageRequest,
    SendMessageRequest,
    UpdateConsumerOffsetRequest,
)
from pymq.protocol.message import BatchEntry, encode_batch
from tests.broker.asking import bounds, pull, send, send_header
from tests.integration.replicated_cluster import Cluster, cluster, stop, until, until_answered, until_code

pytestmark = pytest.mark.once

__all__ = ["cluster"]

NEVER_S = 1e6
UNIQUE = "UNIQ_KEY\x01A\x02"


@pytest.fixture
def asks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slaves ask every tenth of a second; that it is every 10 s is seen in test_metadata.py."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", 0.1)
    monkeypatch.setattr("pymq.broker.replication.metadata.PERIOD_S", 0.1)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until an async check holds."""
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def tables(cluster: Cluster, broker: Broker) -> tuple[set[str], set[str], dict[str, dict[int, int]]]:
    """A broker's topics, groups, and consumer offsets."""

    async def body(header: Header) -> bytes:
        return (await cluster.pool.call(broker.address, header)).body

    topics = TopicConfigSerializeWrapper.decode(await body(GetAllTopicConfigRequest()))
    groups = SubscriptionGroupWrapper.decode(await body(GetAllSubscriptionGroupConfigRequest()))
    offsets = ConsumerOffsets.decode(await body(GetAllConsumerOffsetRequest()))
    return set(topics.topic_config_table), set(groups.subscription_group_table), offsets.offset_table


@pytest.mark.usefixtures("asks_often")
async def test_a_slave_follows_topics_groups_offsets_and_delay_offsets(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER, message_delay_level="1s")
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    call = cluster.pool.call

    async def is_level() -> bool:
        return await tables(cluster, slave) == await tables(cluster, master)

    await call(master.address, CreateTopicRequest("T", 3, 3, 6))
    config = SubscriptionGroupConfig("consumers", retry_max_times=5)
    await call(master.address, UpdateAndCreateSubscriptionGroupRequest(), config.encode())
    await call(master.address, UpdateConsumerOffsetRequest("consumers", "T", 2, 7))
    await eventually(is_level)
    topics, groups, offsets = await tables(cluster, slave)
    assert "T" in topics
    assert "consumers" in groups
    assert offsets["T@consumers"] == {2: 7}

    await call(master.address, DeleteTopicInBrokerRequest("T"))
    await call(master.address, DeleteSubscriptionGroupRequest("consumers"))
    await send(cluster.pool, master.address, "T2", b"x", properties=UNIQUE + "DELAY\x011")

    async def has_followed() -> bool:
        topics, groups, _ = await tables(cluster, slave)
        reply = await call(slave.address, GetAllDelayOffsetRequest())
        delayed = DelayOffsets.decode(reply.body).offset_table
        return not topics & {"T"} and not groups & {"consumers"} and delayed.get(1) == 1

    await eventually(has_followed)


async def test_a_new_topic_is_known_to_the_slave_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its first message; the slave's next question is far away."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", NEVER_S)
    monkeypatch.setattr("pymq.broker.replication.metadata.PERIOD_S", NEVER_S)
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "first", b"x")
    assert await until_answered(cluster, slave, "first", 1) == [b"x"]
    await send(cluster.pool, master.address, "second", b"y")
    assert await until_answered(cluster, slave, "second", 1) == [b"y"]


async def test_the_ends_of_transactions_make_a_slave_ask_for_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their topic has no configuration: it would be asked for with each of them."""
    monkeypatch.setattr("pymq.broker.replication.metadata.FIRST_S", NEVER_S)
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    await until_answered(cluster, slave, "T", 1)
    asked: list[str] = []
    monkeypatch.setattr("pymq.broker.replication.metadata.MasterTables.soon", lambda _: asked.append("soon"))
    async with pymq.Client(cluster.names.address, producer_group="producers") as mq:
        for number in range(3):
            async with mq.transaction("T", f"{number}"):
                pass
    await until(lambda: cluster.log("slave") == cluster.log("master"))
    assert asked == []


@pytest.mark.usefixtures("asks_often")
async def test_a_topic_that_is_made_again_has_no_offsets_of_the_former_one_on_the_slave(
    cluster: Cluster,
) -> None:
    """Promoted, it would let the group pass over the first messages."""
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    call = cluster.pool.call
    await call(master.address, CreateTopicRequest("T", 2, 2, 6))
    for number in range(10):
        await send(cluster.pool, master.address, "T", b"%d" % number, queue_id=number % 2)
    for queue_id in (0, 1):
        await call(master.address, UpdateConsumerOffsetRequest("consumers", "T", queue_id, 5))

    async def offsets() -> dict[int, int]:
        return (await tables(cluster, slave))[2].get("T@consumers", {})

    async def has(expected: dict[int, int]) -> bool:
        return await offsets() == expected

    await eventually(lambda: has({0: 5, 1: 5}))
    await call(master.address, DeleteTopicInBrokerRequest("T"))
    await call(master.address, CreateTopicRequest("T", 2, 2, 6))
    for queue_id in (0, 1):
        await send(cluster.pool, master.address, "T", b"new", queue_id=queue_id)
    await eventually(lambda: has({}))
    assert await until_answered(cluster, slave, "T", 1) == [b"new"]
    await call(master.address, UpdateConsumerOffsetRequest("consumers", "T", 1, 1))
    await eventually(lambda: has({1: 1}))


@pytest.mark.usefixtures("asks_often")
async def test_what_was_deleted_on_the_master_is_not_there_again_after_a_promotion(cluster: Cluster) -> None:
    """A group made anew would pass over messages, and a topic made anew begin with old ones."""
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    call = cluster.pool.call
    group = SubscriptionGroupConfig("leavers")
    await call(master.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
    for topic in ("T", "kept"):
        await call(master.address, CreateTopicRequest(topic, 1, 1, 6))
        for number in range(3):
            await send(cluster.pool, master.address, topic, b"%d" % number)
        for name in ("leavers", "stayers"):
            await call(master.address, UpdateConsumerOffsetRequest(name, topic, 0, 2))

    async def offsets() -> set[str]:
        return set((await tables(cluster, slave))[2])

    async def has(*expected: str) -> bool:
        return await offsets() == set(expected)

    await eventually(lambda: has("T@leavers", "T@stayers", "kept@leavers", "kept@stayers"))
    await until_answered(cluster, slave, "T", 3)
    await call(master.address, DeleteTopicInBrokerRequest("T"))
    await call(master.address, DeleteSubscriptionGroupRequest("leavers", remove_offset=True))
    await eventually(lambda: has("kept@stayers"))
    late = await cluster.broker("late", BrokerRole.SLAVE, broker_id=2)
    await until(lambda: cluster.log("late") == cluster.log("master"))
    for folder in ("slave", "late"):
        await until(lambda folder=folder: cluster.queues(folder) == {"kept"})  # type: ignore[misc]
    await stop(late)
    await stop(master)
    await stop(slave)
    promoted = await cluster.broker("slave", BrokerRole.ASYNC_MASTER)
    assert set((await tables(cluster, promoted))[2]) == {"kept@stayers"}
    await call(promoted.address, CreateTopicRequest("T", 1, 1, 6))
    await send(cluster.pool, promoted.address, "T", b"new")
    assert await until_answered(cluster, promoted, "T", 1) == [b"new"]
    assert await until_answered(cluster, promoted, "kept", 3) == [b"0", b"1", b"2"]


async def test_where_the_master_suggests_it_a_slow_consumer_reads_from_the_slave(cluster: Cluster) -> None:
    """With accessMessageInMemoryMaxRatio=0 everything is far behind."""
    settings = {"slave_read_enable": True, "access_message_in_memory_max_ratio": 0}
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER, **settings)
    slave = await cluster.broker("slave", BrokerRole.SLAVE, **settings)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(100):
        await send(cluster.pool, master.address, "T", b"%d" % number)
    await until_answered(cluster, slave, "T", 1, offset=99)
    assert bounds(await pull(cluster.pool, master.address, "T")).suggest_which_broker_id == 1

    async def served(broker: Broker) -> int:
        reply = await cluster.pool.call(broker.address, GetBrokerRuntimeInfoRequest())
        return int(KVTable.decode(reply.body).table["msgGetTotalTodayNow"])

    before = await served(slave)
    async with (
        pymq.Client(cluster.names.address, settings=Settings(pull_batch=10)) as mq,
        mq.consumer("consumers", "T", start="first") as consumer,
        asyncio.timeout(90),
    ):
        got: list[bytes] = []
        while len(got) < 100:
            for message in await consumer.fetch():
                message.ack()
                got.append(message.body)
        assert got == [b"%d" % number for number in range(100)]
        assert await served(slave) - before >= 90, "all but what the first answer had"

        async def knows_the_member() -> bool:
            header = GetConsumerListByGroupRequest("consumers")
            reply = await cluster.pool.call(slave.address, header, accept=(0, 1))
            return reply.code == 0 and mq.client_id.encode() in reply.body

        await eventually(knows_the_member)


async def test_a_slave_refuses_all_that_would_write_and_its_log_stays_its_masters(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    await until_code(cluster, master, 0)
    await until_answered(cluster, slave, "T", 1)
    before = cluster.log("slave")
    group = SubscriptionGroupConfig("g").encode()
    batch = encode_batch([BatchEntry(b"1", ""), BatchEntry(b"2", "")])
    half = "UNIQ_KEY\x01A\x02TRAN_MSG\x01true\x02PGROUP\x01p\x02"
    away = ResponseCode.SERVICE_NOT_AVAILABLE
    cases: list[tuple[Header, bytes, int]] = [
        (send_header("T"), b"x", away),
        (send_header("T", properties=UNIQUE + "DELAY\x013"), b"x", away),
        (send_header("T", properties=UNIQUE + "TIMER_DELAY_SEC\x0160"), b"x", away),
        (send_header("T", properties=half, sys_flag=4), b"x", away),
        (send_header("new topic".replace(" ", "-")), b"x", away),
        (send_header("T", batch="true"), batch, away),
        (SendMessageRequest("p", "T", 0, 0, 1, 0, properties=UNIQUE), b"x", away),
        (SendBatchMessageRequest("p", "T", 0, 0, 1, 0, properties=UNIQUE, batch="true"), batch, away),
        (ConsumerSendMsgBackRequest(0, "consumers", 3), b"", ResponseCode.SYSTEM_ERROR),
        (EndTransactionRequest("p", 0, 0, 8, "A"), b"", ResponseCode.SLAVE_NOT_AVAILABLE),
        (CreateTopicRequest("U", 1, 1, 6), b"", ResponseCode.SYSTEM_ERROR),
        (UpdateAndCreateSubscriptionGroupRequest(), group, ResponseCode.SYSTEM_ERROR),
        (DeleteSubscriptionGroupRequest("g"), b"", ResponseCode.SYSTEM_ERROR),
    ]
    for header, body, code in cases:
        with pytest.raises(ResponseError) as refused:
            await cluster.pool.call(slave.address, header, body)
        assert refused.value.code == code, header
    topics, groups, _ = await tables(cluster, slave)
    assert not topics & {"U", "new-topic"}
    assert "g" not in groups
    assert cluster.log("slave") == before == cluster.log("master")


async def test_mqadmin_deletes_topics_though_it_asks_slaves_too(cluster: Cluster) -> None:
    """It ends at the first no; a slave says yes, and leaves it to its master."""
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "T", b"x")
    await until_answered(cluster, slave, "T", 1)
    reply = await cluster.pool.call(slave.address, DeleteTopicInBrokerRequest("T"))
    assert reply.code == ResponseCode.SUCCESS
    assert await until_answered(cluster, slave, "T", 1) == [b"x"], "it is the master's to delete"


async def test_both_say_how_replication_stands(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "T", b"x")
    await until_answered(cluster, slave, "T", 1)

    async def status(broker: Broker) -> HaStatus:
        return HaStatus.decode((await cluster.pool.call(broker.address, GetBrokerHaStatusRequest())).body)

    async def has_reported() -> bool:
        return (await status(master)).ha_connection_info[0].diff == 0

    await eventually(has_reported)
    mine, theirs = await status(master), (await status(slave)).ha_client_runtime_info
    end = len(cluster.log("master"))
    [of_slave] = mine.ha_connection_info
    assert mine.master
    assert (mine.master_commit_log_max_offset, mine.in_sync_slave_nums) == (end, 1)
    assert (of_slave.slave_ack_offset, of_slave.transfer_from_where, of_slave.in_sync) == (end, end, True)
    assert (theirs.max_offset, theirs.activated) == (end, True)
    assert theirs.master_addr.endswith(f":{master.port + 1}")
    assert min(theirs.last_read_timestamp, theirs.last_write_timestamp) > 1_700_000_000_000
    await master.stop()  # type: ignore[attr-defined]

    async def is_alone() -> bool:
        return not (await status(slave)).ha_client_runtime_info.activated

    await eventually(is_alone)
