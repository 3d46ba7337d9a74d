"""Sending, through real connections to brokers that behave as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from pymq.client import (
    BatchFailed,
    BufferFull,
    Client,
    ClientClosed,
    Message,
    MessageInvalid,
    NameServersUnreachable,
    RouteNotFound,
    SendFailed,
    SendResult,
    SendStatus,
)
from pymq.errors import CallTimeout, ConfigError, ConnectFailed, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import SendBatchMessageRequest, SendMessageRequestV2
from pymq.protocol.message import decode_record
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue, until

SEND = RequestCode.SEND_MESSAGE_V2


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(brokers=2) as cluster:
        yield cluster


def refuse(broker: FakeBroker, code: ResponseCode, times: int = 9) -> None:
    broker.refusals[SEND] = [ResponseError(code, f"because {code.name}")] * times


async def test_the_result_tells_where_the_message_is(cluster: FakeCluster, mq: Client) -> None:
    result = await mq.send("orders", b"body", queue=queue(2, "broker-b"))
    assert result.status is SendStatus.SEND_OK
    assert result.queue == queue(2, "broker-b")
    assert result.queue_offset == 0
    stored = decode_record(cluster.brokers[1].queues["orders", 2][0])
    assert stored.offset_msg_id == result.offset_msg_id
    assert stored.read_properties()["UNIQ_KEY"] == result.msg_id
    assert (await mq.send("orders", b"body", queue=queue(2, "broker-b"))).queue_offset == 1


async def test_messages_go_round_all_queues(cluster: FakeCluster, mq: Client) -> None:
    for _ in range(16):
        await mq.send("orders", b"x")
    assert cluster.bodies() == [2] * 8


async def test_messages_of_one_shard_share_a_queue(cluster: FakeCluster, mq: Client) -> None:
    for index in range(6):
        await mq.send("orders", str(index), shard_by="customer-7")
    assert sorted(cluster.bodies()) == [0] * 7 + [6]


async def test_bodies_from_4_kib_on_are_sent_compressed(cluster: FakeCluster, mq: Client) -> None:
    for size in (4095, 4096):
        await mq.send("orders", b"x" * size, queue=queue(0))
    await mq.send_batch("orders", [Message(b"x" * 4096), Message(b"y" * 4096)], queue=queue(0))
    records = [decode_record(record) for record in cluster.brokers[0].queues["orders", 0]]
    assert [record.sys_flag for record in records] == [0, 1, 0, 0]
    assert records[1].read_body() == b"x" * 4096


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ResponseCode.FLUSH_DISK_TIMEOUT, SendStatus.FLUSH_DISK_TIMEOUT),
        (ResponseCode.FLUSH_SLAVE_TIMEOUT, SendStatus.FLUSH_SLAVE_TIMEOUT),
        (ResponseCode.SLAVE_NOT_AVAILABLE, SendStatus.SLAVE_NOT_AVAILABLE),
    ],
)
async def test_a_message_stored_less_safely_is_a_result_not_an_error(
    cluster: FakeCluster, mq: Client, code: ResponseCode, status: SendStatus
) -> None:
    for broker in cluster.brokers:
        broker.status = code
    assert (await mq.send("orders", b"x")).status is status
    assert sum(cluster.bodies()) == 1


@pytest.mark.parametrize("code", [1, 14, 16, 17, 204, 205])
async def test_a_refusal_that_another_broker_may_not_share_is_retried_there(
    cluster: FakeCluster, mq: Client, code: int
) -> None:
    first, second = cluster.brokers
    refuse(first, ResponseCode(code))
    results = [await mq.send("orders", b"x") for _ in range(4)]
    assert {result.queue.broker_name for result in results} == {second.name}


async def test_a_retried_message_keeps_its_id(cluster: FakeCluster, mq: Client) -> None:
    refuse(cluster.brokers[0], ResponseCode.SYSTEM_ERROR)
    refuse(cluster.brokers[1], ResponseCode.SYSTEM_ERROR)
    with pytest.raises(SendFailed) as error:
        await mq.send("orders", b"x")
    seen = [h for broker in cluster.brokers for h in broker.requests(SendMessageRequestV2)]
    assert len(seen) == len(error.value.attempts) == 3
    assert len({header.properties for header in seen}) == 1
    brokers = [attempt.broker for attempt in error.value.attempts]
    assert brokers[0] != brokers[1] != brokers[2]


async def test_other_refusals_are_final_and_tell_who_why_and_what_to_do(
    cluster: FakeCluster, mq: Client
) -> None:
    for broker in cluster.brokers:
        refuse(broker, ResponseCode.SYSTEM_BUSY)
    with pytest.raises(SendFailed, match="because SYSTEM_BUSY") as error:
        await mq.send("orders", b"x")
    failed = error.value
    assert len(failed.attempts) == 1
    assert failed.code == ResponseCode.SYSTEM_BUSY
    assert failed.remark == "because SYSTEM_BUSY"
    assert failed.address == next(b.address for b in cluster.brokers if b.name == failed.broker)
    assert "overloaded" in failed.hint


async def test_a_message_bound_to_its_queue_is_not_sent_elsewhere(cluster: FakeCluster, mq: Client) -> None:
    refuse(cluster.brokers[0], ResponseCode.SYSTEM_ERROR)
    with pytest.raises(SendFailed) as error:
        await mq.send("orders", b"x", queue=queue(0))
    assert len(error.value.attempts) == 1
    assert sum(cluster.bodies()) == 0


async def test_a_dead_broker_is_passed_over(cluster: FakeCluster, mq: Client) -> None:
    await mq.send("orders", b"x")
    await cluster.brokers[0].stop()
    for _ in range(8):
        result = await mq.send("orders", b"x")
        assert result.queue.broker_name == "broker-b"


async def test_a_silent_broker_costs_no_more_than_the_time_out(cluster: FakeCluster, mq: Client) -> None:
    for _ in cluster.brokers:  # connections and routes are there before the clock runs
        await mq.send("orders", b"x")
    for broker in cluster.brokers:
        broker.silent.add(SEND)
    started = time.monotonic()
    with pytest.raises(SendFailed) as error:
        await mq.send("orders", b"x", timeout=0.3)
    assert time.monotonic() - started < 8
    assert isinstance(error.value.__cause__, CallTimeout)
    assert error.value.code is None


async def test_sending_goes_on_when_a_broker_is_back(cluster: FakeCluster) -> None:
    async with FakeCluster() as one, Client(one.name_servers, settings=FAST) as mq:
        await mq.send("orders", b"x")
        await one.brokers[0].stop()
        with pytest.raises(SendFailed) as error:
            await mq.send("orders", b"x")
        assert isinstance(error.value.__cause__, ConnectFailed)
        await one.brokers[0].restart()
        assert (await mq.send("orders", b"x")).status is SendStatus.SEND_OK


async def test_a_master_that_goes_between_two_attempts_is_named() -> None:
    settings = msgspec.structs.replace(FAST, send_retries=9, retry_pause_s=0.2)
    async with FakeCluster() as one, Client(one.name_servers, settings=settings) as patient:
        await patient.send("orders", b"x")
        await one.brokers[0].stop()
        one.has_masters = False  # a slave of it is left
        with pytest.raises(SendFailed, match=r"attempts in .* \(broker-a, broker-a") as error:
            await patient.send("orders", b"x", timeout=9)
    assert len(error.value.attempts) < 10  # it did not go on without a route
    assert error.value.hint


async def test_the_next_name_server_is_asked_when_one_is_dead(cluster: FakeCluster) -> None:
    addresses = f"127.0.0.1:1;{cluster.name_servers};127.0.0.1:2"
    for _ in range(3):
        async with Client(addresses, settings=FAST) as mq:
            await mq.send("orders", b"x")
    assert sum(cluster.bodies()) == 3


async def test_dead_name_servers_are_named_in_the_error() -> None:
    async with Client(["127.0.0.1:1", "127.0.0.1:2"], settings=FAST) as mq:
        with pytest.raises(NameServersUnreachable) as error:
            await mq.send("orders", b"x")
    assert set(error.value.failures) == {"127.0.0.1:1", "127.0.0.1:2"}
    assert "See whether they run" in str(error.value)


async def test_dead_name_servers_stop_nobody_who_knows_the_route(cluster: FakeCluster, mq: Client) -> None:
    await mq.send("orders", b"x")
    await cluster.stop_name_server()
    await asyncio.sleep(2.2 * FAST.poll_name_server_s)
    assert (await mq.send("orders", b"x")).status is SendStatus.SEND_OK


async def test_an_unknown_topic_is_reported_with_its_neighbours_and_the_name_servers(
    cluster: FakeCluster, mq: Client
) -> None:
    with pytest.raises(RouteNotFound, match="autoCreateTopicEnable") as error:
        await mq.send("order", b"x")
    assert error.value.nearest == ("orders",)
    assert error.value.name_servers == (cluster.name_servers,)


async def test_a_topic_the_broker_will_not_create_is_reported_likewise(
    cluster: FakeCluster, mq: Client
) -> None:
    cluster.topics.append("TBW102")
    for broker in cluster.brokers:
        refuse(broker, ResponseCode.TOPIC_NOT_EXIST)
    with pytest.raises(SendFailed) as error:
        await mq.send("order", b"x")
    for word in ("autoCreateTopicEnable", cluster.name_servers, "orders"):
        assert word in error.value.hint


async def test_a_topic_that_is_created_by_its_first_message_is_sent_to_all_brokers(
    cluster: FakeCluster, mq: Client
) -> None:
    cluster.topics.append("TBW102")
    for _ in range(8):
        await mq.send("fresh", b"x")
    assert cluster.bodies("fresh") == [1] * 8
    header = cluster.brokers[0].requests(SendMessageRequestV2)[0]
    assert (header.default_topic, header.default_topic_queue_nums) == ("TBW102", 4)


async def test_a_batch_is_one_request_and_gives_a_result_for_each_message(
    cluster: FakeCluster, mq: Client
) -> None:
    results = await mq.send_batch("orders", [Message(f"m{index}", keys=f"k{index}") for index in range(5)])
    assert [result.queue_offset for result in results] == [0, 1, 2, 3, 4]
    assert (
        len({result.msg_id for result in results}) == len({result.offset_msg_id for result in results}) == 5
    )
    broker = next(broker for broker in cluster.brokers if broker.name == results[0].queue.broker_name)
    assert len(broker.requests(SendBatchMessageRequest)) == 1
    stored = [decode_record(record) for record in broker.queues["orders", results[0].queue.queue_id]]
    assert [(r.body, r.read_properties()["KEYS"]) for r in stored] == [
        (f"m{index}".encode(), f"k{index}") for index in range(5)
    ]
    assert [r.read_properties()["UNIQ_KEY"] for r in stored] == [result.msg_id for result in results]


async def test_a_batch_to_a_retry_topic_is_refused(cluster: FakeCluster, mq: Client) -> None:
    with pytest.raises(MessageInvalid, match="retry topic"):
        await mq.send_batch("%RETRY%g", [Message("x"), Message("y")])
    assert cluster.bodies("%RETRY%g") == [0] * 8


async def test_a_batch_is_cut_by_queue_and_by_size(cluster: FakeCluster) -> None:
    settings = msgspec.structs.replace(FAST, max_message_bytes=2000)
    async with Client(cluster.name_servers, settings=settings) as mq:
        messages = [Message(str(index) * 500, shard_by=f"s{index % 2}") for index in range(8)]
        results = await mq.send_batch("orders", messages)
        assert await mq.send_batch("orders", []) == []
    for index, result in enumerate(results):
        broker = next(broker for broker in cluster.brokers if broker.name == result.queue.broker_name)
        record = broker.queues["orders", result.queue.queue_id][result.queue_offset]
        assert decode_record(record).body == messages[index].body.encode()  # type: ignore[union-attr]
    assert len({result.queue for result in results}) == 2
    requests = sum(len(broker.requests(SendBatchMessageRequest)) for broker in cluster.brokers)
    assert requests == 4  # two queues, two messages in each part


async def test_a_batch_of_which_a_part_failed_tells_which(cluster: FakeCluster, mq: Client) -> None:
    cluster.brokers[0].refusals[RequestCode.SEND_BATCH_MESSAGE] = [
        ResponseError(ResponseCode.MESSAGE_ILLEGAL, "no")
    ]
    keys = [
        next(k for k in map(str, range(99)) if _broker_of(k) == name) for name in ("broker-a", "broker-b")
    ]
    messages = [Message("x", shard_by=keys[index % 2]) for index in range(4)]
    with pytest.raises(BatchFailed) as error:
        await mq.send_batch("orders", messages)
    assert [isinstance(result, SendFailed) for result in error.value.results] == [True, False, True, False]


def _broker_of(shard_by: str) -> str:
    from pymq.client.queue_choice import shard_queue

    queues = [queue(index, broker) for broker in ("broker-a", "broker-b") for index in range(4)]
    return shard_queue(queues, shard_by).broker_name


async def test_many_messages_are_under_way_at_once_up_to_a_bound(cluster: FakeCluster) -> None:
    settings = msgspec.structs.replace(FAST, in_flight_messages=10, in_flight_bytes=1000)
    async with Client(cluster.name_servers, settings=settings) as mq:
        futures = [mq.send_nowait("orders", b"x") for _ in range(10)]
        with pytest.raises(BufferFull):
            mq.send_nowait("orders", b"x")
        await mq.flush()
        assert all(future.done() for future in futures)
        mq.send_nowait("orders", b"x" * 600)
        with pytest.raises(BufferFull):
            mq.send_nowait("orders", b"x" * 600)
    assert sum(cluster.bodies()) == 11  # closing waits for what is under way


async def test_messages_without_waiting_keep_their_order(cluster: FakeCluster, mq: Client) -> None:
    for index in range(50):
        mq.send_nowait("orders", str(index), queue=queue(1))
    await mq.flush()
    stored = [decode_record(record).body for record in cluster.brokers[0].queues["orders", 1]]
    assert stored == [str(index).encode() for index in range(50)]


async def test_messages_of_one_shard_keep_their_order_though_the_route_is_learnt_meanwhile(
    cluster: FakeCluster, mq: Client
) -> None:
    sent = []
    for index in range(300):
        sent.append(mq.send_nowait("orders", str(index), shard_by="o-1"))
        await asyncio.sleep(0)
    offsets = [result.queue_offset for result in await asyncio.gather(*sent)]
    assert offsets == list(range(300))


async def test_messages_of_one_shard_keep_their_order_though_a_long_one_is_compressed(
    cluster: FakeCluster, mq: Client
) -> None:
    long = bytes(500_000)
    bodies = [long if index % 4 == 0 else b"short" for index in range(12)]
    for options in ({"shard_by": "o-1"}, {"queue": queue(3)}, {"queue": lambda queues: queues[-1]}):
        sent = [mq.send_nowait("orders", body, **options) for body in bodies]
        sent[4].cancel()  # that holds up nobody
        results = await asyncio.gather(*sent, return_exceptions=True)
        offsets = [result.queue_offset for result in results if isinstance(result, SendResult)]
        assert len(offsets) == 11
        assert offsets == sorted(offsets)


async def test_a_oneway_message_arrives_and_nobody_waits_for_it(cluster: FakeCluster, mq: Client) -> None:
    for broker in cluster.brokers:
        broker.refusals[SEND] = [ResponseError(1, "no")]
    await mq.send_oneway("orders", b"refused, and nobody says so", queue=queue(0))
    await mq.send_oneway("orders", b"x", queue=queue(0))
    await until(lambda: sum(cluster.bodies()) == 1)
    await cluster.brokers[0].stop()
    await asyncio.sleep(0.05)  # the end of the connection has to arrive
    with pytest.raises(SendFailed):
        await mq.send_oneway("orders", b"x", queue=queue(0))


async def test_a_cancelled_send_leaves_the_client_well(cluster: FakeCluster, mq: Client) -> None:
    cluster.brokers[0].silent.add(SEND)
    sending = asyncio.create_task(mq.send("orders", b"x", queue=queue(0)))
    await until(lambda: bool(cluster.brokers[0].requests(SendMessageRequestV2)))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    cluster.brokers[0].silent.clear()
    assert (await mq.send("orders", b"y", queue=queue(0))).queue_offset == 0


async def test_brokers_hear_of_the_producer_group_and_of_its_end(cluster: FakeCluster) -> None:
    async with Client(cluster.name_servers, settings=FAST, producer_group="shop") as mq:
        await mq.send("orders", b"x")
        await until(lambda: all(broker.heartbeats for broker in cluster.brokers))
        heartbeat = cluster.brokers[0].heartbeats[0]
        assert heartbeat.client_id == mq.client_id
        assert [producer.group_name for producer in heartbeat.producer_data_set] == ["shop"]
    left = [broker.seen[-1] for broker in cluster.brokers]
    assert [getattr(header, "producer_group", None) for header in left] == ["shop", "shop"]


async def test_a_client_that_is_not_running_says_so(cluster: FakeCluster) -> None:
    mq = Client(cluster.name_servers, settings=FAST)
    with pytest.raises(ClientClosed):
        await mq.send("orders", b"x")
    await mq.start()
    await mq.send("orders", b"x")
    await mq.close()
    await mq.close()
    with pytest.raises(ClientClosed):
        mq.send_nowait("orders", b"x")


async def test_nothing_is_left_running_when_a_client_is_closed(cluster: FakeCluster) -> None:
    before = asyncio.all_tasks()
    async with Client(cluster.name_servers, settings=FAST) as mq:
        await mq.send("orders", b"x")
        mq.send_nowait("orders", b"x")
    assert asyncio.all_tasks() == before


async def test_clients_have_ids_of_their_own(cluster: FakeCluster) -> None:
    ids = {Client(cluster.name_servers).client_id for _ in range(5)}
    assert len(ids) == 5
    assert Client(cluster.name_servers, instance_name="shop").client_id.endswith("@shop")


@pytest.mark.parametrize("addresses", ["", ";", "nowhere", "host:0", "host:99999", []])
def test_name_server_addresses_that_make_no_sense(addresses: str | list[str]) -> None:
    with pytest.raises(ConfigError):
        Client(addresses)


async def test_a_queue_of_another_topic_is_refused(mq: Client) -> None:
    with pytest.raises(MessageInvalid):
        await mq.send("orders", b"x", queue=queue(0, topic="other"))


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_timeout_that_is_no_time_is_a_mistake_of_the_caller(mq: Client, seconds: float) -> None:
    said = r"timeout=.*: expected seconds above 0"
    with pytest.raises(ValueError, match=said):
        await mq.send("orders", b"x", timeout=seconds)
    with pytest.raises(ValueError, match=said):
        mq.send_nowait("orders", b"x", timeout=seconds)
    with pytest.raises(ValueError, match=said):
        await mq.send_oneway("orders", b"x", timeout=seconds)
    with pytest.raises(ValueError, match=said):
        await mq.send_batch("orders", [Message(b"x")], timeout=seconds)
