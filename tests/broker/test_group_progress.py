"""How far groups are, how old what they have not consumed is, and offsets that go from group to group."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.errors import ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import (
    BrokerConsumeStats,
    ConsumerOffsets,
    ConsumeStats,
    ConsumeTimeSpans,
    CorrectionOffsets,
    OffsetWrapper,
    QueueTimeSpan,
)
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    CloneGroupOffsetRequest,
    CreateTopicRequest,
    DeleteExpiredCommitLogRequest,
    DeleteTopicInBrokerRequest,
    GetAllConsumerOffsetRequest,
    GetBrokerConsumeStatsRequest,
    GetConsumeStatsRequest,
    QueryConsumeTimeSpanRequest,
    QueryCorrectionOffsetRequest,
)
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker
from tests.broker.group_members import FakeMember, queue
from tests.broker.test_cleaning_requests import SETTINGS, let_expire, log_files, wait_until


@pytest.fixture
async def address(broker: Broker, pool: Pool) -> str:
    """A broker with topic orders of two queues."""
    await pool.call(broker.address, CreateTopicRequest("orders", 2, 2, 6))
    return broker.address


async def commit(pool: Pool, address: str, group: str, offset: int, queue_id: int = 0, **at: str) -> None:
    """A group stands at `offset`."""
    topic = at.get("topic", "orders")
    await pool.call(address, UpdateConsumerOffsetRequest(group, topic, queue_id, offset))


async def offsets(pool: Pool, address: str) -> dict[str, dict[int, int]]:
    """The whole table, by `topic@group`."""
    reply = await pool.call(address, GetAllConsumerOffsetRequest())
    return ConsumerOffsets.decode(reply.body).offset_table


async def progress(pool: Pool, address: str, group: str, **fields: Any) -> dict[MessageQueue, OffsetWrapper]:
    """What 208 says."""
    reply = await pool.call(address, GetConsumeStatsRequest(group, **fields))
    return ConsumeStats.decode(reply.body).offset_table


async def spans(pool: Pool, address: str, group: str) -> dict[int, QueueTimeSpan]:
    """What 303 says of orders, by queue id."""
    reply = await pool.call(address, QueryConsumeTimeSpanRequest("orders", group))
    found = ConsumeTimeSpans.decode(reply.body).consume_time_span_set
    assert [each.message_queue for each in found] == [queue(0), queue(1)]
    return {each.message_queue.queue_id: each for each in found}


async def test_the_lag_is_what_was_stored_less_what_was_committed(pool: Pool, address: str) -> None:
    for body in (b"0", b"1", b"2"):
        await send(pool, address, "orders", body)
    stored = records(await pull(pool, address, "orders"))
    assert await progress(pool, address, "g") == {}
    assert await progress(pool, address, "g", topic="orders") == {
        queue(0): OffsetWrapper(3, 0, 0),
        queue(1): OffsetWrapper(0, 0, 0),
    }
    await commit(pool, address, "g", 2)
    assert await progress(pool, address, "g") == {
        queue(0): OffsetWrapper(3, 2, stored[1].store_timestamp),
        queue(1): OffsetWrapper(0, 0, 0),
    }


async def test_topics_that_the_running_group_has_unsubscribed_do_not_count(pool: Pool, address: str) -> None:
    await pool.call(address, CreateTopicRequest("bills", 1, 1, 6))
    for topic in ("orders", "bills", "never-made"):
        await commit(pool, address, "g", 1, topic=topic)
    assert {each.topic for each in await progress(pool, address, "g")} == {"orders", "bills"}
    member = FakeMember("one")
    await member.join(address, "g", "bills")
    assert {each.topic for each in await progress(pool, address, "g")} == {"bills"}
    await member.pool.close()


async def test_all_groups_of_the_broker_and_what_is_left_for_them(pool: Pool, address: str) -> None:
    for _ in range(5):
        await send(pool, address, "orders", b"x")
    member = FakeMember("one")  # makes the group
    await member.join(address, "g", "orders")
    await commit(pool, address, "g", 2)
    body = (await pool.call(address, GetBrokerConsumeStatsRequest())).body
    stats = BrokerConsumeStats.decode(body)
    by_group = {name: topics for group in stats.consume_stats_list for name, topics in group.items()}
    [orders] = by_group["g"]
    assert orders.offset_table[queue(0)].consumer_offset == 2
    assert (stats.broker_addr, stats.total_diff) == (address, 3)
    assert by_group["SELF_TEST_C_GROUP"] == []
    body = (await pool.call(address, GetBrokerConsumeStatsRequest(is_order=True))).body
    assert BrokerConsumeStats.decode(body).total_diff == 0
    await member.pool.close()


async def test_the_delay_is_the_age_of_the_first_message_that_is_not_consumed(
    pool: Pool, address: str
) -> None:
    for _ in range(3):
        await send(pool, address, "orders", b"x")
        await asyncio.sleep(0.02)
    times = [each.store_timestamp for each in records(await pull(pool, address, "orders"))]
    await commit(pool, address, "g", 2)
    found = await spans(pool, address, "g")
    span = found[0]
    assert (span.min_time_stamp, span.max_time_stamp) == (times[0], times[2])
    assert span.consume_time_stamp == times[1]
    assert 20 <= span.delay_time < 10_000
    await commit(pool, address, "g", 3)
    assert (await spans(pool, address, "g"))[0].delay_time == 0
    assert found[1] == QueueTimeSpan(queue(1), -1, -1, -1, 0)
    with pytest.raises(ResponseError) as refused:
        await pool.call(address, QueryConsumeTimeSpanRequest("nowhere", "g"))
    assert refused.value.code == ResponseCode.TOPIC_NOT_EXIST


async def test_a_group_that_never_consumed_is_as_late_as_the_first_message_is_old(
    pool: Pool, address: str
) -> None:
    """Apache says that it is late since 1970."""
    await send(pool, address, "orders", b"x")
    span = (await spans(pool, address, "newcomers"))[0]
    assert span.consume_time_stamp == span.min_time_stamp > 0
    assert 0 <= span.delay_time < 60_000


async def test_offsets_are_cloned_in_one_topic_or_in_all(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    address = (await start_broker(flush_consumer_offset_interval=3_600_000)).address
    for topic in ("orders", "bills"):
        await pool.call(address, CreateTopicRequest(topic, 2, 2, 6))
        await commit(pool, address, "g", 7, topic=topic)
    await commit(pool, address, "g", 1, topic="never-made")
    await commit(pool, address, "copy", 3, queue_id=1)  # replaced along with the rest
    await pool.call(address, CloneGroupOffsetRequest("g", "copy", "orders"))
    assert (await offsets(pool, address))["orders@copy"] == {0: 7}
    on_disk = json.loads((tmp_path / "store/config/consumerOffset.json").read_text())
    assert on_disk["offsetTable"]["orders@copy"] == {"0": 7}
    await pool.call(address, CloneGroupOffsetRequest("g", "all"))
    table = await offsets(pool, address)
    assert sorted(key for key in table if key.endswith("@all")) == ["bills@all", "orders@all"]
    await commit(pool, address, "all", 9)
    assert (await offsets(pool, address))["orders@g"] == {0: 7}  # a copy, not the same table
    with pytest.raises(ResponseError, match="The specified group"):
        await pool.call(address, CloneGroupOffsetRequest("g", "a@b", "orders"))


async def test_what_a_running_group_does_not_subscribe_is_cloned_only_when_asked_for(
    pool: Pool, address: str
) -> None:
    await commit(pool, address, "g", 7)
    member = FakeMember("one")
    await member.join(address, "g", "BenchmarkTest")
    await pool.call(address, CloneGroupOffsetRequest("g", "copy", "orders"))
    assert "orders@copy" not in await offsets(pool, address)
    await pool.call(address, CloneGroupOffsetRequest("g", "copy", "orders", offline=True))
    assert (await offsets(pool, address))["orders@copy"] == {0: 7}
    await member.pool.close()


async def test_the_lowest_offset_of_all_groups_leaves_the_others_offsets_alone(
    pool: Pool, address: str
) -> None:
    for group, offset in (("a", 5), ("b", 3), ("c", 9)):
        await commit(pool, address, group, offset)
    await commit(pool, address, "c", 4, queue_id=1)

    async def lowest(compare: str, but_for: str | None = None) -> dict[int, int]:
        reply = await pool.call(address, QueryCorrectionOffsetRequest(compare, "orders", but_for))
        return CorrectionOffsets.decode(reply.body).correction_offsets

    assert await lowest("c") == {0: 3, 1: 4}
    assert await lowest("nobody", "b,c") == {0: 5}
    assert await lowest("b", "b") == {0: 2**63 - 1, 1: 4}  # b is behind the others already
    assert {key: each[0] for key, each in (await offsets(pool, address)).items()} == {
        "orders@a": 5,
        "orders@b": 3,
        "orders@c": 9,
    }


async def test_the_offsets_of_a_deleted_topic_mean_nothing_in_the_next_of_its_name(
    pool: Pool, address: str
) -> None:
    await pool.call(address, CreateTopicRequest("bills", 1, 1, 6))
    await send(pool, address, "orders", b"old")
    await commit(pool, address, "g", 1)
    await commit(pool, address, "g", 1, topic="bills")
    await pool.call(address, DeleteTopicInBrokerRequest("orders"))
    assert await offsets(pool, address) == {"bills@g": {0: 1}}


async def test_an_offset_that_goes_back_has_a_line_in_the_log(
    pool: Pool, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    await commit(pool, address, "g", 7)
    await commit(pool, address, "g", 7)
    await commit(pool, address, "g", 8)
    assert "goes back" not in caplog.text
    await commit(pool, address, "g", 5)
    assert "group g goes back from 8 to 5 in orders/0 (committed by 127.0.0.1:" in caplog.text
    await pull(pool, address, "orders", consumer_group="g", sys_flag=5, commit_offset=2)
    assert "group g goes back from 5 to 2 in orders/0 (committed by 127.0.0.1:" in caplog.text


async def test_a_group_behind_what_has_expired_is_as_late_as_what_is_left(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    address = (await start_broker(**SETTINGS)).address
    await pool.call(address, CreateTopicRequest("orders", 2, 2, 6))
    while len(log_files(tmp_path)) < 3:
        await send(pool, address, "orders", bytes(60_000))
    await commit(pool, address, "g", 1)
    first, *_ = log_files(tmp_path)
    let_expire(first)
    await pool.call(address, DeleteExpiredCommitLogRequest())
    await wait_until(lambda: not first.exists())
    await asyncio.sleep(0.03)
    span = (await spans(pool, address, "g"))[0]
    assert span.min_time_stamp > 0
    assert span.consume_time_stamp == -1
    assert 20 <= span.delay_time < 60_000
