"""Java's consumers with something wrong: killed while they handle a message, stuck in a handler, slow.

The broker's part: to notice the dead and tell the others, to take back what is stuck, to give no more than is
asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pymq
from pymq.client import Settings
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import QueryConsumerOffsetRequest, QueryConsumerOffsetResponse
from pymq.transport.pool import Pool
from tests.interop.apache import java_driver
from tests.interop.conftest import VERSIONS, JavaDrivers, fresh
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually, take, take_until_quiet, text

AT_ONCE = " ".join(["0s"] * 18)
"""What is sent back comes again at once."""
NOTICED_S = 18.0
"""Within this a member has what a dead one had: by itself Java looks only 20 s after the last change."""
BY_NOTICE_ONLY = Settings(commit_s=0.2, rebalance_s=3_600.0, heartbeat_s=3_600.0, compress_from_bytes=1 << 30)
"""Of a client that shares queues anew only when a broker tells it to, and compresses nothing."""
PULL_BATCH = 32
"""Messages that Java asks for in one pull."""
MIB = 1 << 20
ALL = 1_000_000


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """pymq with delay levels that take no time."""
    folder = tmp_path_factory.mktemp("pymq-trouble")
    name_server = pymq_name_server(folder / "namesrv")
    broker = pymq_broker(folder / "broker", [name_server], messageDelayLevel=AT_ONCE)
    cluster = Cluster("pymq", name_server, broker)
    yield cluster
    cluster.kill()


class Bench:
    """The servers, and what every test does with them."""

    def __init__(self, servers: Cluster, client: pymq.Client, pool: Pool) -> None:
        self.client = client
        self._servers = servers
        self._pool = pool

    async def topic(self, queues: int = 1, name: str = "") -> str:
        """A topic that is there before a Java consumer starts, which looks for a new one 20 s later."""
        name = name or fresh("trouble")
        await self._pool.call(
            self._servers.broker.address, CreateTopicRequest(name, queues, queues, 6), timeout_s=60
        )
        return name

    async def group(self) -> str:
        """A group's name; its retry topic is there."""
        group = fresh("troubled")
        await self.topic(name=f"%RETRY%{group}")
        return group

    async def joins(self, java: Driver, group: str, topic: str, **settings: Any) -> Started:
        """A Java consumer."""
        told = {"group": group, "topic": topic, "from": "FIRST_OFFSET"} | settings
        return await java.start_async("start_consumer", namesrv=self._servers.namesrv, **told)

    async def stands(self, group: str, topic: str, offsets: list[int], *members: Started) -> None:
        """Wait until the group has committed these offsets of a topic's queues; Java members are made to."""

        async def offset(queue_id: int) -> int:
            header = QueryConsumerOffsetRequest(group, topic, queue_id)
            try:
                reply = await self._pool.call(self._servers.broker.address, header, timeout_s=60)
            except ResponseError:
                return -1  # none yet
            return reply.read(QueryConsumerOffsetResponse).offset

        async def so() -> bool:
            for each in members:
                await each.ask_async("commit_all")
            return [await offset(i) for i in range(len(offsets))] == offsets

        await eventually(f"{group} stands at {offsets} of {topic}", so)


@pytest.fixture
async def bench(servers: Cluster) -> AsyncIterator[Bench]:
    pool = Pool(SystemNetwork(), {})
    async with pymq.Client(servers.namesrv, settings=BY_NOTICE_ONLY) as client:
        yield Bench(servers, client, pool)
    await pool.close()


# -- Killed


