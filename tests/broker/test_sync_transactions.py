"""Transactions of a broker with SYNC_FLUSH, whose disk works only when the test says so; and of a slave."""

from __future__ import annotations

import asyncio

import pytest

from pymq.broker.broker_config import BrokerRole
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_ROLLBACK
from pymq.transport.pool import Pool
from tests.broker.asking import pull, send
from tests.broker.conftest import StartBroker
from tests.broker.test_sync_flush import SETTINGS, SlowDisk
from tests.broker.test_transaction_requests import HALF, end_of, prepare
from tests.transport.peers import until


@pytest.mark.parametrize("kind", [TRANSACTION_COMMIT, TRANSACTION_ROLLBACK])
async def test_half_and_end_are_answered_when_they_are_durable(
    start_broker: StartBroker, pool: Pool, kind: int
) -> None:
    disk = SlowDisk()
    broker = await start_broker(disk=disk, **SETTINGS)
    await send(pool, broker.address, "orders", b"first")
    disk.is_slow = True
    preparing = asyncio.ensure_future(prepare(pool, broker, b"1"))
    await until(lambda: disk.jobs)
    assert not preparing.done()
    await disk.flush()
    half = await preparing
    ending = asyncio.ensure_future(pool.call(broker.address, end_of(half, kind)))
    await until(lambda: disk.jobs)
    again = asyncio.ensure_future(pool.call(broker.address, end_of(half, kind)))
    await pull(pool, broker.address, "orders")  # the same connection: behind the two
    assert not ending.done()
    assert not again.done(), "what ended it is not durable yet"
    disk.is_slow = False
    await disk.flush()
    await asyncio.wait_for(asyncio.gather(ending, again), 60)


async def test_without_a_slave_the_half_says_so_and_the_end_does_not(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(broker_role=BrokerRole.SYNC_MASTER)
    properties = HALF.format(key="K")
    with pytest.raises(ResponseError) as refused:
        await send(pool, broker.address, "orders", b"1", properties=properties)
    assert refused.value.code == ResponseCode.SLAVE_NOT_AVAILABLE
    half = await prepare(pool, broker, b"2", wait="false")
    reply = await pool.call(broker.address, end_of(half, TRANSACTION_COMMIT))
    assert reply.code == ResponseCode.SUCCESS


async def test_a_slave_ends_nothing(start_broker: StartBroker, pool: Pool) -> None:
    master = await start_broker()
    half = await prepare(pool, master, b"1")
    slave = await start_broker(
        broker_role=BrokerRole.SLAVE,
        broker_id=1,
        store_path_root_dir=f"{master._config.store_path_root_dir}-b",
    )
    with pytest.raises(ResponseError, match="slave") as refused:
        await pool.call(slave.address, end_of(half, TRANSACTION_COMMIT))
    assert refused.value.code == ResponseCode.SLAVE_NOT_AVAILABLE
