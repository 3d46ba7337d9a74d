"""Messages for later: levels where they fit, times elsewhere, never to a broker that would not wait."""

from __future__ import annotations

import datetime
from datetime import timedelta

import pytest

from pymq.client import (
    Client,
    Message,
    MessageInvalid,
    SendFailed,
    TimersMissing,
    TooLateToCancel,
)
from pymq.client.delivery_time import delivery_time
from pymq.errors import ConnectFailed, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.message import decode_record
from pymq.protocol.recall_handles import read_recall_handle, recall_handle
from tests.client.fake_cluster import FakeBroker, FakeCluster, queue, until

UTC = datetime.UTC
DUE = datetime.datetime(2030, 1, 2, 3, 4, 5, 678_000, UTC)
DUE_MS = 1_893_553_445_678


def before_5_0(client: Client) -> None:
    """Let the client take its brokers for Apache's 4.9.4."""
    client._instance._pool._offer_msgpack = False


def stored(broker: FakeBroker, queue_id: int = 0) -> list[dict[str, str]]:
    """The properties of the messages in a queue, without what all have."""
    found = [decode_record(data).read_properties() for data in broker.queues["orders", queue_id]]
    for properties in found:
        del properties["UNIQ_KEY"], properties["WAIT"]
    return found


@pytest.mark.parametrize(
    ("delay", "properties"),
    [
        (timedelta(0), {}),
        (timedelta(seconds=1), {"DELAY": "1"}),
        (timedelta(seconds=10), {"DELAY": "3"}),
        (timedelta(minutes=10), {"DELAY": "14"}),
        (timedelta(hours=2), {"DELAY": "18"}),
    ],
)
async def test_a_delay_is_a_level_where_one_fits_and_the_broker_has_no_timers(
    cluster: FakeCluster, mq: Client, delay: timedelta, properties: dict[str, str]
) -> None:
    before_5_0(mq)
    await mq.send("orders", b"x", delay=delay, queue=queue(0))
    await mq.send_nowait("orders", b"x", delay=delay, queue=queue(0))
    await mq.send("orders", Message(b"x" * 5000, delay=delay), queue=queue(0))
    await mq.send_oneway("orders", b"x", delay=delay, queue=queue(0))
    await until(lambda: cluster.bodies()[0] == 4)
    assert stored(cluster.brokers[0]) == [properties] * 4


@pytest.mark.parametrize(
    ("delay", "properties"),
    [
        (timedelta(0), {}),
        (timedelta(seconds=1), {"TIMER_DELAY_MS": "1000"}),
        (timedelta(hours=2), {"TIMER_DELAY_MS": "7200000"}),
        (timedelta(seconds=2), {"TIMER_DELAY_MS": "2000"}),
        (timedelta(milliseconds=999), {"TIMER_DELAY_MS": "999"}),
        (timedelta(microseconds=1), {"TIMER_DELAY_MS": "1"}),
        (timedelta(days=3), {"TIMER_DELAY_MS": "259200000"}),
    ],
)
async def test_a_broker_with_timers_is_told_the_time_whatever_its_levels_are(
    cluster: FakeCluster, mq: Client, delay: timedelta, properties: dict[str, str]
) -> None:
    await mq.send("orders", b"x", delay=delay, queue=queue(0))
    await mq.send_nowait("orders", b"x", delay=delay, queue=queue(0))
    await mq.send("orders", Message(b"x", delay=delay), queue=queue(0))
    assert stored(cluster.brokers[0]) == [properties] * 3


@pytest.mark.parametrize(
    ("due", "expected"),
    [
        (DUE, DUE_MS),
        (DUE.astimezone(datetime.timezone(timedelta(hours=-7))), DUE_MS),
        (DUE + timedelta(microseconds=1), DUE_MS + 1),
        (DUE.astimezone().replace(tzinfo=None), DUE_MS),
    ],
)
async def test_a_time_is_told_in_ms_and_never_early(due: datetime.datetime, expected: int) -> None:
    time = delivery_time(None, due, None)
    assert (time.properties, time.deliver_ms) == ({"TIMER_DELIVER_MS": str(expected)}, expected)


async def test_the_longest_delay_is_the_broker_s_to_refuse() -> None:
    time = delivery_time(timedelta.max, None, None)
    assert time.properties == {"TIMER_DELAY_MS": "86400000000000000"}


async def test_a_refused_time_leads_to_the_setting_that_bounds_it(cluster: FakeCluster, mq: Client) -> None:
    refusals = cluster.brokers[0].refusals[RequestCode.SEND_MESSAGE_V2]
    refusals.append(ResponseError(ResponseCode.MESSAGE_ILLEGAL, "too far ahead"))
    with pytest.raises(SendFailed, match=r"too far ahead\. .*timerMaxDelaySec"):
        await mq.send("orders", b"x", delay=timedelta(days=4), queue=queue(0))


async def test_a_level_can_be_given_by_its_number(cluster: FakeCluster, mq: Client) -> None:
    before_5_0(mq)
    await mq.send("orders", b"x", delay_level=99, queue=queue(0))
    assert stored(cluster.brokers[0]) == [{"DELAY": "99"}]


