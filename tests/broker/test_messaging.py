"""Sending and pulling through a running broker."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.network import SystemNetwork, split_address
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import (
    LitePullMessageRequest,
    SendBatchMessageRequest,
    SendMessageRequest,
    SendMessageResponse,
    ViewMessageRequest,
)
from pymq.protocol.message import BatchEntry, decode_record, encode_batch
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.protocol.sysflags import BORN_HOST_V6, PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import PROPERTIES, bounds, pull, pull_header, records, send, send_header
from tests.broker.conftest import StartBroker


async def test_a_message_comes_back_as_it_was_sent(broker: Broker, pool: Pool) -> None:
    sent = await send(pool, broker.address, "orders", "héllo".encode(), queue_id=2, flag=7)

    (record,) = records(await pull(pool, broker.address, "orders", queue_id=2))

    assert record.body == "héllo".encode()
    assert (record.topic, record.queue_id, record.queue_offset, record.flag) == ("orders", 2, 0, 7)
    assert record.offset_msg_id == sent.msg_id
    assert record.born_timestamp == 1_700_000_000_000
    assert record.read_properties() == {
        "KEYS": "k1",
        "UNIQ_KEY": "7F0000010001000000000000000000AB",
        "TAGS": "a",
        "CLUSTER": "DefaultCluster",
    }


async def test_the_first_send_makes_the_topic_with_the_queues_asked_for(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x", queue_id=3, default_topic_queue_nums=4)
    with pytest.raises(ResponseError, match=re.escape("queueId[4] is illegal")):
        await send(pool, broker.address, "orders", b"x", queue_id=4)


async def test_without_auto_creation_an_unknown_topic_is_refused(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(auto_create_topic_enable=False)
    with pytest.raises(ResponseError) as refused:
        await send(pool, broker.address, "orders", b"x")
    assert refused.value.code == ResponseCode.TOPIC_NOT_EXIST


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("", ResponseCode.SYSTEM_ERROR),
        ("two words", ResponseCode.SYSTEM_ERROR),
        ("a/b", ResponseCode.SYSTEM_ERROR),
        ("t" * 128, ResponseCode.SYSTEM_ERROR),
        ("SCHEDULE_TOPIC_XXXX", ResponseCode.NO_PERMISSION),
        ("RMQ_SYS_TRANS_HALF_TOPIC", ResponseCode.NO_PERMISSION),
    ],
)
async def test_topics_that_may_not_be_sent_to(
    broker: Broker, pool: Pool, topic: str, code: ResponseCode
) -> None:
    with pytest.raises(ResponseError) as refused:
        await send(pool, broker.address, topic, b"x")
    assert refused.value.code == code


async def test_a_body_over_the_limit_is_illegal(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x" * (1 << 16))
    with pytest.raises(ResponseError) as refused:
        await send(pool, broker.address, "orders", b"x" * ((1 << 16) + 1))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_a_delay_of_zero_is_none(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"now", properties="DELAY\x010\x02MY_DELAY\x015")
    (record,) = records(await pull(pool, broker.address, "orders"))
    assert record.body == b"now"


async def test_the_long_spelling_of_a_send_works_too(broker: Broker, pool: Pool) -> None:
    header = SendMessageRequest("producers", "orders", 0, 0, 1, 0, properties="A\x01b")
    reply = await pool.call(broker.address, header, b"old")
    assert reply.read(SendMessageResponse).queue_offset == 0
    assert [r.body for r in records(await pull(pool, broker.address, "orders"))] == [b"old"]


async def test_a_negative_queue_lets_the_broker_choose(broker: Broker, pool: Pool) -> None:
    chosen = {(await send(pool, broker.address, "orders", b"x", queue_id=-1)).queue_id for _ in range(40)}
    assert chosen <= {0, 1, 2, 3}
    assert len(chosen) > 1


async def test_a_oneway_send_is_stored_and_not_answered(broker: Broker, pool: Pool) -> None:
    await pool.oneway(broker.address, send_header("orders"), b"quiet")
    await send(pool, broker.address, "orders", b"loud")  # the same connection: behind the first
    assert [r.body for r in records(await pull(pool, broker.address, "orders"))] == [b"quiet", b"loud"]


async def test_a_batch_becomes_messages_in_a_row(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"first")
    block = encode_batch([BatchEntry(b"one", "A\x011"), BatchEntry(b"two", "TAGS\x01x\x02", 5)])
    header = SendBatchMessageRequest(
        "producers", "orders", 0, 0, 1, 0, properties="WAIT\x01true", batch="true"
    )

    answer = (await pool.call(broker.address, header, block)).read(SendMessageResponse)

    _, one, two = records(await pull(pool, broker.address, "orders"))
    assert answer.queue_offset == 1
    assert answer.msg_id.split(",") == [one.offset_msg_id, two.offset_msg_id]
    assert (one.body, one.queue_offset, one.read_properties()) == (
        b"one",
        1,
        {"A": "1", "CLUSTER": "DefaultCluster"},
    )
    assert (two.body, two.queue_offset, two.flag) == (b"two", 2, 5)
    assert two.read_properties() == {"TAGS": "x", "CLUSTER": "DefaultCluster"}


@pytest.mark.parametrize("block", [b"", b"short", b"\0\0\0\xff" + b"\0" * 30])
async def test_a_broken_batch_is_refused_whole(broker: Broker, pool: Pool, block: bytes) -> None:
    header = SendBatchMessageRequest("producers", "orders", 0, 0, 1, 0, batch="true")
    with pytest.raises(ResponseError):
        await pool.call(broker.address, header, block)
    assert bounds(await pull(pool, broker.address, "orders")).max_offset == 0


async def test_the_host_bits_of_the_client_are_not_believed(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x", sys_flag=BORN_HOST_V6 | 0x20)
    (record,) = records(await pull(pool, broker.address, "orders"))
    assert record.sys_flag & 0x30 == 0
    assert record.born_host[:4] == bytes([127, 0, 0, 1])


@pytest.mark.parametrize("sys_flag", [0x4, 0x8, 0xC])
async def test_transaction_bits_without_the_property_hide_no_message(
    broker: Broker, pool: Pool, sys_flag: int
) -> None:
    await send(pool, broker.address, "orders", b"x", sys_flag=sys_flag)
    (record,) = records(await pull(pool, broker.address, "orders"))
    assert (record.body, record.sys_flag) == (b"x", 0)


async def test_a_client_on_ipv6_loopback_is_stored_as_ipv4(start_broker: StartBroker, pool: Pool) -> None:
    try:
        SystemNetwork().listen("::1", 0).close()
    except Exception:
        pytest.skip("this machine has no IPv6 loopback")
    broker = await start_broker(bind_address="::1", broker_ip1="127.0.0.1")
    await send(pool, f"[::1]:{broker.port}", "orders", b"x")
    (record,) = records(await pull(pool, f"[::1]:{broker.port}", "orders"))
    assert record.born_host[:4] == bytes([127, 0, 0, 1])


async def test_a_pull_filters_by_tags(broker: Broker, pool: Pool) -> None:
    for tag in ("a", "b", "c", "a"):
        await send(pool, broker.address, "orders", tag.encode(), properties=f"TAGS\x01{tag}")
    reply = await pull(pool, broker.address, "orders", subscription="a || c")
    assert [record.body for record in records(reply)] == [b"a", b"c", b"a"]
    assert bounds(reply).next_begin_offset == 4
    nothing = await pull(pool, broker.address, "orders", subscription="z")
    assert (nothing.code, bounds(nothing).next_begin_offset) == (ResponseCode.PULL_RETRY_IMMEDIATELY, 4)


async def test_the_lite_pull_of_5x_clients_is_a_pull(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x")
    header = LitePullMessageRequest(**msgspec.structs.asdict(pull_header("orders")))
    (record,) = records(await pool.call(broker.address, header))
    assert record.body == b"x"
    host, port = split_address(broker.address)
    with pytest.raises(ResponseError) as refused:  # the VIP channel serves no pulls
        await pool.call(f"{host}:{port - 2}", header)
    assert refused.value.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED


async def test_offsets_out_of_range_are_told_the_right_one(broker: Broker, pool: Pool) -> None:
    for _ in range(3):
        await send(pool, broker.address, "orders", b"x")
    at_end = await pull(pool, broker.address, "orders", offset=3)
    beyond = await pull(pool, broker.address, "orders", offset=9)
    assert (at_end.code, bounds(at_end).next_begin_offset) == (ResponseCode.PULL_NOT_FOUND, 3)
    assert (beyond.code, bounds(beyond).next_begin_offset) == (ResponseCode.PULL_OFFSET_MOVED, 3)
    empty = await pull(pool, broker.address, "orders", queue_id=1)
    assert (empty.code, bounds(empty).max_offset) == (ResponseCode.PULL_NOT_FOUND, 0)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"topic": "nowhere"}, ResponseCode.TOPIC_NOT_EXIST),
        ({"queue_id": 99}, ResponseCode.SYSTEM_ERROR),
        ({"queue_id": -1}, ResponseCode.SYSTEM_ERROR),
        ({"subscription": "||"}, ResponseCode.SUBSCRIPTION_PARSE_FAILED),
        ({"expression_type": "SQL92", "subscription": "a > 1"}, ResponseCode.SYSTEM_ERROR),
        ({"sys_flag": 0}, ResponseCode.SUBSCRIPTION_NOT_EXIST),
    ],
)
async def test_pulls_that_are_refused(
    broker: Broker, pool: Pool, fields: dict[str, Any], code: ResponseCode
) -> None:
    await send(pool, broker.address, "orders", b"x")
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, pull_header(**{"topic": "orders", **fields}))
    assert refused.value.code == code


async def test_a_held_pull_wakes_at_once_when_a_message_arrives(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"old", queue_id=1)
    held = asyncio.ensure_future(
        pull(
            pool,
            broker.address,
            "orders",
            sys_flag=PullFlag.SUSPEND | PullFlag.SUBSCRIPTION,
            suspend_timeout_millis=15_000,
        )
    )
    await asyncio.sleep(0.05)
    assert not held.done()
    await send(pool, broker.address, "orders", b"elsewhere", queue_id=1)
    await asyncio.sleep(0.05)
    assert not held.done()
    await send(pool, broker.address, "orders", b"new")
    reply = await asyncio.wait_for(held, 10)
    assert [record.body for record in records(reply)] == [b"new"]


async def test_a_held_pull_does_not_wake_for_a_tag_it_does_not_want(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"old", queue_id=1)
    held = asyncio.ensure_future(
        pull(
            pool,
            broker.address,
            "orders",
            subscription="wanted",
            sys_flag=PullFlag.SUSPEND | PullFlag.SUBSCRIPTION,
            suspend_timeout_millis=15_000,
        )
    )
    await asyncio.sleep(0.05)
    await send(pool, broker.address, "orders", b"1", properties="TAGS\x01other")
    await asyncio.sleep(0.05)
    assert not held.done()
    await send(pool, broker.address, "orders", b"2", properties="TAGS\x01wanted")
    assert [record.body for record in records(await asyncio.wait_for(held, 10))] == [b"2"]


async def test_a_held_pull_is_answered_at_its_time_limit(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x")
    reply = await pull(
        pool,
        broker.address,
        "orders",
        offset=1,
        sys_flag=PullFlag.SUSPEND | PullFlag.SUBSCRIPTION,
        suspend_timeout_millis=100,
    )
    assert (reply.code, bounds(reply).next_begin_offset) == (ResponseCode.PULL_NOT_FOUND, 1)


async def test_one_stored_message_by_its_offset(broker: Broker, pool: Pool) -> None:
    sent = await send(pool, broker.address, "orders", b"look")
    offset = decode_offset_msg_id(sent.msg_id)[1]
    reply = await pool.call(broker.address, ViewMessageRequest(offset))
    assert decode_record(reply.body).body == b"look"
    with pytest.raises(ResponseError, match="can not find message by the offset, 123456"):
        await pool.call(broker.address, ViewMessageRequest(123456))


async def test_a_message_that_is_damaged_on_the_disk_is_not_shown(
    broker: Broker, pool: Pool, tmp_path: Path
) -> None:
    sent = await send(pool, broker.address, "T", b"precious")
    offset = int(sent.msg_id[16:], 16)
    [file] = (tmp_path / "store" / "commitlog").glob("0*0")
    at = file.read_bytes().index(b"precious")
    with file.open("r+b") as log_file:
        log_file.seek(at)
        log_file.write(b"P")
    with pytest.raises(ResponseError, match=f"the message at {offset} is damaged"):
        await pool.call(broker.address, ViewMessageRequest(offset))


async def test_a_restart_serves_everything(start_broker: StartBroker, pool: Pool) -> None:
    first = await start_broker()
    for number in range(50):
        await send(pool, first.address, "orders", b"%d" % number + b"x" * 5000, queue_id=number % 2)
    await first.__aexit__(None, None, None)

    second = await start_broker()
    for queue_id in (0, 1):
        bodies: list[bytes] = []
        while len(bodies) < 25:
            reply = await pull(pool, second.address, "orders", queue_id=queue_id, offset=len(bodies))
            assert reply.code == 0
            bodies += [record.body for record in records(reply)]
        assert [int(body.rstrip(b"x")) for body in bodies] == list(range(queue_id, 50, 2))
    assert (await send(pool, second.address, "orders", b"on", properties=PROPERTIES)).queue_offset == 25
