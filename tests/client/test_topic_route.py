"""What a client reads out of a route."""

from __future__ import annotations

import pytest

from pymq.client.topic_route import borrowed_route, topic_route
from pymq.protocol.bodies import BrokerData, QueueData, TopicRouteData
from tests.client.fake_cluster import queue

BROKERS = [BrokerData("broker-b", "c", {0: "b:1"}), BrokerData("broker-a", "c", {0: "a:1", 1: "a:2"})]


def test_queues_stand_in_the_order_of_broker_names() -> None:
    data = TopicRouteData([QueueData("broker-b", 2, 1, 6), QueueData("broker-a", 1, 2, 6)], BROKERS)
    route = topic_route("orders", data)
    assert route.writable == (queue(0, "broker-a"), queue(1, "broker-a"), queue(0, "broker-b"))
    assert route.readable == (queue(0, "broker-a"), queue(0, "broker-b"), queue(1, "broker-b"))
    assert route.brokers == {"broker-a": {0: "a:1", 1: "a:2"}, "broker-b": {0: "b:1"}}


@pytest.mark.parametrize(("perm", "writable", "readable"), [(2, 1, 0), (4, 0, 1), (6, 1, 1), (0, 0, 0)])
def test_the_permissions_tell_what_a_queue_is_for(perm: int, writable: int, readable: int) -> None:
    route = topic_route("orders", TopicRouteData([QueueData("broker-a", 1, 1, perm)], BROKERS))
    assert (len(route.writable), len(route.readable)) == (writable, readable)


def test_without_a_master_a_broker_s_queues_can_only_be_read() -> None:
    data = TopicRouteData([QueueData("broker-a", 1, 1, 6)], [BrokerData("broker-a", "c", {1: "a:2"})])
    route = topic_route("orders", data)
    assert route.writable == ()
    assert route.readable == (queue(0),)


def test_an_ordered_topic_has_exactly_the_queues_of_its_configuration() -> None:
    data = TopicRouteData(
        [QueueData("broker-a", 8, 8, 6)], BROKERS, order_topic_conf="broker-b:1;broker-a:2;x"
    )
    route = topic_route("orders", data)
    assert route.writable == (queue(0, "broker-b"), queue(0, "broker-a"), queue(1, "broker-a"))


def test_a_topic_that_is_to_be_created_gets_four_queues_of_each_broker_at_most() -> None:
    template = TopicRouteData([QueueData("broker-a", 8, 8, 7), QueueData("broker-b", 2, 8, 7)], BROKERS)
    route = borrowed_route("orders", template, 4)
    assert route.borrowed
    assert [found.broker_name for found in route.writable] == ["broker-a"] * 4 + ["broker-b"] * 2
    assert {found.topic for found in route.writable} == {"orders"}
    assert route.readable == ()
