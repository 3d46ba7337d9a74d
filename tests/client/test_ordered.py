"""Ordered consumption, through real connections to brokers that behave as told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from pymq.client import Client, ReceivedMessage
from pymq.errors import ConfigError, ResponseError
from pymq.protocol.codes import RequestCode
from pymq.protocol.headers.groups import LockBatchMqRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    SendMessageRequestV2,
)
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until
from tests.client.ordering import RETRY, committed, fill, got_next, holder, ordered, orders


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(queues=2) as cluster:
        cluster.topics.append("%RETRY%g")
        yield cluster


async def test_a_queue_gives_out_one_message_at_a_time_in_its_order(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 5)
    fill(broker, 5, queue_id=1)
    async with ordered(mq) as consumer:
        for number in range(5):
            pair = [await consumer.receive(), await consumer.receive()]
            assert sorted(m.queue.queue_id for m in pair) == [0, 1]
            assert {m.body for m in pair} == {str(number).encode()}
            assert await consumer.fetch(wait=0.02) == []
            for m in pair:
                m.ack()


async def test_a_message_that_fails_comes_again_in_its_place_and_counts_its_failures(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 3)
    got: list[tuple[bytes, int]] = []
    async with ordered(mq, suspend=0.2) as consumer:
        loop = asyncio.get_running_loop()
        while len(got) < 5:
            m = await consumer.receive()
            got.append((m.body, m.reconsume_times))
            if m.body == b"1" and m.reconsume_times < 2:
                failed_at = loop.time()
                await m.retry()
                assert await consumer.fetch(wait=0.1) == []  # nothing passes it
            else:
                if m.body == b"1":
                    assert loop.time() - failed_at >= 0.19
                m.ack()
        await until(lambda: committed(broker) == 3)
    assert got == [(b"0", 0), (b"1", 0), (b"1", 1), (b"1", 2), (b"2", 0)]
    assert broker.requests(ConsumerSendMsgBackRequest) == []
    assert broker.requests(SendMessageRequestV2) == []


async def test_a_failing_message_is_retried_without_end_unless_told_otherwise(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 1)
    async with ordered(mq) as consumer:
        for times in range(20):
            m = await consumer.receive()
            assert m.reconsume_times == times
            await m.retry()
    assert broker.requests(SendMessageRequestV2) == []


async def test_after_too_many_failures_a_message_is_sent_to_the_dead_letters_and_the_queue_goes_on(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 2)
    got: list[tuple[bytes, int]] = []
    async with ordered(mq, max_retries=3) as consumer:
        while len(got) < 5:
            m = await consumer.receive()
            got.append((m.body, m.reconsume_times))
            if m.body == b"0":
                await m.retry()
            else:
                m.ack()
        await until(lambda: committed(broker) == 2)
    assert got == [(b"0", 0), (b"0", 1), (b"0", 2), (b"0", 3), (b"1", 0)]
    [sent] = broker.requests(SendMessageRequestV2)
    assert sent.topic == "%RETRY%g"
    assert sent.reconsume_times >= sent.max_reconsume_times  # so the broker takes it for a dead letter


async def test_a_dead_letter_that_no_broker_takes_holds_up_its_queue(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 2)
    broker.refusals[RequestCode.SEND_MESSAGE_V2] = [ResponseError(14, "full")]
    async with ordered(mq, max_retries=0) as consumer:
        m = await consumer.receive()
        await m.retry()
        m = await consumer.receive()
        assert (m.body, m.reconsume_times) == (b"0", 1)
        await m.retry()
        assert (await consumer.receive()).body == b"1"
    assert len(broker.requests(SendMessageRequestV2)) == 2


async def test_a_message_can_be_sent_to_the_dead_letters_at_once(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 2)
    async with ordered(mq) as consumer:
        await (await consumer.receive()).retry(-1)
        assert (await consumer.receive()).body == b"1"
    [sent] = broker.requests(SendMessageRequestV2)
    assert sent.reconsume_times >= sent.max_reconsume_times


async def test_queues_are_locked_while_owned_and_unlocked_after_the_last_commit(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 1)
    settings = msgspec.structs.replace(FAST, commit_s=60.0)
    async with Client(cluster.name_servers, settings=settings) as mq:
        async with ordered(mq) as consumer:
            assert {holder(broker, 0), holder(broker, 1), broker.locks["g", RETRY]} == {mq.client_id}
            (await consumer.receive()).ack()
        assert committed(broker) == 1
        assert broker.locks == {}


async def test_a_message_that_is_never_settled_holds_up_its_queue_and_is_told_once(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    fill(broker, 2)
    consumer = mq.consumer("g", "orders", order="ordered", start="first", consume_timeout=0.05)
    with caplog.at_level(logging.WARNING):
        async with consumer:
            m = await consumer.receive()
            assert await consumer.fetch(wait=0.3) == []
            m.ack()
            (await consumer.receive()).ack()
    assert caplog.text.count("its queue waits for it") == 1


async def test_offsets_set_from_outside_do_not_let_a_message_overtake_the_one_being_handled(
    broker: FakeBroker, mq: Client
) -> None:
    fill(broker, 4)
    async with ordered(mq) as consumer:
        m = await consumer.receive()
        member = consumer._joined()
        await member.reset({orders(0): 2})
        assert await consumer.fetch(wait=0.1) == []
        m.ack()
        assert await got_next(consumer) == b"2"
        await until(lambda: committed(broker) == 3)


async def test_in_broadcasting_order_needs_no_locks(
    cluster: FakeCluster, broker: FakeBroker, tmp_path: str
) -> None:
    fill(broker, 3)
    got: list[tuple[bytes, int]] = []
    async with (
        Client(cluster.name_servers, settings=FAST, offsets_folder=str(tmp_path)) as mq,
        mq.consumer(
            "g", "orders", order="ordered", broadcast=True, start="first", suspend=0.01, max_retries=1
        ) as c,
    ):
        while len(got) < 4:
            m = await c.receive()
            got.append((m.body, m.reconsume_times))
            if m.body == b"0":
                await m.retry()
            else:
                m.ack()
    assert got == [(b"0", 0), (b"0", 1), (b"1", 0), (b"2", 0)]
    assert broker.requests(LockBatchMqRequest) == []


async def test_handlers_of_several_queues_run_side_by_side_each_queue_in_order(
    broker: FakeBroker, mq: Client
) -> None:
    for queue_id in range(2):
        fill(broker, 20, queue_id)
    got: dict[int, list[int]] = {0: [], 1: []}
    busy: set[int] = set()
    most = 0

    async def handle(message: ReceivedMessage) -> None:
        nonlocal most
        queue_id = message.queue.queue_id
        assert queue_id not in busy
        busy.add(queue_id)
        most = max(most, len(busy))
        await asyncio.sleep(0.001)
        busy.discard(queue_id)
        if len(got[queue_id]) == 10 and message.reconsume_times == 0:
            raise ValueError("once")
        got[queue_id].append(int(message.body))

    consuming = asyncio.create_task(
        mq.consume("g", "orders", handle, order="ordered", start="first", suspend=0.01)
    )
    await until(lambda: consuming.done() or sum(map(len, got.values())) == 40)
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert got == {0: list(range(20)), 1: list(range(20))}
    assert most == 2
    assert broker.locks == {}


@pytest.mark.parametrize(
    "options",
    [{"order": "sorted"}, {"order": "ordered", "suspend": 31}, {"order": "ordered", "suspend": 0.001}],
)
async def test_what_is_wrong_about_an_ordered_consumer_is_said_when_it_is_made(
    mq: Client, options: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        mq.consumer("g", "orders", **options)  # type: ignore[arg-type]


async def test_who_is_cancelled_while_a_message_goes_to_the_dead_letters_does_not_stop_its_queue(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 2)
    broker.silent.add(RequestCode.SEND_MESSAGE_V2)
    settings = msgspec.structs.replace(FAST, send_back_timeout_s=0.2)
    async with Client(cluster.name_servers, settings=settings) as mq, ordered(mq, max_retries=0) as consumer:
        retrying = asyncio.create_task((await consumer.receive()).retry())
        await until(lambda: bool(broker.requests(SendMessageRequestV2)))
        retrying.cancel()
        await asyncio.wait([retrying])
        assert retrying.cancelled()
        again = await asyncio.wait_for(consumer.receive(), 30)
        assert (again.body, again.reconsume_times) == (b"0", 1)
        broker.silent.clear()
        await again.retry()
        assert await asyncio.wait_for(got_next(consumer), 30) == b"1"
        await until(lambda: committed(broker) == 2)


async def test_a_dead_letter_is_cancelled_at_no_step_on_its_way(broker: FakeBroker, mq: Client) -> None:
    fill(broker, 13)
    async with ordered(mq) as consumer:
        for steps in range(1, 13):
            message = await asyncio.wait_for(consumer.receive(), 30)
            assert message.body == str(steps - 1).encode()
            retrying = asyncio.create_task(message.retry(-1))
            for _ in range(steps):
                await asyncio.sleep(0)
            retrying.cancel()
            await asyncio.wait([retrying])
        assert await asyncio.wait_for(got_next(consumer), 30) == b"12"
    assert len(broker.requests(SendMessageRequestV2)) == 12


async def test_a_consumer_that_closes_lets_a_dead_letter_get_there() -> None:
    settings = msgspec.structs.replace(FAST, send_back_timeout_s=0.5)
    async with FakeCluster(brokers=2, topics=("orders", "%RETRY%g")) as cluster:
        own, other = cluster.brokers
        fill(own, 1)
        other.silent.add(RequestCode.SEND_MESSAGE_V2)  # it is asked first
        async with Client(cluster.name_servers, settings=settings) as mq:
            async with ordered(mq) as consumer:
                retrying = asyncio.create_task((await consumer.receive()).retry(-1))
                await until(lambda: bool(other.requests(SendMessageRequestV2)))
            assert retrying.done()
            assert len(own.requests(SendMessageRequestV2)) == 1
            assert committed(own) == 1


async def test_a_consumer_that_closes_waits_for_no_dead_letter_for_ever(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    fill(broker, 1)
    broker.silent.add(RequestCode.SEND_MESSAGE_V2)
    settings = msgspec.structs.replace(FAST, send_back_timeout_s=60.0, close_timeout_s=0.1)
    async with Client(cluster.name_servers, settings=settings) as mq:
        async with ordered(mq) as consumer:
            retrying = asyncio.create_task((await consumer.receive()).retry(-1))
            await until(lambda: bool(broker.requests(SendMessageRequestV2)))
            closes = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closes < 20
        await asyncio.wait([retrying])
        assert committed(broker) in (None, 0), "it comes again to another member"
        assert holder(broker, 0) is None
