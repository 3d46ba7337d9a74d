"""Consuming, through real connections to brokers that behave as told."""

from __future__ import annotations

import asyncio
import datetime
import logging
import threading
import time
from pathlib import Path

import msgspec
import pytest

from pymq.client import (
    Client,
    ClientClosed,
    Consumer,
    FlowControl,
    GroupTaken,
    MessageInvalid,
    ReceivedMessage,
)
from pymq.client.delivery import Order
from pymq.client.offset_store import LocalOffsets
from pymq.errors import ConfigError, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.groups import UnregisterClientRequest
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest, PullMessageRequest
from pymq.protocol.message import compress_body
from pymq.protocol.tag_filter import TagExpressionError
from pymq.system_disk import SystemDisk
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, tagged, until

SEND_BACK = RequestCode.CONSUMER_SEND_MSG_BACK


def committed(broker: FakeBroker, queue_id: int = 0, group: str = "g", topic: str = "orders") -> int | None:
    return broker.offsets.get((group, topic, queue_id))


async def take(consumer: Consumer, count: int) -> list[ReceivedMessage]:
    """Fetch until there are `count` messages."""
    messages: list[ReceivedMessage] = []
    async with asyncio.timeout(20):
        while len(messages) < count:
            messages += await consumer.fetch(count - len(messages))
    return messages


# -- getting messages ---------------------------------------------------------------------------------


async def test_what_is_stored_and_what_comes_later_is_given_out(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"stored")
    async with mq.consumer("g", "orders", start="first") as consumer:
        assert [m.body for m in await consumer.fetch(wait=2)] == [b"stored"]
        broker.put("orders", 3, b"fresh")
        (fresh,) = await consumer.fetch(wait=2)
        assert (fresh.body, fresh.queue, fresh.queue_offset) == (b"fresh", queue(3), 0)


async def test_an_empty_fetch_gives_an_empty_list_in_time(mq: Client) -> None:
    async with mq.consumer("g", "orders") as consumer:
        started = time.monotonic()
        assert await consumer.fetch(wait=0.05) == []
        assert time.monotonic() - started < 15
        assert await consumer.fetch(max=0) == []


async def test_a_fetch_gives_no_more_than_asked_for(broker: FakeBroker, mq: Client) -> None:
    for _ in range(10):
        broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        await asyncio.sleep(0.05)
        assert [len(await consumer.fetch(max=4)) for _ in range(3)] == [4, 4, 2]


async def test_a_message_shows_what_its_producer_gave(broker: FakeBroker, mq: Client) -> None:
    properties = tagged("created", KEYS="o-1 o-2", UNIQ_KEY="ID", colour="blue")
    offset_id = broker.put("orders", 0, compress_body(b"body"), properties, sys_flag=1, flag=7)
    async with mq.consumer("g", "orders", start="first") as consumer:
        (m,) = await consumer.fetch()
    assert (m.topic, m.body, m.tags, m.keys, m.flag) == ("orders", b"body", "created", ("o-1", "o-2"), 7)
    assert (m.msg_id, m.offset_msg_id, m.properties["colour"]) == ("ID", offset_id, "blue")
    assert (m.born_host, m.store_host, m.reconsume_times) == ("127.0.0.1:2", "127.0.0.1:1", 0)
    assert m.born_time == datetime.datetime.fromtimestamp(0, datetime.UTC)


async def test_tags_are_checked_exactly_and_what_is_filtered_out_is_committed(
    broker: FakeBroker, mq: Client
) -> None:
    # "Aa" and "BB" have one Java hash: the broker lets both through.
    for tag in ("Aa", "BB", "other"):
        broker.put("orders", 0, tag.encode(), tagged(tag))
    broker.put("orders", 0, b"none")
    async with mq.consumer("g", "orders", tags="Aa || C", start="first") as consumer:
        (m,) = await take(consumer, 1)
        assert m.body == b"Aa"
        m.ack()
        await until(lambda: committed(broker) == 4)
    assert broker.requests(PullMessageRequest)[0].subscription == "Aa || C"