@pytest.mark.parametrize(
    "message",
    [
        Message(b"x", delay=timedelta(seconds=-1)),
        Message(b"x", delay=5),  # type: ignore[arg-type]
        Message(b"x", deliver_at=1.8e9),  # type: ignore[arg-type]
        Message(b"x", deliver_at=datetime.datetime(1, 1, 1)),
        Message(b"x", delay_level="3"),  # type: ignore[arg-type]
        Message(b"x", delay_level=0),
        Message(b"x", delay_level=2**31),
        Message(b"x", delay=timedelta(1), delay_level=1),
        Message(b"x", delay=timedelta(1), deliver_at=DUE),
        Message(b"x", properties={"TIMER_DELAY_MS": "5"}),
    ],
)
async def test_what_cannot_be_is_not_sent(cluster: FakeCluster, mq: Client, message: Message) -> None:
    with pytest.raises(MessageInvalid):
        await mq.send("orders", message)
    assert cluster.bodies() == [0] * 4


@pytest.mark.parametrize(
    "message",
    [Message(b"x", delay=timedelta(1)), Message(b"x", deliver_at=DUE), Message(b"x", delay_level=1)],
)
async def test_a_batch_takes_no_message_for_later(cluster: FakeCluster, mq: Client, message: Message) -> None:
    with pytest.raises(MessageInvalid, match="one by one"):
        await mq.send_batch("orders", [Message(b"a"), message])
    assert cluster.bodies() == [0] * 4


async def test_an_older_broker_gets_no_timed_message(cluster: FakeCluster, mq: Client) -> None:
    before_5_0(mq)
    with pytest.raises(SendFailed, match=r"version 4\.9\.4.*at once.*levels") as failed:
        await mq.send("orders", b"x", delay=timedelta(seconds=7))
    assert isinstance(failed.value.attempts[-1].error, TimersMissing)
    assert len(failed.value.attempts) == 1
    with pytest.raises(SendFailed):
        await mq.send_oneway("orders", b"x", deliver_at=DUE)
    assert cluster.bodies() == [0] * 4
    await mq.send("orders", b"x", delay=timedelta(seconds=10))
    assert sum(cluster.bodies()) == 1


async def test_a_broker_that_speaks_msgpack_is_not_asked_for_its_version(
    cluster: FakeCluster, mq: Client
) -> None:
    await mq.send("orders", b"x")
    asked = len(cluster.brokers[0].requests(HeartBeatRequest))
    for _ in range(3):
        await mq.send_oneway("orders", b"x", deliver_at=DUE)
        await mq.send("orders", b"x", deliver_at=DUE)
    assert len(cluster.brokers[0].requests(HeartBeatRequest)) <= asked + 1  # the regular one


async def test_the_first_message_of_all_may_be_timed(cluster: FakeCluster, mq: Client) -> None:
    await mq.send("orders", b"x", delay=timedelta(seconds=7), queue=queue(0))
    assert stored(cluster.brokers[0]) == [{"TIMER_DELAY_MS": "7000"}]


# -- cancelling


async def test_a_result_has_a_handle_when_the_time_is_known(cluster: FakeCluster, mq: Client) -> None:
    """As of a 5.0 broker, whose answer has none."""
    result = await mq.send("orders", b"x", deliver_at=DUE)
    assert result.recall_handle is not None
    handle = read_recall_handle(result.recall_handle)
    assert handle is not None
    assert (handle.topic, handle.broker_name, handle.deliver_ms, handle.unique_key) == (
        "orders", "broker-a", DUE_MS, result.msg_id,
    )  # fmt: skip
    for later in (
        await mq.send("orders", b"x"),
        await mq.send("orders", b"x", delay_level=3),
        await mq.send("orders", b"x", delay=timedelta(seconds=11)),
    ):
        assert later.recall_handle is None
        with pytest.raises(MessageInvalid, match="cannot be cancelled"):
            await mq.cancel(later)


async def test_cancel_sends_what_names_the_message(cluster: FakeCluster, mq: Client) -> None:
    result = await mq.send("orders", b"x", deliver_at=DUE, queue=queue(1))
    await mq.cancel(result)
    assert stored(cluster.brokers[0]) == [
        {"TIMER_DELIVER_MS": str(DUE_MS), "TIMER_DEL_UNIQKEY": f"orders+{result.msg_id}"}
    ]


async def test_cancel_tells_why_it_could_not(cluster: FakeCluster, mq: Client) -> None:
    result = await mq.send("orders", b"x", deliver_at=DUE)
    refusals = cluster.brokers[0].refusals[RequestCode.SEND_MESSAGE_V2]
    refusals.append(ResponseError(ResponseCode.MESSAGE_ILLEGAL, "it is over"))
    with pytest.raises(TooLateToCancel, match=f"{result.msg_id}.*it is over"):
        await mq.cancel(result)
    refusals.append(ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, "full"))
    with pytest.raises(ResponseError, match="full"):
        await mq.cancel(result)
    with pytest.raises(MessageInvalid, match="no recall handle"):
        await mq.cancel("nonsense")
    with pytest.raises(MessageInvalid, match="NoneType names no message"):
        await mq.cancel(None)  # type: ignore[arg-type]
    with pytest.raises(ConnectFailed, match="broker-z"):
        await mq.cancel(recall_handle("orders", "broker-z", DUE_MS, "K"))


async def test_an_older_broker_cannot_cancel(cluster: FakeCluster, mq: Client) -> None:
    before_5_0(mq)
    with pytest.raises(TimersMissing):
        await mq.cancel(recall_handle("orders", "broker-a", DUE_MS, "K"))
    assert cluster.bodies() == [0] * 4
