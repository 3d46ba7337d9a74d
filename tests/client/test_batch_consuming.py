"""Handlers that get many messages at once (semantics.md §12.6: consumeMessageBatchMaxSize, ackIndex)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from pymq.client import Client, ReceivedMessage, RetryLater
from pymq.errors import ConfigError
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest
from tests.client.fake_cluster import FakeBroker, until


@contextlib.asynccontextmanager
async def consuming(
    mq: Client, handler: Callable[[list[ReceivedMessage]], object], *, batch: int = 32, concurrency: int = 1
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.ensure_future(
        mq.consume("g", "orders", handler, batch=batch, concurrency=concurrency, grace=1, start="first")
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def put(broker: FakeBroker, *bodies: str, queue_id: int = 0) -> None:
    for body in bodies:
        broker.put("orders", queue_id, body.encode())


def committed(broker: FakeBroker, queue_id: int = 0) -> int | None:
    return broker.offsets.get(("g", "orders", queue_id))


def sent_back(broker: FakeBroker) -> list[int]:
    """Delay levels of what was handed back."""
    return [header.delay_level for header in broker.requests(ConsumerSendMsgBackRequest)]


def bodies(messages: list[ReceivedMessage]) -> list[str]:
    return [message.body.decode() for message in messages]


async def test_a_handler_gets_what_is_there_in_order_and_no_more_than_told(
    broker: FakeBroker, mq: Client
) -> None:
    put(broker, *(f"{i:02}" for i in range(20)))
    got: list[list[str]] = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        got.append(bodies(messages))

    async with consuming(mq, handle, batch=8):
        await until(lambda: committed(broker) == 20)
        assert [len(each) for each in got] == [8, 8, 4]
        assert [body for each in got for body in each] == [f"{i:02}" for i in range(20)]
        put(broker, "alone")
        await until(lambda: got[-1] == ["alone"])  # none is waited for
    assert sent_back(broker) == []


async def test_one_batch_may_come_from_several_queues(broker: FakeBroker, mq: Client) -> None:
    for queue_id in range(4):
        put(broker, *(f"{queue_id}{i}" for i in range(5)), queue_id=queue_id)
    got: list[str] = []
    gate = asyncio.Event()

    async def handle(messages: list[ReceivedMessage]) -> None:
        await gate.wait()
        got.extend(bodies(messages))

    async with consuming(mq, handle, batch=100):
        await asyncio.sleep(0.1)
        gate.set()
        await until(lambda: len(got) == 20)
        for queue_id in range(4):
            await until(lambda queue_id=queue_id: committed(broker, queue_id) == 5)  # type: ignore[misc]
    for queue_id in range(4):
        assert [body for body in got if body[0] == str(queue_id)] == [f"{queue_id}{i}" for i in range(5)]


async def test_a_handler_that_raises_hands_the_whole_batch_back(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, "a", "b", "c")

    async def handle(messages: list[ReceivedMessage]) -> None:
        raise ValueError("disk")

    async with consuming(mq, handle):
        await until(lambda: len(sent_back(broker)) == 3)
        await until(lambda: committed(broker) == 3)
    assert "3 of 3 messages" in caplog.text
    assert "disk" in caplog.text


async def test_what_a_handler_has_settled_itself_stays_so_when_it_raises(
    broker: FakeBroker, mq: Client
) -> None:
    put(broker, "ok", "later", "fails", "fails too")

    async def handle(messages: list[ReceivedMessage]) -> None:
        messages[0].ack()
        await messages[1].retry(delay_level=5)
        raise ValueError

    async with consuming(mq, handle):
        await until(lambda: committed(broker) == 4)
    assert sorted(sent_back(broker)) == [0, 0, 5]


async def test_a_handler_names_those_that_are_to_come_again(broker: FakeBroker, mq: Client) -> None:
    """From a thread, too: there it cannot settle them itself."""
    put(broker, *"abcdef")
    offsets: list[int] = []
    ways: list[Callable[[RetryLater], RetryLater]] = []

    def returned(later: RetryLater) -> RetryLater:
        return later

    def raised(later: RetryLater) -> RetryLater:
        raise later

    def handle(messages: list[ReceivedMessage]) -> RetryLater:
        assert threading.current_thread() is not threading.main_thread()
        failed = [message for message in messages if message.body in (b"b", b"e")]
        offsets.extend(message.record.physical_offset for message in failed)
        return ways[0](RetryLater("locked", delay_level=2, messages=failed))

    for way in (returned, raised):
        ways[:] = [way]
        before = len(sent_back(broker))
        end = len(broker.queues["orders", 0])
        async with consuming(mq, handle):
            await until(lambda end=end: committed(broker) == end)  # type: ignore[misc]
        assert sent_back(broker)[before:] == [2, 2]
        put(broker, *"abcdef")
    assert sorted(h.offset for h in broker.requests(ConsumerSendMsgBackRequest)) == sorted(offsets)


async def test_later_without_names_means_all(broker: FakeBroker, mq: Client) -> None:
    put(broker, "a", "b", "c")

    async def handle(messages: list[ReceivedMessage]) -> object:
        messages[2].ack()
        return RetryLater

    async with consuming(mq, handle):
        await until(lambda: committed(broker) == 3)
    assert sent_back(broker) == [0, 0]


async def test_a_batch_that_is_cancelled_is_given_back_at_once(broker: FakeBroker, mq: Client) -> None:
    put(broker, "a", "b", "c")
    begun = asyncio.Event()

    async def handle(messages: list[ReceivedMessage]) -> None:
        messages[0].ack()
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.ensure_future(
        mq.consume("g", "orders", handle, batch=32, concurrency=1, grace=0.01, start="first")
    )
    await asyncio.wait_for(begun.wait(), 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert committed(broker) == 1
    assert sent_back(broker) == []


async def test_batches_are_handled_side_by_side(broker: FakeBroker, mq: Client) -> None:
    put(broker, *(str(i) for i in range(30)))
    running = most = 0
    done: list[str] = []

    async def handle(messages: list[ReceivedMessage]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done.extend(bodies(messages))

    async with consuming(mq, handle, batch=3, concurrency=4):
        await until(lambda: len(done) == 30)
    assert most == 4


@pytest.mark.parametrize("batch", [0, -1, 1025])
async def test_a_batch_size_that_cannot_be_is_refused(mq: Client, batch: int) -> None:
    with pytest.raises(ConfigError, match="1 to 1024"):
        await asyncio.wait_for(mq.consume("g", "orders", print, batch=batch), 30)
