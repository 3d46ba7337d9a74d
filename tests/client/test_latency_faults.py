"""Brokers that were slow or failed are passed over, for as long as Apache's clients do."""

from __future__ import annotations

import msgspec
import pytest

from pymq.client import Client
from pymq.client.latency_faults import LatencyFaults
from pymq.errors import ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from tests.client.fake_cluster import FAST, FakeCluster

BOTH = ("a", "b")


@pytest.mark.parametrize(
    ("took_s", "pause_s"),
    [(0.549, 0), (0.55, 30), (0.999, 30), (1, 60), (2, 120), (3, 180), (14.9, 180), (15, 600)],
)
def test_the_slower_the_longer(took_s: float, pause_s: float) -> None:
    faults = LatencyFaults()
    faults.answered("a", took_s, 1000.0)
    assert ("a" in faults.avoided(BOTH, 1000.0 + pause_s - 0.001)) is (pause_s > 0)
    assert faults.avoided(BOTH, 1000.0 + pause_s) == set()


def test_a_failure_counts_as_the_slowest_and_a_quick_answer_makes_up_for_it() -> None:
    faults = LatencyFaults()
    faults.failed("a", 0.0)
    assert faults.avoided(BOTH, 599.0) == {"a"}
    assert faults.avoided(BOTH, 600.0) == set()
    faults.answered("a", 0.01, 10.0)
    assert faults.avoided(BOTH, 10.0) == set()


def test_where_all_are_bad_the_better_half_serves() -> None:
    faults = LatencyFaults()
    for name, took_s in (("a", 3.0), ("b", 1.0), ("c", 15.0), ("d", 0.6)):
        faults.answered(name, took_s, 0.0)
    assert faults.avoided(("a", "b", "c", "d"), 1.0) == {"a", "c"}
    assert faults.avoided(("a",), 1.0) == set()
    assert faults.avoided(("a", "c"), 1.0) == {"c"}


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_a_broker_that_has_failed_gets_no_more_messages(is_enabled: bool) -> None:
    settings = msgspec.structs.replace(FAST, send_latency_fault_enable=is_enabled)
    send = RequestCode.SEND_MESSAGE_V2
    async with FakeCluster(brokers=2) as cluster, Client(cluster.name_servers, settings=settings) as mq:
        first = cluster.brokers[0]
        first.refusals[send] = [ResponseError(ResponseCode.SYSTEM_ERROR, "once")]
        for _ in range(20):
            await mq.send("orders", b"x")
        assert first.refusals[send] == []
        assert (sum(cluster.bodies()[:4]) == 0) is is_enabled