async def test_no_more_is_prefetched_than_allowed(broker: FakeBroker, mq: Client) -> None:
    for queue_id in range(4):
        for _ in range(100):
            broker.put("orders", queue_id, b"x" * 100)

    def pulled() -> int:
        return sum(
            h.queue_offset for h in {h.queue_id: h for h in broker.requests(PullMessageRequest)}.values()
        )

    async with mq.consumer("g", "orders", start="first", prefetch=40) as consumer:
        messages = await take(consumer, 40)
        await asyncio.sleep(0.05)
        assert await consumer.fetch(wait=0.05) == []
        for m in messages:
            m.ack()
        assert len(await take(consumer, 40)) == 40
    async with mq.consumer("h", "orders", start="first", prefetch_bytes=4000) as consumer:
        await asyncio.sleep(0.1)
        held = 0
        while batch := await consumer.fetch(wait=0.05):
            held += len(batch)
        assert held <= 4 * 32  # one pull for each queue goes over its share of 1000 bytes
    assert pulled() <= 400


async def test_an_unsettled_message_holds_back_a_queue_at_the_span_limit(
    cluster: FakeCluster, mq: Client
) -> None:
    broker = cluster.brokers[0]
    for _ in range(200):
        broker.put("orders", 0, b"x")
    flow = FlowControl(consume_concurrently_max_span=50)
    async with mq.consumer("g", "orders", start="first", flow=flow) as consumer:
        (first,) = await take(consumer, 1)

        async def settle_all() -> int:
            count = 0
            while batch := await consumer.fetch(wait=0.05):
                for m in batch:
                    m.ack()
                count += len(batch)
            return count

        seen = await settle_all()
        assert 50 <= seen <= 50 + 32
        first.ack()
        assert seen + await settle_all() == 199


# -- settling and committing --------------------------------------------------------------------------


async def test_offsets_are_committed_up_to_the_oldest_unsettled_message(
    broker: FakeBroker, mq: Client
) -> None:
    for index in range(4):
        broker.put("orders", 0, str(index).encode())
    async with mq.consumer("g", "orders", start="first") as consumer:
        messages = await take(consumer, 4)
        for m in (messages[0], messages[1], messages[3]):
            m.ack()
        await until(lambda: committed(broker) == 2)
        await asyncio.sleep(3 * FAST.commit_s)
        assert committed(broker) == 2
    assert committed(broker) == 2
    async with mq.consumer("g", "orders") as consumer:
        assert [m.body for m in await take(consumer, 2)] == [b"2", b"3"]


async def test_closing_commits_what_was_settled_and_leaves_the_group(cluster: FakeCluster) -> None:
    broker = cluster.brokers[0]
    broker.put("orders", 0, b"x")
    settings = msgspec.structs.replace(FAST, commit_s=60)
    async with Client(cluster.name_servers, settings=settings) as mq:
        async with mq.consumer("g", "orders", start="first") as consumer:
            async for m in consumer:
                async with m.process():
                    break
        assert committed(broker) == 1
        assert broker.members["g"] == {}
        assert broker.requests(UnregisterClientRequest)[-1].consumer_group == "g"


