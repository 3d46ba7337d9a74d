"""Tools that reset running consumers, and ask what these are doing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import ConsumerOffsets, ConsumerStatusBody, ResetOffsetBody
from pymq.protocol.bodies.running_info import ConsumerRunningInfo
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    GetAllConsumerOffsetRequest,
    InvokeBrokerToGetConsumerStatusRequest,
    InvokeBrokerToResetOffsetRequest,
)
from pymq.protocol.headers.groups import GetConsumerRunningInfoRequest
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.group_members import FakeMember, ForeignMember, queue

END = -1


@pytest.fixture
async def address(broker: Broker, pool: Pool) -> str:
    """A broker with topic orders: four messages in queue 0, one in queue 1; group g stands at 2 and 1."""
    await pool.call(broker.address, CreateTopicRequest("orders", 2, 2, 6))
    for queue_id in (0, 0, 0, 0, 1):
        await send(pool, broker.address, "orders", b"x", queue_id=queue_id)
        await asyncio.sleep(0.003)
    for queue_id, offset in ((0, 2), (1, 1)):
        await pool.call(broker.address, UpdateConsumerOffsetRequest("g", "orders", queue_id, offset))
    return broker.address


@pytest.fixture
async def members(address: str) -> AsyncIterator[list[FakeMember]]:
    """Both members of group g."""
    members = [FakeMember("one"), FakeMember("two")]
    for member in members:
        await member.join(address, "g", "orders")
    yield members
    for member in members:
        await member.pool.close()


async def reset(pool: Pool, address: str, timestamp: int, body: bytes = b"", **fields: Any) -> dict[int, int]:
    """Ask for a reset of group g in topic orders; gives what the broker answers, by queue id."""
    header = InvokeBrokerToResetOffsetRequest("orders", "g", timestamp, **{"is_force": True, **fields})
    reply = await pool.call(address, header, body)
    return {each.queue_id: offset for each, offset in ResetOffsetBody.decode(reply.body).offsets.items()}


async def test_every_member_is_told_and_the_offsets_are_stored(
    pool: Pool, address: str, members: list[FakeMember], tmp_path: Path
) -> None:
    assert await reset(pool, address, END) == {0: 4, 1: 1}
    for member in members:
        await member.told()
        [(header, body)] = member.resets
        assert (header.topic, header.group, header.timestamp) == ("orders", "g", END)
        # As Java's fastjson reads it: the queues are keys.
        assert body == (
            b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:4,'
            b'{"brokerName":"broker-a","queueId":1,"topic":"orders"}:1}}'
        )
    table = ConsumerOffsets.decode((await pool.call(address, GetAllConsumerOffsetRequest())).body)
    assert table.offset_table["orders@g"] == {0: 4, 1: 1}
    saved = ConsumerOffsets.decode((tmp_path / "store/config/consumerOffset.json").read_bytes())
    assert saved.offset_table["orders@g"] == {0: 4, 1: 1}


async def test_a_reset_goes_to_a_time_and_only_with_force_ahead(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    times = [each.store_timestamp for each in records(await pull(pool, address, "orders"))]
    assert await reset(pool, address, times[3], is_force=False) == {0: 2, 1: 0}
    assert await reset(pool, address, times[3]) == {0: 3, 1: 0}
    assert await reset(pool, address, times[1], is_force=False) == {0: 1, 1: 0}
    assert await reset(pool, address, END, is_force=False) == {0: 1, 1: 0}
    assert await reset(pool, address, 0) == {0: 0, 1: 0}


async def test_one_queue_is_reset_to_one_offset(pool: Pool, address: str, members: list[FakeMember]) -> None:
    """As tools of 5.x ask for it; -1 is theirs for no offset."""
    assert await reset(pool, address, 0, queue_id=0, offset=3) == {0: 3}
    assert await reset(pool, address, END, queue_id=0, offset=END) == {0: 4}
    assert await reset(pool, address, END, queue_id=-1, offset=END) == {0: 4, 1: 1}
    for queue_id, offset in ((0, 5), (0, -2), (2, 0)):
        with pytest.raises(ResponseError, match=r"not in consume queue range|read queues 0 to 1"):
            await reset(pool, address, 0, queue_id=queue_id, offset=offset)
    await members[0].told(3)
    assert len(members[0].resets) == 3


async def test_each_queue_is_reset_to_an_offset_of_its_own(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    body = ResetOffsetBody({queue(0): 3, queue(1): 0}).encode()
    assert await reset(pool, address, 0, body) == {0: 3, 1: 0}
    await members[1].told()
    assert ResetOffsetBody.decode(members[1].resets[0][1]).offsets == {queue(0): 3, queue(1): 0}
    for wrong in ({queue(0): 9}, {queue(7): 0}, {queue(0, "bills"): 0}, {MessageQueue("orders", "b", 0): 0}):
        with pytest.raises(ResponseError) as refused:
            await reset(pool, address, 0, ResetOffsetBody(wrong).encode())
        assert refused.value.code == ResponseCode.SYSTEM_ERROR
    assert len(members[1].resets) == 1


@pytest.mark.parametrize(
    ("header", "code", "remark"),
    [
        (InvokeBrokerToResetOffsetRequest("nowhere", "g", 0), 1, "no topic in this broker. topic=nowhere"),
        (InvokeBrokerToResetOffsetRequest("orders", "new", 0), 1, "THe consumer group <new> not exist"),
        (InvokeBrokerToResetOffsetRequest("orders", "g", 0), 206, "Consumer not online.*g.*orders"),
        (InvokeBrokerToGetConsumerStatusRequest("orders", "g"), 1, "No Any Consumer online.*g"),
        (GetConsumerRunningInfoRequest("g", "one"), 1, "The Consumer <g> <one> not online"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_words_that_tools_know(
    pool: Pool, address: str, header: Any, code: int, remark: str
) -> None:
    with pytest.raises(ResponseError, match=remark) as refused:
        await pool.call(address, header)
    assert refused.value.code == code


AS_LIST = (
    b'{"offsetTable":[{"brokerName":"broker-a","offset":4,"queueId":0,"topic":"orders"},'
    b'{"brokerName":"broker-a","offset":1,"queueId":1,"topic":"orders"}]}'
)


async def test_clients_in_cpp_get_a_list_and_those_in_java_never_do(pool: Pool, address: str) -> None:
    members = [ForeignMember(language, 100) for language in ("CPP", "JAVA", "GO")]
    for member in members:
        await member.join(address, "g", "orders")
    cpp, java, go = members
    await reset(pool, address, END)
    assert await cpp.told() == AS_LIST
    as_map = await java.told()
    assert as_map.startswith(b'{"offsetTable":{{')
    assert await go.told() == as_map
    # What mqadmin asks with -c, it asks as if it were written in C++.
    answer = await cpp.ask(InvokeBrokerToResetOffsetRequest("orders", "g", END, True))
    assert ResetOffsetBody.decode(answer).offsets == {queue(0): 4, queue(1): 1}
    assert await java.told() == as_map
    assert await go.told() == AS_LIST
    for member in members:
        member.leave()


async def test_a_reset_that_a_member_is_too_old_for_is_refused_before_anybody_is_told(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    old = ForeignMember("JAVA", 27)
    await old.join(address, "g", "orders")
    with pytest.raises(ResponseError, match=r"does not support this feature. version=27 \(foreign\)"):
        await reset(pool, address, END)
    await asyncio.sleep(0.02)
    assert members[0].resets == []
    old.leave()


async def test_where_members_stand_is_what_they_say_themselves(
    pool: Pool, address: str, members: list[FakeMember], monkeypatch: pytest.MonkeyPatch
) -> None:
    members[0].stands, members[1].stands = {queue(0): 3}, {queue(1): 1}

    async def standing(client_id: str | None = None) -> dict[str, dict[MessageQueue, int]]:
        header = InvokeBrokerToGetConsumerStatusRequest("orders", "g", client_id)
        return ConsumerStatusBody.decode((await pool.call(address, header)).body).consumer_table

    assert await standing() == {"one": {queue(0): 3}, "two": {queue(1): 1}}
    assert await standing("two") == {"two": {queue(1): 1}}
    assert await standing("nobody") == {}
    monkeypatch.setattr("pymq.broker.processors.consumer_calls._STATUS_TIMEOUT_S", 0.05)
    members[0].stands = None
    assert await standing() == {"two": {queue(1): 1}}


async def test_the_running_info_is_the_members_own(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    reply = await pool.call(address, GetConsumerRunningInfoRequest("g", "two"))
    assert ConsumerRunningInfo.decode(reply.body).properties == {"PROP_CLIENT_VERSION": "two"}
    assert members[0].asked == []
