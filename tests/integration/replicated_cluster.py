"""A name server and brokers called a, masters and slaves, in one process and with real files and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerConfig, BrokerRole
from pymq.clock import SystemClock
from pymq.errors import ResponseError
from pymq.namesrv.app import NameServer
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.network import SystemNetwork
from pymq.protocol.codes import ResponseCode
from pymq.store.deleted_queues import DELETED
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send

SEGMENT = 1 << 20


class Cluster:
    """Brokers called a, masters and slaves, each with a folder of its own."""

    def __init__(self, running: AsyncExitStack, folder: Path) -> None:
        self._running = running
        self._folder = folder
        self._numbers = itertools.count()
        self.network = SystemNetwork()
        self.pool = Pool(self.network, {})
        self.names = NameServer(
            NamesrvConfig(listen_port=0, bind_address="127.0.0.1", kv_config_path=str(folder / "kv.json")),
            clock=SystemClock(),
            disk=SystemDisk(),
            network=self.network,
        )

    async def start(self) -> None:
        """The name server."""
        await self._running.enter_async_context(self.names)
        self._running.push_async_callback(self.pool.close)

    async def broker(self, folder: str, role: BrokerRole, **settings: Any) -> Broker:
        """Start a broker on a folder."""
        config = BrokerConfig(
            **{
                "broker_name": "a",
                "broker_role": role,
                "broker_id": 1 if role is BrokerRole.SLAVE else 0,
                "namesrv_addr": self.names.address,
                "listen_port": 0,
                "bind_address": "127.0.0.1",
                "store_path_root_dir": str(self._folder / folder),
                "mapped_file_size_commit_log": SEGMENT,
                "max_message_size": 1 << 16,
                "disk_min_free_bytes": 1,
                "slave_timeout": 5_000,
                **settings,
            }
        )
        broker = Broker(config, clock=SystemClock(), disk=SystemDisk(), network=self.network)
        await broker.__aenter__()
        stop = AsyncExitStack()
        stop.push_async_exit(broker)
        self._running.push_async_callback(stop.aclose)
        broker.stop = stop.aclose  # type: ignore[attr-defined]
        return broker

    def log(self, folder: str) -> bytes:
        """A commit log as it lies on the disk, without the room behind it."""
        files = sorted((self._folder / folder / "commitlog").iterdir())
        return b"".join(file.read_bytes() for file in files).rstrip(b"\0")

    def queues(self, folder: str) -> set[str]:
        """The topics of the queues that lie on the disk."""
        return {path.name for path in (self._folder / folder / "consumequeue").iterdir()} - {DELETED}


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as running:
        cluster = Cluster(running, tmp_path)
        await cluster.start()
        yield cluster


async def stop(broker: Broker) -> None:
    """End a broker cleanly."""
    await broker.stop()  # type: ignore[attr-defined]


async def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    """Wait for what other tasks bring about."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - conditions are of all kinds
            await asyncio.sleep(0.01)


async def until_answered(
    cluster: Cluster, broker: Broker, topic: str, count: int, offset: int = 0
) -> list[bytes]:
    """The bodies of a queue, once there are so many of them."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(ResponseError):  # the topic is not known yet
                reply = await pull(cluster.pool, broker.address, topic, offset=offset)
                if reply.code == ResponseCode.SUCCESS and len(found := records(reply)) >= count:
                    return [record.body for record in found]
            await asyncio.sleep(0.02)


async def until_code(cluster: Cluster, broker: Broker, code: int) -> None:
    """Send until the answer has this code."""
    async with asyncio.timeout(60):
        while True:
            try:
                await send(cluster.pool, broker.address, "T", b"x")
                got = 0
            except ResponseError as error:
                got = error.code
            if got == code:
                return
            await asyncio.sleep(0.02)
