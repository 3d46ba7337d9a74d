"""The topic of the message trace, and the switch that lets clients trace (semantics.md §1.3, §8.2)."""

from __future__ import annotations

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies import TopicConfig, TopicList
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteTopicInBrokerRequest,
    GetSystemTopicListFromBrokerRequest,
    GetTopicConfigRequest,
)
from pymq.protocol.trace_data import TRACE_TOPIC
from pymq.transport.pool import Pool
from tests.broker.asking import send
from tests.broker.conftest import StartBroker


async def config_of(pool: Pool, broker: Broker, topic: str) -> TopicConfig:
    return TopicConfig.decode((await pool.call(broker.address, GetTopicConfigRequest(topic))).body)


@pytest.mark.parametrize("name", [TRACE_TOPIC, "own-trace"])
async def test_a_broker_that_is_to_has_it_from_its_start(
    start_broker: StartBroker, pool: Pool, name: str
) -> None:
    broker = await start_broker(
        trace_topic_enable=True, msg_trace_topic_name=name, auto_create_topic_enable=False
    )
    topic = await config_of(pool, broker, name)
    assert (topic.read_queue_nums, topic.write_queue_nums, topic.perm) == (1, 1, 6)
    assert (await send(pool, broker.address, name, b"trace")).queue_offset == 0
    listed = await pool.call(broker.address, GetSystemTopicListFromBrokerRequest())
    assert name in TopicList.decode(listed.body).topic_list
    for request in (CreateTopicRequest(name, 8, 8, 6), DeleteTopicInBrokerRequest(name)):
        with pytest.raises(ResponseError, match="conflict with system topic"):
            await pool.call(broker.address, request)


async def test_elsewhere_it_is_a_topic_that_traces_or_an_operator_may_make(
    start_broker: StartBroker, pool: Pool
) -> None:
    """Apache's brokers never let an operator make RMQ_SYS_TRACE_TOPIC, or delete what traces have made."""
    broker = await start_broker(auto_create_topic_enable=False)
    with pytest.raises(ResponseError, match="not exist"):
        await send(pool, broker.address, TRACE_TOPIC, b"trace")
    await pool.call(broker.address, CreateTopicRequest(TRACE_TOPIC, 2, 2, 6))
    await send(pool, broker.address, TRACE_TOPIC, b"trace")
    await pool.call(broker.address, DeleteTopicInBrokerRequest(TRACE_TOPIC))


@pytest.mark.parametrize(("trace_on", "told"), [(True, "true"), (False, "false")])
async def test_answers_to_sends_say_whether_to_trace(
    start_broker: StartBroker, pool: Pool, trace_on: bool, told: str
) -> None:
    broker = await start_broker(trace_on=trace_on, region_id="east")
    answer = await send(pool, broker.address, "T", b"x")
    assert (answer.trace_on, answer.msg_region) == (told, "east")
