"""A broker in this process on free ports of 127.0.0.1, and a pool to ask it with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerConfig
from pymq.clock import SystemClock
from pymq.disk import Disk
from pymq.network import SystemNetwork
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool

StartBroker = Callable[..., Awaitable[Broker]]


@pytest.fixture
async def start_broker(tmp_path: Path) -> AsyncIterator[StartBroker]:
    """Starts brokers: settings as keywords, in snake case. The store lies in the test's folder."""
    async with AsyncExitStack() as running:

        async def start(*, disk: Disk | None = None, **settings: Any) -> Broker:
            config = BrokerConfig(
                **{
                    "broker_name": "broker-a",
                    "listen_port": 0,
                    "bind_address": "127.0.0.1",
                    "store_path_root_dir": str(tmp_path / "store"),
                    "mapped_file_size_commit_log": 1 << 20,
                    "max_message_size": 1 << 16,
                    "disk_min_free_bytes": 1,  # how full the machine's disk is matters to no test
                    **settings,
                }
            )
            broker = Broker(config, clock=SystemClock(), disk=disk or SystemDisk(), network=SystemNetwork())
            return await running.enter_async_context(broker)

        yield start


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    """A broker with default settings and small segments."""
    return await start_broker()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """Connections to brokers."""
    pool = Pool(SystemNetwork(), {})
    yield pool
    await pool.close()
