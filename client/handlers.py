"""Running a user's function on each message, several at a time."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from pymq.client.consumer import Consumer
from pymq.client.failures import ClientClosed
from pymq.client.received import ReceivedMessage

Handler = Callable[[ReceivedMessage], object]
"""Handles one message: `async def`, or `def`, which runs in a thread. An exception means: retry later."""


async def run_handler(consumer: Consumer, handler: Handler, concurrency: int, grace_s: float) -> None:
    """Let `handler` have every message, `concurrency` at a time, until cancelled or the consumer is closed.

    On the way out, those under way have `grace_s` seconds to end; then they are cancelled, unsettled.
    """
    call, threads = _awaitable(handler, concurrency)
    busy: set[asyncio.Task[None]] = set()
    stopping = asyncio.Event()

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        while not stopping.is_set():
            try:
                message = await consumer.receive()
            except ClientClosed:
                return
            busy.add(task)
            try:
                async with message.process():
                    await call(message)
            finally:
                busy.discard(task)

    workers = [asyncio.create_task(work(), name="pymq handler") for _ in range(concurrency)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
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


def _awaitable(
    handler: Handler, concurrency: int
) -> tuple[Callable[[ReceivedMessage], Awaitable[object]], ThreadPoolExecutor | None]:
    """The handler as something to await, and the threads it needs for that."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__):
        return handler, None  # type: ignore[return-value]
    threads = ThreadPoolExecutor(concurrency, thread_name_prefix="pymq-handler")

    async def call(message: ReceivedMessage) -> object:
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(threads, context.run, handler, message)
        return await result if inspect.isawaitable(result) else result

    return call, threads
