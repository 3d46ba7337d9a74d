"""Queue locks: the table under a clock moved by hand, and the requests through a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.queue_locks import QueueLocks
from pymq.network import SystemNetwork
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.heartbeat import (
    ConsumerData,
    HeartbeatData,
    LockBatchRequestBody,
    LockBatchResponseBody,
)
from pymq.protocol.headers.groups import (
    HeartBeatRequest,
    LockBatchMqRequest,
    NotifyConsumerIdsChangedRequest,
    UnlockBatchMqRequest,
    UnregisterClientRequest,
)
from pymq.transport.dispatch import Request, merge, row
from pymq.transport.pool import Pool
from tests.broker.conftest import StartBroker
from tests.sim import SimClock


def queue(queue_id: int, topic: str = "orders") -> MessageQueue:
    return MessageQueue(topic, "broker-a", queue_id)


Q0, Q1, Q2 = (queue(queue_id) for queue_id in range(3))


@pytest.fixture
def clock() -> SimClock:
    return SimClock()


@pytest.fixture
def locks(clock: SimClock) -> QueueLocks:
    return QueueLocks(clock)


# -- the table ----------------------------------------------------------------------------------------


def test_a_queue_has_one_holder_in_each_group(locks: QueueLocks) -> None:
    assert locks.lock("g", "one", [Q0, Q1]) == [Q0, Q1]
    assert locks.lock("g", "two", [Q1, Q2]) == [Q2]
    assert locks.lock("other", "two", [Q0, Q1]) == [Q0, Q1]
    assert [locks.holder("g", each) for each in (Q0, Q1, Q2)] == ["one", "one", "two"]


def test_a_lock_can_be_taken_over_60_s_after_it_was_last_renewed_and_no_sooner(
    locks: QueueLocks, clock: SimClock
) -> None:
    locks.lock("g", "one", [Q0])
    clock.advance(30_000)
    assert locks.lock("g", "one", [Q0]) == [Q0]
    clock.advance(60_000)
    assert locks.lock("g", "two", [Q0]) == []
    clock.advance(1)
    assert locks.holder("g", Q0) is None
    assert locks.lock("g", "two", [Q0]) == [Q0]
    assert locks.lock("g", "one", [Q0]) == []


def test_a_holder_that_was_late_has_its_lock_again_if_nobody_took_it(
    locks: QueueLocks, clock: SimClock
) -> None:
    locks.lock("g", "one", [Q0])
    clock.advance(90_000)
    assert locks.lock("g", "one", [Q0]) == [Q0]
    assert locks.lock("g", "two", [Q0]) == []


def test_only_its_holder_can_give_up_a_lock(locks: QueueLocks) -> None:
    locks.lock("g", "one", [Q0, Q1])
    locks.unlock("g", "two", [Q0])
    locks.unlock("other", "one", [Q0])
    assert locks.holder("g", Q0) == "one"
    locks.unlock("g", "one", [Q0, Q0, Q2])
    assert locks.holder("g", Q0) is None
    assert locks.holder("g", Q1) == "one"


def test_who_was_refused_is_told_when_the_lock_ends(locks: QueueLocks, clock: SimClock) -> None:
    locks.lock("g", "one", [Q0, Q1])
    locks.lock("g", "two", [Q0, Q1])
    locks.lock("g", "three", [Q1])
    assert locks.unlock("g", "one", [Q0]) == {"g": {"two"}}
    assert locks.unlock("g", "one", [Q0]) == {}
    clock.advance(60_000)
    assert locks.expire() == {}
    clock.advance(1)
    assert locks.expire() == {"g": {"two", "three"}}
    assert locks.expire() == {}


def test_who_got_the_lock_after_all_is_not_told(locks: QueueLocks, clock: SimClock) -> None:
    locks.lock("g", "one", [Q0])
    locks.lock("g", "two", [Q0])
    locks.lock("g", "three", [Q0])
    clock.advance(60_001)
    locks.lock("g", "two", [Q0])
    assert locks.unlock("g", "two", [Q0]) == {"g": {"three"}}


def test_locks_that_have_ended_are_forgotten_whatever_was_renewed_meanwhile(
    locks: QueueLocks, clock: SimClock
) -> None:
    for number in range(100):
        locks.lock("g", "one", [queue(number)])
        clock.advance(1_000)
    locks.lock("g", "one", [Q0])
    locks.expire()
    held = {each.queue.queue_id for each in locks.snapshot().locks}
    assert held == {0, *range(40, 100)}


def test_locks_outlive_a_restart_by_the_30_s_that_clients_trust_them(
    locks: QueueLocks, clock: SimClock
) -> None:
    changes: list[None] = []
    locks.on_change.append(lambda: changes.append(None))
    locks.lock("g", "one", [Q0, Q1])
    assert len(changes) == 1
    locks.lock("g", "one", [Q0, Q1])
    assert len(changes) == 1  # renewals are not written
    locks.unlock("g", "one", [Q1])
    assert len(changes) == 2
    text = locks.snapshot().encode().decode()

    clock.advance(500_000)
    again = QueueLocks(clock)
    again.load(text)
    clock.advance(30_000)
    assert again.lock("g", "two", [Q0, Q1]) == [Q1]
    assert again.lock("g", "one", [Q0]) == [Q0]
    clock.advance(60_000)
    assert again.lock("g", "two", [Q0]) == []

    late = QueueLocks(clock)
    late.load(text)
    clock.advance(30_001)
    assert late.lock("g", "two", [Q0]) == [Q0]


# -- the requests -------------------------------------------------------------------------------------


class Client:
    """A client and the groups that it was told to rebalance."""

    def __init__(self, client_id: str, address: str) -> None:
        self.client_id = client_id
        self.told: list[str] = []
        self.pool = Pool(SystemNetwork(), merge([row(NotifyConsumerIdsChangedRequest, self._changed)]))
        self._address = address

    def _changed(self, request: Request[NotifyConsumerIdsChangedRequest]) -> None:
        self.told.append(request.header.consumer_group)

    async def join(self, group: str) -> None:
        body = HeartbeatData(self.client_id, [], [ConsumerData(group)]).encode()
        await self.pool.call(self._address, HeartBeatRequest(), body)

    def _body(self, group: str, queues: tuple[MessageQueue, ...]) -> bytes:
        return LockBatchRequestBody(group, self.client_id, list(queues)).encode()

    async def lock(self, *queues: MessageQueue, group: str = "g") -> list[MessageQueue]:
        reply = await self.pool.call(self._address, LockBatchMqRequest(), self._body(group, queues))
        return LockBatchResponseBody.decode(reply.body).locked

    async def unlock(self, *queues: MessageQueue, group: str = "g") -> None:
        await self.pool.call(self._address, UnlockBatchMqRequest(), self._body(group, queues))


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[Callable[[str], Client]]:
    clients: list[Client] = []

    def make(client_id: str, address: str = broker.address) -> Client:
        clients.append(Client(client_id, address))
        return clients[-1]

    yield make
    for each in clients:
        await each.pool.close()


async def until_told(client: Client, times: int) -> None:
    async with asyncio.timeout(30):
        while len(client.told) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_locks_are_given_kept_and_given_up_by_request(client: Any) -> None:
    one, two = client("one"), client("two")
    assert await one.lock(Q0, Q1) == [Q0, Q1]
    assert await two.lock(Q0, Q2) == [Q2]
    await two.unlock(Q0)
    assert await two.lock(Q0) == []
    await one.unlock(Q0)
    assert await two.lock(Q0) == [Q0]


async def test_a_member_that_was_refused_rebalances_as_soon_as_the_lock_is_given_up(client: Any) -> None:
    one, two, third = client("one"), client("two"), client("three")
    for each in (one, two, third):
        await each.join("g")
    await until_told(one, 3)
    await one.lock(Q0)
    await two.lock(Q0)
    before = len(one.told), len(two.told), len(third.told)
    await one.unlock(Q0)
    await until_told(two, before[1] + 1)
    await third.lock(Q0)  # what it would have been told stands before the answer
    assert (len(one.told), len(two.told), len(third.told)) == (before[0], before[1] + 1, before[2])


async def test_the_end_of_a_clients_connection_or_membership_does_not_end_its_locks(client: Any) -> None:
    one, two = client("one"), client("two")
    await one.join("g")
    await one.lock(Q0)
    await one.pool.call(one._address, UnregisterClientRequest("one", consumer_group="g"))
    await one.pool.close()
    assert await two.lock(Q0) == []


async def test_locks_outlive_a_restart_of_the_broker(start_broker: StartBroker) -> None:
    broker = await start_broker()
    one = Client("one", broker.address)
    await one.lock(Q0)
    await one.pool.close()
    await broker.__aexit__(None, None, None)
    again = await start_broker()
    two = Client("two", again.address)
    assert await two.lock(Q0, Q1) == [Q1]
    await two.pool.close()
