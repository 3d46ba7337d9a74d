"""Pulls that filter by SQL92: by an expression of their own, or by what the group's heartbeat registered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pymq.broker import filtered_reads
from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol import message
from pymq.protocol.bodies.connections import CheckClientConfigBody
from pymq.protocol.bodies.heartbeat import ConsumerData, HeartbeatData
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import CheckClientConfigRequest, HeartBeatRequest, UnregisterClientRequest
from pymq.protocol.properties import decode_properties, encode_properties
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool, Reply
from tests.broker.asking import bounds, pull, pull_header, records, send
from tests.broker.conftest import StartBroker

HELD = PullFlag.SUSPEND | PullFlag.SUBSCRIPTION


@pytest.fixture
async def broker(start_broker: StartBroker) -> Broker:
    """A broker that lets consumers filter by SQL92."""
    return await start_broker(enable_property_filter=True)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """One client's connections."""
    pool = Pool(SystemNetwork(), {})
    yield pool
    await pool.close()


async def put(pool: Pool, broker: Broker, *values: object, topic: str = "orders", **fields: str) -> None:
    """Send a message for each value, which is its body and its property `a`."""
    for value in values:
        text = encode_properties({"a": str(value), **fields})
        await send(pool, broker.address, topic, str(value).encode(), properties=text)


async def filtered(pool: Pool, broker: Broker, expression: str, **fields: Any) -> Reply:
    """Pull with an expression of its own."""
    words = {"subscription": expression, "expression_type": "SQL92", **fields}
    return await pull(pool, broker.address, "orders", **words)


def bodies(reply: Reply) -> list[str]:
    return [record.body.decode() for record in records(reply)]


async def heartbeat(
    pool: Pool, broker: Broker, expression: str, version: int, kind: str = "SQL92", topic: str = "orders"
) -> None:
    """The heartbeat of a group `consumers` that subscribes to one topic."""
    subscription = SubscriptionData(topic, expression, sub_version=version, expression_type=kind)
    data = HeartbeatData("client", [], [ConsumerData("consumers", subscription_data_set=[subscription])])
    await pool.call(broker.address, HeartBeatRequest(), data.encode())


async def plain_pull(pool: Pool, broker: Broker, **fields: Any) -> Reply:
    """A pull that relies on the heartbeat."""
    return await pull(pool, broker.address, "orders", sys_flag=0, **fields)


def filter_file(tmp_path: Path) -> dict[str, Any]:
    """consumerFilter.json of the test's broker."""
    text = (tmp_path / "store/config/consumerFilter.json").read_text()
    table: dict[str, Any] = json.loads(text)["filterDataByTopic"]
    return table


async def test_a_pull_gets_what_its_expression_wants_and_goes_on_behind_what_was_looked_at(
    broker: Broker, pool: Pool
) -> None:
    await put(pool, broker, 1, 7, 3, 9, 5, 8, 2)
    reply = await filtered(pool, broker, "a BETWEEN 5 AND 8 AND b IS NULL")
    assert bodies(reply) == ["7", "5", "8"]
    assert (bounds(reply).next_begin_offset, bounds(reply).max_offset) == (7, 7)
    nothing = await filtered(pool, broker, "a > 100")
    assert (nothing.code, bounds(nothing).next_begin_offset) == (ResponseCode.PULL_RETRY_IMMEDIATELY, 7)
    at_end = await filtered(pool, broker, "a > 100", offset=7)
    assert (at_end.code, bounds(at_end).next_begin_offset) == (ResponseCode.PULL_NOT_FOUND, 7)


async def test_a_full_answer_ends_behind_its_last_message_so_that_none_is_passed_over(
    broker: Broker, pool: Pool
) -> None:
    await put(pool, broker, *range(100))
    got: list[str] = []
    offset = 0
    while offset < 100:
        reply = await filtered(pool, broker, "a > 10", offset=offset, max_msg_nums=7)
        assert len(bodies(reply)) <= 7
        got += bodies(reply)
        assert bounds(reply).next_begin_offset > offset
        offset = bounds(reply).next_begin_offset
    assert got == [str(number) for number in range(11, 100)]


