"""Java and Python consumers in one group: they share the topic's queues as if they were of one kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Protocol

import pytest

import pymq
from tests.interop.conftest import VERSIONS, JavaDrivers, fresh
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client, text

QUEUES = 8
TOPIC_NOT_EXIST, CONSUMER_NOT_ONLINE = 17, 206
Queue = tuple[str, int]
"""Broker name and queue id."""


class Member(Protocol):
    """A consumer of either kind. It has the queues that it owns, and the bodies of all that it got."""

    async def owned(self) -> set[Queue]: ...

    async def got(self) -> list[str]: ...

    async def commit(self) -> None: ...

    async def leave(self) -> None: ...


class JavaMember:
    def __init__(self, started: Started) -> None:
        self._started = started

    @classmethod
    async def join(cls, java: Driver, cluster: Cluster, group: str, topic: str) -> JavaMember:
        settings = {"group": group, "topic": topic, "from": "FIRST_OFFSET"}
        return cls(await java.start_async("start_consumer", namesrv=cluster.namesrv, **settings))

    async def owned(self) -> set[Queue]:
        assigned: list[dict[str, Any]] = await self._started.ask_async("assigned")
        return {(each["broker"], each["queue_id"]) for each in assigned}

    async def got(self) -> list[str]:
        return [each["body"] for each in await self._started.received_async(0)]

    async def commit(self) -> None:
        await self._started.ask_async("commit_all")

    async def leave(self) -> None:
        await asyncio.to_thread(self._started.stop)


class PythonMember:
    def __init__(self, client: pymq.Client, consumer: pymq.Consumer, topic: str) -> None:
        self._client = client
        self._consumer = consumer
        self._topic = topic
        self._got: list[str] = []
        self._work = asyncio.ensure_future(self._consume())

    @classmethod
    async def join(cls, cluster: Cluster, group: str, topic: str) -> PythonMember:
        client = python_client(cluster)
        await client.start()
        consumer = client.consumer(group, topic, start="first")
        await consumer.start()
        return cls(client, consumer, topic)

    async def _consume(self) -> None:
        async for message in self._consumer:
            async with message.process():
                self._got.append(text(message))

    async def owned(self) -> set[Queue]:
        return {(q.broker_name, q.queue_id) for q in self._consumer.queues() if q.topic == self._topic}

    async def got(self) -> list[str]:
        return list(self._got)

    async def commit(self) -> None:
        pass  # it does so twice a second

    async def leave(self) -> None:
        await self._client.close()
        await self._work


class Group:
    """The group under test and what it has to get."""

    def __init__(self, cluster: Cluster, admin: Started, sender: pymq.Client) -> None:
        self.cluster = cluster
        self.name = fresh("mixed")
        self.topic = fresh("mixed-topic")
        self.members: list[Member] = []
        self._admin = admin
        self._sender = sender
        self._sent: list[str] = []
        self._left: list[str] = []

    async def python_joins(self) -> PythonMember:
        member = await PythonMember.join(self.cluster, self.name, self.topic)
        self.members.append(member)
        return member

    async def java_joins(self, java: Driver) -> JavaMember:
        member = await JavaMember.join(java, self.cluster, self.name, self.topic)
        self.members.append(member)
        return member

    async def leaves(self, member: Member) -> None:
        self.members.remove(member)
        self._left += await member.got()
        await member.leave()

    async def shares(self, *sizes: int) -> None:
        """Wait until the members own all queues, none owned twice, as many each as said, in any order."""

        async def shared() -> bool:
            owned = [await member.owned() for member in self.members]
            return sorted(map(len, owned)) == sorted(sizes) and len(set().union(*owned)) == QUEUES

        await eventually(f"queues are shared as {sizes}", shared)

    async def consumes(self, what: str, by: int) -> None:
        """Send to every queue; wait until all is consumed once, by `by` members, and committed."""
        bodies = [f"{what} {i}" for i in range(QUEUES * 3)]
        queues = await self._sender.queues(self.topic)
        before = [len(await member.got()) for member in self.members]
        for i, body in enumerate(bodies):
            await self._sender.send(self.topic, body, queue=queues[i % QUEUES])
        self._sent += bodies

        async def came() -> bool:
            return len(await self._all()) >= len(self._sent)

        await eventually(f"{what}: all came", came)
        await eventually(f"{what}: all is committed", self._committed)
        assert sorted(await self._all()) == sorted(self._sent)
        after = [len(await member.got()) for member in self.members]
        assert sum(now > then for now, then in zip(after, before, strict=True)) == by

    async def _all(self) -> list[str]:
        return self._left + [body for member in self.members for body in await member.got()]

    async def _committed(self) -> bool:
        for member in self.members:
            await member.commit()
        try:
            rows = await asyncio.to_thread(partial(self._admin.admin, "consume_stats", group=self.name))
        except DriverError as error:
            if error.code not in (TOPIC_NOT_EXIST, CONSUMER_NOT_ONLINE):
                raise
            return False  # no retry topic, or no offset, yet
        rows = [row for row in rows if row["topic"] == self.topic]
        return len(rows) == QUEUES and all(row["broker_offset"] == row["consumer_offset"] for row in rows)


@pytest.fixture
async def group(cluster: Cluster, admin: Started) -> AsyncIterator[Group]:
    async with AsyncExitStack() as stack:
        made = Group(cluster, admin, await stack.enter_async_context(python_client(cluster)))
        addr = cluster.broker.address
        await asyncio.to_thread(
            partial(admin.admin, "create_topic", addr=addr, topic=made.topic, queues=QUEUES)
        )
        yield made
        for member in made.members:
            await member.leave()


async def test_python_joins_a_java_consumer_and_leaves_it(group: Group, java_json: Driver) -> None:
    await group.java_joins(java_json)
    await group.shares(8)
    await group.consumes("java alone", by=1)
    python = await group.python_joins()
    await group.shares(4, 4)
    await group.consumes("both", by=2)
    await group.leaves(python)
    await group.shares(8)
    await group.consumes("java alone again", by=1)


async def test_java_joins_a_python_consumer_and_leaves_it(group: Group, java_json: Driver) -> None:
    await group.python_joins()
    await group.shares(8)
    await group.consumes("python alone", by=1)
    java = await group.java_joins(java_json)
    await group.shares(4, 4)
    await group.consumes("both", by=2)
    await group.leaves(java)
    await group.shares(8)
    await group.consumes("python alone again", by=1)


async def test_three_kinds_share_queues_that_cannot_be_shared_evenly(
    group: Group, java_drivers: JavaDrivers
) -> None:
    old, new = [await asyncio.to_thread(java_drivers, version) for version in VERSIONS]
    first, second, third = (
        await group.java_joins(old),
        await group.python_joins(),
        await group.java_joins(new),
    )
    await group.shares(3, 3, 2)
    await group.consumes("three", by=3)
    await group.python_joins()
    await group.shares(2, 2, 2, 2)
    await group.consumes("four", by=4)
    await group.leaves(first)
    await group.leaves(third)
    await group.shares(4, 4)
    await group.consumes("two of Python", by=2)
    await group.leaves(second)
    await group.shares(8)
    await group.consumes("one", by=1)


async def test_a_python_consumer_goes_on_where_a_java_consumer_stopped_and_the_other_way(
    group: Group, java_json: Driver
) -> None:
    java = await group.java_joins(java_json)
    await group.shares(8)
    await group.consumes("by java", by=1)
    await group.leaves(java)
    python = await group.python_joins()
    await group.shares(8)
    await group.consumes("by python", by=1)
    await group.leaves(python)
    await group.java_joins(java_json)
    await group.shares(8)
    await group.consumes("by java again", by=1)
