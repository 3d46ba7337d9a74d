"""Ordered consumption: Java on pymq, Python on pymq and on Apache's servers, and both in one group."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple, Protocol

import pytest

import pymq
from tests.interop.conftest import ApacheClusters, JavaDrivers, fresh
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client, text

QUEUES = 4
SUSPEND_MS = 200
TOPIC_NOT_EXIST = 17
PATIENCE_S = 120.0
"""Java locks at 1 s and every 20 s after its start: what 4.3.2, slow to start, owns only after that waits.
And a lock whose holder could not give it back ends after a minute."""


class Handled(NamedTuple):
    """One handling of a message: its place, how often it had failed before, and when (ms)."""

    queue_id: int
    queue_offset: int
    reconsume_times: int
    body: str
    begun_ms: int
    ended_ms: int


class Member(Protocol):
    """An ordered consumer of either kind."""

    async def handled(self) -> list[Handled]: ...

    async def owned(self) -> set[int]: ...

    async def leave(self) -> list[Handled]:
        """End, and give all that was handled."""
        ...


class JavaMember:
    def __init__(self, started: Started) -> None:
        self._started = started

    @classmethod
    async def join(cls, java: Driver, cluster: Cluster, group: str, topic: str, **more: Any) -> JavaMember:
        settings = {"group": group, "topic": topic, "suspend_ms": SUSPEND_MS, "work_ms": 2} | more
        return cls(await java.start_async("start_ordered_consumer", namesrv=cluster.namesrv, **settings))

    async def handled(self) -> list[Handled]:
        got = await self._started.received_async(0)
        return [Handled(*[each[name] for name in Handled._fields]) for each in got]

    async def owned(self) -> set[int]:
        return {each["queue_id"] for each in await self._started.ask_async("assigned")}

    async def leave(self) -> list[Handled]:
        handled = await self.handled()
        await asyncio.to_thread(self._started.stop)
        return handled


class PythonMember:
    def __init__(self, client: pymq.Client, consumer: pymq.Consumer, topic: str, failures: int) -> None:
        self._client = client
        self._consumer = consumer
        self._topic = topic
        self._failures = failures
        self._handled: list[Handled] = []
        self._work = [asyncio.ensure_future(self._consume()) for _ in range(QUEUES)]

    @classmethod
    async def join(
        cls,
        cluster: Cluster,
        group: str,
        topic: str,
        failures: int = 0,
        max_reconsume_times: int | None = None,
    ) -> PythonMember:
        client = python_client(cluster)
        await client.start()
        consumer = client.consumer(
            group,
            topic,
            order="ordered",
            start="first",
            suspend=SUSPEND_MS / 1000,
            max_retries=max_reconsume_times,
        )
        await consumer.start()
        return cls(client, consumer, topic, failures)

    async def _consume(self) -> None:
        async for message in self._consumer:
            async with message.process():
                begun_ms = int(time.time() * 1000)
                await asyncio.sleep(0.002)
                place = message.queue.queue_id, message.queue_offset, message.reconsume_times, text(message)
                self._handled.append(Handled(*place, begun_ms, int(time.time() * 1000)))
                if text(message).startswith("hard") and message.reconsume_times < self._failures:
                    raise pymq.RetryLater("hard")

    async def handled(self) -> list[Handled]:
        return list(self._handled)

    async def owned(self) -> set[int]:
        return {queue.queue_id for queue in self._consumer.queues() if queue.topic == self._topic}

    async def leave(self) -> list[Handled]:
        await self._client.close()
        await asyncio.gather(*self._work)
        return self._handled


class Group:
    """An ordered group under test."""

    def __init__(self, cluster: Cluster, admin: Started, sender: pymq.Client) -> None:
        self.cluster = cluster
        self.name = fresh("ordered")
        self.topic = fresh("ordered-topic")
        self.members: list[Member] = []
        self.sent = 0
        self._admin = admin
        self._sender = sender
        self._left: list[Handled] = []

    async def make_topic(self) -> None:
        create = partial(self._admin.admin, "create_topic", addr=self.cluster.broker.address)
        await asyncio.to_thread(partial(create, topic=self.topic, queues=QUEUES))

    async def python(self, **more: Any) -> Member:
        self.members.append(await PythonMember.join(self.cluster, self.name, self.topic, **more))
        return self.members[-1]

    async def java(self, driver: Driver, **more: Any) -> Member:
        self.members.append(await JavaMember.join(driver, self.cluster, self.name, self.topic, **more))
        return self.members[-1]

    async def leaves(self, member: Member) -> None:
        self._left += await member.leave()
        self.members.remove(member)

    async def shares(self, *sizes: int) -> None:
        async def shared() -> bool:
            owned = [await member.owned() for member in self.members]
            return sorted(map(len, owned)) == sorted(sizes) and len(set().union(*owned)) == QUEUES

        await eventually(f"queues are shared as {sizes}", shared, PATIENCE_S)

    async def send(self, count: int, hard: int | None = None) -> None:
        """`count` messages to every queue; the one of number `hard` is called so."""
        for queue in await self._sender.queues(self.topic):
            for number in range(count):
                name = "hard" if number == hard else "easy"
                await self._sender.send(self.topic, f"{name} {number}", queue=queue)
        self.sent += count * QUEUES

    async def handled(self) -> list[Handled]:
        """All handlings so far, as they began."""
        found = [*self._left]
        for member in self.members:
            found += await member.handled()
        return sorted(found, key=lambda each: each.begun_ms)

    async def consumes_all(self) -> None:
        async def came() -> bool:
            return len({each[:2] for each in await self.handled()}) == self.sent

        await eventually("all is handled", came, PATIENCE_S)

    async def is_in_order(self) -> None:
        """Nothing overtook what stands before it, and no two were handled at the same time, in any queue."""
        queues: defaultdict[int, list[Handled]] = defaultdict(list)
        for each in await self.handled():
            queues[each.queue_id].append(each)
        assert len(queues) == QUEUES
        for handlings in queues.values():
            behind = 0
            for last, each in zip([None, *handlings], handlings, strict=False):
                assert each.queue_offset <= behind
                behind = max(behind, each.queue_offset + 1)
                assert last is None or last.ended_ms <= each.begun_ms

    async def dead_letters(self) -> int:
        stats = partial(self._admin.admin, "topic_stats", topic=f"%DLQ%{self.name}")
        try:
            rows = await asyncio.to_thread(stats)
        except DriverError as error:
            if error.code != TOPIC_NOT_EXIST:
                raise
            return 0
        return sum(row["max"] - row["min"] for row in rows)


@pytest.fixture(params=["pymq", "4.9.4"])
async def servers(
    request: pytest.FixtureRequest, java_drivers: JavaDrivers
) -> AsyncIterator[tuple[Cluster, Started]]:
    """pymq's servers, and Apache's, with the admin API of Java."""
    if request.param == "pymq":
        cluster: Cluster = request.getfixturevalue("cluster")
    else:
        clusters: ApacheClusters = request.getfixturevalue("apache_clusters")
        cluster = await asyncio.to_thread(clusters, request.param)
    driver = await asyncio.to_thread(java_drivers, "4.9.4")
    async with await driver.start_async("start_admin", namesrv=cluster.namesrv) as admin:
        yield cluster, admin


@pytest.fixture
async def group(servers: tuple[Cluster, Started]) -> AsyncIterator[Group]:
    """A group on either servers."""
    async with AsyncExitStack() as stack:
        made = Group(*servers, await stack.enter_async_context(python_client(servers[0])))
        await made.make_topic()
        yield made
        for member in made.members:
            await member.leave()


@pytest.fixture
async def group_on_pymq(cluster: Cluster, admin: Started) -> AsyncIterator[Group]:
    """A group on pymq's servers."""
    async with AsyncExitStack() as stack:
        made = Group(cluster, admin, await stack.enter_async_context(python_client(cluster)))
        await made.make_topic()
        yield made
        for member in made.members:
            await member.leave()


