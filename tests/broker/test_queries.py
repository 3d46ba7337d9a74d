"""QUERY_MESSAGE: messages by key and by unique id, as clients ask for them."""

from __future__ import annotations

from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import QueryMessageRequest, QueryMessageResponse
from pymq.protocol.message import decode_records
from pymq.transport.pool import Pool
from tests.broker.asking import send
from tests.broker.conftest import StartBroker

FOREVER = 2**63 - 1


async def query(pool: Pool, broker: Broker, key: str, **fields: Any) -> list[bytes]:
    """Bodies of what is found."""
    header = QueryMessageRequest(
        **{"topic": "T", "key": key, "max_num": 64, "begin_timestamp": 0, "end_timestamp": FOREVER, **fields}
    )
    reply = await pool.call(broker.address, header)
    found = decode_records(reply.body)
    update = reply.read(QueryMessageResponse)
    assert update.index_last_update_phyoffset >= found[-1].physical_offset
    assert update.index_last_update_timestamp >= found[-1].store_timestamp
    return [record.body for record in found]


def named(keys: str, unique_key: str) -> str:
    return f"KEYS\x01{keys}\x02UNIQ_KEY\x01{unique_key}"


async def test_messages_are_found_by_key_and_by_unique_id_oldest_first(broker: Broker, pool: Pool) -> None:
    for n in range(5):
        await send(pool, broker.address, "T", b"%d" % n, properties=named(f"k{n} all", f"U{n}"))
    assert await query(pool, broker, "k3") == [b"3"]
    assert await query(pool, broker, "all") == [b"0", b"1", b"2", b"3", b"4"]
    assert await query(pool, broker, "all", max_num=2) == [b"3", b"4"]
    assert await query(pool, broker, "U2", unique_key_query=True, max_num=0) == [b"2"]


async def test_what_is_not_there_is_not_found(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "T", b"x", properties=named("k", "U"))
    for fields in ({"key": "none"}, {"key": "k", "topic": "Other"}, {"key": "k", "begin_timestamp": FOREVER}):
        with pytest.raises(ResponseError) as refused:
            await query(pool, broker, **fields)
        assert refused.value.code == ResponseCode.QUERY_NOT_FOUND
        assert refused.value.remark == "can not find message, maybe time range not correct"


async def test_the_configuration_bounds_how_many_are_given(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(max_msgs_num_batch=5, default_query_max_num=3)
    for n in range(8):
        await send(pool, broker.address, "T", b"%d" % n, properties=named("k", "U"))
    assert len(await query(pool, broker, "k")) == 5
    assert len(await query(pool, broker, "U", unique_key_query=True)) == 3


async def test_an_answer_is_not_larger_than_a_frame(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(mapped_file_size_commit_log=32 << 20, max_message_size=7 << 20)
    for n in range(3):
        await send(pool, broker.address, "T", b"%d" % n * (7 << 20), properties=named("k", "U"))
    assert [body[:1] for body in await query(pool, broker, "k")] == [b"1", b"2"], "the newest"
    assert [len(body) for body in await query(pool, broker, "k", max_num=1)] == [7 << 20]


async def test_without_an_index_nothing_is_found(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(message_index_enable=False)
    await send(pool, broker.address, "T", b"x", properties=named("k", "U"))
    with pytest.raises(ResponseError):
        await query(pool, broker, "k")
