"""Requests, replies and namespaces, through a broker as users run it (semantics.md §8.3, §12.11)."""

from __future__ import annotations

import asyncio
import random

import pytest

import pymq
from tests.integration.conftest import Standalone


async def test_requests_are_answered_many_at_once_and_long_ones_too(standalone: Standalone) -> None:
    noise = random.Random(7).randbytes(300_000)  # stays as long when it is compressed
    text = ("消息 " * 200_000).encode()  # compressed off the loop

    async def echo(message: pymq.ReceivedMessage) -> None:
        await message.reply(message.body[::-1])

    async with pymq.Client(standalone.namesrv) as asker, pymq.Client(standalone.namesrv) as answerer:
        await asker.send("prices", "so that the topic exists")

        async def handle(message: pymq.ReceivedMessage) -> None:
            if message.wants_reply:
                await echo(message)

        consuming = asyncio.ensure_future(answerer.consume("answerers", "prices", handle, start="first"))
        bodies = [*(f"m{i}".encode() for i in range(300)), noise, text]
        replies = await asyncio.gather(*(asker.request("prices", body, timeout=90) for body in bodies))
        assert [reply.body for reply in replies] == [body[::-1] for body in bodies]
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)
        with pytest.raises(pymq.RequestTimeout):
            await asker.request("prices", "nobody there", timeout=4)


async def test_a_client_that_lost_its_connection_still_gets_its_reply(standalone: Standalone) -> None:
    """It introduces itself anew by itself, and the responder tries again."""
    async with pymq.Client(standalone.namesrv) as asker, pymq.Client(standalone.namesrv) as answerer:
        await asker.send("lost", "so that the topic exists")
        asked = asyncio.Event()
        cut = asyncio.Event()

        async def handle(message: pymq.ReceivedMessage) -> None:
            if message.wants_reply:
                asked.set()
                await cut.wait()
                for _ in range(100):
                    try:
                        await message.reply("found you")
                    except pymq.SendFailed:
                        await asyncio.sleep(0.2)
                    else:
                        return

        consuming = asyncio.ensure_future(answerer.consume("answerers-2", "lost", handle, start="first"))
        asking = asyncio.ensure_future(asker.request("lost", "?", timeout=60))
        await asyncio.wait_for(asked.wait(), 60)
        asker._instance._pool.drop(standalone.broker)
        await asyncio.sleep(0.05)
        cut.set()
        assert (await asking).body == b"found you"
        consuming.cancel()
        await asyncio.gather(consuming, return_exceptions=True)


async def test_two_namespaces_share_a_broker_and_nothing_else(standalone: Standalone) -> None:
    async with (
        pymq.Client(standalone.namesrv, namespace="red") as red,
        pymq.Client(standalone.namesrv, namespace="blue") as blue,
        pymq.Client(standalone.namesrv) as plain,
    ):
        for client, own in ((red, "r"), (blue, "b"), (plain, "p")):
            sent = await client.send("colours", own)
            assert sent.queue.topic == "colours"
        for client, topic, body in (
            (red, "colours", b"r"),
            (blue, "colours", b"b"),
            (plain, "colours", b"p"),
            (plain, "red%colours", b"r"),
        ):
            async with client.consumer(f"group-of-{body.decode()}", topic, start="first") as consumer:
                [got] = await consumer.fetch(wait=60)
                got.ack()
                assert (got.body, got.topic) == (body, topic)
                assert await consumer.fetch(wait=0.2) == []
