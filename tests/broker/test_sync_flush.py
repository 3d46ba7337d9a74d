"""A broker with flushDiskType=SYNC_FLUSH, whose disk works only when the test says so."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import FlushDiskType
from pymq.disk import Done, Job
from pymq.errors import ResponseError, StoreBroken
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import SendBatchMessageRequest, SendMessageResponse
from pymq.protocol.message import BatchEntry, encode_batch
from pymq.transport.pool import Pool
from tests.broker.asking import PROPERTIES, pull, records, send, send_header
from tests.broker.conftest import StartBroker
from tests.store.sim_disk import SimDisk
from tests.transport.peers import until

SETTINGS = {
    "flush_disk_type": FlushDiskType.SYNC_FLUSH,
    # the simulated disk has no sparse files
    "max_hash_slot_num": 100,
    "max_index_num": 100,
    "mapped_file_size_consume_queue": 2000,
}
NO_WAIT = PROPERTIES.replace("WAIT\x01true", "WAIT\x01false")


class SlowDisk(SimDisk):
    """Holds the flushes of the commit log back until `flush`; all other jobs run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False

    def flush_soon(self, job: Job, done: Done, *, urgent: bool) -> None:
        self.hold_jobs = self.is_slow and urgent
        super().flush_soon(job, done, urgent=urgent)
        self.hold_jobs = False

    async def flush(self) -> None:
        """Do the flush that is asked for."""
        await until(lambda: self.jobs)
        self.run_jobs()


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


@pytest.fixture
async def syncing(start_broker: StartBroker, disk: SlowDisk, pool: Pool) -> Broker:
    """The broker; its topic exists, and from now on its disk is slow."""
    broker = await start_broker(disk=disk, sync_flush_timeout=300, **SETTINGS)
    await send(pool, broker.address, "orders", b"first")
    disk.is_slow = True
    return broker


def batch_header(properties: str) -> SendBatchMessageRequest:
    """A batch to queue 0 of the topic."""
    plain = send_header("orders", properties=properties)
    return SendBatchMessageRequest(**{name: getattr(plain, name) for name in plain.__struct_fields__})


BATCH = encode_batch([BatchEntry(body, "") for body in (b"one", b"two", b"three")])


async def test_a_send_is_readable_at_once_and_answered_when_it_is_durable(
    syncing: Broker, disk: SlowDisk, pool: Pool
) -> None:
    sending = asyncio.ensure_future(send(pool, syncing.address, "orders", b"second"))
    await until(lambda: disk.jobs)
    found = records(await pull(pool, syncing.address, "orders"))
    assert [record.body for record in found] == [b"first", b"second"]
    assert not sending.done()
    await disk.flush()
    assert (await sending).queue_offset == 1


async def test_who_does_not_want_to_wait_is_answered_at_once_and_flushed_soon(
    syncing: Broker, disk: SlowDisk, pool: Pool
) -> None:
    sent = await send(pool, syncing.address, "orders", b"second", properties=NO_WAIT)
    assert sent.queue_offset == 1
    await until(lambda: disk.jobs)
    reply = await pool.call(syncing.address, batch_header("WAIT\x01false"), BATCH)
    assert reply.read(SendMessageResponse).queue_offset == 2


async def test_a_batch_waits_once_for_its_last_record(syncing: Broker, disk: SlowDisk, pool: Pool) -> None:
    other = asyncio.ensure_future(send(pool, syncing.address, "orders", b"second"))
    await until(lambda: disk.jobs)
    batch = asyncio.ensure_future(pool.call(syncing.address, batch_header(PROPERTIES), BATCH))
    await asyncio.sleep(0.02)
    await disk.flush()
    await other
    await asyncio.sleep(0.02)
    assert not batch.done(), "its records are in the next flush"
    await disk.flush()
    answer = (await batch).read(SendMessageResponse)
    assert answer.queue_offset == 2
    assert len(answer.msg_id.split(",")) == 3
    assert disk.jobs == []


async def test_a_disk_that_takes_too_long_is_told_with_where_the_message_is(
    syncing: Broker, disk: SlowDisk, pool: Pool
) -> None:
    reply = await pool.call(
        syncing.address, send_header("orders"), b"second", accept=(ResponseCode.FLUSH_DISK_TIMEOUT,)
    )
    assert reply.code == ResponseCode.FLUSH_DISK_TIMEOUT
    assert reply.read(SendMessageResponse).queue_offset == 1


async def test_a_disk_that_fails_refuses_the_sends_that_wait_and_all_that_follow(
    syncing: Broker, disk: SlowDisk, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    sends = [asyncio.ensure_future(send(pool, syncing.address, "orders", b"x")) for _ in range(3)]
    await until(lambda: disk.jobs)
    disk.failing["sync"] = StoreBroken
    await disk.flush()
    disk.failing.clear()
    sends.append(asyncio.ensure_future(send(pool, syncing.address, "orders", b"later")))
    for each in sends:
        with pytest.raises(ResponseError, match="injected failure of sync") as refused:
            await each
        assert refused.value.code == ResponseCode.SERVICE_NOT_AVAILABLE
    assert "the disk failed, no message is stored before a restart" in caplog.text
    found = records(await pull(pool, syncing.address, "orders"))
    assert found[0].body == b"first", "reading goes on"


async def test_a_producer_that_leaves_while_it_waits_hinders_nobody(
    syncing: Broker, disk: SlowDisk, pool: Pool
) -> None:
    async with AsyncExitStack() as leaving:
        gone = Pool(pool._network, {})
        leaving.push_async_callback(gone.close)
        lost = asyncio.ensure_future(send(gone, syncing.address, "orders", b"second"))
        await until(lambda: disk.jobs)
    with pytest.raises(Exception, match="connection"):
        await lost
    stays = asyncio.ensure_future(send(pool, syncing.address, "orders", b"third"))
    await asyncio.sleep(0.02)
    await disk.flush()
    await disk.flush()
    assert (await stays).queue_offset == 2


async def test_a_stop_flushes_answers_those_who_wait_and_refuses_those_who_come(
    disk: SlowDisk, start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(disk=disk, **SETTINGS)
    await send(pool, broker.address, "orders", b"first")
    disk.is_slow = True
    waiting = asyncio.ensure_future(send(pool, broker.address, "orders", b"second"))
    await until(lambda: disk.jobs)
    stopping = asyncio.ensure_future(broker.__aexit__(None, None, None))
    await asyncio.sleep(0.02)
    with pytest.raises(ResponseError, match="is stopping") as refused:
        await send(pool, broker.address, "orders", b"third")
    assert refused.value.code == ResponseCode.SERVICE_NOT_AVAILABLE
    assert not waiting.done()
    await disk.flush()
    assert (await waiting).queue_offset == 1
    disk.is_slow = False
    await asyncio.wait_for(stopping, 60)
    assert not [path for path in disk.contents if path.endswith("/abort")], "a clean end"
