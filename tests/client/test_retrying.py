"""What becomes of messages whose handling failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

import pymq
from pymq.client import Client, ReceivedMessage, RetryLater
from pymq.client.consume_figures import ConsumeFigures
from pymq.client.delivery import ConcurrentDelivery
from pymq.client.namespace import Namespace
from pymq.client.process_queue import ProcessQueue
from pymq.client.received import Recipient
from pymq.client.send_back import SendBack
from pymq.errors import ConfigError, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest, SendMessageRequestV2
from pymq.protocol.message import compress_body, decode_records
from pymq.protocol.properties import decode_properties
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, tagged, until
from tests.sim import SimClock

SEND_BACK = RequestCode.CONSUMER_SEND_MSG_BACK
SEND = RequestCode.SEND_MESSAGE_V2
RETRY = "%RETRY%g"
IMPATIENT = msgspec.structs.replace(FAST, send_back_timeout_s=0.5, close_timeout_s=10.0)
"""Brokers that do not answer are given up soon."""


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Two brokers that know the group's retry topic."""
    async with FakeCluster(brokers=2, topics=("orders", RETRY)) as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: FakeCluster) -> FakeBroker:
    """The one that stores the messages."""
    return cluster.brokers[0]


@pytest.fixture
def other(cluster: FakeCluster) -> FakeBroker:
    return cluster.brokers[1]


@pytest.fixture
async def impatient(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.name_servers, settings=IMPATIENT) as client:
        yield client


def refuse(broker: FakeBroker, request: int, code: int = ResponseCode.SYSTEM_ERROR, times: int = 1) -> None:
    broker.refusals[request] += [ResponseError(code, "no")] * times


def committed(broker: FakeBroker) -> int | None:
    return broker.offsets.get(("g", "orders", 0))


def handed_back(broker: FakeBroker) -> list[ConsumerSendMsgBackRequest]:
    return broker.requests(ConsumerSendMsgBackRequest)


def sent_anew(broker: FakeBroker) -> list[SendMessageRequestV2]:
    return broker.requests(SendMessageRequestV2)


async def one(consumer: pymq.Consumer) -> ReceivedMessage:
    (message,) = await consumer.fetch(max=1)
    return message


# -- choosing when it comes again ---------------------------------------------------------------------