class JavaHeir:
    """The member that goes on, in Java."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self.members = [started]

    async def owned(self) -> int:
        return len(await self._started.ask_async("assigned"))

    async def gets(self, count: int) -> list[tuple[str, int]]:
        """Bodies and earlier deliveries of all that it got, once that is `count`."""
        got = await self._started.received_async(count, NOTICED_S)
        return [(each["body"], each["reconsume_times"]) for each in got]

    async def leaves(self) -> None:
        await asyncio.to_thread(self._started.stop)


class PythonHeir:
    """The member that goes on, in Python."""

    def __init__(self, consumer: pymq.Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._got: list[tuple[str, int]] = []
        self.members: list[Started] = []
        """None that has to be made to commit."""

    async def owned(self) -> int:
        return sum(each.topic == self._topic for each in self._consumer.queues())

    async def gets(self, count: int) -> list[tuple[str, int]]:
        """Bodies and earlier deliveries of all that it got, once that is `count`."""
        got = await take(self._consumer, count - len(self._got), NOTICED_S)
        got += await take_until_quiet(self._consumer, 0.1)
        self._got += [(text(each), each.reconsume_times) for each in got]
        return self._got

    async def leaves(self) -> None:
        await self._consumer.close()


class Inheritance:
    """A group of two with a queue each: one in the JVM that will be killed, and one that goes on."""

    def __init__(self, bench: Bench, topic: str, group: str, doomed: Started) -> None:
        self._bench = bench
        self._topic = topic
        self._group = group
        self._doomed = doomed
        self._offsets = [0, 0]
        self._heir: JavaHeir | PythonHeir

    @classmethod
    async def begin(cls, bench: Bench, doomed: Driver) -> Inheritance:
        """Have the doomed member join."""
        topic, group = await bench.topic(queues=2), await bench.group()
        return cls(bench, topic, group, await bench.joins(doomed, group, topic, sits_on="sit"))

    async def share(self, java: Driver | None) -> None:
        """Have the other one join, Java or (None) Python, and wait until each owns a queue."""
        if java is None:
            consumer = self._bench.client.consumer(self._group, self._topic, start="first")
            await consumer.start()
            self._heir = PythonHeir(consumer, self._topic)
        else:
            self._heir = JavaHeir(await self._bench.joins(java, self._group, self._topic))

        async def shared() -> bool:
            mine = await self._doomed.ask_async("assigned")
            return (len(mine), await self._heir.owned()) == (1, 1)

        await eventually("each owns a queue", shared)

    async def consume(self) -> None:
        """Each consumes and commits a message; the doomed one then sits on two more."""
        [owned] = await self._doomed.ask_async("assigned")
        its_own, doomed_queue = sorted(
            await self._bench.client.queues(self._topic), key=lambda each: each.queue_id == owned["queue_id"]
        )
        await self._bench.client.send(self._topic, "done", queue=doomed_queue)
        await self._bench.client.send(self._topic, "the heir's own", queue=its_own)
        assert [each["body"] for each in await self._doomed.received_async(1)] == ["done"]
        assert await self._heir.gets(1) == [("the heir's own", 0)]
        await self._bench.stands(self._group, self._topic, [1, 1], self._doomed, *self._heir.members)
        for body in ("sit 1", "sit 2"):
            await self._bench.client.send(self._topic, body, queue=doomed_queue)
            self._offsets[doomed_queue.queue_id] += 1
        assert len(await self._doomed.received_async(3)) == 3

    async def inherit(self) -> None:
        """What the dead one sat on comes to the other, what it had done does not."""
        assert sorted(await self._heir.gets(3)) == [("sit 1", 0), ("sit 2", 0), ("the heir's own", 0)]
        offsets = [1 + each for each in self._offsets]
        await self._bench.stands(self._group, self._topic, offsets, *self._heir.members)
        assert len(await self._heir.gets(3)) == 3, "nothing comes once more"
        await self._heir.leaves()


async def test_what_a_killed_jvm_was_handling_comes_to_the_other_members_at_once(
    bench: Bench, java_drivers: JavaDrivers, tmp_path: Path
) -> None:
    heirs = [await asyncio.to_thread(java_drivers, version) for version in VERSIONS]
    doomed = await asyncio.to_thread(java_driver, "4.9.4", "JSON", tmp_path)
    try:
        inheritances = [await Inheritance.begin(bench, doomed) for _ in (*heirs, None)]
        for each, heir in zip(inheritances, (*heirs, None), strict=True):
            await each.share(heir)
            await each.consume()
    finally:
        doomed.kill()
    for each in inheritances:
        await each.inherit()


# -- Stuck


async def test_a_handler_beyond_its_time_has_its_message_sent_back(bench: Bench, java_json: Driver) -> None:
    topic, group = await bench.topic(), await bench.group()
    sent = await bench.client.send(topic, "sit", keys="k", properties={"own": "kept"})
    async with await bench.joins(java_json, group, topic, sits_on="sit") as consumer:
        await consumer.received_async(1)
        await consumer.ask_async("time_out")
        first, again = await consumer.received_async(2)
        assert [each["reconsume_times"] for each in (first, again)] == [0, 1]
        assert {each["msg_id"] for each in (first, again)} == {sent.msg_id}
        assert again["properties"]["ORIGIN_MESSAGE_ID"] == first["offset_msg_id"] == sent.offset_msg_id
        assert (again["body"], again["keys"], again["properties"]["own"]) == ("sit", "k", "kept")
        await consumer.ask_async("let_go", count=ALL)
        # Java moves a queue's offset only when a handler's end takes a message out of it: the next one's.
        await bench.client.send(topic, "next")
        await bench.stands(group, topic, [2], consumer)
        await bench.stands(group, f"%RETRY%{group}", [1], consumer)
        assert [each["body"] for each in await consumer.received_async(0)] == ["sit", "sit", "next"]


# -- Slow


class Slow:
    """A consumer whose handler sits, and so much to consume that it must not fetch it all."""

    def __init__(self, topic: str, bodies: list[str], consumer: Started) -> None:
        self._topic = topic
        self._bodies = bodies
        self.consumer = consumer

    @classmethod
    async def begin(cls, bench: Bench, java: Driver, bodies: list[str], **limits: Any) -> Slow:
        """Send it all to one queue, then have the consumer join."""
        topic, group = await bench.topic(), await bench.group()
        for start in range(0, len(bodies), 30):  # 4 MiB go into one batch
            await bench.client.send_batch(topic, [pymq.Message(body) for body in bodies[start : start + 30]])
        return cls(topic, bodies, await bench.joins(java, group, topic, **limits))

    async def stops(self, at: int, by: str = "full") -> dict[str, int]:
        """What it holds when its handler was given `at` messages and it has put off its pulls since then.

        Nothing leaves meanwhile, so that is the most that it has held since the handler was let go.
        """
        assert len(await self.consumer.received_async(at)) == at
        before = await self.held()

        async def again() -> bool:
            return (await self.held())[by] > before[by] + 2

        await eventually(f"it puts off pulls, being {by}", again)
        return await self.held()

    async def held(self) -> dict[str, int]:
        """What it holds now: "messages", "bytes"; and how often it was "full" or "too_wide" for a pull."""
        held: dict[str, int] = await self.consumer.ask_async("held", topic=self._topic)
        return held

    async def holds(self, messages: int) -> bool:
        """Whether it holds so many now."""
        return (await self.held())["messages"] == messages

    async def finishes(self) -> None:
        """Let the handler go; all must come once."""
        await self.consumer.ask_async("let_go", count=ALL)
        got = await self.consumer.received_async(len(self._bodies))
        assert sorted(each["body"] for each in got) == sorted(self._bodies)

        await eventually("nothing is left", partial(self.holds, 0))
        assert len(await self.consumer.received_async(0)) == len(self._bodies)


THREADS = 4
"""Of each Java consumer; each of them sits in the handler with one message."""
THRESHOLD = 10


async def test_a_slow_consumer_holds_no_more_than_its_threshold_and_a_pull(
    bench: Bench, java_json: Driver
) -> None:
    slow = await Slow.begin(bench, java_json, [f"{i}" for i in range(300)], sits_on="", threshold=THRESHOLD)
    async with slow.consumer:
        assert (await slow.stops(THREADS))["messages"] == PULL_BATCH
        done = 0
        for let_go in (PULL_BATCH - THRESHOLD, PULL_BATCH, PULL_BATCH):  # each time the threshold is left
            await slow.consumer.ask_async("let_go", count=let_go)
            done += let_go
            assert (await slow.stops(done + THREADS))["messages"] == THRESHOLD + PULL_BATCH
        await slow.finishes()


async def test_a_slow_consumer_holds_no_more_bytes_than_its_threshold_and_a_pull(
    bench: Bench, java_json: Driver
) -> None:
    """A pull brings 256 KiB at most (maxTransferBytesOnMessageInMemory), the threshold counts whole MiB."""
    large = [f"{i:02}".ljust(100 << 10, "x") for i in range(40)]
    slow = await Slow.begin(bench, java_json, large, sits_on="", threshold_mib=1)
    async with slow.consumer:
        for done in (0, 12):
            await slow.consumer.ask_async("let_go", count=done)
            held = await slow.stops(done + THREADS)
            assert 2 * MIB <= held["bytes"] <= 2 * MIB + MIB // 4
        await slow.finishes()


async def test_a_slow_consumer_does_not_run_ahead_of_a_message_that_it_is_stuck_with(
    bench: Bench, java_json: Driver
) -> None:
    bodies = [f"sit {i}" if i in (0, 70) else f"go {i}" for i in range(300)]
    slow = await Slow.begin(bench, java_json, bodies, sits_on="sit", max_span=20)
    async with slow.consumer:
        await slow.stops(3 * PULL_BATCH, by="too_wide")
        await eventually("all others of three pulls are done", partial(slow.holds, 2))
        assert len(await slow.consumer.received_async(0)) == 3 * PULL_BATCH
        await slow.finishes()
