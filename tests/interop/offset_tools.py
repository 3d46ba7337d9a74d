"""mqadmin, the admin API and a Python client, for tests of groups' offsets."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pymq
from tests.interop.conftest import JavaDrivers, fresh
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually, python_client

QUEUES = 2
"""Of each topic that is made here."""

CONSUMER_NOT_ONLINE, TOPIC_NOT_EXIST = 206, 17


class Tools:
    """mqadmin 4.9.4, its API and a Python client, all with one cluster."""

    def __init__(self, java: Driver, admin: Started, cluster: Cluster, client: pymq.Client) -> None:
        self.cluster = cluster
        self.client = client
        self._java = java
        self._admin = admin

    async def api(self, op: str, **fields: Any) -> Any:
        """One operation of the admin API."""
        return await asyncio.to_thread(partial(self._admin.admin, op, **fields))

    async def mqadmin(self, command: str, *args: str) -> str:
        """What a command prints."""
        asked = partial(self._java.ask, "mqadmin", namesrv=self.cluster.namesrv, command=command)
        printed: str = await asyncio.to_thread(partial(asked, args=args))
        return printed

    async def topic(self, kind: str) -> str:
        """A new topic."""
        name = fresh(kind)
        await self.api("create_topic", addr=self.cluster.broker.address, topic=name, queues=QUEUES)
        return name

    async def send(self, topic: str, *bodies: str) -> list[pymq.SendResult]:
        """Send to the queues in turn, some milliseconds after each other."""
        queues = await self.client.queues(topic)
        sent = []
        for i, body in enumerate(bodies):
            sent.append(await self.client.send(topic, body, queue=queues[i % QUEUES]))
            await asyncio.sleep(0.02)
        return sent

    async def committed(self, group: str, topic: str) -> dict[int, int] | None:
        """The offset of each queue as 208 tells it, None while it tells none."""
        try:
            rows = await self.api("consume_stats", group=group)
        except DriverError as error:
            if error.code not in (CONSUMER_NOT_ONLINE, TOPIC_NOT_EXIST):
                raise
            return None
        return {row["queue_id"]: row["consumer_offset"] for row in rows if row["topic"] == topic}

    async def stands(self, group: str, topic: str, *offsets: int, by: Started | None = None) -> None:
        """Wait until a group has committed these offsets; a Java consumer is made to commit."""

        async def so() -> bool:
            if by is not None:
                await by.ask_async("commit_all")
            return await self.committed(group, topic) == dict(enumerate(offsets))

        await eventually(f"{group} stands at {offsets}", so, 60)


async def tools_of(cluster: Cluster, java_drivers: JavaDrivers, stack: AsyncExitStack) -> Tools:
    """Tools that run until the stack is left."""
    java = await asyncio.to_thread(java_drivers, "4.9.4")
    admin = await java.start_async("start_admin", namesrv=cluster.namesrv)
    await stack.enter_async_context(admin)
    client = await stack.enter_async_context(python_client(cluster))
    return Tools(java, admin, cluster, client)


def table(printed: str) -> list[list[str]]:
    """The rows of the table that a command printed."""
    lines = printed.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("#"))
    return [line.split() for line in lines[start + 1 :] if line.strip()]


async def stored_ms(tools: Tools, topic: str, sent: pymq.SendResult) -> int:
    """When a message was stored, ms since 1970."""
    [found] = await tools.client.query(topic, sent.msg_id)
    return found.store_timestamp