async def test_an_answer_has_as_many_bytes_as_a_plain_one(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(enable_property_filter=True, max_transfer_bytes_on_message_in_memory=3000)
    for number in range(10):
        text = encode_properties({"a": str(number % 2)})
        await send(pool, broker.address, "orders", b"%d" % number * 1000, properties=text)
    reply = await filtered(pool, broker, "a = 1")
    assert [body[0] for body in bodies(reply)] == ["1", "3"]
    assert bounds(reply).next_begin_offset == 5
    one = await filtered(pool, broker, "a = 1", max_msg_nums=0)
    assert len(bodies(one)) == 1


async def test_messages_that_memory_does_not_hold_are_filtered_too(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(
        enable_property_filter=True,
        access_message_in_memory_max_ratio=0,
        mapped_file_size_commit_log=1 << 16,
        max_message_size=1 << 10,
    )
    for number in range(300):
        text = encode_properties({"a": str(number)})
        await send(pool, broker.address, "orders", b"%d" % number, properties=text)
    got: list[str] = []
    offset = 0
    while offset < 300:
        reply = await filtered(pool, broker, "a BETWEEN 90 AND 95 OR a > 200", offset=offset)
        got += bodies(reply)
        offset = bounds(reply).next_begin_offset
    assert got == [str(number) for number in (*range(90, 96), *range(201, 300))]


async def test_a_filter_that_lets_nothing_through_leaves_the_others_their_turn(
    broker: Broker, pool: Pool
) -> None:
    for _ in range(20):
        await asyncio.gather(*[put(pool, broker, 1) for _ in range(100)])
    cheap = bounds(await filtered(pool, broker, "a = 2")).next_begin_offset
    assert 500 < cheap < 2000
    costly = " OR ".join(f"a = {number}" for number in range(2, 2500))
    reply = await filtered(pool, broker, costly)
    assert reply.code == ResponseCode.PULL_RETRY_IMMEDIATELY
    assert bounds(reply).next_begin_offset <= 4


async def test_a_held_pull_is_answered_by_what_it_wants_only(broker: Broker, pool: Pool) -> None:
    await put(pool, broker, 1)
    held = asyncio.ensure_future(
        filtered(pool, broker, "a > 5", offset=1, sys_flag=HELD, suspend_timeout_millis=10_000)
    )
    await asyncio.sleep(0.05)
    await put(pool, broker, 2, 3)
    await asyncio.sleep(0.05)
    assert not held.done()
    await put(pool, broker, 6)
    reply = await held
    assert bodies(reply) == ["6"]
    assert bounds(reply).next_begin_offset == 4


async def test_a_held_pull_looks_at_each_message_once(
    broker: Broker, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def read_properties(record: bytes, offset: int) -> str:
        looked.append(message.read_properties(record, offset))
        return looked[-1]

    monkeypatch.setattr(filtered_reads, "read_properties", read_properties)
    await put(pool, broker, 1)
    held = asyncio.ensure_future(
        filtered(pool, broker, "a > 5", offset=1, sys_flag=HELD, suspend_timeout_millis=10_000)
    )
    await asyncio.sleep(0.05)
    for value in (2, 3, 4, 5, 6):
        await put(pool, broker, value)
        await asyncio.sleep(0.01)
    await held
    assert [decode_properties(text)["a"] for text in looked] == ["2", "3", "4", "5", "6"]


async def test_a_held_pull_that_gets_nothing_is_told_at_its_end_where_to_go_on(
    broker: Broker, pool: Pool
) -> None:
    await put(pool, broker, 1)
    asked = asyncio.get_running_loop().time()
    held = asyncio.ensure_future(
        filtered(pool, broker, "a > 5", offset=1, sys_flag=HELD, suspend_timeout_millis=300)
    )
    await asyncio.sleep(0.1)
    await put(pool, broker, 2, 3)
    reply = await held
    assert 0.29 < asyncio.get_running_loop().time() - asked < 10
    assert (reply.code, bounds(reply).next_begin_offset) == (ResponseCode.PULL_NOT_FOUND, 3)


WRONG = "a > > 1"
SAID = 'SQL92 filter, character 5: expected a property, a value or "(", found ">" [a > ^> 1]'


async def check(pool: Pool, broker: Broker, expression: str, kind: str = "SQL92") -> None:
    """Ask whether a subscription would be served, as Java clients do at the start."""
    subscription = SubscriptionData("orders", expression, expression_type=kind)
    body = CheckClientConfigBody(subscription, "client", "consumers").encode()
    await pool.call(broker.address, CheckClientConfigRequest(), body)


async def test_a_wrong_expression_is_refused_wherever_it_comes(broker: Broker, pool: Pool) -> None:
    await put(pool, broker, 1)
    with pytest.raises(ResponseError) as pulled:
        await filtered(pool, broker, WRONG)
    assert (pulled.value.code, pulled.value.remark) == (ResponseCode.SUBSCRIPTION_PARSE_FAILED, SAID)
    with pytest.raises(ResponseError) as checked:
        await check(pool, broker, WRONG)
    assert (checked.value.code, checked.value.remark) == (ResponseCode.SUBSCRIPTION_PARSE_FAILED, SAID)
    await heartbeat(pool, broker, WRONG, 1)
    with pytest.raises(ResponseError) as relied:
        await plain_pull(pool, broker, sub_version=1)
    assert relied.value.code == ResponseCode.FILTER_DATA_NOT_EXIST
    assert relied.value.remark.endswith(SAID)
    for expression, kind in (("", "SQL92"), ("a = 1", "SQL93"), ("||", "TAG")):
        with pytest.raises(ResponseError) as other:
            await check(pool, broker, expression, kind)
        assert other.value.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    for expression, kind in (("a = 1", "SQL92"), ("a || b", "TAG"), ("*", "TAG")):
        await check(pool, broker, expression, kind)


async def test_without_enable_property_filter_the_refusal_names_the_key(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker()
    await put(pool, broker, 1)
    await heartbeat(pool, broker, "a = 1", 1)
    said = "The broker does not support consumer to filter message by SQL92 (enablePropertyFilter=false)"
    for asked in (
        filtered(pool, broker, "a = 1"),
        plain_pull(pool, broker),
        check(pool, broker, "a = 1"),
    ):
        with pytest.raises(ResponseError) as refused:
            await asked
        assert (refused.value.code, refused.value.remark) == (ResponseCode.SYSTEM_ERROR, said)


async def test_a_pull_is_served_by_the_heartbeats_filter_of_its_version(broker: Broker, pool: Pool) -> None:
    await put(pool, broker, 1, 2, 3)
    await heartbeat(pool, broker, "a > 1", 5)
    assert bodies(await plain_pull(pool, broker, sub_version=5)) == ["2", "3"]
    await heartbeat(pool, broker, "a > 2", 5)  # not newer: of two members, the older one's stays
    assert bodies(await plain_pull(pool, broker, sub_version=5)) == ["2", "3"]
    await heartbeat(pool, broker, "a > 2", 6)
    assert bodies(await plain_pull(pool, broker, sub_version=6)) == ["3"]
    await heartbeat(pool, broker, "*", 7, kind="TAG")
    assert bodies(await plain_pull(pool, broker, sub_version=7)) == ["1", "2", "3"]


async def test_filters_outlive_a_restart_and_are_dead_until_the_group_is_back(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    broker = await start_broker(enable_property_filter=True)
    await put(pool, broker, 1, 2, 3)
    await heartbeat(pool, broker, "a > 1", 5)
    await pool.call(broker.address, UnregisterClientRequest("client", consumer_group="consumers"))
    await broker.__aexit__(None, None, None)
    kept = filter_file(tmp_path)["orders"]["groupFilterData"]["consumers"]
    assert kept["expression"] == "a > 1"
    assert (kept["expressionType"], kept["clientVersion"], kept["dead"]) == ("SQL92", 5, True)
    assert kept["deadTime"] >= kept["bornTime"] > 0
    # Of RocketMQ's BloomFilter.createByFn(20, 32).
    assert kept["bloomFilterData"] == {"bitNum": 112, "bitPos": [17, 2, 9]}
    again = await start_broker(enable_property_filter=True)
    await heartbeat(pool, again, "a > 1", 5)
    assert bodies(await plain_pull(pool, again, sub_version=5)) == ["2", "3"]
    async with asyncio.timeout(60):  # a changed table is written within a second
        while (alive := filter_file(tmp_path)["orders"]["groupFilterData"]["consumers"])["dead"]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (alive["dead"], alive["deadTime"], alive["bornTime"]) == (False, 0, kept["bornTime"])


@pytest.mark.parametrize("supports_retry", [False, True])
async def test_retries_are_filtered_when_the_broker_is_told_to(
    start_broker: StartBroker, pool: Pool, supports_retry: bool
) -> None:
    broker = await start_broker(enable_property_filter=True, filter_support_retry=supports_retry)
    await heartbeat(pool, broker, "a > 1", 5)
    topic = "%RETRY%consumers"
    await put(pool, broker, 1, 2, topic=topic, RETRY_TOPIC="orders")
    await put(pool, broker, 0, topic=topic, RETRY_TOPIC="others")
    await put(pool, broker, -1, topic=topic)
    reply = await pool.call(broker.address, pull_header(topic), accept=(0,))
    assert bodies(reply) == (["2", "0", "-1"] if supports_retry else ["1", "2", "0", "-1"])


async def test_no_expression_kills_the_broker(broker: Broker, pool: Pool) -> None:
    await put(pool, broker, 1)
    for expression in ("(" * 10_000, "NOT " * 7_000 + "a", "a = " * 8_000 + "a", "a" * 200_000, "- " * 9_000):
        with pytest.raises(ResponseError) as refused:
            await filtered(pool, broker, expression)
        assert refused.value.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
        assert len(refused.value.remark) < 250
    many = " OR ".join(f"a = {number}" for number in range(2000))
    assert bodies(await filtered(pool, broker, many)) == ["1"]
