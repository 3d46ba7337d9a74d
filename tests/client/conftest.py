"""A cluster of fake brokers and a client of it; a file that needs another one says so itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pymq.client import Client
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster() as cluster:
        yield cluster


@pytest.fixture
def broker(cluster: FakeCluster) -> FakeBroker:
    return cluster.brokers[0]


@pytest.fixture
async def mq(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.name_servers, settings=FAST) as client:
        yield client
