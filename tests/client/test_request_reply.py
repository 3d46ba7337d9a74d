"""Asking and answering, through real connections to brokers that behave as told (semantics.md §8.3)."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from pymq.client import (
    Client,
    ClientClosed,
    Message,
    MessageInvalid,
    ReceivedMessage,
    ReplyMessage,
    RequestTimeout,
    SendFailed,
)
from pymq.errors import ResponseError
from pymq.protocol import sysflags
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.groups import HeartBeatRequest, PushReplyMessageToClientRequest
from pymq.protocol.headers.messaging import SendMessageRequestV2, SendReplyMessageRequestV2
from pymq.protocol.message import UnreadableBody
from pymq.protocol.properties import decode_properties, encode_properties
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until

CLUSTER = "c"
TOPICS = ("orders", f"{CLUSTER}_REPLY_TOPIC")


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(topics=TOPICS) as cluster:
        cluster.brokers[0].names_cluster = CLUSTER
        yield cluster


@pytest.fixture
async def answering(cluster: FakeCluster) -> AsyncIterator[Callable[..., None]]:
    """Starts consumers, each in a client of its own, that handle requests of `orders`."""
    tasks: list[asyncio.Task[None]] = []

    def start(handler: Callable[[ReceivedMessage], object]) -> None:
        async def run() -> None:
            async with Client(cluster.name_servers, settings=FAST) as client:
                await client.consume("answerers", "orders", handler, start="first")

        tasks.append(asyncio.ensure_future(run()))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def shout(message: ReceivedMessage) -> None:
    await message.reply(message.body.upper())


async def test_a_request_gives_the_reply_of_a_consumer(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    seen: list[ReceivedMessage] = []

    async def price(message: ReceivedMessage) -> None:
        seen.append(message)
        await message.reply(Message("42", "euro", ["k1", "k2"], {"own": "1"}, flag=7))

    answering(price)
    reply = await mq.request("orders", "how much?", tags="t", keys="k", properties={"shop": "a"}, timeout=5)
    assert isinstance(reply, ReplyMessage)
    assert (reply.body, reply.tags, reply.keys, reply.flag) == (b"42", "euro", ("k1", "k2"), 7)
    assert reply.properties["own"] == "1"
    assert int(reply.properties["ARRIVE_TIME"]) > 1_700_000_000_000
    [message] = seen
    assert (message.body, message.tags, message.properties["shop"]) == (b"how much?", "t", "a")
    assert message.wants_reply
    assert message.properties["REPLY_TO_CLIENT"] == mq.client_id
    assert message.properties["TTL"] == "5000"
    [header] = broker.requests(SendReplyMessageRequestV2)
    sent = decode_properties(header.properties or "")
    assert header.topic == f"{CLUSTER}_REPLY_TOPIC"
    for name in ("CORRELATION_ID", "REPLY_TO_CLIENT", "TTL"):
        assert sent[name] == message.properties[name]
    assert sent["MSG_TYPE"] == "reply"


async def test_a_plain_function_replies_by_what_it_returns(
    mq: Client, answering: Callable[..., None]
) -> None:
    def shout_from_a_thread(message: ReceivedMessage) -> Awaitable[object]:
        return message.reply(message.body.upper())

    answering(shout_from_a_thread)
    assert (await mq.request("orders", "loud", timeout=5)).body == b"LOUD"


async def test_each_of_many_requests_gets_its_own_reply(mq: Client, answering: Callable[..., None]) -> None:
    answering(shout)
    replies = await asyncio.gather(*(mq.request("orders", f"m{i}", timeout=5) for i in range(50)))
    assert [reply.body for reply in replies] == [f"M{i}".encode() for i in range(50)]


async def test_a_broker_knows_the_client_before_the_request_comes(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    """Else a fast reply would find nobody."""
    with pytest.raises(RequestTimeout):
        await mq.request("orders", "x", timeout=0.5)
    order = [type(header) for header in broker.seen]
    assert order.index(HeartBeatRequest) < order.index(SendMessageRequestV2)


async def test_a_request_without_a_reply_ends_in_time_and_tells_where_it_is(
    broker: FakeBroker, mq: Client
) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(RequestTimeout) as error:
        await mq.request("orders", "x", timeout=0.5)
    assert 0.5 <= asyncio.get_running_loop().time() - started < 10
    failed = error.value
    assert (failed.topic, failed.timeout) == ("orders", 0.5)
    stored = broker.queues["orders", failed.sent.queue.queue_id]
    assert len(stored) == failed.sent.queue_offset + 1
    for part in ("'orders'", failed.sent.msg_id, "0.5 s"):
        assert part in str(failed)


async def test_nothing_is_left_of_requests_that_got_no_reply(mq: Client) -> None:
    tasks = len(asyncio.all_tasks())
    results = await asyncio.gather(
        *(mq.request("orders", "x", timeout=1) for _ in range(40)), return_exceptions=True
    )
    assert {type(result) for result in results} == {RequestTimeout}
    cancelled = asyncio.ensure_future(mq.request("orders", "x", timeout=60))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert len(mq._instance._pending) == 0
    await until(lambda: len(asyncio.all_tasks()) <= tasks + 2)  # the client's own, not one for each request


async def test_a_reply_that_comes_too_late_is_dropped_and_the_next_request_is_well(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    asked: list[ReceivedMessage] = []

    async def later(message: ReceivedMessage) -> None:
        asked.append(message)
        if len(asked) > 1:
            await message.reply("in time")

    answering(later)
    with pytest.raises(RequestTimeout):
        await mq.request("orders", "x", timeout=0.5)
    await until(lambda: bool(asked))
    await asked[0].reply("too late")
    assert (await mq.request("orders", "x", timeout=5)).body == b"in time"


async def test_a_request_that_no_broker_takes_fails_as_a_send(broker: FakeBroker, mq: Client) -> None:
    code = RequestCode.SEND_MESSAGE_V2
    broker.refusals[code] = [ResponseError(ResponseCode.MESSAGE_ILLEGAL, "no")]
    with pytest.raises(SendFailed, match="code 13"):
        await mq.request("orders", "x", timeout=5)
    with pytest.raises(MessageInvalid):
        await mq.request("orders", b"")
    with pytest.raises(ValueError, match="timeout"):
        await mq.request("orders", "x", timeout=0)


async def test_a_reply_may_come_before_the_broker_s_word_that_the_request_is_stored(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    answering(shout)
    await mq.request("orders", "first", timeout=5)
    broker.silent.add(RequestCode.SEND_MESSAGE_V2)
    asking = asyncio.ensure_future(mq.request("orders", "x", timeout=30))
    await until(lambda: len(broker.requests(SendMessageRequestV2)) == 2)
    header = broker.requests(SendMessageRequestV2)[-1]
    broker.put("orders", header.queue_id, b"x", f"{header.properties}\x02CLUSTER\x01{CLUSTER}")
    started = asyncio.get_running_loop().time()
    assert (await asking).body == b"X"
    assert asyncio.get_running_loop().time() - started < 15


async def test_closing_the_client_ends_its_requests(cluster: FakeCluster) -> None:
    async with Client(cluster.name_servers, settings=FAST) as client:
        asking = asyncio.ensure_future(client.request("orders", "x", timeout=60))
        await until(lambda: bool(cluster.brokers[0].requests(SendMessageRequestV2)))
        await asyncio.sleep(0.02)
    with pytest.raises(ClientClosed):
        await asking
    with pytest.raises(ClientClosed):
        await client.request("orders", "x")


async def test_a_reply_that_reaches_nobody_fails_and_says_why(
    cluster: FakeCluster, broker: FakeBroker, mq: Client
) -> None:
    properties = {"REPLY_TO_CLIENT": "gone@1", "CORRELATION_ID": "c", "CLUSTER": CLUSTER}
    broker.put("orders", 0, b"x", encode_properties(properties))
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await consumer.receive()
        with pytest.raises(SendFailed, match="channel not found"):
            await message.reply("x")
        with pytest.raises(ValueError, match="timeout"):
            await message.reply("x", timeout=float("nan"))


@pytest.mark.parametrize(
    ("properties", "complaint"),
    [
        ({"CLUSTER": CLUSTER}, "is no request"),
        ({"REPLY_TO_CLIENT": "a@1", "CORRELATION_ID": "c"}, "before 4.6"),
    ],
)
async def test_what_is_no_request_cannot_be_replied_to(
    broker: FakeBroker, mq: Client, properties: dict[str, str], complaint: str
) -> None:
    broker.put("orders", 0, b"x", encode_properties(properties))
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await consumer.receive()
        assert message.wants_reply is ("CORRELATION_ID" in properties)
        with pytest.raises(MessageInvalid, match=complaint):
            await message.reply("x")
    assert broker.requests(SendReplyMessageRequestV2) == []


async def test_a_reply_cannot_be_delayed(broker: FakeBroker, mq: Client) -> None:
    properties = {"REPLY_TO_CLIENT": "a@1", "CORRELATION_ID": "c", "CLUSTER": CLUSTER}
    broker.put("orders", 0, b"x", encode_properties(properties))
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await consumer.receive()
        with pytest.raises(MessageInvalid, match="delayed"):
            await message.reply(Message("x", delay_level=3))


async def test_a_long_reply_is_compressed_on_its_way(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    async def long(message: ReceivedMessage) -> None:
        await message.reply("x" * 100_000)

    answering(long)
    assert (await mq.request("orders", "x", timeout=5)).body == b"x" * 100_000
    assert broker.requests(SendReplyMessageRequestV2)[0].sys_flag == sysflags.COMPRESSED


async def test_a_reply_that_cannot_be_read_is_an_error_and_not_silence(
    broker: FakeBroker, mq: Client
) -> None:
    asking = asyncio.ensure_future(mq.request("orders", "x", timeout=5))
    await until(lambda: bool(broker.requests(SendMessageRequestV2)))
    sent = decode_properties(broker.requests(SendMessageRequestV2)[0].properties or "")
    pushed = PushReplyMessageToClientRequest(
        "g", "t", "TBW102", 4, 0, sysflags.COMPRESSED, 0, 0, "h:1", "h:2", 0,
        encode_properties({"CORRELATION_ID": sent["CORRELATION_ID"]}),
    )  # fmt: skip
    answer = await broker.producers[mq.client_id].call(pushed, b"no zlib stream")
    assert answer.code == ResponseCode.SYSTEM_ERROR
    with pytest.raises(UnreadableBody, match="damaged"):
        await asking
    gc.collect()


async def test_a_reply_is_sent_by_the_broker_that_the_request_came_from(cluster: FakeCluster) -> None:
    async with FakeCluster(brokers=3, topics=TOPICS) as many:
        for broker in many.brokers:
            broker.names_cluster = CLUSTER

        async def ask(client: Client) -> list[ReplyMessage]:
            return [await client.request("orders", f"m{i}", timeout=5) for i in range(12)]

        async with (
            Client(many.name_servers, settings=FAST) as asker,
            Client(many.name_servers, settings=FAST) as answerer,
        ):
            consuming = asyncio.ensure_future(answerer.consume("answerers", "orders", shout, start="first"))
            assert len(await ask(asker)) == 12
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)
        for broker in many.brokers:
            requests, replies = (
                {
                    decode_properties(header.properties or "")["CORRELATION_ID"]
                    for header in broker.requests(cls)
                }
                for cls in (SendMessageRequestV2, SendReplyMessageRequestV2)
            )
            assert requests == replies
            assert len(requests) == 4


async def test_a_broker_that_is_away_holds_up_no_requests() -> None:
    settings = msgspec.structs.replace(FAST, call_timeout_s=0.2)
    async with FakeCluster(brokers=2, topics=TOPICS) as two:
        for broker in two.brokers:
            broker.names_cluster = CLUSTER
        async with (
            Client(two.name_servers, settings=settings) as asker,
            Client(two.name_servers, settings=FAST) as answerer,
        ):
            consuming = asyncio.ensure_future(answerer.consume("answerers", "orders", shout, start="first"))
            queues = [each for each in await asker.queues("orders") if each.broker_name == "broker-a"]
            await until(lambda: all(broker.members["answerers"] for broker in two.brokers))
            two.brokers[1].silent.add(RequestCode.HEART_BEAT)
            await asker.request("orders", "x", queue=queues[0], timeout=8)
            await asyncio.sleep(0.3)  # its heartbeat has got no answer by now
            started = asyncio.get_running_loop().time()
            for _ in range(5):
                await asker.request("orders", "x", queue=queues[0], timeout=8)
            assert asyncio.get_running_loop().time() - started < 6
            consuming.cancel()
            await asyncio.gather(consuming, return_exceptions=True)


async def test_requests_go_on_when_a_broker_is_back(
    broker: FakeBroker, mq: Client, answering: Callable[..., None]
) -> None:
    """The client is known there again before its next request comes."""
    answering(shout)
    assert (await mq.request("orders", "before", timeout=5)).body == b"BEFORE"
    await broker.stop()
    with pytest.raises(SendFailed):
        await mq.request("orders", "lost", timeout=1)
    broker.producers.clear()
    await broker.restart()
    assert (await mq.request("orders", "after", timeout=5)).body == b"AFTER"
