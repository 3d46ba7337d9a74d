"""A batch of very many messages: stored whole, while others have their turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from pymq.broker.broker_config import BrokerConfig, FlushDiskType
from pymq.broker.figures import Figures
from pymq.broker.processors.batch_sends import AT_ONCE_BYTES, BatchSends
from pymq.errors import PymqError, ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import SendBatchMessageRequest, SendMessageResponse
from pymq.protocol.message import BatchEntry, encode_batch
from pymq.store.batches import SLICE, BatchResult
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records, send
from tests.broker.conftest import StartBroker
from tests.sim import SimClock
from tests.store.making import BORN_HOST, open_store
from tests.store.sim_disk import SimDisk

ROOM = {"max_message_size": 4 << 20, "mapped_file_size_commit_log": 16 << 20}


def header(topic: str = "orders", properties: str = "") -> SendBatchMessageRequest:
    """A batch to queue 0."""
    return SendBatchMessageRequest("producers", topic, 0, 0, 1, 0, properties=properties, batch="true")


def block(count: int, properties: str = "") -> bytes:
    """A batch of so many messages, whose bodies tell their places."""
    return encode_batch([BatchEntry(b"%05d" % number, properties) for number in range(count)])


LARGE = block(3 * SLICE + 1)
assert len(LARGE) > AT_ONCE_BYTES


class Sends(BatchSends):
    """Batch sends on a store of their own."""

    def __init__(self) -> None:
        disk, clock = SimDisk(), SimClock()
        self.store: MessageStore = open_store(
            disk, "/s/store", clock, commit_log_segment_bytes=32 << 20, consume_queue_segment_bytes=600_000
        )
        self.fault: PymqError | None = None
        super().__init__(
            BrokerConfig(), self.store, Figures(clock), stored_properties=lambda text: text[1:],
            admit=self.check, answer=self.answered, refusal=lambda error: Answer(99, remark=str(error)),
        )  # fmt: skip

    def check(self, _: object) -> None:
        """Admit it, or not."""
        if self.fault is not None:
            raise self.fault

    @staticmethod
    def answered(_: object, result: BatchResult, queue_id: int) -> Answer:
        """The queue offset stands where the body does."""
        return Answer(0, body=b"%d" % result.queue_offset)

    def take(self, body: bytes) -> Answer | Awaitable[Answer | None] | None:
        """What the connection gets."""
        request: Any = SimpleNamespace(
            header=header(), body=body, connection=SimpleNamespace(born_host=BORN_HOST)
        )
        return self.send(request, 0, 0)

    def later(self, body: bytes) -> asyncio.Future[Answer | None]:
        """What comes as a task."""
        waiting = self.take(body)
        assert asyncio.iscoroutine(waiting)
        return asyncio.ensure_future(waiting)


async def turns_until(done: asyncio.Future[Answer | None]) -> int:
    """How often others had a turn meanwhile."""
    turns = 0
    while not done.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_others_have_a_turn_with_each_slice_and_nothing_is_seen_before_all_is() -> None:
    sends = Sends()
    sending = sends.later(LARGE)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sends.store.put("orders", 0, b"between", "", born_host=BORN_HOST)
    assert sends.store.max_offset("orders", 0) == 1
    assert await turns_until(sending) >= 2
    answer = await sending
    assert answer is not None
    assert answer.body == b"1"
    assert sends.store.max_offset("orders", 0) == 3 * SLICE + 2


async def test_large_batches_are_stored_in_the_order_in_which_they_came() -> None:
    sends = Sends()
    few = encode_batch([BatchEntry(bytes(1000))] * 200)  # made in a moment
    waiting = [sends.later(body) for body in (LARGE, few, few)]
    answers = [await one for one in waiting]
    assert [answer.body for answer in answers if answer] == [
        b"0",
        b"%d" % (3 * SLICE + 1),
        b"%d" % (3 * SLICE + 201),
    ]


async def test_with_many_under_way_one_more_is_stored_at_once() -> None:
    sends = Sends()
    waiting = [sends.later(LARGE) for _ in range(8)]
    await asyncio.sleep(0)
    assert isinstance(sends.take(LARGE), Answer)
    await asyncio.gather(*waiting)
    answer = await sends.later(LARGE)  # and later they have their turns again
    assert answer is not None
    assert answer.code == 0


async def test_what_may_not_be_stored_any_more_is_refused_and_the_next_has_its_turn() -> None:
    sends = Sends()
    first, second = sends.later(LARGE), sends.later(LARGE)
    sends.fault = ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, "the broker is stopping")
    answers = await asyncio.gather(first, second)
    assert [answer.code for answer in answers if answer] == [99, 99]
    assert sends.store.max_offset("orders", 0) == 0
    sends.fault = None
    third, fourth = sends.later(LARGE), sends.later(LARGE)
    await asyncio.sleep(0)
    third.cancel()  # its client has gone
    answer = await fourth
    assert answer is not None
    assert answer.body == b"0"


async def test_a_large_batch_is_answered_with_all_its_ids(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(**ROOM)
    await send(pool, broker.address, "orders", b"first")
    answer = (await pool.call(broker.address, header(), LARGE)).read(SendMessageResponse)
    ids = answer.msg_id.split(",")
    assert (answer.queue_offset, len(set(ids))) == (1, 3 * SLICE + 1)
    found = records(await pull(pool, broker.address, "orders", offset=3 * SLICE))
    assert [record.body for record in found] == [b"%05d" % (3 * SLICE - 1), b"%05d" % (3 * SLICE)]
    assert [record.offset_msg_id for record in found] == ids[-2:]


@pytest.mark.parametrize(
    "body", [LARGE[:-1], block(300, "P\x01" + "\0" * 600), block(12000, "TIMER_DELAY_SEC\x0110")]
)
async def test_a_large_batch_with_a_fault_is_refused_whole(
    start_broker: StartBroker, pool: Pool, body: bytes
) -> None:
    broker = await start_broker(**ROOM)
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, header(), body)
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL
    assert bounds(await pull(pool, broker.address, "orders")).max_offset == 0


async def test_a_large_batch_waits_for_the_disk_too(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(flush_disk_type=FlushDiskType.SYNC_FLUSH, **ROOM)
    answer = (await pool.call(broker.address, header(), LARGE)).read(SendMessageResponse)
    assert answer.queue_offset == 0
