"""Tools that let a running consumer handle a stored message (code 309)."""

from __future__ import annotations

import asyncio

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies import ConsumeMessageDirectlyResult, DirectResult
from pymq.protocol.headers.groups import ConsumeMessageDirectlyRequest
from pymq.protocol.message import decode_record
from pymq.protocol.message_ids import encode_offset_msg_id
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.pool import Pool
from tests.broker.asking import send
from tests.broker.group_members import FakeMember

Asked = Request[ConsumeMessageDirectlyRequest]


class Handler(FakeMember):
    """A member that handles what it is given, or does not answer."""

    def __init__(self, client_id: str) -> None:
        super().__init__(client_id)
        self.given: list[tuple[ConsumeMessageDirectlyRequest, bytes]] = []
        self.answers = True
        self.pool._table |= merge([row(ConsumeMessageDirectlyRequest, self._handle)])

    def _handle(self, request: Asked) -> Answer | None:
        self.given.append((request.header, request.body))
        if not self.answers:
            return None
        result = ConsumeMessageDirectlyResult(DirectResult.LATER, remark="busy", spent_time_mills=7)
        return Answer(body=result.encode())


async def test_the_named_member_gets_the_stored_message_and_its_answer_is_passed_on(
    broker: Broker, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = await send(pool, broker.address, "orders", b"again")
    one, two = Handler("one"), Handler("two")
    for member in (one, two):
        await member.join(broker.address, "g", "orders")
    header = ConsumeMessageDirectlyRequest("g", "two", sent.msg_id)
    reply = await pool.call(broker.address, header)
    result = ConsumeMessageDirectlyResult.decode(reply.body)
    assert result == ConsumeMessageDirectlyResult(DirectResult.LATER, False, True, "busy", 7)
    [(asked, body)] = two.given
    assert (asked.consumer_group, asked.client_id, asked.msg_id) == ("g", "two", sent.msg_id)
    assert asked.broker_name == "broker-a"
    record = decode_record(body)
    assert (record.topic, record.body, record.offset_msg_id) == ("orders", b"again", sent.msg_id)
    assert one.given == []
    monkeypatch.setattr("pymq.broker.processors.consumer_calls._RELAY_TIMEOUT_S", 0.05)
    two.answers = False
    with pytest.raises(ResponseError, match="did not answer request 309") as late:
        await pool.call(broker.address, header)
    assert late.value.code == 207
    for member in (one, two):
        await member.pool.close()
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(ResponseError) as gone:
                await pool.call(broker.address, header)
            if "The Consumer <g> <two> not online" in str(gone.value):
                break
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("msg_id", "remark"),
    [
        (None, "msgId: '' is no message id"),
        ("00", "msgId: '00' is no message id"),
        (encode_offset_msg_id(b"\x7f\0\0\x01\0\0\0\x01", 9), "can not find message by the offset, 9"),
    ],
)
async def test_a_message_that_is_not_there_is_an_error(
    broker: Broker, pool: Pool, msg_id: str | None, remark: str
) -> None:
    with pytest.raises(ResponseError, match=remark):
        await pool.call(broker.address, ConsumeMessageDirectlyRequest("g", "one", msg_id))
