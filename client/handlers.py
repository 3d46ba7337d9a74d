"""Running a user's function on each message, several at a time."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from types import AsyncGeneratorType, GeneratorType
from typing import Any

from pymq.client.consumer import Consumer
from pymq.client.failures import ClientClosed
from pymq.client.received import ReceivedMessage, process_all
from pymq.client.retry_later import RetryLater
from pymq.errors import ConfigError

Handler = Callable[[ReceivedMessage], object]
"""Handles one message: `async def`, or `def`, which runs in a thread. An exception means: retry later.

So does RetryLater, raised or returned, which may choose how long to wait. What else is returned is ignored.
"""

BatchHandler = Callable[[list[ReceivedMessage]], object]
"""Handles several messages at once, as Handler. Those that it has not settled share what its end means.

RetryLater may say which of them it is about. A `def` handler must not settle any itself: it runs in a thread.
"""

BATCH_MAX = 1024
"""As many messages a batch may have at most (semantics.md §12.1)."""


def check_handling(handler: object, concurrency: int, batch: int | None) -> None:
    """Raise ConfigError unless this can handle messages, so many at once."""
    if not callable(handler):
        raise ConfigError(f"handler={handler!r}: expected a function that takes a message")
    plain: Any = handler
    while isinstance(plain, functools.partial):
        plain = plain.func
    for function in (plain, type(plain).__call__):
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"handler={handler!r}: with yield in it, its body would never run")
    if not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigError(f"concurrency={concurrency!r}: expected a number of messages from 1 on")
    if batch is None:
        return
    if not 1 <= batch <= BATCH_MAX:
        raise ConfigError(f"batch={batch!r}: expected a number from 1 to {BATCH_MAX}")


async def run_handler(
    consumer: Consumer,
    handler: Handler | BatchHandler,
    concurrency: int,
    grace_s: float,
    batch: int | None = None,
) -> None:
    """Let `handler` have every message, `concurrency` at a time, until cancelled or the consumer is closed.

    With `batch` it has what is there, up to so many at once, of any queues and topics, in the order of each;
    with order="ordered" of one queue.
    On the way out, those under way have `grace_s` seconds to end; then they are cancelled, unsettled.
    Raises RuntimeError when a handler has cancelled the task that it runs in, or somebody else has.
    """
    call, threads = as_coroutine(handler, concurrency)
    busy: set[asyncio.Task[None]] = set()
    stopping = asyncio.Event()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        while not stopping.is_set():
            try:
                if batch is None:
                    messages = [await consumer.receive()]
                else:
                    messages = await consumer.receive_batch(batch)
            except ClientClosed:
                return
            busy.add(task)
            try:
                async with process_all(messages):
                    # A copy: the handler may change its list.
                    result = await call(messages[0] if batch is None else list(messages))
                    if isinstance(result, RetryLater) or result is RetryLater:
                        raise result
                    if isinstance(result, GeneratorType | AsyncGeneratorType):
                        raise TypeError("the handler returned a generator, whose body has not run")
            finally:
                busy.discard(task)

    workers = [asyncio.create_task(work(), name="pymq handler") for _ in range(concurrency)]
    try:
        pending = set(workers)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for worker in done:
                if worker.cancelled():  # not by us: it would be missing from now on
                    raise RuntimeError(
                        "consuming ends: the task that a handler runs in was cancelled, by the handler or by "
                        "code that cancels all tasks; to stop consuming, cancel consume()"
                    )
                worker.result()
    finally:
        stopping.set()
        for worker in workers:
            if worker not in busy:
                worker.cancel()
        try:
            await asyncio.wait(workers, timeout=grace_s)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            if threads is not None:
                threads.shutdown(wait=False, cancel_futures=True)


def as_coroutine(
    handler: Callable[[Any], object], concurrency: int
) -> tuple[Callable[[Any], Awaitable[object]], ThreadPoolExecutor | None]:
    """The handler as something to await, and the threads it needs for that."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):
        return handler, None  # type: ignore[return-value]
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="pymq-handler")

    def run(given: Any) -> object:
        try:
            return handler(given)
        except StopIteration as error:  # no future can have it: who waits for it would do so for ever
            raise RuntimeError("the handler raised StopIteration") from error

    async def call(given: Any) -> object:
        messages = list(given) if isinstance(given, list) else [given]
        context = contextvars.copy_context()
        running = threads.submit(context.run, run, given)
        try:
            result = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if (
                running.running()
            ):  # a thread cannot be stopped: where order matters nobody may go on behind it
                for message in messages:
                    message.abandon()
            raise
        return await result if inspect.isawaitable(result) else result

    return call, threads
