"""A master, its slave and a name server, as a cluster has them; clients of both."""

from __future__ import annotations

import asyncio

import pytest

import pymq
from pymq.broker.broker_config import BrokerRole, FlushDiskType
from pymq.client.settings import Settings
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    SendMessageRequestV2,
    UpdateConsumerOffsetRequest,
)
from pymq.protocol.message import BatchEntry, encode_batch
from pymq.protocol.message_ids import decode_offset_msg_id
from tests.broker.asking import bounds, pull, send, send_header
from tests.integration.replicated_cluster import Cluster, cluster, stop, until_answered, until_code

__all__ = ["cluster"]


async def test_a_slave_finds_its_master_copies_its_log_and_serves_it(cluster: Cluster) -> None:
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(20):
        await send(cluster.pool, master.address, "T", b"%d" % number)
    assert await until_answered(cluster, slave, "T", 20) == [b"%d" % number for number in range(20)]
    assert cluster.log("slave") == cluster.log("master")


async def test_a_sync_master_says_what_became_of_the_slave(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    with pytest.raises(ResponseError) as none:
        await send(cluster.pool, master.address, "T", b"alone")
    assert none.value.code == ResponseCode.SLAVE_NOT_AVAILABLE
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    await asyncio.gather(*(send(cluster.pool, master.address, "T", b"%d" % n) for n in range(200)))
    assert cluster.log("slave") == cluster.log("master"), "what is acknowledged is there"
    await stop(slave)
    await until_code(cluster, master, ResponseCode.SLAVE_NOT_AVAILABLE)
    await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    assert cluster.log("slave") == cluster.log("master")


async def test_with_a_synchronous_flush_both_are_waited_for(cluster: Cluster) -> None:
    settings = {"flush_disk_type": FlushDiskType.SYNC_FLUSH, "sync_flush_timeout": 60_000}
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER, **settings)
    await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    await asyncio.gather(*(send(cluster.pool, master.address, "T", b"%d" % n) for n in range(100)))
    assert cluster.log("slave") == cluster.log("master")


async def test_a_slave_refuses_what_is_its_masters(cluster: Cluster) -> None:
    await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    with pytest.raises(ResponseError, match="is a slave of a: send to its master") as refused:
        await send(cluster.pool, slave.address, "T", b"x")
    assert refused.value.code == ResponseCode.SERVICE_NOT_AVAILABLE
    with pytest.raises(ResponseError, match="Can't modify topic or subscription group from slave broker"):
        await cluster.pool.call(slave.address, CreateTopicRequest("T", 1, 1, 6))


