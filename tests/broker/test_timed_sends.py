"""Messages that producers send with a time of delivery, seen from the wire."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerRole, FlushDiskType
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import (
    RecallMessageRequest,
    RecallMessageResponse,
    SendBatchMessageRequest,
    SendTimedMessageResponse,
)
from pymq.protocol.message import BatchEntry, MessageRecord, encode_batch
from pymq.protocol.recall_handles import read_recall_handle, recall_handle
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import PROPERTIES, pull, records, send, send_header
from tests.broker.conftest import StartBroker

TIMER_TOPIC = "rmq_sys_wheel_timer"
WAITING = PullFlag.SUBSCRIPTION | PullFlag.SUSPEND
FAR_MS = 3_600_000
SOON_MS = 400


def now_ms() -> int:
    """The machine's time."""
    return time.time_ns() // 1_000_000


def timed(name: str, value: object, properties: str = PROPERTIES) -> str:
    """Property text with a time of delivery."""
    return f"{properties}{name}\x01{value}\x02"


async def arrived(pool: Pool, broker: Broker, topic: str, count: int = 1) -> list[MessageRecord]:
    """What queue 0 holds, as soon as that is `count` messages."""
    got: list[MessageRecord] = []
    while len(got) < count:
        answer = await pull(
            pool, broker.address, topic, offset=len(got), sys_flag=WAITING, suspend_timeout_millis=4_000
        )
        assert records(answer), f"only {len(got)} of {count} came"
        got += records(answer)
    return got


@pytest.mark.parametrize(("name", "unit"), [("TIMER_DELAY_SEC", 1000), ("TIMER_DELAY_MS", 1)])
async def test_a_delay_counts_from_the_brokers_now(broker: Broker, pool: Pool, name: str, unit: int) -> None:
    before = now_ms()
    sent = await send(
        pool, broker.address, "orders", b"later", queue_id=3, properties=timed(name, FAR_MS // unit)
    )
    assert (sent.queue_id, sent.queue_offset) == (3, 0)
    assert records(await pull(pool, broker.address, "orders", queue_id=3)) == []
    (waiting,) = records(await pull(pool, broker.address, TIMER_TOPIC))
    assert waiting.offset_msg_id == sent.msg_id
    properties = waiting.read_properties()
    assert before + FAR_MS <= int(properties.pop("TIMER_OUT_MS")) <= now_ms() + FAR_MS
    assert properties == {
        "KEYS": "k1",
        "UNIQ_KEY": "7F0000010001000000000000000000AB",
        "WAIT": "true",
        "TAGS": "a",
        "CLUSTER": "DefaultCluster",
        name: str(FAR_MS // unit),
        "REAL_TOPIC": "orders",
        "REAL_QID": "3",
    }


async def test_a_held_pull_gets_it_the_moment_it_is_due(broker: Broker, pool: Pool) -> None:
    due = now_ms() + SOON_MS
    await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELIVER_MS", due))
    (record,) = await arrived(pool, broker, "orders")
    assert record.body == b"x"
    assert due <= record.store_timestamp < due + 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("TIMER_DELIVER_MS", 1), ("TIMER_DELAY_SEC", 0), ("TIMER_DELAY_MS", -5), ("TIMER_OUT_MS", 1)],
)
async def test_a_time_that_is_over_is_now(broker: Broker, pool: Pool, name: str, value: int) -> None:
    await send(pool, broker.address, "orders", b"now", properties=timed(name, value))
    (record,) = records(await pull(pool, broker.address, "orders"))
    assert "REAL_TOPIC" not in record.properties


