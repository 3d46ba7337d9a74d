"""A reset holds against commits of members that stand at the old place still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from pymq.broker import resets
from pymq.broker.app import Broker
from pymq.broker.live_clients import ConsumerGroup, LiveClients
from pymq.errors import ResponseError
from pymq.protocol.bodies import ConsumeFromWhere, ConsumeType, MessageModel
from pymq.protocol.bodies.offsets import ResetOffsetBody
from pymq.protocol.headers.administration import CreateTopicRequest, InvokeBrokerToResetOffsetRequest
from pymq.protocol.headers.groups import ResetConsumerClientOffsetRequest
from pymq.protocol.headers.messaging import (
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    UpdateConsumerOffsetRequest,
)
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import pull, send
from tests.broker.group_members import FakeMember, ForeignMember, queue
from tests.sim import SimClock


@pytest.fixture
async def address(broker: Broker, pool: Pool) -> str:
    """A broker with four messages in queue 0 of topic orders; group g stands behind them, and in queue 1."""
    await pool.call(broker.address, CreateTopicRequest("orders", 2, 2, 6))
    for _ in range(4):
        await send(pool, broker.address, "orders", b"x")
    await commit(pool, broker.address, 4)
    await commit(pool, broker.address, 0, queue_id=1)
    return broker.address


@pytest.fixture
async def members(address: str) -> AsyncIterator[list[FakeMember]]:
    members = [FakeMember("one"), FakeMember("two")]
    for member in members:
        await member.join(address, "g", "orders")
    yield members
    for member in members:
        await member.pool.close()


async def commit(pool: Pool, address: str, offset: int, queue_id: int = 0) -> None:
    await pool.call(address, UpdateConsumerOffsetRequest("g", "orders", queue_id, offset))


async def stored(pool: Pool, address: str, queue_id: int = 0) -> int:
    reply = await pool.call(address, QueryConsumerOffsetRequest("g", "orders", queue_id))
    return reply.read(QueryConsumerOffsetResponse).offset


async def reset(pool: Pool, address: str, offset: int) -> None:
    header = InvokeBrokerToResetOffsetRequest("orders", "g", 0, is_force=True)
    await pool.call(address, header, ResetOffsetBody({queue(0): offset}).encode())


async def test_who_gives_a_queue_up_at_its_old_place_does_not_undo_a_reset(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    one, two = members
    await reset(pool, address, 1)
    with pytest.raises(ResponseError, match="offset 4 of orders/0 not stored: group g was reset to 1"):
        await commit(one.pool, address, 4)
    commits = PullFlag.SUBSCRIPTION | PullFlag.COMMIT_OFFSET
    await pull(one.pool, address, "orders", consumer_group="g", offset=4, commit_offset=3, sys_flag=commits)
    assert await stored(two.pool, address) == 1, "the next owner begins where it was told to"
    await commit(two.pool, address, 3)
    with pytest.raises(ResponseError, match="not stored"):
        await commit(one.pool, address, 4)
    assert await stored(pool, address) == 3
    await commit(one.pool, address, 1, queue_id=1)  # of which nobody spoke


async def test_a_member_that_has_committed_the_new_place_goes_on_from_there(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    await reset(pool, address, 1)
    await commit(members[0].pool, address, 1)
    await commit(members[0].pool, address, 2)
    assert await stored(pool, address) == 2
    await reset(pool, address, 0)  # the next one: everybody stands at the old place again
    with pytest.raises(ResponseError, match="was reset to 0"):
        await commit(members[0].pool, address, 2)


async def test_a_group_that_has_gone_is_moved_by_whoever_commits(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    await reset(pool, address, 1)
    with pytest.raises(ResponseError, match="not stored"):
        await commit(pool, address, 2)
    for member in members:
        await member.pool.close()
    async with asyncio.timeout(30):
        while True:
            try:
                await commit(pool, address, 2)
                break
            except ResponseError:  # the broker has not heard the last one hang up
                await asyncio.sleep(0.005)
    assert await stored(pool, address) == 2


async def test_a_member_that_was_cut_off_is_told_when_it_comes_back_unless_it_knows(
    pool: Pool, address: str, members: list[FakeMember]
) -> None:
    one, two = members
    await one.pool.close()  # it lives on, and owns its queue
    await reset(pool, address, 1)
    await two.told()
    back = FakeMember("one")
    await back.join(address, "g", "orders")
    await back.told()
    assert ResetOffsetBody.decode(back.resets[0][1]).offsets == {queue(0): 1}
    await commit(back.pool, address, 1)
    await back.pool.close()
    again = FakeMember("one")
    await again.join(address, "g", "orders")
    with pytest.raises(ResponseError, match="not stored"):
        await commit(two.pool, address, 3)
    await commit(again.pool, address, 2)
    await again.join(address, "g", "orders")
    assert again.resets == []
    assert len(two.resets) == 1, "it was told before"
    await again.pool.close()


async def test_java_is_told_once_it_commits_its_old_place(pool: Pool, address: str) -> None:
    """At its coming, it would stand still for ten seconds, though it had nothing to move."""
    keeper = FakeMember("keeper")
    await keeper.join(address, "g", "orders")
    await reset(pool, address, 1)
    java = ForeignMember("JAVA", 401)
    await java.join(address, "g", "orders")
    java.say(UpdateConsumerOffsetRequest("g", "orders", 0, 4))
    assert ResetOffsetBody.decode(await java.told()).offsets == {queue(0): 1}
    assert await stored(pool, address) == 1
    java.leave()
    await keeper.pool.close()


async def test_a_reset_is_forgotten_in_time(
    pool: Pool, address: str, members: list[FakeMember], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "REMEMBERED_S", 0.0)
    await reset(pool, address, 1)
    await commit(members[0].pool, address, 4)
    assert await stored(pool, address) == 4


async def test_no_more_resets_are_remembered_than_there_is_room_for(
    pool: Pool, address: str, members: list[FakeMember], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resets, "REMEMBERED_MAX", 1)
    await reset(pool, address, 1)
    header = InvokeBrokerToResetOffsetRequest("orders", "g", 0, is_force=True)
    await pool.call(address, header, ResetOffsetBody({queue(1): 0}).encode())
    await commit(members[0].pool, address, 4)  # the older one is forgotten
    with pytest.raises(ResponseError, match="not stored"):
        await commit(members[0].pool, address, 7, queue_id=1)


def test_nothing_is_kept_when_the_time_of_a_reset_is_over() -> None:
    clock = SimClock()
    clients = LiveClients(clock)
    pending = resets.Resets(clients, clock)
    group = ConsumerGroup(
        "g",
        ConsumeType.CONSUME_PASSIVELY,
        MessageModel.CLUSTERING,
        ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
        {},
        {},
    )
    for number in range(3):
        header = ResetConsumerClientOffsetRequest("orders", "g", 0, is_force=True)
        pending.begin(group, header, {queue(number): 1}, as_list=False)
        clock.advance(40_000)
    pending.expire()
    assert len(pending) == 2
    clock.advance(79_999)
    pending.expire()
    assert len(pending) == 1
    clock.advance(1)
    pending.expire()
    assert len(pending) == 0
    assert pending._seen == {}