async def test_a_block_says_how_much_later_without_that_being_an_error(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pymq.client.consumer")
    for _ in range(3):
        broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        for later in (RetryLater("stock is low", delay_level=5), RetryLater(delay_level=-1), RetryLater):
            async with (await one(consumer)).process(reraise=True):
                raise later
        await until(lambda: committed(broker) == 3)
    assert [header.delay_level for header in handed_back(broker)] == [5, -1, 0]
    assert "is to come again later: stock is low" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("kind", ["raised", "returned", "returned by a thread", "the class returned"])
async def test_a_handler_says_how_much_later(broker: FakeBroker, mq: Client, kind: str) -> None:
    later = RetryLater(delay_level=4)

    async def raising(message: ReceivedMessage) -> None:
        raise later

    async def returning(message: ReceivedMessage) -> object:
        return later

    async def returning_class(message: ReceivedMessage) -> object:
        return RetryLater

    def plain(message: ReceivedMessage) -> object:
        return later

    handlers: dict[str, Callable[[ReceivedMessage], object]] = {
        "raised": raising,
        "returned": returning,
        "returned by a thread": plain,
        "the class returned": returning_class,
    }
    broker.put("orders", 0, b"x")
    consuming = asyncio.create_task(mq.consume("g", "orders", handlers[kind], start="first"))
    await until(lambda: committed(broker) == 1)
    consuming.cancel()
    await asyncio.wait([consuming])
    (back,) = handed_back(broker)
    assert back.delay_level == (0 if kind == "the class returned" else 4)


async def test_what_else_a_handler_returns_is_no_failure(broker: FakeBroker, mq: Client) -> None:
    for _ in range(3):
        broker.put("orders", 0, b"x")
    results = iter([False, None, ValueError("only a value")])
    consuming = asyncio.create_task(mq.consume("g", "orders", lambda _: next(results), start="first"))
    await until(lambda: committed(broker) == 3)
    consuming.cancel()
    await asyncio.wait([consuming])
    assert handed_back(broker) == []


async def test_levels_that_there_cannot_be_are_refused(broker: FakeBroker, mq: Client) -> None:
    broker.put("orders", 0, b"x")
    for level in (-2, 2**31):
        with pytest.raises(ValueError, match="expected 0"):
            RetryLater(delay_level=level)
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await one(consumer)
        with pytest.raises(ValueError, match="delay_level=-2: expected 0"):
            await message.retry(-2)
        assert not message.is_settled
        await message.retry(2)
    assert [header.delay_level for header in handed_back(broker)] == [2]
    with pytest.raises(ConfigError, match="max_retries=-1"):
        mq.consumer("h", "orders", max_retries=-1)


# -- a broker that does not take it back ---------------------------------------------------------------


async def test_a_message_that_its_broker_does_not_take_back_is_sent_to_another(
    broker: FakeBroker, other: FakeBroker, mq: Client
) -> None:
    properties = tagged(
        "t", UNIQ_KEY="ID", KEYS="k", own="mine", CLUSTER="c", WAIT="false", TRAN_MSG="true", PGROUP="p",
        TIMER_OUT_MS="1", TIMER_DELIVER_MS="2", DELAY="1",
    )  # fmt: skip
    body = compress_body(b"body" * 100)
    refuse(broker, SEND_BACK)
    offset_id = broker.put("orders", 0, body, properties, sys_flag=9, flag=7)
    async with mq.consumer("g", "orders", start="first", max_retries=5) as consumer:
        await (await one(consumer)).retry()
        await until(lambda: committed(broker) == 1)
    (header,) = sent_anew(other)
    assert sent_anew(broker) == []
    assert (header.topic, header.queue_id, header.producer_group) == (RETRY, 0, "CLIENT_INNER_PRODUCER")
    assert (header.reconsume_times, header.max_reconsume_times) == (1, 6)
    assert (header.flag, header.sys_flag, header.born_timestamp) == (7, 1, 0)
    assert decode_properties(header.properties or "") == {
        "TAGS": "t",
        "UNIQ_KEY": "ID",
        "KEYS": "k",
        "own": "mine",
        "PGROUP": "p",
        "RETRY_TOPIC": "orders",
        "ORIGIN_MESSAGE_ID": offset_id,
        "DELAY": "3",
        "WAIT": "true",
    }
    async with mq.consumer("g", "orders") as consumer:
        again = await one(consumer)
        assert (again.body, again.topic, again.msg_id) == (b"body" * 100, "orders", "ID")


async def test_a_message_of_a_broker_that_died_is_sent_to_another(
    broker: FakeBroker, other: FakeBroker, mq: Client
) -> None:
    broker.put(
        RETRY, 0, b"x", tagged("t", RETRY_TOPIC="orders", ORIGIN_MESSAGE_ID="FIRST"), reconsume_times=4
    )
    async with mq.consumer("g", "orders", start="first") as consumer:
        message = await one(consumer)
        await broker.stop()
        await message.retry()
        (header,) = sent_anew(other)
        assert (header.reconsume_times, header.max_reconsume_times) == (5, 17)
        properties = decode_properties(header.properties or "")
        assert (properties["RETRY_TOPIC"], properties["ORIGIN_MESSAGE_ID"]) == ("orders", "FIRST")
        assert properties["DELAY"] == "7"


async def test_where_there_is_no_other_broker_the_same_one_may_take_it_as_a_new_message(
    broker: FakeBroker, other: FakeBroker, mq: Client
) -> None:
    refuse(broker, SEND_BACK)
    refuse(other, SEND)
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        await (await one(consumer)).retry(2)
        (header,) = sent_anew(broker)
        assert decode_properties(header.properties or "")["DELAY"] == "2"


async def test_a_dead_letter_that_its_broker_does_not_take_is_sent_as_one(
    broker: FakeBroker, other: FakeBroker, mq: Client
) -> None:
    refuse(broker, SEND_BACK)
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        await (await one(consumer)).retry(-1)
        (header,) = sent_anew(other)
        assert (header.topic, header.reconsume_times, header.max_reconsume_times) == (RETRY, 1, 0)
        assert "DELAY" not in (header.properties or "")


async def test_a_message_that_nobody_takes_is_handed_out_again_here_and_counts_its_failures(
    broker: FakeBroker, other: FakeBroker, mq: Client
) -> None:
    refuse(broker, SEND_BACK, times=2)
    refuse(broker, SEND)
    refuse(other, SEND)
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        await (await one(consumer)).retry()
        again = await one(consumer)
        assert (again.body, again.reconsume_times, committed(broker)) == (b"x", 1, committed(broker) and 0)
        await again.retry()
        await until(lambda: committed(broker) == 1)
    assert [header.reconsume_times for header in sent_anew(other)] == [1, 2]


@pytest.mark.parametrize(
    "code",
    [ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT, ResponseCode.SLAVE_NOT_AVAILABLE],
)
async def test_a_copy_that_its_broker_was_slow_to_make_safe_is_not_made_again(
    broker: FakeBroker, other: FakeBroker, mq: Client, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(broker, SEND_BACK, code)
    broker.put("orders", 0, b"x")
    async with mq.consumer("g", "orders", start="first") as consumer:
        await (await one(consumer)).retry()
        await until(lambda: committed(broker) == 1)
    assert sent_anew(broker) == sent_anew(other) == []
    assert "has the copy, but not safely" in caplog.text


# -- while it is handed back --------------------------------------------------------------------------


async def test_who_is_cancelled_while_handing_back_leaves_nothing_unsettled(
    broker: FakeBroker, other: FakeBroker, impatient: Client
) -> None:
    broker.silent.add(SEND_BACK)
    broker.put("orders", 0, b"x")
    async with impatient.consumer("g", "orders", start="first") as consumer:
        retrying = asyncio.create_task((await one(consumer)).retry())
        await until(lambda: bool(handed_back(broker)))
        retrying.cancel()
        await until(lambda: committed(broker) == 1)
    assert retrying.cancelled()
    assert sent_anew(other) or sent_anew(broker)


async def test_a_consumer_that_closes_lets_what_is_handed_back_get_there(
    broker: FakeBroker, other: FakeBroker, impatient: Client
) -> None:
    broker.silent.add(SEND_BACK)
    broker.put("orders", 0, b"x")
    async with impatient.consumer("g", "orders", start="first") as consumer:
        retrying = asyncio.create_task((await one(consumer)).retry())
        await until(lambda: bool(handed_back(broker)))
    assert committed(broker) == 1
    assert retrying.done()
    assert sent_anew(other) or sent_anew(broker)


async def test_a_consumer_that_closes_waits_for_no_broker_for_ever(
    cluster: FakeCluster, broker: FakeBroker
) -> None:
    broker.silent.add(SEND_BACK)
    broker.put("orders", 0, b"x")
    settings = msgspec.structs.replace(FAST, send_back_timeout_s=60, close_timeout_s=0.1)
    async with Client(cluster.name_servers, settings=settings) as mq:
        async with mq.consumer("g", "orders", start="first") as consumer:
            retrying = asyncio.create_task((await one(consumer)).retry())
            await until(lambda: bool(handed_back(broker)))
            loop = asyncio.get_running_loop()
            closes = loop.time()
        assert loop.time() - closes < 20
        assert committed(broker) in (None, 0), "it comes again to another member"
        await asyncio.wait([retrying])


async def test_messages_that_nobody_settles_of_one_broker_do_not_wait_for_another(
    broker: FakeBroker, other: FakeBroker, cluster: FakeCluster
) -> None:
    broker.silent.add(SEND_BACK)
    settings = msgspec.structs.replace(FAST, send_back_timeout_s=60, close_timeout_s=0.1)
    for each in (broker, other):
        for queue_id in range(2):
            each.put("orders", queue_id, b"x")
    async with (
        Client(cluster.name_servers, settings=settings) as mq,
        mq.consumer("g", "orders", start="first", consume_timeout=0.1) as consumer,
    ):
        held: list[ReceivedMessage] = []
        while len(held) < 4:
            held += await consumer.fetch()
        await until(lambda: len(handed_back(broker)) == len(handed_back(other)) == 2)
        assert {header.delay_level for header in handed_back(other)} == {3}


# -- a handler that sits on a message


class Recording:
    """Stands for a group's SendBack: takes everything."""

    def __init__(self) -> None:
        self.taken: list[tuple[ReceivedMessage, int]] = []

    async def send(self, message: ReceivedMessage, delay_level: int) -> bool:
        self.taken.append((message, delay_level))
        return True


async def test_a_handler_may_take_fifteen_minutes_and_no_millisecond_more(broker: FakeBroker) -> None:
    clock, sent = SimClock(), Recording()
    recipient = cast(Recipient, SimpleNamespace(namespace=Namespace("")))
    delivery = ConcurrentDelivery(
        cast(SendBack, sent),
        clock,
        FAST,
        recipient,
        ConsumeFigures(clock),
        broadcast=False,
        consume_timeout_s=900.0,
    )
    process_queue = ProcessQueue(queue(0), 0)
    delivery.owned[queue(0)] = process_queue
    for _ in range(3):
        broker.put("orders", 0, b"x")
    delivery.arrived(process_queue, decode_records(b"".join(broker.queues["orders", 0])))

    def take() -> ReceivedMessage:
        taken = delivery.inbox.take()
        assert taken is not None
        delivery.hand_out(*taken)
        return taken[1]

    first = take()
    clock.advance(1)
    take().ack()
    third = take()
    clock.advance(15 * 60_000 - 1)
    await delivery.give_up_stuck()
    assert sent.taken == []
    clock.advance(1)
    await delivery.give_up_stuck()
    assert sent.taken == [(first, 3)]
    assert (len(process_queue), process_queue.committable) == (1, 2)
    clock.advance(1)
    await delivery.give_up_stuck()
    await delivery.give_up_stuck()
    assert sent.taken == [(first, 3), (third, 3)]
    assert len(process_queue) == 0