async def test_a_slave_that_is_promoted_goes_on_where_the_master_was(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(10):
        await send(cluster.pool, master.address, "T", b"%d" % number)
    await cluster.pool.call(master.address, UpdateConsumerOffsetRequest("consumers", "T", 0, 7))
    delayed = "UNIQ_KEY\x01D\x02DELAY\x013"
    await send(cluster.pool, master.address, "T", b"later", properties=delayed)
    await until_answered(cluster, slave, "T", 10)
    header = QueryConsumerOffsetRequest("consumers", "T", 0)
    async with asyncio.timeout(60):
        offset = -1
        while offset != 7:
            reply = await cluster.pool.call(slave.address, header, accept=(0, 22))
            offset = reply.read(QueryConsumerOffsetResponse).offset if reply.code == 0 else -1
            await asyncio.sleep(0.05)
    await stop(master)
    await stop(slave)
    promoted = await cluster.broker("slave", BrokerRole.ASYNC_MASTER, message_delay_level="1s 5s 1s 30s 1m")
    async with pymq.Client(cluster.names.address, settings=Settings(commit_s=0.05)) as mq:
        result = await mq.send("T", "new")
        assert result.queue.broker_name == "a"
        assert result.queue_offset in (10, 11), "the delayed one may be delivered before"
        async with mq.consumer("consumers", "T", start="first") as consumer, asyncio.timeout(90):
            got: list[bytes] = []
            while len(got) < 5:
                for message in await consumer.fetch():
                    message.ack()
                    got.append(message.body)
        assert got[:3] == [b"7", b"8", b"9"]
        assert set(got[3:]) == {b"new", b"later"}
    assert promoted.address


async def test_a_consumer_reads_on_from_the_slave_when_the_master_has_gone(cluster: Cluster) -> None:
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    await until_code(cluster, master, 0)
    settings = Settings(commit_s=0.05, poll_name_server_s=0.2)
    async with (
        pymq.Client(cluster.names.address, settings=settings) as mq,
        mq.consumer("consumers", "T", start="first", prefetch=1) as consumer,
        asyncio.timeout(90),
    ):
        seen: list[bytes] = []
        for number in range(40):
            await send(cluster.pool, master.address, "T", b"%d" % number)
        while len(seen) < 10:
            message = await consumer.receive()
            message.ack()
            seen.append(message.body)
        await stop(master)
        while b"39" not in seen:
            message = await consumer.receive()
            message.ack()
            seen.append(message.body)
    assert [body for body in dict.fromkeys(seen) if body != b"x"] == [b"%d" % number for number in range(40)]


async def test_a_slave_moves_no_consumer_that_is_ahead_of_it(cluster: Cluster) -> None:
    """Apache's slave lets it ask again and again; a master would send it back to where its log ends."""
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    await send(cluster.pool, master.address, "T", b"0")
    await until_answered(cluster, slave, "T", 1)
    assert (await pull(cluster.pool, master.address, "T", offset=100)).code == ResponseCode.PULL_OFFSET_MOVED
    reply = await pull(cluster.pool, slave.address, "T", offset=100)
    assert (reply.code, bounds(reply).next_begin_offset) == (ResponseCode.PULL_NOT_FOUND, 100)


async def test_producers_leave_out_a_master_that_has_gone_and_take_it_up_again(cluster: Cluster) -> None:
    masters = {name: await cluster.broker(name, BrokerRole.ASYNC_MASTER, broker_name=name) for name in "ab"}
    for master in masters.values():
        await cluster.pool.call(master.address, CreateTopicRequest("T", 4, 4, 6))
    settings = Settings(poll_name_server_s=0.1, suspect_s=0.5, commit_s=0.05, rebalance_s=0.2)
    async with pymq.Client(cluster.names.address, settings=settings) as mq, asyncio.timeout(90):
        sent = [await mq.send("T", b"%d" % number) for number in range(16)]
        assert {result.queue.broker_name for result in sent} == {"a", "b"}
        await stop(masters["a"])
        sent = [await mq.send("T", b"%d" % number) for number in range(16, 32)]
        assert {result.queue.broker_name for result in sent} == {"b"}
        await cluster.broker("a", BrokerRole.ASYNC_MASTER, broker_name="a")
        back = 32
        while (await mq.send("T", b"%d" % back)).queue.broker_name != "a":
            back += 1
            await asyncio.sleep(0.02)
        async with mq.consumer("consumers", "T", start="first") as consumer:
            seen: set[bytes] = set()
            while len(seen) < back + 1:
                message = await consumer.receive()
                message.ack()
                seen.add(message.body)


async def test_who_waits_for_a_slave_and_who_does_not(cluster: Cluster) -> None:
    """Without a slave each kind of send says so at once, but for those whose senders do not want to know."""
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    one = "UNIQ_KEY\x01A\x02"
    sent = await send(cluster.pool, master.address, "T", b"at once", properties=one + "WAIT\x01false")

    async def code(header: SendMessageRequestV2, body: bytes = b"x") -> int:
        reply = await cluster.pool.call(master.address, header, body, accept=tuple(range(20)))
        return reply.code

    assert await code(send_header("T", properties=one)) == ResponseCode.SLAVE_NOT_AVAILABLE
    assert await code(send_header("T", properties=one + "DELAY\x013")) == ResponseCode.SLAVE_NOT_AVAILABLE
    timed = send_header("T", properties=one + "TIMER_DELAY_SEC\x0160")
    assert await code(timed) == ResponseCode.SLAVE_NOT_AVAILABLE
    assert await code(send_header("T", properties=one + "WAIT\x01FALSE\x02DELAY\x013")) == 0
    batch = encode_batch([BatchEntry(b"1", "WAIT\x01true"), BatchEntry(b"2", "WAIT\x01true")])
    for wait, expected in ((b"true", ResponseCode.SLAVE_NOT_AVAILABLE), (b"false", ResponseCode.SUCCESS)):
        header = send_header("T", properties=f"WAIT\x01{wait.decode()}", batch="true")
        assert await code(header, batch) == expected
    connection = await cluster.pool.connection(master.address)
    connection.oneway(send_header("T", properties=one), b"oneway")
    place = decode_offset_msg_id(sent.msg_id)[1]
    await cluster.pool.call(
        master.address, ConsumerSendMsgBackRequest(place, "g", 3)
    )  # a success, or it fails
    assert b"oneway" in await until_answered(cluster, master, "T", 7)


async def test_a_master_may_go_before_its_slave_has_asked_it_for_a_new_topic(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.broker.replication.metadata._HURRY_S", 0.5)
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await cluster.pool.call(master.address, CreateTopicRequest("new", 1, 1, 6))
    await send(cluster.pool, master.address, "new", b"x")
    async with asyncio.timeout(60):
        while cluster.log("slave") != cluster.log("master"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await stop(master)
    assert await until_answered(cluster, slave, "new", 1) == [b"x"]