async def test_a_copy_that_had_its_delay_has_no_second_one(broker: Broker, pool: Pool) -> None:
    """A consumer's own retry sends what it got, with all properties."""
    had = timed("TIMER_DELAY_SEC", 3600) + "TIMER_OUT_MS\x011\x02"
    await send(pool, broker.address, "orders", b"now", properties=had)
    assert len(records(await pull(pool, broker.address, "orders"))) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIMER_DELIVER_MS", "soon"),
        ("TIMER_DELAY_SEC", "1.5"),
        ("TIMER_DELAY_MS", "9" * 30),
        ("TIMER_DELAY_SEC", 3 * 24 * 3600 + 1),
        ("TIMER_DELAY_MS", 3 * 24 * 3_600_000 + 1),
        ("TIMER_DELIVER_MS", 4_000_000_000_000),
        ("TIMER_DELAY_SEC", "9" * 17),
    ],
)
async def test_a_time_that_cannot_be_is_refused(broker: Broker, pool: Pool, name: str, value: object) -> None:
    with pytest.raises(ResponseError, match=name) as refused:
        await send(pool, broker.address, "orders", b"x", properties=timed(name, value))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_the_limit_can_be_set(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(timer_max_delay_sec=10)
    await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELAY_SEC", 10))
    with pytest.raises(ResponseError, match="timerMaxDelaySec=10"):
        await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELAY_SEC", 11))


async def test_timers_can_be_switched_off(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(timer_wheel_enable=False)
    with pytest.raises(ResponseError, match="timerWheelEnable") as refused:
        await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELAY_SEC", 10))
    assert refused.value.code == ResponseCode.SYSTEM_ERROR


async def test_a_level_counts_for_more_than_a_time(start_broker: StartBroker, pool: Pool) -> None:
    broker = await start_broker(message_delay_level="1h")
    properties = timed("TIMER_DELAY_SEC", 1) + "DELAY\x011\x02"
    await send(pool, broker.address, "orders", b"x", properties=properties)
    (waiting,) = records(await pull(pool, broker.address, "SCHEDULE_TOPIC_XXXX"))
    assert "TIMER_" not in waiting.properties


@pytest.mark.parametrize("of_the_batch", [True, False])
async def test_a_batch_can_have_no_time(broker: Broker, pool: Pool, of_the_batch: bool) -> None:
    time_of = timed("TIMER_DELAY_SEC", 1)
    entries = [BatchEntry(b"a", "" if of_the_batch else time_of, 0), BatchEntry(b"b TIMER_DELAY_SEC", "", 0)]
    fields = send_header("orders", batch="true", properties=time_of if of_the_batch else "")
    header = SendBatchMessageRequest(**{name: getattr(fields, name) for name in fields.__struct_fields__})
    with pytest.raises(ResponseError, match="batch") as refused:
        await pool.call(broker.address, header, encode_batch(entries))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL
    header.properties = ""
    await pool.call(broker.address, header, encode_batch(entries[1:]))


async def test_nobody_writes_to_the_timer_topic(broker: Broker, pool: Pool) -> None:
    with pytest.raises(ResponseError) as refused:
        await send(pool, broker.address, TIMER_TOPIC, b"x")
    assert refused.value.code == ResponseCode.NO_PERMISSION


async def test_properties_that_leave_no_room_are_refused(broker: Broker, pool: Pool) -> None:
    filler = "k\x01" + "x" * 32_600 + "\x02"
    await send(pool, broker.address, "orders", b"x", properties=filler)
    with pytest.raises(ResponseError, match="properties") as refused:
        await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELAY_SEC", 1, filler))
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


async def test_a_timed_message_is_flushed_before_it_is_acknowledged(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(flush_disk_type=FlushDiskType.SYNC_FLUSH)
    await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELAY_MS", SOON_MS))
    assert [record.body for record in await arrived(pool, broker, "orders")] == [b"x"]


async def test_what_waits_is_there_after_a_restart(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    first = await start_broker()
    for number in range(3):
        await send(
            pool, first.address, "orders", b"%d" % number, properties=timed("TIMER_DELAY_MS", SOON_MS * 3)
        )
    await send(pool, first.address, "orders", b"far", properties=timed("TIMER_DELAY_MS", FAR_MS))
    await first.__aexit__(None, None, None)
    assert (tmp_path / "store/timerjournal/mark.json").exists()

    second = await start_broker()
    assert [r.body for r in await arrived(pool, second, "orders", 3)] == [b"0", b"1", b"2"]


# -- cancelling


async def test_the_answer_has_a_handle_that_cancels(broker: Broker, pool: Pool) -> None:
    due = now_ms() + SOON_MS
    header = send_header("orders", properties=timed("TIMER_DELIVER_MS", due))
    handle = (await pool.call(broker.address, header, b"x")).read(SendTimedMessageResponse).recall_handle
    assert handle is not None
    known = read_recall_handle(handle)
    assert known is not None
    assert (known.topic, known.broker_name, known.deliver_ms) == ("orders", "broker-a", due)
    answer = await pool.call(broker.address, RecallMessageRequest("orders", handle, "producers"))
    assert answer.read(RecallMessageResponse).msg_id == known.unique_key
    await send(
        pool, broker.address, "orders", b"y", properties=timed("TIMER_DELIVER_MS", due + 1, "TAGS\x01a\x02")
    )
    assert [record.body for record in await arrived(pool, broker, "orders")] == [b"y"]


async def test_a_producers_own_cancellation(broker: Broker, pool: Pool) -> None:
    due = now_ms() + SOON_MS
    key = "7F0000010001000000000000000000AB"
    await send(pool, broker.address, "orders", b"x", properties=timed("TIMER_DELIVER_MS", due))
    for wanted in (f"orders+{key}", "other+" + key):
        await send(
            pool, broker.address, "orders", b"c",
            properties=timed("TIMER_DELIVER_MS", due, f"TIMER_DEL_UNIQKEY\x01{wanted}\x02"),
        )  # fmt: skip
    await send(pool, broker.address, "orders", b"y", properties=timed("TIMER_DELIVER_MS", due + 1, ""))
    assert [record.body for record in await arrived(pool, broker, "orders")] == [b"y"]


async def test_a_cancellation_that_comes_too_late_is_refused(broker: Broker, pool: Pool) -> None:
    with pytest.raises(ResponseError, match="cannot be cancelled") as refused:
        await send(
            pool, broker.address, "orders", b"c",
            properties=timed("TIMER_DELIVER_MS", now_ms(), "TIMER_DEL_UNIQKEY\x01orders+K\x02"),
        )  # fmt: skip
    assert refused.value.code == ResponseCode.MESSAGE_ILLEGAL


@pytest.mark.parametrize(
    ("handle", "words"),
    [
        ("nonsense", "invalid"),
        (recall_handle("other", "broker-a", now_ms() + FAR_MS, "K"), "other"),
        (recall_handle("orders", "broker-b", now_ms() + FAR_MS, "K"), "broker-b"),
        (recall_handle("orders", "broker-a", 5, "K"), "is over"),
        (recall_handle("orders", "broker-a", now_ms() + FAR_MS, "K\x02L"), "invalid"),
    ],
    ids=["nonsense", "another topic", "another broker", "over", "a separator"],
)
async def test_a_handle_that_cannot_be_is_refused(
    broker: Broker, pool: Pool, handle: str, words: str
) -> None:
    await send(pool, broker.address, "orders", b"x")
    with pytest.raises(ResponseError, match=words) as refused:
        await pool.call(broker.address, RecallMessageRequest("orders", handle))
    assert refused.value.code == ResponseCode.ILLEGAL_OPERATION


async def test_a_slave_keeps_no_journal_of_what_its_master_may_cut_off(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    """As a master again it builds the journal from its log, whatever the log has become meanwhile."""
    folder = tmp_path / "store/timerjournal"
    first = await start_broker()
    await send(pool, first.address, "orders", b"x", properties=timed("TIMER_DELAY_MS", SOON_MS * 4))
    await first.__aexit__(None, None, None)
    assert folder.exists()
    slave = await start_broker(broker_role=BrokerRole.SLAVE, broker_id=1)
    await slave.__aexit__(None, None, None)
    assert not folder.exists()
    second = await start_broker()
    assert [record.body for record in await arrived(pool, second, "orders")] == [b"x"]
