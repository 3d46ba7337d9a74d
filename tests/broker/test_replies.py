"""Replies to requests: pushed to the client that asked, and kept in the reply topic (semantics.md §8.3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import FlushDiskType
from pymq.broker.live_clients import LiveClients
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.bodies import HeartbeatData, ProducerData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers.groups import (
    HeartBeatRequest,
    PushReplyMessageToClientRequest,
    UnregisterClientRequest,
)
from pymq.protocol.headers.messaging import (
    SendMessageResponse,
    SendReplyMessageRequest,
    SendReplyMessageRequestV2,
)
from pymq.protocol.properties import decode_properties, encode_properties
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.pool import Pool
from tests.broker import asking
from tests.broker.conftest import StartBroker
from tests.sim import SimClock

TOPIC = "DefaultCluster_REPLY_TOPIC"
ASKER = "10.0.0.1@4711"
PROPERTIES = {"MSG_TYPE": "reply", "CORRELATION_ID": "c-1", "REPLY_TO_CLIENT": ASKER, "TTL": "3000"}


class Asker:
    """A client that asked something: takes replies."""

    def __init__(self) -> None:
        self.got: list[tuple[PushReplyMessageToClientRequest, bytes]] = []
        self.answer: Answer | None = Answer()
        self.pool = Pool(SystemNetwork(), merge([row(PushReplyMessageToClientRequest, self._take)]))

    def _take(self, request: Request[PushReplyMessageToClientRequest]) -> Answer | None:
        self.got.append((request.header, request.body))
        return self.answer

    async def heartbeat(self, address: str, client_id: str = ASKER, group: str = "askers") -> None:
        body = HeartbeatData(client_id, [ProducerData(group)], []).encode()
        await self.pool.call(address, HeartBeatRequest(), body)


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    asker = Asker()
    yield asker
    await asker.pool.close()


def header(cls: type[Header] = SendReplyMessageRequestV2, **fields: Any) -> Header:
    properties = fields.pop("properties", PROPERTIES)
    return cls(
        **{
            "producer_group": "answerers",
            "topic": TOPIC,
            "queue_id": 0,
            "sys_flag": 0,
            "born_timestamp": 1_700_000_000_000,
            "flag": 5,
            "properties": encode_properties(properties),
            "unit_mode": "false",
            **fields,
        }
    )


async def refusal(pool: Pool, broker: Broker, asked: Header, body: bytes = b"pong") -> ResponseError:
    with pytest.raises(ResponseError) as error:
        await pool.call(broker.address, asked, body)
    return error.value


@pytest.mark.parametrize("cls", [SendReplyMessageRequest, SendReplyMessageRequestV2])
async def test_a_reply_comes_to_who_asked_and_a_copy_lies_in_the_reply_topic(
    broker: Broker, pool: Pool, asker: Asker, cls: type[Header]
) -> None:
    await asker.heartbeat(broker.address)
    answer = await pool.call(broker.address, header(cls), b"pong")
    [(pushed, body)] = asker.got
    assert body == b"pong"
    assert (pushed.topic, pushed.producer_group, pushed.flag) == (TOPIC, "answerers", 5)
    assert (pushed.born_timestamp, pushed.store_host) == (1_700_000_000_000, broker.address)
    assert pushed.born_host.startswith("127.0.0.1:")
    properties = decode_properties(pushed.properties or "")
    assert int(properties.pop("PUSH_REPLY_TIME")) == pushed.store_timestamp
    assert properties == PROPERTIES

    stored = answer.read(SendMessageResponse)
    [record] = asking.records(await asking.pull(pool, broker.address, TOPIC))
    assert (record.body, record.offset_msg_id, record.flag) == (b"pong", stored.msg_id, 5)
    assert record.read_properties() == PROPERTIES


async def test_where_copies_are_not_wanted_a_reply_is_passed_on_only(
    start_broker: StartBroker, pool: Pool, asker: Asker
) -> None:
    broker = await start_broker(store_reply_message_enable=False)
    await asker.heartbeat(broker.address)
    stored = (await pool.call(broker.address, header(), b"pong")).read(SendMessageResponse)
    assert (stored.msg_id, stored.queue_id, stored.queue_offset) == ("0", 0, 0)
    assert [body for _, body in asker.got] == [b"pong"]
    assert asking.records(await asking.pull(pool, broker.address, TOPIC)) == []


@pytest.mark.parametrize(
    ("properties", "remark"),
    [
        (PROPERTIES, f"channel of <{ASKER}> not found"),
        ({"CORRELATION_ID": "c-1"}, "reply message properties[REPLY_TO_CLIENT] is null"),
    ],
)
async def test_a_reply_that_nobody_waits_for_fails_and_is_stored_all_the_same(
    broker: Broker, pool: Pool, properties: dict[str, str], remark: str
) -> None:
    error = await refusal(pool, broker, header(properties=properties))
    assert error.code == ResponseCode.SYSTEM_ERROR
    assert remark in error.remark
    assert len(asking.records(await asking.pull(pool, broker.address, TOPIC))) == 1


async def test_a_reply_that_the_client_refuses_fails(broker: Broker, pool: Pool, asker: Asker) -> None:
    asker.answer = Answer(ResponseCode.SYSTEM_ERROR, remark="process reply message fail")
    await asker.heartbeat(broker.address)
    error = await refusal(pool, broker, header())
    assert error.code == ResponseCode.SYSTEM_ERROR
    assert ASKER in error.remark
    assert "process reply message fail" in error.remark


async def test_a_client_that_leaves_while_its_reply_is_passed_on_does_not_hold_the_responder(
    broker: Broker, pool: Pool, asker: Asker
) -> None:
    asker.answer = None
    await asker.heartbeat(broker.address)
    asking_for_it = asyncio.ensure_future(refusal(pool, broker, header()))
    while not asker.got:  # noqa: ASYNC110 - until the push is there
        await asyncio.sleep(0.001)
    asker.pool.drop(broker.address)
    error = await asking_for_it
    assert error.code == ResponseCode.SYSTEM_ERROR
    assert "lost" in error.remark


async def test_replies_that_wait_for_their_clients_are_bounded(
    start_broker: StartBroker, pool: Pool, asker: Asker
) -> None:
    broker = await start_broker(reply_thread_pool_queue_capacity=3)
    asker.answer = None
    await asker.heartbeat(broker.address)
    waiting = [asyncio.ensure_future(refusal(pool, broker, header())) for _ in range(3)]
    while len(asker.got) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert (await refusal(pool, broker, header())).code == ResponseCode.SYSTEM_BUSY
    asker.pool.drop(broker.address)
    await asyncio.gather(*waiting)
    asker.answer = Answer()
    await asker.heartbeat(broker.address)
    await pool.call(broker.address, header(), b"pong")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"queue_id": 7}, ResponseCode.SYSTEM_ERROR),
        ({"topic": "a b"}, ResponseCode.SYSTEM_ERROR),
        ({"topic": "SCHEDULE_TOPIC_XXXX"}, ResponseCode.NO_PERMISSION),
        ({"topic": "fresh", "default_topic": "none"}, ResponseCode.TOPIC_NOT_EXIST),
    ],
)
async def test_what_no_send_may_do_no_reply_may(
    broker: Broker, pool: Pool, asker: Asker, fields: dict[str, Any], code: int
) -> None:
    await asker.heartbeat(broker.address)
    assert (await refusal(pool, broker, header(**fields))).code == code
    assert asker.got == []


async def test_a_reply_goes_to_the_connection_that_the_client_has_now(
    broker: Broker, pool: Pool, asker: Asker
) -> None:
    old = Asker()
    await old.heartbeat(broker.address)
    await asker.heartbeat(broker.address)
    await old.pool.close()
    await pool.call(broker.address, header(), b"pong")
    assert (len(asker.got), len(old.got)) == (1, 0)


async def test_a_client_with_two_groups_gets_replies_until_it_has_left_both(
    broker: Broker, pool: Pool, asker: Asker
) -> None:
    """Apache's broker loses the client with the first group that it leaves."""
    await asker.heartbeat(broker.address, group="askers")
    await asker.heartbeat(broker.address, group="others")
    await asker.pool.call(broker.address, UnregisterClientRequest(ASKER, "askers"))
    await pool.call(broker.address, header(), b"pong")
    await asker.pool.call(broker.address, UnregisterClientRequest(ASKER, "others"))
    assert "not found" in (await refusal(pool, broker, header())).remark


