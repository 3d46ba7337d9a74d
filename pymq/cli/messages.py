"""Sending and consuming from the command line."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import sys
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal

import click

import pymq
from pymq.cli.programs import loop_factory

if TYPE_CHECKING:
    from pymq.client.client import ConsumerOptions

Start = Literal["first", "last"] | datetime.datetime

HELLO_TOPIC = "pymq-hello"
HELLO_TIMEOUT_S = 30.0

HOW_TO_CONNECT = """
Connect to it:
  Python   async with pymq.Client("{namesrv}") as mq:
               await mq.send("my-topic", b"hello")
  Java     DefaultMQProducer producer = new DefaultMQProducer("my-group");
           producer.setNamesrvAddr("{namesrv}");
  shell    pymq send my-topic hello -n "{namesrv}"
           pymq consume my-topic --from first -n "{namesrv}"
Stop it with Ctrl-C."""


def start_of(text: str) -> Start:
    """Read where to begin: `first`, `last`, or a time in ISO form (local where it names no zone)."""
    match text:
        case "first":
            return "first"
        case "last":
            return "last"
    try:
        return datetime.datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither first, last nor a time", param_hint="--from") from None


def send(
    namesrv: str,
    topic: str,
    body: bytes,
    tags: str,
    keys: list[str],
    properties: dict[str, str],
    trace: bool,
) -> None:
    """Send one message and print where it lies. Raises PymqError."""

    async def story() -> None:
        async with pymq.Client(namesrv, trace=trace) as mq:
            result = await mq.send(topic, body, tags=tags or None, keys=keys, properties=properties)
        print(_placed(result))

    run_client(story())


def consume(
    namesrv: str,
    topic: str,
    group: str,
    options: ConsumerOptions,
    count: int | None,
    verbose: bool,
    trace: bool,
) -> None:
    """Print messages as they come, `count` of them or until interrupted. Raises PymqError."""

    async def story() -> None:
        seen = 0
        async with pymq.Client(namesrv, trace=trace) as mq:
            # A consumer waits for name servers that are away; here the address may just be wrong.
            with contextlib.suppress(pymq.RouteNotFound):  # the topic may come later
                await mq.queues(topic)
            async with mq.consumer(group, topic, **options) as messages:
                async for message in messages:
                    async with message.process():
                        _show(message, verbose)
                    seen += 1
                    if seen == count:
                        return

    with contextlib.suppress(KeyboardInterrupt):
        run_client(story())


async def say_hello(namesrv: str) -> str:
    """Send a first message over TCP, consume it, and tell about it and how to connect. Raises PymqError."""
    async with pymq.Client(namesrv) as mq:
        result = await mq.send(HELLO_TOPIC, b"Hello from pymq")
        async with (
            asyncio.timeout(HELLO_TIMEOUT_S),
            mq.consumer("pymq-hello", HELLO_TOPIC, start="first") as messages,
        ):
            async for message in messages:
                async with message.process():
                    text = message.body.decode(errors="replace")
                if message.msg_id == result.msg_id:
                    break
    return f"sent      {_placed(result)}\nconsumed  {text}\n{HOW_TO_CONNECT.format(namesrv=namesrv)}"


def run_client(story: Coroutine[Any, Any, None]) -> None:
    """Run something that a client does, with its warnings on stderr."""
    if logging.lastResort:  # warnings of the client, on stderr
        logging.lastResort.setFormatter(logging.Formatter("pymq: %(message)s"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(story)


def _placed(result: pymq.SendResult) -> str:
    queue = result.queue
    return (
        f"{result.status.name} msgId={result.msg_id} "
        f"broker={queue.broker_name} queueId={queue.queue_id} queueOffset={result.queue_offset}"
    )


def _show(message: pymq.ReceivedMessage, verbose: bool) -> None:
    if verbose:
        about = (
            f"queueId={message.queue.queue_id} queueOffset={message.queue_offset} "
            f"tags={message.tags or ''} keys={' '.join(message.keys)} "
        )
        sys.stdout.write(about)
    sys.stdout.flush()
    sys.stdout.buffer.write(message.body + b"\n")
    sys.stdout.buffer.flush()