async def failures_are_retried_in_place(group: Group) -> None:
    """A member whose "hard" ones fail twice has consumed what there is."""
    await group.consumes_all()
    await group.is_in_order()
    handled = await group.handled()
    for queue_id in range(QUEUES):
        hard = [each for each in handled if each.queue_id == queue_id and each.body.startswith("hard")]
        assert [each.reconsume_times for each in hard] == [0, 1, 2]
        for last, each in itertools.pairwise(hard):
            assert SUSPEND_MS - 2 <= each.begun_ms - last.ended_ms < SUSPEND_MS + 15_000
    assert await group.dead_letters() == 0


async def what_fails_too_often_is_a_dead_letter(group: Group) -> None:
    """A member that allows one retry and whose "hard" ones always fail has consumed what there is."""
    await group.consumes_all()
    await group.is_in_order()
    times = [each.reconsume_times for each in await group.handled() if each.body.startswith("hard")]
    assert sorted(times) == [0] * QUEUES + [1] * QUEUES

    async def dead() -> bool:
        return await group.dead_letters() == QUEUES

    await eventually("each is among the dead letters", dead)


async def test_a_java_consumer_retries_in_place(group_on_pymq: Group, java_json: Driver) -> None:
    await group_on_pymq.send(6, hard=2)
    await group_on_pymq.java(java_json, failures=2)
    await failures_are_retried_in_place(group_on_pymq)


async def test_a_java_consumer_gives_up_after_its_limit(group_on_pymq: Group, java_json: Driver) -> None:
    await group_on_pymq.send(4, hard=1)
    await group_on_pymq.java(java_json, failures=99, max_reconsume_times=1)
    await what_fails_too_often_is_a_dead_letter(group_on_pymq)


async def test_a_python_consumer_retries_in_place(group: Group) -> None:
    await group.send(6, hard=2)
    await group.python(failures=2)
    await failures_are_retried_in_place(group)


async def test_a_python_consumer_gives_up_after_its_limit(group: Group) -> None:
    await group.send(4, hard=1)
    await group.python(failures=99, max_reconsume_times=1)
    await what_fails_too_often_is_a_dead_letter(group)


async def test_python_members_hand_queues_over_in_order(group: Group) -> None:
    first = await group.python()
    sending = asyncio.ensure_future(group.send(60))
    await group.python()
    await group.shares(2, 2)
    await group.leaves(first)
    await group.shares(4)
    await sending
    await group.consumes_all()
    await group.is_in_order()


async def test_java_and_python_members_hand_queues_over_in_order(
    group_on_pymq: Group, java_json: Driver
) -> None:
    group = group_on_pymq
    java = await group.java(java_json)
    await group.send(5)
    await group.consumes_all()  # a Java member keeps the lock of a queue of which it holds messages for 20 s
    await group.python()
    await group.shares(2, 2)
    await group.send(5)
    await group.consumes_all()
    await group.leaves(java)
    await group.shares(4)
    await group.send(5)
    await group.java(java_json)
    await group.shares(2, 2)
    await group.send(5)
    await group.consumes_all()
    await group.is_in_order()
