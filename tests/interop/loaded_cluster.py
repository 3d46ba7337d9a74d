"""Two masters and two slaves of pymq, and clients that load them the whole time: Java's and Python's."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymq
from pymq.client.settings import Settings
from pymq.network import SystemNetwork
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.headers.administration import CreateTopicRequest, GetBrokerRuntimeInfoRequest
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.transport.pool import Pool
from tests.interop.drivers import Driver, Started
from tests.interop.flaky_link import FlakyLink
from tests.interop.processes import HOST, Node, free_port
from tests.interop.pymq_servers import pymq_broker, pymq_name_server

TOPIC = "orders"
SETTINGS = Settings(poll_name_server_s=1, heartbeat_s=1, commit_s=0.5)
WITHIN_S = 120.0
"""Time enough for anything here."""


@dataclass(frozen=True)
class Acknowledged:
    """A message that was answered with SEND_OK. `physical_offset`: its place in its broker's log."""

    body: str
    broker: str
    physical_offset: int


def bodies(messages: Iterable[Acknowledged]) -> set[str]:
    """Their bodies, no two of which are the same."""
    return {each.body for each in messages}


class Brokers:
    """The masters a-0 and b-0 with their slaves a-1 and b-1; a-1 copies through a link that can break."""

    def __init__(self, folder: Path, role: str) -> None:
        """`role`: brokerRole of the masters."""
        self.role = role
        self.names = pymq_name_server(folder / "names")
        self.pool = Pool(SystemNetwork(), {})
        self._folder = folder
        self._ports = {name: free_port() for name in ("a-0", "a-1", "b-0", "b-1")}
        self.link = FlakyLink(self._ports["a-0"] + 1)
        self._running: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Node:
        return self._running[name]

    async def start_all(self) -> None:
        """Start them, and make the topic on both masters."""
        await self.link.start()
        for name in self._ports:
            await self.start(name)
        for name in ("a-0", "b-0"):
            header = CreateTopicRequest(TOPIC, 4, 4, 6)
            await self.pool.call(self[name].address, header, timeout_s=60)

    async def start(self, name: str) -> None:
        """Start a broker on what it has stored, and wait until it is registered."""
        is_slave = name.endswith("-1")
        settings: dict[str, Any] = {
            "brokerRole": "SLAVE" if is_slave else self.role,
            "brokerId": int(is_slave),
            "mappedFileSizeCommitLog": 1 << 20,
            "maxMessageSize": 1 << 16,
            "slaveTimeout": 10_000,
        }
        if name == "a-1":
            settings["haMasterAddress"] = f"{HOST}:{self.link.port}"
        self._running[name] = await asyncio.to_thread(
            pymq_broker, self.folder(name), [self.names], name[0], self._ports[name], **settings
        )

    def folder(self, name: str) -> Path:
        """Where a broker stores."""
        return self._folder / name

    async def log_end(self, name: str) -> int:
        """Where a broker's log ends."""
        reply = await self.pool.call(self[name].address, GetBrokerRuntimeInfoRequest(), timeout_s=60)
        return int(KVTable.decode(reply.body).table["commitLogMaxOffset"])

    async def are_level(self) -> bool:
        """Whether both slaves have all that their masters have."""
        ends = [await self.log_end(name) for name in self._ports]
        return ends[0] == ends[1] and ends[2] == ends[3]

    async def close(self) -> None:
        """End all."""
        await self.pool.close()
        self.link.close()
        for each in (*self._running.values(), self.names):
            each.kill()


class PythonClients:
    """A producer that sends all the time, and a consumer.

    Attributes:
        acknowledged: what was sent.
        taken: bodies that the consumer got.
    """

    def __init__(self, mq: pymq.Client) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.taken: set[str] = set()
        self._mq = mq
        self._numbers = itertools.count()
        self._sending = [asyncio.ensure_future(self._send()) for _ in range(4)]
        self._taking = asyncio.ensure_future(self._take())

    async def _send(self) -> None:
        for number in self._numbers:
            body = f"python-{number}"
            try:
                result = await self._mq.send(TOPIC, body)
            except pymq.PymqError:
                continue  # nobody was told that it is stored
            if result.status is pymq.SendStatus.SEND_OK:
                place = decode_offset_msg_id(result.offset_msg_id)[1]
                self.acknowledged.append(Acknowledged(body, result.queue.broker_name, place))
            await asyncio.sleep(0.02)

    async def _take(self) -> None:
        async with self._mq.consumer("python", TOPIC, start="first") as consumer:
            while True:
                for message in await consumer.fetch(wait=1):
                    self.taken.add(message.body.decode())
                    message.ack()

    async def stop_sending(self) -> None:
        """No more messages."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def close(self) -> None:
        """End both. Raises what ended the consumer before."""
        await self.stop_sending()
        self._taking.cancel()
        ended = (await asyncio.gather(self._taking, return_exceptions=True))[0]
        if ended is not None and not isinstance(ended, asyncio.CancelledError):
            raise ended


class JavaClients:
    """A producer that sends all the time with eight threads, and consumers."""

    def __init__(self, driver: Driver, namesrv: str) -> None:
        self._driver = driver
        self._common = {"topic": TOPIC, "namesrv": namesrv}
        self._started: list[Started] = []
        self._producer: Started | None = None

    async def start_producer(self) -> None:
        """Begin to send."""
        self._producer = await self._driver.start_async(
            "start_steady_producer", group="java", threads=8, pause_ms=20, **self._common
        )
        self._started.append(self._producer)

    async def start_consumer(self, group: str) -> Started:
        """A consumer from the first message on."""
        first = {"from": "FIRST_OFFSET"}
        consumer = await self._driver.start_async("start_consumer", group=group, **self._common, **first)
        self._started.append(consumer)
        return consumer

    async def acknowledged(
        self, broker: str = "", more: int = 0, *, stop: bool = False
    ) -> list[Acknowledged]:
        """What was acknowledged, as soon as a broker has done so for `more` further ones."""
        assert self._producer is not None
        wait_ms = int(WITHIN_S * 1000)
        asked = await self._producer.ask_async(
            "sent", broker=broker, more=more, wait_ms=wait_ms, stop=stop, within=2 * WITHIN_S
        )
        return [
            Acknowledged(each["body"], each["broker"], decode_offset_msg_id(each["offset_msg_id"])[1])
            for each in asked["answers"]
            if each["status"] == "SEND_OK"
        ]

    @staticmethod
    async def taken(consumer: Started) -> set[str]:
        """Bodies that a consumer got so far."""
        return {each["body"] for each in await consumer.ask_async("taken")}

    async def close(self) -> None:
        """End all."""
        for each in reversed(self._started):
            await each.ask_async("stop")
