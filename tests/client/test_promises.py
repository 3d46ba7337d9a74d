"""What a producer is promised: how often it is tried and where, which queue, and what an error says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

from pymq.client import BatchFailed, Client, Message, MessageInvalid, SendFailed, SendStatus
from pymq.client.queue_choice import InMachineRooms, by_hash
from pymq.errors import CallTimeout, ConnectionLost, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import SendBatchMessageRequest, SendMessageRequestV2
from pymq.protocol.message import decode_record
from tests.client.fake_cluster import FAST, FakeCluster, queue, until

SEND = RequestCode.SEND_MESSAGE_V2


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(brokers=2) as cluster:
        yield cluster


def client(cluster: FakeCluster, **settings: object) -> Client:
    return Client(cluster.name_servers, settings=msgspec.structs.replace(FAST, **settings))


async def fall_silent(cluster: FakeCluster, mq: Client) -> None:
    """Let all brokers leave sends unanswered, once the client has its connections."""
    for _ in range(8):
        await mq.send("orders", b"warm up")
    for broker in cluster.brokers:
        broker.silent.update((SEND, RequestCode.SEND_BATCH_MESSAGE))


def refuse(cluster: FakeCluster, code: int, remark: str = "because") -> None:
    for broker in cluster.brokers:
        broker.refusals[SEND] = [ResponseError(code, remark)] * 9


def sends(cluster: FakeCluster) -> int:
    return sum(len(broker.requests(SendMessageRequestV2)) for broker in cluster.brokers)


# -- how often, and where -----------------------------------------------------------------------------


async def test_send_and_send_nowait_are_tried_as_often_as_is_set_for_each(cluster: FakeCluster) -> None:
    refuse(cluster, ResponseCode.SYSTEM_ERROR)
    async with client(cluster, send_retries=3, send_async_retries=1) as mq:
        with pytest.raises(SendFailed, match="after 4 attempts"):
            await mq.send("orders", b"x")
        with pytest.raises(SendFailed, match="after 2 attempts"):
            await mq.send_nowait("orders", b"x")
    assert sends(cluster) == 6


async def test_which_refusals_are_retried_can_be_set(cluster: FakeCluster) -> None:
    refuse(cluster, ResponseCode.SYSTEM_BUSY)
    async with client(cluster, retry_codes=frozenset({ResponseCode.SYSTEM_BUSY})) as mq:
        with pytest.raises(SendFailed, match="after 3 attempts"):
            await mq.send("orders", b"x")
    refuse(cluster, ResponseCode.SYSTEM_ERROR)
    async with client(cluster, retry_codes=frozenset()) as mq:
        with pytest.raises(SendFailed, match="after 1 attempt "):
            await mq.send("orders", b"x")


async def test_what_is_not_stored_safely_goes_to_another_broker_if_that_is_wanted(
    cluster: FakeCluster,
) -> None:
    unsafe, safe = cluster.brokers
    unsafe.status = ResponseCode.FLUSH_DISK_TIMEOUT
    async with client(cluster, retry_another_broker_when_not_store_ok=True) as mq:
        results = [await mq.send("orders", b"x") for _ in range(6)]
        assert {(each.status, each.queue.broker_name) for each in results} == {
            (SendStatus.SEND_OK, safe.name)
        }
        assert sum(cluster.bodies()[:4]) > 0
        bound = await mq.send("orders", b"x", queue=queue(0))
        assert bound.status is SendStatus.FLUSH_DISK_TIMEOUT


async def test_when_no_broker_stores_it_safely_the_last_result_is_given(cluster: FakeCluster) -> None:
    async with client(cluster, retry_another_broker_when_not_store_ok=True) as mq:
        for broker in cluster.brokers:
            broker.status = ResponseCode.SLAVE_NOT_AVAILABLE
        assert (await mq.send("orders", b"x")).status is SendStatus.SLAVE_NOT_AVAILABLE
        assert sends(cluster) == 3


async def test_what_is_stored_is_no_failure_though_the_other_broker_refuses_it(cluster: FakeCluster) -> None:
    cluster.brokers[0].status = ResponseCode.FLUSH_SLAVE_TIMEOUT
    cluster.brokers[1].refusals[SEND] = [ResponseError(ResponseCode.SYSTEM_ERROR, "no")] * 9
    async with client(cluster, retry_another_broker_when_not_store_ok=True) as mq:
        for _ in range(2):
            assert (await mq.send("orders", b"x")).status is SendStatus.FLUSH_SLAVE_TIMEOUT


async def test_all_attempts_share_one_time_out(cluster: FakeCluster, mq: Client) -> None:
    await fall_silent(cluster, mq)
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x", timeout=0.2)
    assert len(failed.value.attempts) == 1  # the first one had all of the time, as with Java since 4.3
    assert isinstance(failed.value.attempts[0].error, CallTimeout)


# -- which queue --------------------------------------------------------------------------------------


async def test_a_function_can_pick_the_queue(cluster: FakeCluster, mq: Client) -> None:
    seen = []

    def pick(queues: object) -> object:
        seen.append(queues)
        return queue(3, "broker-b")

    result = await mq.send("orders", b"x", queue=pick)  # type: ignore[arg-type]
    assert result.queue == queue(3, "broker-b")
    assert seen == [[queue(index, name) for name in ("broker-a", "broker-b") for index in range(4)]]
    await mq.send("orders", Message(b"x", shard_by="k"), queue=lambda queues: queues[1])
    await mq.send_oneway("orders", b"x", queue=lambda queues: queues[1])
    await mq.send_nowait("orders", b"x", queue=lambda queues: queues[1])
    await mq.send_batch(
        "orders", [Message(b"x"), Message(b"y", shard_by="k")], queue=lambda queues: queues[1]
    )
    await until(lambda: cluster.bodies() == [0, 5, 0, 0, 0, 0, 0, 1])
    for _ in range(40):
        await mq.send("orders", b"x", queue=random.choice)
    assert sum(count > 0 for count in cluster.bodies()) > 3


async def test_a_picked_queue_is_kept_and_a_refusal_is_final(cluster: FakeCluster, mq: Client) -> None:
    picks: list[int] = []

    def pick(queues: object) -> object:
        picks.append(1)
        return queue(1)

    refuse(cluster, ResponseCode.SYSTEM_ERROR)
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x", queue=pick)  # type: ignore[arg-type]
    assert len(failed.value.attempts) == len(picks) == 1


async def test_a_selector_sees_names_without_the_namespace(cluster: FakeCluster) -> None:
    cluster.topics.append("tenant%orders")
    async with Client(cluster.name_servers, settings=FAST, namespace="tenant") as mq:
        result = await mq.send("orders", b"x", queue=lambda queues: queues[queues.index(queue(2))])
    assert result.queue == queue(2)
    assert cluster.bodies("tenant%orders")[2] == 1


async def test_a_selector_that_picks_no_queue_is_named(mq: Client) -> None:
    with pytest.raises(MessageInvalid, match="picked None"):
        await mq.send("orders", b"x", queue=lambda queues: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(MessageInvalid, match="queue='q'"):
        await mq.send("orders", b"x", queue="q")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "java_hash"),
    [
        ("o-1", 108_115),
        (5, 5),
        (-5, -5),
        (-(2**31), -(2**31)),
        (2**31, -(2**31)),  # Long.hashCode(2147483648L)
        (2**40 + 3, 2**8 + 3),
        (-(2**33) - 1, 2),
    ],
)
def test_a_key_leads_where_java_takes_it(key: str | int, java_hash: int) -> None:
    queues = [queue(index) for index in range(7)]
    assert by_hash(key)(queues).queue_id == abs(java_hash) % 7


def test_a_machine_room_has_its_brokers_in_turn() -> None:
    queues = [queue(index, name) for name in ("east@a", "east@b", "west@c", "d") for index in range(2)]
    near = InMachineRooms({"east"})
    picked = [near(queues) for _ in range(8)]
    assert {each.broker_name for each in picked} == {"east@a", "east@b"}
    assert all(picked.count(each) == 2 for each in picked)
    assert InMachineRooms("west")(queues).broker_name == "west@c"
    with pytest.raises(MessageInvalid, match=r"machine room north: .* d, east@a"):
        InMachineRooms(["north"])(queues)


# -- WAIT ---------------------------------------------------------------------------------------------


async def test_a_broker_is_told_whether_to_wait_until_it_is_safe(cluster: FakeCluster, mq: Client) -> None:
    for waits in (True, False):
        await mq.send("orders", Message(b"x", wait_store_msg_ok=waits), queue=queue(0))
        await mq.send_batch("orders", [Message(b"x", wait_store_msg_ok=waits)] * 2, queue=queue(1))
    broker = cluster.brokers[0]
    stored = [decode_record(each).read_properties()["WAIT"] for each in broker.queues["orders", 0]]
    assert stored == ["true", "false"]
    batches = [each.properties for each in broker.requests(SendBatchMessageRequest)]
    assert batches == ["WAIT\x01true", "WAIT\x01false"]
    with pytest.raises(MessageInvalid, match="wait_store_msg_ok"):
        await mq.send_batch("orders", [Message(b"x"), Message(b"y", wait_store_msg_ok=False)])


# -- what an error says -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in ResponseCode if code not in (0, 10, 11, 12)])
async def test_a_refusal_says_in_one_line_who_why_how_often_and_what_to_do(
    cluster: FakeCluster, mq: Client, code: ResponseCode
) -> None:
    refuse(cluster, code, "a remark\nof two lines.")
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x")
    error = failed.value
    attempts = 3 if code in (1, 14, 16, 17, 204, 205) else 1
    text = str(error)
    for word in (
        error.broker,
        error.address,
        f"code {int(code)}",
        "a remark of two lines",
        f"{attempts} attempt",
    ):
        assert word in text
    assert "\n" not in text
    assert error.hint
    assert text.endswith(error.hint)
    assert (error.code, len(error.attempts)) == (code, attempts)
    assert len(error.msg_id) == 32


async def test_a_broker_that_is_away_is_named_with_what_to_look_at(cluster: FakeCluster, mq: Client) -> None:
    await mq.send("orders", b"x")
    for broker in cluster.brokers:
        await broker.stop()
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x")
    text = str(failed.value)
    for word in (failed.value.address, "3 attempts", "See whether the broker runs", "brokerIP1"):
        assert word in text
    assert "may be stored" not in text


async def test_a_message_that_may_be_stored_all_the_same_is_named(cluster: FakeCluster, mq: Client) -> None:
    await fall_silent(cluster, mq)
    with pytest.raises(SendFailed) as failed:
        await mq.send("orders", b"x", timeout=0.1)
    assert f"Message {failed.value.msg_id} may be stored all the same: Client.query" in str(failed.value)


async def test_that_an_earlier_attempt_may_have_stored_it_is_not_forgotten(
    cluster: FakeCluster, mq: Client
) -> None:
    await fall_silent(cluster, mq)
    before = sends(cluster)
    sending = asyncio.create_task(mq.send("orders", b"x"))
    await until(lambda: sends(cluster) == before + 1)
    refuse(cluster, ResponseCode.MESSAGE_ILLEGAL)
    for broker in cluster.brokers:
        broker.silent.clear()
        for connection in broker.connections:
            connection.abort()
    with pytest.raises(SendFailed) as failed:
        await sending
    assert isinstance(failed.value.attempts[0].error, ConnectionLost)
    assert failed.value.code == ResponseCode.MESSAGE_ILLEGAL
    assert failed.value.hint.startswith("It is of no use to send it again as it is")
    assert failed.value.hint.endswith("Client.query finds it by its topic and id")


async def test_a_part_of_a_batch_says_the_same_without_all_its_ids(cluster: FakeCluster, mq: Client) -> None:
    await fall_silent(cluster, mq)
    with pytest.raises(BatchFailed) as failed:
        await mq.send_batch("orders", [Message(b"x"), Message(b"y")], timeout=0.1)
    [error] = {each for each in failed.value.results if isinstance(each, SendFailed)}
    assert "It may be stored all the same" in str(error)
    assert error.msg_id.count(",") == 1
