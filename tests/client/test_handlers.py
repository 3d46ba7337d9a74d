"""Handlers that do what they should not: no message is lost, and consuming goes on or says why not."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pymq.client import Client, ReceivedMessage, RetryLater
from pymq.errors import ConfigError
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, until


@contextlib.asynccontextmanager
async def consuming(mq: Client, handler: Callable[[Any], object], **options: Any) -> AsyncIterator[None]:
    """Consume with one worker, which must be there still at the end."""
    chosen: dict[str, Any] = {"concurrency": 1, "grace": 0.5, "start": "first"} | options
    task = asyncio.ensure_future(mq.consume("g", "orders", handler, **chosen))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def committed(broker: FakeBroker) -> int | None:
    return broker.offsets.get(("g", "orders", 0))


def handed_back(broker: FakeBroker) -> list[ConsumerSendMsgBackRequest]:
    return broker.requests(ConsumerSendMsgBackRequest)


def put(broker: FakeBroker, *bodies: bytes) -> None:
    for body in bodies:
        broker.put("orders", 0, body)


async def cancelled_inside() -> None:
    """Wait for a task that is cancelled."""
    inner = asyncio.ensure_future(asyncio.sleep(60))
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


def cancelled_future() -> None:
    """Wait, in a thread, for a future that is cancelled."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.cancel()
    future.result()


# -- something inside a handler is cancelled ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async def", "def", "def that returns an awaitable"])
async def test_what_is_cancelled_inside_a_handler_is_a_failure_and_its_worker_goes_on(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    put(broker, b"poison", b"after")
    seen: list[bytes] = []

    async def handle(message: ReceivedMessage) -> None:
        seen.append(message.body)
        if message.body == b"poison":
            await cancelled_inside()

    def plain(message: ReceivedMessage) -> None:
        seen.append(message.body)
        if message.body == b"poison":
            cancelled_future()

    handlers = {"async def": handle, "def": plain, "def that returns an awaitable": lambda m: handle(m)}
    async with consuming(mq, handlers[kind]):
        await until(lambda: committed(broker) == 2)
    assert seen == [b"poison", b"after"]
    assert len(handed_back(broker)) == 1
    assert "was cancelled; it is retried later" in caplog.text


async def test_what_is_cancelled_inside_a_batch_handler_is_a_failure(broker: FakeBroker, mq: Client) -> None:
    put(broker, b"a", b"b", b"c")

    async def handle(messages: list[ReceivedMessage]) -> None:
        messages[0].ack()
        await cancelled_inside()

    async with consuming(mq, handle, batch=3):
        await until(lambda: committed(broker) == 3)
    assert len(handed_back(broker)) == 2


async def test_what_is_cancelled_inside_an_ordered_handler_counts_and_holds_the_place(
    broker: FakeBroker, mq: Client
) -> None:
    put(broker, b"poison", b"after")
    seen: list[tuple[bytes, int]] = []

    async def handle(message: ReceivedMessage) -> None:
        seen.append((message.body, message.reconsume_times))
        if message.body == b"poison" and message.reconsume_times < 2:
            await cancelled_inside()

    async with consuming(mq, handle, order="ordered", suspend=0.01):
        await until(lambda: committed(broker) == 2)
    assert seen == [(b"poison", 0), (b"poison", 1), (b"poison", 2), (b"after", 0)]


async def test_what_is_cancelled_inside_a_block_is_a_failure_of_the_block(
    broker: FakeBroker, mq: Client
) -> None:
    put(broker, b"a", b"b")
    async with mq.consumer("g", "orders", start="first") as consumer:
        async with (await consumer.receive()).process():
            await cancelled_inside()
        with pytest.raises(asyncio.CancelledError):
            async with (await consumer.receive()).process(reraise=True):
                await cancelled_inside()
        await until(lambda: committed(broker) == 2)
    assert len(handed_back(broker)) == 2


async def test_a_handler_that_cancels_its_own_task_ends_consuming_with_an_error(
    broker: FakeBroker, mq: Client
) -> None:
    put(broker, b"a")

    async def handle(message: ReceivedMessage) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="the task that a handler runs in was cancelled"):
        await asyncio.wait_for(mq.consume("g", "orders", handle, concurrency=4, start="first"), 30)
    assert not committed(broker)


# -- a handler that raises StopIteration ----------------------------------------------------------------


async def test_a_stop_iteration_in_a_thread_is_a_failure_and_its_worker_goes_on(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, b"poison", b"after")

    def handle(message: ReceivedMessage) -> None:
        if message.body == b"poison":
            next(iter([]))

    async with consuming(mq, handle):
        await until(lambda: committed(broker) == 2)
    assert len(handed_back(broker)) == 1
    assert "the handler raised StopIteration" in caplog.text


# -- handlers that change their batch -------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_may_empty_its_batch(broker: FakeBroker, mq: Client, fails: bool) -> None:
    put(broker, b"a", b"b", b"c")

    def handle(messages: list[ReceivedMessage]) -> None:
        messages.clear()
        if fails:
            raise ValueError

    async with consuming(mq, handle, batch=3):
        await until(lambda: committed(broker) == 3)
    assert len(handed_back(broker)) == (3 if fails else 0)


