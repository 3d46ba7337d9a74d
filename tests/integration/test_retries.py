"""Retries from end to end: pymq's client, and its broker as a process of its own with short delay levels."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

import pymq
from pymq.client import Settings
from pymq.network import SystemNetwork
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.headers.administration import UpdateAndCreateSubscriptionGroupRequest
from pymq.transport.pool import Pool
from tests.client.fake_cluster import until
from tests.integration.conftest import Standalone, start_standalone

LEVELS = "messageDelayLevel=" + "1s " * 2 + "0s " * 15 + "1h\n"
"""Retries come at once, but those at the first two levels after a second, and at the last after an hour."""

QUICK = Settings(poll_missing_route_s=0.1, call_timeout_s=20.0)
"""Retry and dead-letter topics, which come into being late, are found soon."""

SITS = """
import asyncio, sys, pymq

async def main(name_servers):
    async with pymq.Client(name_servers) as mq, mq.consumer("killed", "sat-on", start="first") as consumer:
        message = await consumer.receive()
        print("got", message.body.decode(), flush=True)
        await asyncio.sleep(3600)

asyncio.run(main(sys.argv[1]))
"""
"""A consumer that never comes to an end with its first message."""


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    running = start_standalone(tmp_path_factory.mktemp("retries"), LEVELS)
    yield running
    running.process.terminate()
    assert running.process.wait(timeout=60) == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
async def mq(standalone: Standalone) -> AsyncIterator[pymq.Client]:
    async with pymq.Client(standalone.namesrv, settings=QUICK) as client:
        yield client


async def take(consumer: pymq.Consumer, within_s: float = 60.0) -> pymq.ReceivedMessage:
    (message,) = await consumer.fetch(max=1, wait=within_s)
    return message


async def test_a_message_that_always_fails_comes_sixteen_times_more_and_is_then_a_dead_letter(
    mq: pymq.Client,
) -> None:
    seen: list[pymq.ReceivedMessage] = []

    async def handle(message: pymq.ReceivedMessage) -> object:
        seen.append(message)
        # Growing levels would end with an hour: the third one is chosen, whose delay is none.
        return pymq.RetryLater("never", delay_level=3)

    sent = await mq.send("hopeless", "x", tags="t", keys="k", properties={"own": "kept"})
    consuming = asyncio.create_task(mq.consume("failing", "hopeless", handle, start="first"))
    await until(lambda: len(seen) >= 17)
    async with mq.consumer("undertaker", "%DLQ%failing", start="first") as consumer:
        dead = await take(consumer)
        dead.ack()
    consuming.cancel()
    await asyncio.wait([consuming])

    assert [each.reconsume_times for each in [*seen, dead]] == list(range(18))
    assert {each.msg_id for each in [*seen, dead]} == {sent.msg_id}
    assert len({each.offset_msg_id for each in [*seen, dead]}) == 18
    assert seen[0].offset_msg_id == sent.offset_msg_id
    assert {each.properties["ORIGIN_MESSAGE_ID"] for each in [*seen[1:], dead]} == {sent.offset_msg_id}
    for each in seen:
        assert (each.topic, each.tags, each.keys, each.properties["own"]) == ("hopeless", "t", ("k",), "kept")
    assert (dead.topic, dead.body, dead.properties["DELAY"]) == ("%DLQ%failing", b"x", "0")


async def test_a_message_goes_on_failing_with_growing_delays_until_it_succeeds(mq: pymq.Client) -> None:
    seen: list[pymq.ReceivedMessage] = []

    def handle(message: pymq.ReceivedMessage) -> None:
        seen.append(message)
        if message.reconsume_times < 4:
            raise RuntimeError("not yet")

    consuming = asyncio.create_task(mq.consume("trying", "hard", handle, start="first"))
    await mq.send("hard", "x")
    await until(lambda: len(seen) >= 5)
    await asyncio.sleep(0.2)  # it does not come once more
    consuming.cancel()
    await asyncio.wait([consuming])
    assert [each.properties.get("DELAY") for each in seen] == [None, "3", "4", "5", "6"]


async def test_what_a_killed_consumer_was_handling_comes_to_another_member_soon(
    mq: pymq.Client, standalone: Standalone
) -> None:
    await mq.send("sat-on", "makes the topic")
    for queue in await mq.queues("sat-on"):
        await mq.send("sat-on", f"of queue {queue.queue_id}", queue=queue)
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SITS, standalone.namesrv, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert killed.stdout is not None
        assert (await killed.stdout.readline()).startswith(b"got ")
        async with mq.consumer("killed", "sat-on", start="first") as consumer:
            loop = asyncio.get_running_loop()
            bodies: set[bytes] = set()
            # Two queues are its own, with a message each at least; a third one may follow soon.
            while batch := await consumer.fetch(max=1, wait=60 if len(bodies) < 2 else 0.7):
                [message] = batch
                bodies.add(message.body)
                message.ack()
            assert 2 <= len(bodies) <= 3, "the other member's queues are its own as long as it lives"
            killed.kill()
            killed_at = loop.time()
            while len(bodies) < 5:
                message = await take(consumer)
                assert message.reconsume_times == 0
                bodies.add(message.body)
                message.ack()
            assert loop.time() - killed_at < 15, "the next rebalance would come after 20 s"
    finally:
        if killed.returncode is None:
            killed.kill()
        await killed.wait()


async def test_a_message_that_a_consumer_sits_on_is_handled_again(mq: pymq.Client) -> None:
    sent = await mq.send("slow", "x")
    async with mq.consumer("slow", "slow", start="first", consume_timeout=0.3) as consumer:
        first = await take(consumer)
        again = await take(consumer)
        assert (again.reconsume_times, again.msg_id, again.properties["DELAY"]) == (1, sent.msg_id, "3")
        again.ack()
        first.ack()  # too late
        assert await consumer.fetch(wait=0.3) == []


async def test_with_no_retries_the_first_failure_is_a_dead_letter(mq: pymq.Client) -> None:
    async with (
        mq.consumer("strict", "strict", start="first", max_retries=0) as consumer,
        mq.consumer("undertaker", "%DLQ%strict", start="first") as dead_letters,
    ):
        await mq.send("strict", "x")
        await (await take(consumer)).retry()
        dead = await take(dead_letters)
        assert (dead.body, dead.reconsume_times) == (b"x", 1)
        dead.ack()


async def test_more_retry_queues_are_noticed_at_once(mq: pymq.Client, standalone: Standalone) -> None:
    """And not only by the next look at all routes, half a minute later: what lies in them would wait."""
    pool = Pool(SystemNetwork(), {})

    def owned(consumer: pymq.Consumer) -> set[int]:
        return {queue.queue_id for queue in consumer.queues() if queue.topic == "%RETRY%widened"}

    await mq.send("some-topic", "so that it exists")
    async with mq.consumer("widened", "some-topic", start="first") as consumer:
        await until(lambda: owned(consumer) == {0})
        group = SubscriptionGroupConfig("widened", retry_queue_nums=4)
        await pool.call(standalone.broker, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
        await until(lambda: owned(consumer) == {0, 1, 2, 3})
    await pool.close()