async def test_a_failing_block_hands_the_message_back_and_the_loop_goes_on(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    broker.put("orders", 0, b"bad", tagged("t", UNIQ_KEY="ID"))
    broker.put("orders", 0, b"good")
    seen = []
    async with mq.consumer("g", "orders", start="first", max_retries=5) as consumer:
        async for m in consumer:
            async with m.process():
                seen.append(m.body)
                if m.body == b"bad":
                    raise RuntimeError("cannot")
            if len(seen) == 2:
                break
        await until(lambda: committed(broker) == 2)
    (back,) = broker.requests(ConsumerSendMsgBackRequest)
    assert (back.group, back.offset, back.delay_level) == ("g", 0, 0)
    assert (back.origin_msg_id, back.origin_topic, back.max_reconsume_times) == ("ID", "orders", 5)
    assert "cannot" in caplog.text


async def test_a_failing_block_raises_when_told_so(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"bad")
    async with mq.consumer("g", "orders", start="first") as consumer:
        (m,) = await take(consumer, 1)
        with pytest.raises(RuntimeError):
            async with m.process(reraise=True):
                raise RuntimeError("cannot")
        assert m.is_settled
    assert len(broker.requests(ConsumerSendMsgBackRequest)) == 1


async def test_a_message_that_its_broker_does_not_take_back_is_retried_here(
    broker: FakeBroker, mq: Client
) -> None:
    broker.refusals[SEND_BACK] = [ResponseError(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, "no")]
    broker.put("orders", 0, b"bad")
    async with mq.consumer("g", "orders", start="first") as consumer:
        (first,) = await take(consumer, 1)
        await first.retry()
        (second,) = await take(consumer, 1)
        assert (second.body, second.reconsume_times) == (b"bad", 1)
        assert committed(broker) in (None, 0)
        first.ack()  # settled before: of no effect
        assert committed(broker) in (None, 0)
        second.ack()
        await until(lambda: committed(broker) == 1)


async def test_a_cancelled_block_gives_the_message_back_at_once(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        (first,) = await take(consumer, 1)

        async def handle() -> None:
            async with first.process():
                await asyncio.sleep(60)

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        task.cancel()
        (second,) = await take(consumer, 1)
        assert (second.body, second.reconsume_times) == (b"x", 0)
    assert broker.requests(ConsumerSendMsgBackRequest) == []


async def test_a_message_that_nobody_settles_is_handed_back_after_the_consume_time_out(
    broker: FakeBroker, mq: Client
) -> None:
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first", consume_timeout=0.1) as consumer:
        (m,) = await take(consumer, 1)
        await until(lambda: bool(broker.requests(ConsumerSendMsgBackRequest)))
        assert broker.requests(ConsumerSendMsgBackRequest)[0].delay_level == 3
        await until(lambda: committed(broker) == 1)
        m.ack()  # too late, and harmless


async def test_a_message_from_the_retry_topic_shows_where_it_was_sent_to(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    cluster.topics.append("%RETRY%g")
    broker.put("%RETRY%g", 0, b"again", tagged("t", RETRY_TOPIC="orders"), reconsume_times=2)
    async with mq.consumer("g", "orders", tags="t") as consumer:
        (m,) = await take(consumer, 1)
        assert (m.topic, m.queue.topic, m.reconsume_times) == ("orders", "%RETRY%g", 2)
        m.ack()
        await until(lambda: committed(broker, topic="%RETRY%g") == 1)


# -- where to begin -----------------------------------------------------------------------------------


async def test_a_group_that_is_new_begins_where_it_is_told(broker: FakeBroker, mq: Client) -> None:
    for index in range(4):
        broker.put("orders", 0, str(index).encode())
    async with mq.consumer("a", "orders", start="first") as consumer:
        assert len(await take(consumer, 4)) == 4
    async with mq.consumer("b", "orders", start="last") as consumer:
        assert await consumer.fetch(wait=0.05) == []
    async with mq.consumer(
        "c", "orders", start=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    ) as consumer:
        assert len(await take(consumer, 2)) == 2
    told = [data.consumer_data_set[0].consume_from_where.value for data in broker.heartbeats]
    assert list(dict.fromkeys(told)) == [
        "CONSUME_FROM_FIRST_OFFSET",
        "CONSUME_FROM_LAST_OFFSET",
        "CONSUME_FROM_TIMESTAMP",
    ]


async def test_a_committed_offset_goes_before_what_was_told(broker: FakeBroker, mq: Client) -> None:
    for index in range(4):
        broker.put("orders", 0, str(index).encode())
    broker.offsets["g", "orders", 0] = 3
    async with mq.consumer("g", "orders", start="first") as consumer:
        (m,) = await take(consumer, 1)
        assert m.body == b"3"


async def test_a_queue_goes_on_where_the_broker_says_when_its_offset_is_gone(
    broker: FakeBroker, mq: Client
) -> None:
    for index in range(6):
        broker.put("orders", 0, str(index).encode())
    broker.offsets["g", "orders", 0] = 2
    broker.min_offset = 4
    async with mq.consumer("g", "orders") as consumer:
        assert [m.body for m in await take(consumer, 2)] == [b"4", b"5"]
    broker.offsets["g", "orders", 0] = 77
    async with mq.consumer("g", "orders") as consumer:
        assert [m.body for m in await take(consumer, 2)] == [b"4", b"5"]
        await until(lambda: committed(broker) == 4)


async def test_when_the_offset_cannot_be_learnt_nothing_is_skipped(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"x")
    broker.offsets["g", "orders", 0] = 0
    broker.refusals[RequestCode.QUERY_CONSUMER_OFFSET] = [ResponseError(1, "not now")] * 4
    async with mq.consumer("g", "orders", start="last") as consumer:
        assert consumer.queues() == []
        assert [m.body for m in await take(consumer, 1)] == [b"x"]


async def test_a_topic_that_comes_later_is_found(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    async with mq.consumer("g", "later", start="first") as consumer:
        assert consumer.queues() == []
        broker.put("later", 1, b"x")
        cluster.topics.append("later")
        assert [m.body for m in await take(consumer, 1)] == [b"x"]


# -- groups -------------------------------------------------------------------------------------------


async def test_members_share_the_queues_and_take_over_from_each_other(cluster: FakeCluster) -> None:
    broker = cluster.brokers[0]
    async with (
        Client(cluster.name_servers, settings=FAST) as one,
        Client(cluster.name_servers, settings=FAST) as two,
        one.consumer("g", "orders", start="first") as first,
    ):
        assert len(first.queues()) == 4
        async with two.consumer("g", "orders", start="first") as second:
            await until(lambda: len(first.queues()) == len(second.queues()) == 2)
            assert sorted(first.queues() + second.queues()) == [queue(index) for index in range(4)]
            for queue_id in range(4):
                broker.put("orders", queue_id, b"x")
            for consumer in (first, second):
                messages = await take(consumer, 2)
                assert {m.queue for m in messages} == set(consumer.queues())
                for m in messages:
                    m.ack()
        await until(lambda: len(first.queues()) == 4)
        assert await first.fetch(wait=0.05) == []  # what the other settled does not come again


async def test_a_revoked_queue_is_committed_and_what_comes_late_for_it_is_of_no_effect(
    cluster: FakeCluster,
) -> None:
    broker = cluster.brokers[0]
    for queue_id in range(4):
        broker.put("orders", queue_id, b"0")
        broker.put("orders", queue_id, b"1")
    settings = msgspec.structs.replace(FAST, commit_s=60)
    async with (
        Client(cluster.name_servers, settings=settings) as one,
        Client(cluster.name_servers, settings=settings) as two,
        one.consumer("g", "orders", start="first") as first,
    ):
        messages = await take(first, 8)
        for m in messages:
            if m.queue_offset == 0:
                m.ack()
        async with two.consumer("g", "orders") as second:
            await until(lambda: len(first.queues()) == 2)
            revoked = set(second.queues())
            await until(lambda: all(committed(broker, q.queue_id) == 1 for q in revoked))
            for m in messages:
                m.ack()
            assert all(committed(broker, q.queue_id) == 1 for q in revoked)


async def test_a_broker_that_comes_back_is_consumed_from_again(cluster: FakeCluster, mq: Client) -> None:
    broker = cluster.brokers[0]
    async with mq.consumer("g", "orders", start="first") as consumer:
        await broker.stop()
        await asyncio.sleep(0.1)
        await broker.restart()
        broker.put("orders", 2, b"x")
        assert [m.body for m in await take(consumer, 1)] == [b"x"]
        await until(lambda: mq.client_id in broker.members["g"])


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_a_broker_that_forgot_the_last_offsets_when_it_was_killed_is_told_them_again(
    cluster: FakeCluster, mq: Client, order: Order
) -> None:
    broker = cluster.brokers[0]
    broker.put("orders", 2, b"x")
    async with mq.consumer("g", "orders", start="first", order=order) as consumer:
        for message in await take(consumer, 1):
            message.ack()
        await until(lambda: committed(broker, 2) == 1)
        await broker.stop()
        broker.offsets.clear()
        await broker.restart()
        await until(lambda: committed(broker, 2) == 1)  # though there is nothing more to consume


async def test_a_consumer_starts_while_everything_is_down(cluster: FakeCluster, mq: Client) -> None:
    broker = cluster.brokers[0]
    await broker.stop()
    async with mq.consumer("g", "orders", start="first") as consumer:
        assert await consumer.fetch(wait=0.05) == []
        await broker.restart()
        broker.put("orders", 2, b"x")
        assert [m.body for m in await take(consumer, 1)] == [b"x"]


async def test_heartbeats_tell_the_group_and_its_subscriptions(broker: FakeBroker, mq: Client) -> None:
    async with mq.consumer("g", "orders", tags="a||b"):
        (consumer,) = broker.heartbeats[-1].consumer_data_set
    assert (consumer.group_name, consumer.message_model.value) == ("g", "CLUSTERING")
    subscriptions = {subscription.topic: subscription for subscription in consumer.subscription_data_set}
    assert set(subscriptions) == {"orders", "%RETRY%g"}
    assert subscriptions["orders"].sub_string == "a || b"
    assert subscriptions["orders"].code_set == {97, 98}
    assert subscriptions["%RETRY%g"].sub_string == "*"


async def test_a_client_has_one_consumer_in_a_group(mq: Client) -> None:
    async with mq.consumer("g", "orders"):
        with pytest.raises(GroupTaken):
            await mq.consumer("g", "orders").start()
    async with mq.consumer("g", "orders"):
        pass


async def test_several_topics_can_be_consumed_together(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    cluster.topics.append("bills")
    broker.put("orders", 0, b"o", tagged("a"))
    broker.put("bills", 0, b"b")
    async with mq.consumer("g", {"orders": "a", "bills": "*"}, start="first") as consumer:
        assert {m.topic for m in await take(consumer, 2)} == {"orders", "bills"}


@pytest.mark.parametrize(
    ("group", "options", "error"),
    [
        ("a b", {}, MessageInvalid),
        ("g", {"start": "middle"}, ConfigError),
        ("g", {"tags": "||"}, TagExpressionError),
    ],
)
async def test_what_is_wrong_about_a_consumer_is_said_when_it_is_made(
    mq: Client, group: str, options: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        mq.consumer(group, "orders", **options)  # type: ignore[arg-type]


# -- broadcasting -------------------------------------------------------------------------------------


async def test_in_broadcasting_every_member_gets_every_message_and_keeps_its_own_offsets(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    broker = cluster.brokers[0]
    for queue_id in range(4):
        broker.put("orders", queue_id, b"x")
    for name in ("one", "two", "one"):
        again = (tmp_path / name).exists()
        async with (
            Client(
                cluster.name_servers, settings=FAST, instance_name="i", offsets_folder=str(tmp_path / name)
            ) as mq,
            mq.consumer("g", "orders", broadcast=True, start="first") as consumer,
        ):
            assert len(consumer.queues()) == 4
            if again:
                assert await consumer.fetch(wait=0.05) == []
            else:
                messages = await take(consumer, 4)
                for m in messages[:3]:
                    m.ack()
                await messages[3].retry()  # is not retried: broadcasting
    assert broker.offsets == {}
    assert broker.requests(ConsumerSendMsgBackRequest) == []
    text = next((tmp_path / "one").rglob("offsets.json")).read_text()
    assert '{"brokerName":"broker-a","queueId":3,"topic":"orders"}:1' in text


async def test_offsets_files_as_java_writes_them_are_read(tmp_path: Path) -> None:
    fastjson = (
        '{\n\t"offsetTable":{{\n\t\t\t"brokerName":"broker-a",\n\t\t\t"queueId":0,\n\t\t\t"topic":"orders"\n'
        '\t\t}:2,{\n\t\t\t"brokerName":"broker-a",\n\t\t\t"queueId":1,\n\t\t\t"topic":"orders"\n\t\t}:5\n\t}\n}\n'
    )
    (tmp_path / "offsets.json").write_text(fastjson)
    assert await LocalOffsets(SystemDisk(), str(tmp_path)).read(queue(1)) == 5
    assert await LocalOffsets(SystemDisk(), str(tmp_path)).read(queue(2)) is None


@pytest.mark.parametrize("broken", ["", '{"offsetTable":{{"brok', "[]"])
async def test_a_broken_offsets_file_gives_way_to_its_backup(tmp_path: Path, broken: str) -> None:
    offsets = LocalOffsets(SystemDisk(), str(tmp_path))
    await offsets.commit({queue(0): 4}, wait=True)
    await offsets.commit({queue(0): 5}, wait=True)
    (tmp_path / "offsets.json").write_text(broken)
    assert await LocalOffsets(SystemDisk(), str(tmp_path)).read(queue(0)) == 4


# -- handlers -----------------------------------------------------------------------------------------


async def run_until(task: asyncio.Task[None], done: list[bytes], count: int) -> None:
    await until(lambda: len(done) >= count or task.done())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_coroutine_function_handles_messages_until_cancelled(broker: FakeBroker, mq: Client) -> None:
    for index in range(20):
        broker.put("orders", index % 4, str(index).encode())
    done: list[bytes] = []

    async def handle(message: ReceivedMessage) -> None:
        done.append(message.body)

    await run_until(asyncio.create_task(mq.consume("g", "orders", handle, start="first")), done, 20)
    assert sorted(map(int, done)) == list(range(20))
    assert [committed(broker, queue_id) for queue_id in range(4)] == [5, 5, 5, 5]


async def test_a_plain_function_runs_in_threads_as_many_at_once_as_told(
    broker: FakeBroker, mq: Client
) -> None:
    for index in range(4):
        broker.put("orders", index, b"x")
    done: list[bytes] = []
    together = threading.Barrier(4, timeout=5)

    def handle(message: ReceivedMessage) -> None:
        assert threading.current_thread() is not threading.main_thread()
        together.wait()
        done.append(message.body)

    await run_until(
        asyncio.create_task(mq.consume("g", "orders", handle, concurrency=4, start="first")), done, 4
    )
    assert [committed(broker, queue_id) for queue_id in range(4)] == [1, 1, 1, 1]


async def test_no_more_handlers_run_at_once_than_told(broker: FakeBroker, mq: Client) -> None:
    for _ in range(12):
        broker.put("orders", 0, b"x")
    done: list[bytes] = []
    running = most = 0

    async def handle(message: ReceivedMessage) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        done.append(message.body)

    await run_until(
        asyncio.create_task(mq.consume("g", "orders", handle, concurrency=3, start="first")), done, 12
    )
    assert most == 3


async def test_a_failing_handler_hands_back_and_does_not_stop_the_others(
    broker: FakeBroker, mq: Client
) -> None:
    for index in range(6):
        broker.put("orders", 0, str(index).encode())
    done: list[bytes] = []

    async def handle(message: ReceivedMessage) -> None:
        done.append(message.body)
        if message.body == b"2":
            raise ValueError("two")

    await run_until(asyncio.create_task(mq.consume("g", "orders", handle, start="first")), done, 6)
    assert len(broker.requests(ConsumerSendMsgBackRequest)) == 1
    assert committed(broker) == 6


async def test_handlers_under_way_may_end_when_consuming_is_cancelled(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"quick")
    broker.put("orders", 1, b"slow")
    begun: list[bytes] = []
    ended: list[bytes] = []

    async def handle(message: ReceivedMessage) -> None:
        begun.append(message.body)
        await asyncio.sleep(0.1 if message.body == b"quick" else 60)
        ended.append(message.body)

    consuming = asyncio.create_task(mq.consume("g", "orders", handle, grace=0.3, start="first"))
    await run_until(consuming, begun, 2)
    assert ended == [b"quick"]
    assert (committed(broker, 0), committed(broker, 1)) in ((1, None), (1, 0))


# -- coming and going ---------------------------------------------------------------------------------


async def test_a_closed_consumer_ends_its_loop_and_says_so(mq: Client) -> None:
    consumer = mq.consumer("g", "orders")
    with pytest.raises(ClientClosed):
        await consumer.fetch()
    await consumer.start()

    async def loop() -> int:
        return len([m async for m in consumer])

    looping = asyncio.create_task(loop())
    await asyncio.sleep(0)
    await consumer.close()
    await consumer.close()
    assert await asyncio.wait_for(looping, 30) == 0
    with pytest.raises(ClientClosed):
        await consumer.start()


async def test_closing_the_client_closes_its_consumers_and_leaves_nothing(cluster: FakeCluster) -> None:
    broker = cluster.brokers[0]
    broker.put("orders", 0, b"x")
    before = asyncio.all_tasks()
    mq = Client(cluster.name_servers, settings=FAST)
    await mq.start()
    consumer = mq.consumer("g", "orders", start="first")
    await consumer.start()
    (m,) = await take(consumer, 1)
    m.ack()
    await mq.close()
    assert committed(broker) == 1
    assert broker.members["g"] == {}
    assert asyncio.all_tasks() == before


async def test_closing_while_the_brokers_are_gone_ends_soon(cluster: FakeCluster) -> None:
    before = asyncio.all_tasks()
    async with asyncio.timeout(20):
        async with Client(cluster.name_servers, settings=FAST) as mq, mq.consumer("g", "orders"):
            await cluster.brokers[0].stop()
    assert asyncio.all_tasks() == before


async def test_a_start_that_is_cancelled_leaves_nothing(cluster: FakeCluster) -> None:
    broker = cluster.brokers[0]
    broker.silent.add(RequestCode.HEART_BEAT)
    async with Client(cluster.name_servers, settings=FAST) as mq:
        starting = asyncio.create_task(mq.consumer("g", "orders").start())
        await asyncio.sleep(0.05)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        broker.silent.clear()
        async with mq.consumer("g", "orders") as consumer:
            assert len(consumer.queues()) == 4


async def test_pull_errors_are_logged_once_in_a_row(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    broker.refusals[RequestCode.PULL_MESSAGE] = [ResponseError(ResponseCode.NO_PERMISSION, "closed")] * 12
    broker.put("orders", 0, b"x")
    with caplog.at_level(logging.WARNING, "pymq.client"):
        async with mq.consumer("g", "orders", start="first") as consumer:
            assert [m.body for m in await take(consumer, 1)] == [b"x"]
    told = [record for record in caplog.records if record.name.startswith("pymq.client")]
    assert sum("closed" in record.message for record in told) <= 4  # one for each queue
