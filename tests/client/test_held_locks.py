"""The queue locks of ordered consumption: who owns a queue, and for how long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from pymq.client import Client, ReceivedMessage
from pymq.protocol.codes import RequestCode
from pymq.protocol.headers.groups import LockBatchMqRequest
from pymq.protocol.headers.messaging import (
    PullMessageRequest,
)
from pymq.transport.pool import Pool
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until
from tests.client.ordering import RETRY, committed, fill, got_next, holder, ordered, orders


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(queues=2) as cluster:
        cluster.topics.append("%RETRY%g")
        yield cluster


async def test_a_block_that_is_cancelled_gives_its_message_back_before_the_next(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 2)
    async with ordered(mq) as consumer:
        begun = asyncio.Event()

        async def handle() -> None:
            async with (await consumer.receive()).process():
                begun.set()
                await asyncio.sleep(60)

        handling = asyncio.create_task(handle())
        await begun.wait()
        handling.cancel()
        assert [(await consumer.receive()).body for _ in range(1)] == [b"0"]


async def test_a_lock_that_a_broker_gives_when_nobody_waits_any_more_is_given_back(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    """Else a member that leaves after a pause of its broker would lock the queue for another minute."""
    broker.silent.add(RequestCode.LOCK_BATCH_MQ)
    settings = msgspec.structs.replace(FAST, lock_timeout_s=0.05, lock_retry_s=60.0, rebalance_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq:
        async with ordered(mq) as consumer:
            assert consumer.queues() == []
            broker.locks["g", orders(0)] = mq.client_id  # it has read the request
        assert holder(broker, 0) is None


async def test_a_queue_that_another_member_holds_is_left_alone_until_it_is_free(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 1)
    broker.locks["g", orders(0)] = "other"
    async with ordered(mq) as consumer:
        assert orders(0) not in consumer.queues()
        assert orders(1) in consumer.queues()
        assert await consumer.fetch(wait=0.1) == []
        del broker.locks["g", orders(0)]
        assert (await consumer.receive()).body == b"0"


async def test_locks_are_renewed(broker: FakeBroker, mq: Client) -> None:
    async with ordered(mq):
        before = len(broker.requests(LockBatchMqRequest))
        await until(lambda: len(broker.requests(LockBatchMqRequest)) >= before + 3)


async def test_a_lock_that_was_lost_ends_what_was_to_come_and_commits_nothing(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 3)
    settings = msgspec.structs.replace(FAST, commit_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq, ordered(mq) as consumer:
        m = await consumer.receive()
        broker.locks["g", orders(0)] = "other"
        broker.offsets["g", "orders", 0] = 2  # so far the other one has come
        await until(lambda: orders(0) not in consumer.queues())
        m.ack()
        assert await consumer.fetch(wait=0.05) == []
        assert committed(broker) == 2
        del broker.locks["g", orders(0)]
        assert (await consumer.receive()).body == b"2"


async def test_what_is_still_being_handled_keeps_a_queue_from_the_next_member(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 3)
    fill(broker, 3, queue_id=1)
    settings = msgspec.structs.replace(FAST, rebalance_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq, ordered(mq) as first:
        held = {m.queue.queue_id: m for m in [await first.receive(), await first.receive()]}
        async with Client(cluster.name_servers, settings=settings) as other, ordered(other) as second:
            await asyncio.sleep(0.3)
            assert [q for q in second.queues() if q.topic == "orders"] == []
            assert len([q for q in first.queues() if q.topic == "orders"]) == 2
            for m in held.values():
                m.ack()
            await until(lambda: len([q for q in second.queues() if q.topic == "orders"]) == 1)
            [theirs] = [q for q in second.queues() if q.topic == "orders"]
            assert await got_next(second) == b"1"
            [ours] = [q for q in first.queues() if q.topic == "orders"]
            assert theirs != ours
            assert await got_next(first) == b"1"
            assert holder(broker, theirs.queue_id) == other.client_id


async def test_nothing_is_given_out_while_its_broker_is_gone_and_the_locks_are_taken_anew(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 3)
    async with ordered(mq) as consumer:
        m = await consumer.receive()
        await broker.stop()
        await asyncio.sleep(0.1)
        m.ack()  # messages 1 and 2 are here, but may be another member's by now
        assert await consumer.fetch(wait=0.1) == []
        broker.locks.clear()
        await broker.restart()
        assert await got_next(consumer) == b"1"
        assert holder(broker, 0) == mq.client_id


async def test_a_broker_that_comes_back_having_locked_a_queue_for_another_is_believed(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 3)
    async with ordered(mq) as consumer:
        m = await consumer.receive()
        await broker.stop()
        await asyncio.sleep(0.1)
        broker.locks["g", orders(0)] = "other"
        await broker.restart()
        await until(lambda: orders(0) not in consumer.queues())
        m.ack()
        assert await consumer.fetch(wait=0.1) == []


async def test_a_lock_is_not_relied_on_for_longer_than_it_may_be(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 2)
    settings = msgspec.structs.replace(FAST, lock_valid_s=1.0, lock_renewal_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq, ordered(mq) as consumer:
        m = await consumer.receive()
        await asyncio.sleep(1.05)
        m.ack()
        assert await consumer.fetch(wait=0.1) == []


async def test_closing_waits_a_moment_for_what_is_being_handled(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 1)
    settings = msgspec.structs.replace(FAST, surrender_s=5.0, commit_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq:
        consumer = ordered(mq)
        await consumer.start()
        m = await consumer.receive()
        asyncio.get_running_loop().call_later(0.05, m.ack)
        await consumer.close()
    assert broker.locks == {}
    assert broker.offsets["g", "orders", 0] == 1


async def test_closing_leaves_a_queue_locked_of_which_a_message_is_still_being_handled(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    fill(broker, 1)
    async with ordered(mq) as consumer:
        m = await consumer.receive()
    assert broker.locks == {("g", orders(0)): mq.client_id}
    assert f"{m!r} is not settled: its queue stays locked" in caplog.text


async def test_a_lost_connection_is_noticed_while_nothing_is_pulled_over_it(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 5)
    fill(broker, 5, queue_id=1)
    settings = msgspec.structs.replace(FAST, lock_renewal_s=60.0, heartbeat_s=60.0, commit_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq:
        options = {"order": "ordered", "start": "first", "prefetch": 2}  # so all that may be held is held
        async with mq.consumer("g", "orders", **options) as consumer:  # type: ignore[arg-type]
            held = [await consumer.receive(), await consumer.receive()]
            await until(lambda: len(broker.requests(PullMessageRequest)) >= 2)
            broker.locks["g", orders(0)] = broker.locks["g", orders(1)] = "other"
            await broker.stop()
            await broker.restart()
            for m in held:
                m.ack()
            assert await consumer.fetch(wait=0.2) == []


async def test_a_thread_that_cannot_be_stopped_keeps_its_queue_locked(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 2)
    fill(broker, 2, queue_id=1)
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    end = threading.Event()

    def handle(message: ReceivedMessage) -> None:
        if message.queue.queue_id == 0:
            loop.call_soon_threadsafe(begun.set)
            end.wait(10)

    consuming = asyncio.create_task(
        mq.consume("g", "orders", handle, order="ordered", start="first", grace=0.05)
    )
    await begun.wait()
    await until(lambda: committed(broker, 1) == 2)
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    end.set()
    assert broker.locks == {("g", orders(0)): mq.client_id}


async def test_mqadmin_is_told_of_order_and_locks(broker: FakeBroker, mq: Client) -> None:
    before_ms = int(time.time() * 1000)
    async with ordered(mq):
        info = mq._instance._members["g"].running_info(["n:1"])
        assert info.properties["PROP_CONSUMEORDERLY"] == "true"
        assert {queue: each.locked for queue, each in info.mq_table.items()} == {
            RETRY: True,
            orders(0): True,
            orders(1): True,
        }
        assert before_ms - 5 <= info.mq_table[RETRY].last_lock_timestamp <= int(time.time() * 1000) + 5
        await broker.stop()
        await until(lambda: not mq._instance._members["g"].running_info([]).mq_table[RETRY].locked)
    async with mq.consumer("h", "orders"):
        info = mq._instance._members["h"].running_info(["n:1"])
        assert info.properties["PROP_CONSUMEORDERLY"] == "false"
        assert not any(each.locked for each in info.mq_table.values())


async def test_a_start_that_is_cancelled_while_it_locks_leaves_no_lock_behind(
    broker: FakeBroker, mq: Client
) -> None:
    broker.locks["g", orders(0)] = mq.client_id  # as if the broker had taken the request in hand
    broker.silent.add(RequestCode.LOCK_BATCH_MQ)
    starting = asyncio.create_task(ordered(mq).start())
    await until(lambda: len(broker.requests(LockBatchMqRequest)) > 0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert broker.locks == {}


async def test_a_broker_that_was_silent_is_told_all_the_same_that_a_lock_is_free(
    broker: FakeBroker, mq: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may only have been slow: what it is not told keeps the queue from others for a minute."""
    async with ordered(mq) as consumer:
        await until(lambda: holder(broker, 0) == holder(broker, 1) == mq.client_id)
        monkeypatch.setattr(Pool, "is_silent", lambda self, address: True)
        await consumer.close()
        await until(lambda: holder(broker, 0) is holder(broker, 1) is None)
