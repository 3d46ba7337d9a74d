"""A message that a tool lets a consumer handle (code 309)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pymq.client import Client, ReceivedMessage, RetryLater
from pymq.protocol.bodies import ConsumeMessageDirectlyResult, DirectResult
from pymq.protocol.command import Command
from pymq.protocol.headers.groups import ConsumeMessageDirectlyRequest
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest, UpdateConsumerOffsetRequest
from tests.client.fake_cluster import FAST, FakeBroker, tagged, until


@contextlib.asynccontextmanager
async def consuming(
    broker: FakeBroker, mq: Client, handler: Callable[[Any], object], **options: Any
) -> AsyncIterator[None]:
    task = asyncio.ensure_future(mq.consume("g", "orders", handler, start="first", grace=0.1, **options))
    try:
        await until(lambda: mq.client_id in broker.members["g"])
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(broker: FakeBroker, mq: Client, group: str = "g") -> Command:
    """Have the last message of queue 3 of topic bills, which nobody subscribes, handled."""
    connection = broker.members["g"][mq.client_id]
    header = ConsumeMessageDirectlyRequest(group, mq.client_id, "id", broker.name)
    return await connection.call(header, broker.queues["bills", 3][-1], timeout_s=10)


async def raises(message: ReceivedMessage) -> None:
    raise ValueError("no")


async def later(message: ReceivedMessage) -> type[RetryLater]:
    return RetryLater


async def takes_a_while(message: ReceivedMessage) -> None:
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
@pytest.mark.parametrize(
    ("handler", "result"),
    [
        (takes_a_while, DirectResult.SUCCESS),
        (raises, DirectResult.THROW_EXCEPTION),
        (later, DirectResult.LATER),
    ],
)
async def test_the_handler_is_really_called_and_nothing_else_comes_of_it(
    broker: FakeBroker, mq: Client, handler: Callable[[Any], object], result: DirectResult, order: str
) -> None:
    broker.put("bills", 3, b"again", tagged("a"))
    got: list[tuple[str, str | None, bytes, str, int]] = []

    async def handle(message: ReceivedMessage) -> object:
        queue = message.queue
        got.append((message.topic, message.tags, message.body, queue.broker_name, queue.queue_id))
        return await handler(message)  # type: ignore[misc]

    async with consuming(broker, mq, handle, order=order):
        await until(lambda: ("g", "orders", 0) in broker.offsets)
        committed = dict(broker.offsets)
        answer = await ask(broker, mq)
        body = ConsumeMessageDirectlyResult.decode(answer.body)
        assert (answer.code, body.consume_result, body.order) == (0, result, order == "ordered")
        if result is DirectResult.SUCCESS:
            assert 15 <= body.spent_time_mills < 60_000
        assert got == [("bills", "a", b"again", broker.name, 3)]
        await asyncio.sleep(FAST.commit_s * 3)
        assert broker.offsets == committed
        assert broker.requests(ConsumerSendMsgBackRequest) == []
        assert {header.topic for header in broker.requests(UpdateConsumerOffsetRequest)} <= {"orders"}
        assert len(got) == 1, "a failure is not retried"


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_it_is_handled_beside_what_is_being_handled(broker: FakeBroker, mq: Client, order: str) -> None:
    broker.put("orders", 0, b"long")
    broker.put("bills", 3, b"now")
    holding = asyncio.Event()
    got: list[bytes] = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        got.extend(message.body for message in messages)
        if messages[0].body == b"long":
            await holding.wait()

    async with consuming(broker, mq, handle, order=order, batch=8):
        await until(lambda: got == [b"long"])
        broker.put("orders", 0, b"behind")
        assert (await ask(broker, mq)).code == 0
        holding.set()
        await until(lambda: len(got) == 3)
    if order == "ordered":
        assert got == [b"long", b"now", b"behind"]


async def test_who_takes_messages_one_by_one_gets_it_too_and_may_be_too_slow(
    broker: FakeBroker, mq: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.put("bills", 3, b"now")
    async with mq.consumer("g", "orders") as consumer:
        asking = asyncio.ensure_future(ask(broker, mq))
        (await consumer.receive()).ack()
        assert ConsumeMessageDirectlyResult.decode((await asking).body).consume_result is DirectResult.SUCCESS
        monkeypatch.setattr("pymq.client.direct_consumption.PATIENCE_S", 0.05)
        assert (await ask(broker, mq)).remark == "the consumer takes no messages after 0.05 s"
        assert await consumer.fetch(wait=0.05) == [], "nobody wants it any more"
        asking = asyncio.ensure_future(ask(broker, mq))
        message = await consumer.receive()
        answer = await asking
        assert (answer.code, answer.remark) == (1, "the consumer is not done with it after 0.05 s")
        message.ack()


async def test_a_group_that_is_not_here_and_a_message_that_is_none(broker: FakeBroker, mq: Client) -> None:
    broker.put("bills", 3, b"x")
    async with mq.consumer("g", "orders"):
        answer = await ask(broker, mq, "other")
        assert (answer.code, answer.remark) == (1, "The Consumer Group <other> not exist in this consumer")
        broker.queues["bills", 3].append(b"\0\0\0\x08")
        assert (await ask(broker, mq)).code == 1