async def test_with_sync_flush_a_reply_is_confirmed_when_its_copy_is_on_the_disk(
    start_broker: StartBroker, pool: Pool, asker: Asker
) -> None:
    broker = await start_broker(flush_disk_type=FlushDiskType.SYNC_FLUSH)
    await asker.heartbeat(broker.address)
    stored = (await pool.call(broker.address, header(), b"pong")).read(SendMessageResponse)
    [record] = asking.records(await asking.pull(pool, broker.address, TOPIC))
    assert record.offset_msg_id == stored.msg_id


def test_nothing_is_left_of_clients_that_are_gone_or_change_their_names() -> None:
    clients = LiveClients(SimClock())
    first, second = Connection({}), Connection({})
    for name in ("a@1", "a@2", "a@3"):
        clients.producer_heartbeat(first, name, "JAVA", 401, ProducerData("askers"))
        clients.producer_heartbeat(second, "a@3", "JAVA", 401, ProducerData("askers"))
    assert clients.producer_connection("a@1") is clients.producer_connection("a@2") is None
    assert clients.producer_connection("a@3") is second
    clients.connection_closed(second)
    clients.producer_heartbeat(first, "a@3", "JAVA", 401, ProducerData("askers"))
    assert clients.producer_connection("a@3") is first
    clients.connection_closed(first)
    assert clients.producer_connection("a@3") is None
    assert (clients._producer_ids, clients._producer_connections) == ({}, {})
