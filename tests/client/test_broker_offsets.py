"""Committing to brokers that let requests overtake each other, as Apache's thread pools do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast

import pytest

from pymq.client.offset_store import BrokerOffsets
from pymq.client.route_cache import RouteCache
from pymq.network import SystemNetwork
from pymq.protocol.codes import RequestCode
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.transport.pool import Pool
from tests.client.fake_cluster import FakeBroker, queue, until


class _Routes:
    """One broker name; `addresses` are its master's and slaves'."""

    def __init__(self, broker: FakeBroker) -> None:
        self.addresses = {0: broker.address}

    def replicas(self, broker_name: str) -> dict[int, str]:
        return self.addresses


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    broker = FakeBroker("broker-a")
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(SystemNetwork(), {})
    yield pool
    await pool.close()


@pytest.fixture
def routes(broker: FakeBroker) -> _Routes:
    return _Routes(broker)


@pytest.fixture
def offsets(pool: Pool, routes: _Routes) -> BrokerOffsets:
    """Those of group g; a commit without an answer ends after 0.2 s."""
    return BrokerOffsets(pool, cast(RouteCache, routes), "g", timeout_s=1.0, wait_s=0.2)


def asked(broker: FakeBroker) -> list[tuple[str, int, int]]:
    """Topic, queue and offset of all commits that came."""
    commits = broker.requests(UpdateConsumerOffsetRequest)
    return [(each.topic, each.queue_id, each.commit_offset) for each in commits]


def is_silent(broker: FakeBroker, silent: bool) -> None:
    (broker.silent.add if silent else broker.silent.discard)(RequestCode.UPDATE_CONSUMER_OFFSET)


async def test_the_first_offsets_of_a_group_and_topic_do_not_come_together(
    broker: FakeBroker, offsets: BrokerOffsets
) -> None:
    is_silent(broker, True)
    wanted = {queue(i, topic=topic): 5 for topic in ("orders", "bills") for i in range(3)}
    committing = asyncio.ensure_future(offsets.commit(wanted, wait=True))
    await until(lambda: len(asked(broker)) == 2)
    await asyncio.sleep(0.02)
    assert sorted(topic for topic, _, _ in asked(broker)) == ["bills", "orders"]
    is_silent(broker, False)
    await committing
    assert sorted(asked(broker)) == sorted((each.topic, each.queue_id, 5) for each in wanted)

    broker.seen.clear()
    is_silent(broker, True)  # the broker has a table of both topics now: no need to go one by one
    committing = asyncio.ensure_future(offsets.commit(dict.fromkeys(wanted, 6), wait=True))
    await until(lambda: len(asked(broker)) == 6)
    await committing


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_commit_does_not_overtake_the_one_before(
    broker: FakeBroker, offsets: BrokerOffsets, cancelled: bool
) -> None:
    is_silent(broker, True)
    first = asyncio.ensure_future(offsets.commit({queue(0): 5}, wait=True))
    await until(lambda: asked(broker) == [("orders", 0, 5)])
    if cancelled:
        first.cancel()
    second = asyncio.ensure_future(offsets.commit({queue(0): 6}, wait=True))
    await asyncio.sleep(0.02)
    assert asked(broker) == [("orders", 0, 5)]
    is_silent(broker, False)
    await second
    assert asked(broker) == [("orders", 0, 5), ("orders", 0, 6)]
    assert broker.offsets["g", "orders", 0] == 6
    await asyncio.wait([first])


async def test_an_offset_as_it_was_read_is_not_written_back(
    broker: FakeBroker, offsets: BrokerOffsets
) -> None:
    broker.offsets["g", "orders", 0] = 7
    assert await offsets.read(queue(0)) == 7
    assert await offsets.read(queue(1)) is None
    await offsets.commit({queue(0): 7, queue(1): 3}, wait=True)
    assert asked(broker) == [("orders", 1, 3)]


async def test_a_commit_in_passing_opens_no_connection(broker: FakeBroker, offsets: BrokerOffsets) -> None:
    await offsets.commit({queue(0): 5}, wait=False)
    assert asked(broker) == []
    await offsets.commit({queue(0): 5}, wait=True)
    await offsets.commit({queue(0): 6}, wait=False)
    assert asked(broker) == [("orders", 0, 5), ("orders", 0, 6)]


async def test_a_group_that_got_nothing_yet_is_known_to_stand_at_the_beginning(
    broker: FakeBroker, offsets: BrokerOffsets
) -> None:
    broker.offsets["g", "orders", 0] = 0  # what Apache's brokers say of a young queue that is not committed
    assert await offsets.read(queue(0)) == 0
    await offsets.commit({queue(0): 0}, wait=True)
    await offsets.commit({queue(0): 0}, wait=True)
    assert asked(broker) == [("orders", 0, 0)]


async def test_a_broker_that_was_killed_is_told_again_what_it_may_have_forgotten(
    broker: FakeBroker, pool: Pool, offsets: BrokerOffsets
) -> None:
    broker.offsets["g", "orders", 1] = 7
    assert await offsets.read(queue(1)) == 7
    stands = {queue(0): 5, queue(1): 7}
    await offsets.commit(stands, wait=True)
    await offsets.commit(stands, wait=False)
    assert asked(broker) == [("orders", 0, 5)]

    pool.drop(broker.address)
    await until(lambda: pool.connected(broker.address) is None)
    offsets.confirm(stands)
    await pool.connection(broker.address)
    await offsets.commit(stands, wait=True)
    assert asked(broker) == [("orders", 0, 5)]  # another member may have come further meanwhile
    offsets.confirm(stands)
    for _ in range(2):
        await offsets.commit(stands, wait=False)
    # Once; and what was only read is not written back.
    assert asked(broker) == [("orders", 0, 5), ("orders", 0, 5)]


async def test_what_a_former_owner_sets_back_too_late_is_said_again(
    broker: FakeBroker, pool: Pool, routes: _Routes, offsets: BrokerOffsets
) -> None:
    """One whose loop was blocked gives a queue up when the new owner has consumed it already."""
    former = BrokerOffsets(pool, cast(RouteCache, routes), "g", timeout_s=1.0, wait_s=0.2)
    await offsets.commit({queue(0): 9}, wait=True)
    await former.commit({queue(0): 5}, wait=True)
    assert broker.offsets["g", "orders", 0] == 5
    offsets.confirm([queue(0)])
    await offsets.commit({queue(0): 9}, wait=False)
    assert broker.offsets["g", "orders", 0] == 9


async def test_a_master_that_is_back_is_told_what_its_slave_was_told(
    broker: FakeBroker, pool: Pool, routes: _Routes, offsets: BrokerOffsets
) -> None:
    slave = FakeBroker("broker-a")
    await slave.start()
    try:
        routes.addresses = {1: slave.address}
        await offsets.commit({queue(0): 5}, wait=True)
        assert asked(slave) == [("orders", 0, 5)]
        routes.addresses = {0: broker.address, 1: slave.address}
        await pool.connection(broker.address)
        offsets.confirm([queue(0)])
        await offsets.commit({queue(0): 5}, wait=False)
        assert asked(broker) == [("orders", 0, 5)]
    finally:
        await slave.stop()
