"""Messages that consumers send to their group's retry topic themselves (semantics.md §1.4)."""

from __future__ import annotations

from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.bodies.topic_config import TopicConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    GetTopicConfigRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.messaging import SendBatchMessageRequest
from pymq.protocol.message import BatchEntry, encode_batch
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker


async def bodies(pool: Pool, address: str, topic: str) -> list[bytes]:
    """What queue 0 of a topic holds."""
    return [record.body for record in records(await pull(pool, address, topic))]


async def test_a_message_below_the_limit_is_for_the_group_again(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "%RETRY%g", b"again", reconsume_times=15)
    (record,) = records(await pull(pool, broker.address, "%RETRY%g"))
    assert (record.body, record.reconsume_times) == (b"again", 15)


@pytest.mark.parametrize(
    "fields", [{"reconsume_times": 16}, {"reconsume_times": 3, "max_reconsume_times": 3}]
)
async def test_a_message_at_the_limit_is_a_dead_letter_at_once(
    broker: Broker, pool: Pool, fields: dict[str, Any]
) -> None:
    sent = await send(
        pool,
        broker.address,
        "%RETRY%g",
        b"dead",
        queue_id=0,
        properties="RETRY_TOPIC\x01orders\x02DELAY\x0119\x02TIMER_DELAY_SEC\x013600\x02KEYS\x01k",
        **fields,
    )
    assert sent.queue_id == 0
    (record,) = records(await pull(pool, broker.address, "%DLQ%g"))
    assert (record.body, record.topic, record.reconsume_times) == (
        b"dead",
        "%DLQ%g",
        fields["reconsume_times"],
    )
    properties = record.read_properties()
    assert (properties["RETRY_TOPIC"], properties["KEYS"], properties["DELAY"]) == ("orders", "k", "0")
    assert await bodies(pool, broker.address, "%RETRY%g") == []
    config = TopicConfig.decode((await pool.call(broker.address, GetTopicConfigRequest("%DLQ%g"))).body)
    assert (config.read_queue_nums, config.write_queue_nums, config.perm) == (1, 1, 6)


async def test_the_groups_own_limit_counts_where_the_client_names_none(broker: Broker, pool: Pool) -> None:
    group = SubscriptionGroupConfig("g", retry_max_times=2)
    await pool.call(broker.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
    await send(pool, broker.address, "%RETRY%g", b"once", reconsume_times=1)
    await send(pool, broker.address, "%RETRY%g", b"twice", reconsume_times=2)
    assert await bodies(pool, broker.address, "%RETRY%g") == [b"once"]
    assert await bodies(pool, broker.address, "%DLQ%g") == [b"twice"]


async def test_a_group_that_is_unknown_and_may_not_be_made_is_named(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(auto_create_subscription_group=False)
    with pytest.raises(ResponseError, match="not exist, g") as refused:
        await send(pool, broker.address, "%RETRY%g", b"x")
    assert refused.value.code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST


async def test_no_batch_is_a_retry_nor_a_dead_letter(broker: Broker, pool: Pool) -> None:
    header = SendBatchMessageRequest("p", "%RETRY%g", 0, 0, 1, 0, batch="true", reconsume_times=99)
    with pytest.raises(ResponseError, match="does not support retry group"):
        await pool.call(broker.address, header, encode_batch([BatchEntry(b"x", "")]))
