"""Transactions as producers see them: requests to a running broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.bodies.heartbeat import HeartbeatData, ProducerData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.headers.messaging import (
    CheckTransactionStateRequest,
    EndTransactionRequest,
    SendBatchMessageRequest,
    SendMessageResponse,
)
from pymq.protocol.message import BatchEntry, MessageRecord, decode_record, encode_batch
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_NONE, TRANSACTION_ROLLBACK
from pymq.transport.dispatch import Request, row
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker

HALF = "TRAN_MSG\x01true\x02PGROUP\x01pg\x02UNIQ_KEY\x01{key}\x02WAIT\x01true\x02TAGS\x01a"
Asked = asyncio.Queue[tuple[CheckTransactionStateRequest, MessageRecord]]


async def prepare(
    pool: Pool, broker: Broker, body: bytes, key: str = "K", wait: str = "true", **fields: Any
) -> SendMessageResponse:
    """Send a half message."""
    text = HALF.format(key=key).replace("WAIT\x01true", f"WAIT\x01{wait}")
    return await send(pool, broker.address, "orders", body, properties=text, **fields)


def end_of(sent: SendMessageResponse, kind: int) -> EndTransactionRequest:
    """The request that ends it."""
    offset = decode_offset_msg_id(sent.msg_id)[1]
    return EndTransactionRequest("pg", sent.queue_offset, offset, kind, "K", False, None)


async def join(broker: Broker, pool: Pool, client_id: str = "p1") -> None:
    """Be a producer of the group."""
    body = HeartbeatData(client_id, [ProducerData("pg")], []).encode()
    await pool.call(broker.address, HeartBeatRequest(), body)


def producer_pool(asked: Asked) -> Pool:
    """Connections of a producer that notes what it is asked."""

    def check(request: Request[CheckTransactionStateRequest]) -> None:
        asked.put_nowait((request.header, decode_record(request.body)))

    code, entry = row(CheckTransactionStateRequest, check)
    return Pool(SystemNetwork(), {code: entry})


async def test_commit_and_rollback(broker: Broker, pool: Pool) -> None:
    first = await prepare(pool, broker, b"1", queue_id=2)
    assert (first.queue_id, first.queue_offset) == (2, 0)
    second = await prepare(pool, broker, b"2", queue_id=2)
    assert second.queue_offset == 1
    assert not records(await pull(pool, broker.address, "orders", queue_id=2))
    await pool.call(broker.address, end_of(second, TRANSACTION_ROLLBACK))
    await pool.call(broker.address, end_of(first, TRANSACTION_NONE))
    await pool.call(broker.address, end_of(first, TRANSACTION_COMMIT))
    await pool.call(broker.address, end_of(first, TRANSACTION_COMMIT))
    (record,) = records(await pull(pool, broker.address, "orders", queue_id=2))
    assert (record.body, record.queue_id, record.sys_flag) == (b"1", 2, TRANSACTION_COMMIT)


async def test_another_producer_of_the_group_is_asked(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(transaction_check_interval=50, transaction_time_out=1)
    await prepare(pool, broker, b"1")
    asked: Asked = asyncio.Queue()
    producer = producer_pool(asked)
    try:
        await join(broker, producer)
        question, message = await asyncio.wait_for(asked.get(), 60)
        assert (message.topic, message.body, question.transaction_id) == ("orders", b"1", "K")
        await producer.oneway(
            broker.address,
            EndTransactionRequest(
                "pg",
                question.tran_state_table_offset,
                question.commit_log_offset,
                TRANSACTION_COMMIT,
                question.msg_id or "",
                True,
                question.transaction_id,
            ),
        )
        answer = await pull(
            pool, broker.address, "orders", sys_flag=6, suspend_timeout_millis=15_000, timeout_s=20
        )
        assert [record.body for record in records(answer)] == [b"1"]
    finally:
        await producer.close()


async def test_transactions_may_be_forbidden(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(reject_transaction_message=True)
    with pytest.raises(ResponseError, match="transaction message is forbidden") as refused:
        await prepare(pool, broker, b"1")
    assert refused.value.code == ResponseCode.NO_PERMISSION


@pytest.mark.parametrize(("sys_flag", "text"), [(4, ""), (0, HALF)])
async def test_a_batch_in_a_transaction_is_refused(
    broker: Broker, pool: Pool, sys_flag: int, text: str
) -> None:
    header = SendBatchMessageRequest("pg", "orders", 0, sys_flag, 1, 0, properties=text, batch="true")
    with pytest.raises(ResponseError, match="transactional") as refused:
        await pool.call(broker.address, header, encode_batch([BatchEntry(b"one")]))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_open_ones_survive_a_restart(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker()
    first, second = await prepare(pool, broker, b"1"), await prepare(pool, broker, b"2", key="L")
    await pool.call(broker.address, end_of(first, TRANSACTION_COMMIT))
    await broker.__aexit__(None, None, None)
    broker = await start_broker()
    await pool.call(broker.address, end_of(first, TRANSACTION_COMMIT))
    await pool.call(broker.address, end_of(second, TRANSACTION_COMMIT))
    answer = await pull(pool, broker.address, "orders")
    assert [record.body for record in records(answer)] == [b"1", b"2"]


async def test_a_topic_whose_name_begins_like_a_retry_topic_has_half_messages(
    broker: Broker, pool: Pool
) -> None:
    sent = await send(pool, broker.address, "%orders", b"1", properties=HALF.format(key="K"))
    assert not records(await pull(pool, broker.address, "%orders"))
    await pool.call(broker.address, end_of(sent, TRANSACTION_COMMIT))
    assert [record.body for record in records(await pull(pool, broker.address, "%orders"))] == [b"1"]


async def test_what_a_consumer_hands_back_by_a_send_is_no_half_message(broker: Broker, pool: Pool) -> None:
    """Old clients leave TRAN_MSG of a committed message in what they send to their retry topic."""
    topic = "%RETRY%consumers"
    await send(pool, broker.address, topic, b"again", properties=HALF.format(key="K"), reconsume_times=1)
    assert [record.body for record in records(await pull(pool, broker.address, topic))] == [b"again"]
