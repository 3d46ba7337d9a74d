"""Two connections of one client id: a client that came back, or two that share an id."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pymq.broker.app import Broker
from pymq.network import SystemNetwork
from pymq.protocol.bodies.heartbeat import ConsumerData, ConsumerList, HeartbeatData
from pymq.protocol.headers.groups import GetConsumerListByGroupRequest, HeartBeatRequest
from pymq.transport.pool import Pool


async def beat(broker: Broker, pool: Pool, client_id: str) -> None:
    """One heartbeat, and time enough that the next one is later."""
    body = HeartbeatData(client_id, [], [ConsumerData("g", subscription_data_set=[])]).encode()
    await pool.call(broker.address, HeartBeatRequest(), body)
    await asyncio.sleep(0.003)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "call themselves" in record.getMessage()]


async def test_an_id_is_listed_once_and_told_of_when_both_connections_live(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, other = (Pool(SystemNetwork(), {}) for _ in range(3))
    with caplog.at_level(logging.WARNING, "pymq.broker.clients"):
        await beat(broker, one, "same")
        await beat(broker, other, "other")
        for _ in range(3):  # the client has come back: the first connection is silent from now on
            await beat(broker, two, "same")
            await beat(broker, other, "other")
        assert told(caplog) == []
        reply = await two.call(broker.address, GetConsumerListByGroupRequest("g"))
        assert sorted(ConsumerList.decode(reply.body).consumer_id_list) == ["other", "same"]
        for _ in range(3):
            await beat(broker, one, "same")
            await beat(broker, two, "same")
    [text] = told(caplog)
    assert text.startswith("group g: two consumers, at 127.0.0.1:")
    assert "call themselves same" in text
    for pool in (one, two, other):
        await pool.close()