# -- naming what is to come again -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ids", "one of another batch"])
async def test_naming_what_is_not_in_the_batch_has_all_of_it_retried(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    put(broker, b"a", b"b", b"c", b"d")
    before: list[ReceivedMessage] = []

    async def handle(messages: list[ReceivedMessage]) -> object:
        if not before:
            before.extend(messages)
            return None
        names: list[Any] = [m.msg_id for m in messages] if how == "ids" else [messages[0], before[0]]
        return RetryLater(delay_level=-1, messages=names)

    async with consuming(mq, handle, batch=2):
        await until(lambda: committed(broker) == 4)
    assert [header.delay_level for header in handed_back(broker)] == [0, 0]
    assert "which is none of the messages that the handler was given; all of it is retried" in caplog.text


async def test_naming_none_has_none_retried(broker: FakeBroker, mq: Client) -> None:
    put(broker, b"a", b"b")

    async def handle(messages: list[ReceivedMessage]) -> object:
        return RetryLater(messages=[])

    async with consuming(mq, handle, batch=2):
        await until(lambda: committed(broker) == 2)
    assert handed_back(broker) == []


# -- what is no handler ---------------------------------------------------------------------------------


async def _async_generator(message: ReceivedMessage) -> AsyncIterator[int]:
    yield 1


def _generator(message: ReceivedMessage) -> Iterator[int]:
    yield 1


class _Generating:
    def __call__(self, message: ReceivedMessage) -> Iterator[int]:
        yield 1

    async def later(self, message: ReceivedMessage) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "handler",
    [
        _async_generator,
        _generator,
        _Generating(),
        _Generating().later,
        functools.partial(_generator),
        functools.partial(_Generating()),
    ],
)
async def test_a_handler_with_yield_in_it_is_refused(
    broker: FakeBroker, mq: Client, handler: Callable[[ReceivedMessage], object]
) -> None:
    put(broker, b"a")
    with pytest.raises(ConfigError, match="with yield in it"):
        await asyncio.wait_for(mq.consume("g", "orders", handler, start="first"), 30)


async def test_a_generator_that_a_handler_returns_is_a_failure(
    broker: FakeBroker, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    put(broker, b"a", b"b")
    handlers: list[Callable[[ReceivedMessage], object]] = [_generator, _async_generator]
    async with consuming(mq, lambda message: handlers.pop()(message)):
        await until(lambda: committed(broker) == 2)
    assert len(handed_back(broker)) == 2
    assert "the handler returned a generator" in caplog.text


@pytest.mark.parametrize("handler", [None, 5, "x"])
async def test_what_cannot_be_called_is_refused(mq: Client, handler: Any) -> None:
    with pytest.raises(ConfigError, match="expected a function"):
        await asyncio.wait_for(mq.consume("g", "orders", handler), 30)


@pytest.mark.parametrize("concurrency", [0, -1, 2.5])
async def test_a_concurrency_that_cannot_be_is_refused(mq: Client, concurrency: Any) -> None:
    with pytest.raises(ConfigError, match="concurrency="):
        await asyncio.wait_for(mq.consume("g", "orders", print, concurrency=concurrency), 30)


# -- handling that is given up again and again ----------------------------------------------------------


@pytest.mark.parametrize("order", ["concurrent", "ordered"])
async def test_a_message_given_back_again_and_again_comes_ever_more_slowly_and_then_has_failed(
    broker: FakeBroker, mq: Client, order: Any
) -> None:
    """A time-out around `process` cancels it, as leaving does; but only the time-out does so every time."""
    put(broker, b"x")
    loop = asyncio.get_running_loop()
    async with mq.consumer("g", "orders", start="first", order=order, suspend=0.01) as consumer:
        waits: list[float] = []
        for _ in range(4):
            since = loop.time()
            message = await asyncio.wait_for(consumer.receive(), 30)
            waits.append(loop.time() - since)
            assert message.reconsume_times == 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001), message.process():
                    await asyncio.sleep(60)
        assert sum(waits[1:]) >= 0.029  # pauses of 0, 10 and 20 ms
        if order == "ordered":
            message = await asyncio.wait_for(consumer.receive(), 30)
            assert (message.reconsume_times, message.given_back) == (1, 0)
            message.ack()
        else:
            await until(lambda: len(handed_back(broker)) == 1)
            await until(lambda: broker.offsets.get(("g", "orders", 0)) == 1)


async def test_an_ordered_message_that_is_cancelled_every_time_ends_at_the_dead_letters() -> None:
    async with (
        FakeCluster(topics=("orders", "%RETRY%g")) as cluster,
        Client(cluster.name_servers, settings=FAST) as mq,
        mq.consumer("g", "orders", start="first", order="ordered", suspend=0.01, max_retries=1) as consumer,
    ):
        broker = cluster.brokers[0]
        put(broker, b"poison", b"next")
        for _ in range(8):
            message = await asyncio.wait_for(consumer.receive(), 30)
            assert message.body == b"poison"
            message.release()
        message = await asyncio.wait_for(consumer.receive(), 30)
        assert message.body == b"next"
        assert len(broker.queues["%DLQ%g", 0]) == 1
