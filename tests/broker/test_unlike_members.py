"""A group whose members subscribe differently is told about."""

from __future__ import annotations

import logging

import pytest

from pymq.broker.app import Broker
from pymq.broker.unlike_members import UnlikeMembers, wants_of
from pymq.network import SystemNetwork
from pymq.protocol.bodies.heartbeat import ConsumerData, HeartbeatData
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.transport.pool import Pool


def tags(topic: str, expression: str) -> SubscriptionData:
    found = {tag.strip() for tag in expression.split("||")} - {"*"}
    return SubscriptionData(topic, expression, tags_set=found)


def sql(topic: str, expression: str) -> SubscriptionData:
    return SubscriptionData(topic, expression, expression_type="SQL92")


ORDERS_A = [tags("orders", "a || b"), tags("%RETRY%g", "*")]
ORDERS_ALL = [tags("orders", "*"), tags("%RETRY%g", "*")]
BOTH = [tags("orders", "*"), tags("bills", "*")]


class Member:
    def __init__(self, broker: Broker, client_id: str) -> None:
        self._address = broker.address
        self._client_id = client_id
        self._pool = Pool(SystemNetwork(), {})

    async def beat(self, subscriptions: list[SubscriptionData], group: str = "g") -> None:
        consumer = ConsumerData(group, subscription_data_set=subscriptions)
        body = HeartbeatData(self._client_id, [], [consumer]).encode()
        await self._pool.call(self._address, HeartBeatRequest(), body)

    async def leave(self) -> None:
        await self._pool.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pymq.broker.clients"]


async def test_members_that_subscribe_differently_are_named_once_with_what_they_want(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (Member(broker, each) for each in ("one", "two", "three"))
    with caplog.at_level(logging.WARNING, "pymq.broker.clients"):
        await one.beat(ORDERS_ALL)
        await two.beat(ORDERS_ALL)
        await three.beat(ORDERS_ALL, group="other")
        assert told(caplog) == []
        await three.beat(ORDERS_A)
        for each in (one, two, three):
            await each.beat(ORDERS_A if each is three else ORDERS_ALL)
    [text] = told(caplog)
    assert text == (
        "group g: its members subscribe differently, so some messages reach none of them: "
        "one, two: orders [*]; three: orders [a || b]; "
        "let all members of a group subscribe to the same topics and expressions"
    )
    for each in (one, two, three):
        await each.leave()


async def test_a_new_difference_is_told_anew(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    one, two = Member(broker, "one"), Member(broker, "two")
    with caplog.at_level(logging.WARNING, "pymq.broker.clients"):
        await one.beat(ORDERS_ALL)
        await two.beat(ORDERS_A)
        await two.beat(ORDERS_ALL)
        await two.beat(ORDERS_A)
        assert len(told(caplog)) == 1
        await two.beat(BOTH)
    assert len(told(caplog)) == 2
    assert "two: bills [*], orders [*]" in told(caplog)[1]
    for each in (one, two):
        await each.leave()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([tags("t", "a||b")], [tags("t", "b || a")]),
        ([SubscriptionData("t", "a || b")], [tags("t", "b||a")]),
        ([SubscriptionData("t", "")], [tags("t", "*")]),
        ([tags("t", "*"), tags("%RETRY%g", "*")], [tags("t", "*")]),
    ],
)
def test_the_same_said_otherwise_is_no_difference(
    one: list[SubscriptionData], other: list[SubscriptionData]
) -> None:
    assert wants_of(one) == wants_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([tags("t", "a")], [tags("t", "*")]),
        ([tags("t", "a")], [tags("u", "a")]),
        ([tags("t", "*")], [tags("t", "*"), tags("u", "*")]),
        ([sql("t", "a > 1")], [sql("t", "a > 2")]),
    ],
)
def test_what_is_a_difference(one: list[SubscriptionData], other: list[SubscriptionData]) -> None:
    assert wants_of(one) != wants_of(other)


def test_many_members_are_told_in_few_words(caplog: pytest.LogCaptureFixture) -> None:
    members = [(f"c{number:02}", wants_of(ORDERS_A if number == 3 else ORDERS_ALL)) for number in range(30)]
    UnlikeMembers().look("g", members)
    assert "c00, c01, c02, c04, c05 and 24 more: orders [*]; c03: orders [a || b];" in caplog.text


def test_what_is_told_of_one_group_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    unlike = UnlikeMembers()
    for number in range(500):
        unlike.look("g", [("one", wants_of([tags("t", str(number))])), ("two", wants_of([tags("t", "*")]))])
    assert len(told(caplog)) == len(unlike.told) == 100
