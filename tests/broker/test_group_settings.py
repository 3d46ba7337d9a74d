"""What an administrator sets about a subscription group, and the broker obeys."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies import ConsumerData, HeartbeatData, MessageModel, SubscriptionData
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig, SubscriptionGroupWrapper
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    DeleteSubscriptionGroupRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetTopicConfigRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import pull, pull_header, records, send
from tests.broker.conftest import StartBroker

WAITING = PullFlag.SUBSCRIPTION | PullFlag.SUSPEND


async def set_group(pool: Pool, broker: Broker, **settings: Any) -> None:
    """Configure group `g`."""
    group = SubscriptionGroupConfig("g", **settings)
    await pool.call(broker.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())


async def refused(pool: Pool, broker: Broker, **fields: Any) -> tuple[int, str]:
    """The code and text that a pull of group `g` is refused with."""
    with pytest.raises(ResponseError) as error:
        await pool.call(broker.address, pull_header("orders", consumer_group="g", **fields), timeout_s=5)
    return error.value.code, error.value.remark or ""


async def groups(pool: Pool, broker: Broker) -> dict[str, SubscriptionGroupConfig]:
    """All groups that the broker knows."""
    answer = await pool.call(broker.address, GetAllSubscriptionGroupConfigRequest())
    return SubscriptionGroupWrapper.decode(answer.body).subscription_group_table


async def heartbeat(pool: Pool, broker: Broker, model: MessageModel = MessageModel.CLUSTERING) -> None:
    """A consumer of group `g` says that it is there."""
    consumer = ConsumerData("g", message_model=model, subscription_data_set=[SubscriptionData("orders")])
    data = HeartbeatData("127.0.0.1@1", [], [consumer])
    await pool.call(broker.address, HeartBeatRequest(), data.encode())


async def test_consumption_is_switched_off_and_on(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x")
    held = asyncio.create_task(
        refused(pool, broker, offset=1, sys_flag=WAITING, suspend_timeout_millis=20_000)
    )
    await asyncio.sleep(0.05)
    await set_group(pool, broker, consume_enable=False)
    off = (ResponseCode.NO_PERMISSION, "subscription group no permission, g")
    assert await refused(pool, broker) == off
    await send(pool, broker.address, "orders", b"y")
    assert await held == off, "a pull that was held gets nothing either"
    assert records(await pull(pool, broker.address, "orders")), "other groups go on"
    await set_group(pool, broker, consume_enable=True)
    assert len(records(await pull(pool, broker.address, "orders", consumer_group="g"))) == 2


@pytest.mark.parametrize("sys_flag", [0, PullFlag.SUBSCRIPTION])
async def test_a_group_that_may_not_broadcast_is_refused_when_it_does(
    broker: Broker, pool: Pool, sys_flag: int
) -> None:
    await send(pool, broker.address, "orders", b"x")
    await set_group(pool, broker, consume_broadcast_enable=False)
    await heartbeat(pool, broker, MessageModel.BROADCASTING)
    code, remark = await refused(pool, broker, sys_flag=sys_flag)
    assert (code, remark) == (
        ResponseCode.NO_PERMISSION,
        "the consumer group[g] can not consume by broadcast way",
    )
    await heartbeat(pool, broker)
    assert records(await pull(pool, broker.address, "orders", consumer_group="g", sys_flag=sys_flag))


async def test_groups_are_not_made_on_first_use_where_that_is_switched_off(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(auto_create_subscription_group=False)
    await send(pool, broker.address, "orders", b"x")
    code, remark = await refused(pool, broker)
    assert code == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
    assert "[g]" in remark
    await heartbeat(pool, broker)
    assert "g" not in await groups(pool, broker)
    with pytest.raises(ResponseError):
        await pool.call(broker.address, GetTopicConfigRequest("%RETRY%g"))

    await set_group(pool, broker, retry_queue_nums=2)
    assert records(await pull(pool, broker.address, "orders", consumer_group="g"))
    await heartbeat(pool, broker)
    await pool.call(broker.address, GetTopicConfigRequest("%RETRY%g"))

    await pool.call(broker.address, DeleteSubscriptionGroupRequest("g"))
    assert (await refused(pool, broker))[0] == ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST


@pytest.mark.parametrize(
    ("fields", "is_kept"), [({}, True), ({"remove_offset": True}, False), ({"clean_offset": True}, False)]
)
async def test_a_deleted_groups_offsets_go_only_when_asked_and_are_gone_from_the_disk_then(
    broker: Broker, pool: Pool, tmp_path: Path, fields: dict[str, bool], is_kept: bool
) -> None:
    config = tmp_path / "store/config"

    def saved() -> set[str]:
        return set(json.loads((config / "consumerOffset.json").read_text())["offsetTable"])

    await set_group(pool, broker)
    for group, topic in (("g", "orders"), ("g", "%RETRY%g"), ("other", "orders")):
        await pool.call(broker.address, UpdateConsumerOffsetRequest(group, topic, 0, 7))
    # Another group's deletion writes the table.
    await pool.call(broker.address, DeleteSubscriptionGroupRequest("none", remove_offset=True))
    assert saved() == {"orders@g", "%RETRY%g@g", "orders@other"}
    await pool.call(broker.address, DeleteSubscriptionGroupRequest("g", **fields))
    assert saved() == ({"orders@g", "%RETRY%g@g", "orders@other"} if is_kept else {"orders@other"})
    assert "g" not in await groups(pool, broker)
    assert '"g"' not in (config / "subscriptionGroup.json").read_text()


async def test_all_settings_are_told_as_they_were_set_and_kept(start_broker: StartBroker, pool: Pool) -> None:
    settings = {
        "consume_enable": False,
        "consume_from_min_enable": False,
        "consume_broadcast_enable": False,
        "retry_queue_nums": 3,
        "retry_max_times": 5,
        "broker_id": 1,
        "which_broker_when_consume_slowly": 2,
        "notify_consumer_ids_changed_enable": False,
    }
    first = await start_broker()
    await set_group(pool, first, **settings)
    await first.__aexit__(None, None, None)
    second = await start_broker()
    assert (await groups(pool, second))["g"] == SubscriptionGroupConfig("g", **settings)  # type: ignore[arg-type]
