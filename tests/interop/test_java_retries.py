"""Retries and dead letters: Java's consumers and pymq's, at pymq's broker and at Apache's as the measure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import pymq
from pymq.client import Settings
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.protocol.headers.messaging import (
    ConsumerSendMsgBackRequest,
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
)
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.transport.pool import Pool, Reply
from tests.interop.conftest import ApacheClusters, JavaDrivers, fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster, wait_until
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually, take, text

QUICK = Settings(commit_s=0.5, poll_missing_route_s=0.2, call_timeout_s=20.0)
LEVELS = "1s 1s" + " 0s" * 16
"""Retries come at once, unless a consumer chooses one of the first two levels."""
ALWAYS = 99
OF_THE_CLIENT = {"MIN_OFFSET", "MAX_OFFSET", "CONSUME_START_TIME"}
ALIKE = ("topic", "body", "tags", "keys", "flag", "sys_flag", "reconsume_times")
SECOND, TO_THE_DEAD_LETTERS = 1, -1


@pytest.fixture(scope="module")
def retrying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """pymq with delay levels that take no time."""
    folder = tmp_path_factory.mktemp("pymq-retries")
    name_server = pymq_name_server(folder / "namesrv")
    broker = pymq_broker(folder / "broker", [name_server], messageDelayLevel=LEVELS)
    cluster = Cluster("pymq", name_server, broker)
    yield cluster
    cluster.kill()


def consume(java: Driver, servers: Cluster, topic: str, **fields: Any) -> Started:
    settings = {"group": fresh("reader"), "from": "FIRST_OFFSET", "topic": topic} | fields
    return java.start("start_consumer", namesrv=servers.namesrv, **settings)


async def ask(servers: Cluster, header: Header) -> Reply:
    """Ask the broker something."""
    pool = Pool(SystemNetwork(), {})
    try:
        return await pool.call(servers.broker.address, header, timeout_s=60)
    finally:
        await pool.close()


def make_topic(topic: str, *servers: Cluster) -> str:
    """Make it before a Java client starts: to one that comes later that listens 20 s later."""
    for each in servers:
        asyncio.run(ask(each, CreateTopicRequest(topic, 1, 1, 6)))
    return topic


def retried_group(*servers: Cluster, group: str = "") -> str:
    """A group whose retry topic is there."""
    return make_topic(f"%RETRY%{group or fresh('group')}", *servers).removeprefix("%RETRY%")


def produce(java: Driver, servers: Cluster, *messages: dict[str, Any]) -> list[dict[str, Any]]:
    with java.start("start_producer", group=fresh("producer"), namesrv=servers.namesrv) as producer:
        sent: list[dict[str, Any]] = producer.send(*messages)
        return sent


def dead_letters(java: Driver, servers: Cluster, group: str) -> list[dict[str, Any]]:
    """What a consumer of the group's dead letters gets, once there is one."""
    topic = f"%DLQ%{group}"

    def is_known() -> bool:
        try:
            return bool(reader.ask("queues", topic=topic))
        except DriverError:
            return False

    with java.start("start_reader", group=fresh("reader"), namesrv=servers.namesrv) as reader:
        # A Java consumer that starts before its topic is there looks for it 20 s later.
        wait_until(f"{servers.kind}'s name server knows the dead letters", is_known)
    with consume(java, servers, topic) as consumer:
        return consumer.received(1)


def check_ids(sent: dict[str, Any], deliveries: list[dict[str, Any]]) -> None:
    """The unique id stays, each copy has an offset id of its own, and the first of these is kept."""
    assert {each["msg_id"] for each in deliveries} == {sent["msg_id"]}
    offset_ids = [each["offset_msg_id"] for each in deliveries]
    assert offset_ids[0] == sent["offset_msg_id"]
    assert len(set(offset_ids)) == len(offset_ids)
    origins = [each["properties"].get("ORIGIN_MESSAGE_ID") for each in deliveries]
    assert origins == [None] + [sent["offset_msg_id"]] * (len(deliveries) - 1)
    assert len({each["born_ms"] for each in deliveries}) == 1


def as_stored(each: dict[str, Any]) -> dict[str, Any]:
    """What two brokers must make alike of one delivery."""
    own = {"UNIQ_KEY", "ORIGIN_MESSAGE_ID"} | OF_THE_CLIENT
    properties = {name: value for name, value in each["properties"].items() if name not in own}
    return {name: each[name] for name in ALIKE} | {"properties": properties}


def test_a_message_is_retried_and_buried_as_apache_does_it(
    java_json: Driver, retrying: Cluster, apache_clusters: ApacheClusters
) -> None:
    clusters = [retrying, apache_clusters("4.9.4")]
    topic, group = make_topic(fresh("failing"), *clusters), retried_group(*clusters)
    seen: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as stack:
        full = {"tags": "t", "keys": "k1 k2", "flag": 7, "properties": {"customer": "Łukasz 消息"}}
        place = {"broker": "broker-a", "queue_id": 0}
        sent = [produce(java_json, each, message(topic, "x", **full, **place))[0] for each in clusters]
        failing = [
            stack.enter_context(
                consume(java_json, each, topic, group=group, later_until=ALWAYS, max_reconsume_times=2)
            )
            for each in clusters
        ]
        for servers, first, consumer in zip(clusters, sent, failing, strict=True):
            deliveries = consumer.received(3) + dead_letters(java_json, servers, group)
            assert [each["reconsume_times"] for each in deliveries] == [0, 1, 2, 3]
            check_ids(first, deliveries)
            seen[servers.kind] = [as_stored(each) for each in deliveries]
        assert all(len(each.received(0)) == 3 for each in failing), "it does not come once more"
    assert seen["pymq"] == seen["apache-4.9.4"]


def test_by_default_a_message_comes_sixteen_times_more(java_json: Driver, retrying: Cluster) -> None:
    topic, group = fresh("hopeless"), retried_group(retrying)
    [sent] = produce(java_json, retrying, message(topic, "x"))
    with consume(java_json, retrying, topic, group=group, later_until=ALWAYS) as consumer:
        deliveries = consumer.received(17) + dead_letters(java_json, retrying, group)
    assert [each["reconsume_times"] for each in deliveries] == list(range(18))
    levels = [each["properties"].get("DELAY") for each in deliveries]
    assert levels == [None, *map(str, range(3, 19)), "0"]
    check_ids(sent, deliveries)
    assert {each["topic"] for each in deliveries[:17]} == {topic}
    assert deliveries[17]["topic"] == f"%DLQ%{group}"


def test_java_chooses_when_a_message_comes_again(java_json: Driver, retrying: Cluster) -> None:
    topic, group = fresh("chosen"), retried_group(retrying)
    produce(java_json, retrying, message(topic, "x"))
    with consume(java_json, retrying, topic, group=group, later_until=1, later_level=SECOND) as consumer:
        first, second = consumer.received(2)
    assert second["properties"]["DELAY"] == "1"
    waited_ms = second["store_ms"] - int(first["properties"]["CONSUME_START_TIME"])
    assert 1000 <= waited_ms < 15_000

    topic, group = fresh("given-up"), fresh("group")
    produce(java_json, retrying, message(topic, "x"))
    with consume(
        java_json, retrying, topic, group=group, later_until=1, later_level=TO_THE_DEAD_LETTERS
    ) as consumer:
        assert [each["reconsume_times"] for each in dead_letters(java_json, retrying, group)] == [1]
        assert len(consumer.received(0)) == 1


def test_the_tutorials_consumer_sees_the_ids_that_the_tutorial_prints(
    java_json: Driver, retrying: Cluster
) -> None:
    retried_group(retrying, group="HAOKE_IM")
    [sent] = produce(java_json, retrying, message("my-test-topic", "你好", tags="SEND_MSG"))

    def own() -> list[dict[str, Any]]:
        return [each for each in consumer.received(0) if each["msg_id"] == sent["msg_id"]]

    with java_json.start("start_tutorial_consumer", namesrv=retrying.namesrv, later_until=3) as consumer:
        wait_until("it came four times", lambda: len(own()) == 4)
        deliveries = own()
    assert [each["reconsume_times"] for each in deliveries] == [0, 1, 2, 3]
    check_ids(sent, deliveries)


def test_what_pymq_cannot_take_back_java_sends_anew(java_json: Driver, retrying: Cluster) -> None:
    """The stored message is damaged while a consumer handles it, who has it whole."""
    topic, group = fresh("damaged"), retried_group(retrying)
    [sent] = produce(java_json, retrying, message(topic, "sound", tags="t", broker="broker-a", queue_id=0))
    settings = {"later_until": 1, "later_level": SECOND, "sits_on": "sound", "max_reconsume_times": 3}
    with consume(java_json, retrying, topic, group=group, **settings) as consumer:
        consumer.received(1)
        with (retrying.broker.folder / "store/commitlog" / "0".zfill(20)).open("r+b") as log:
            offset = decode_offset_msg_id(sent["offset_msg_id"])[1]
            log.seek(offset)
            log.seek(offset + log.read(300).index(b"sound"))
            log.write(b"S")
        consumer.ask("let_go", count=2)
        first, again = consumer.received(2)
    assert (again["body"], again["tags"], again["reconsume_times"]) == ("sound", "t", 1)
    assert (first["msg_id"], again["msg_id"]) == (sent["msg_id"], sent["msg_id"])
    assert (again["topic"], again["properties"]["DELAY"]) == (topic, "3")


def test_java_consumes_nothing_while_its_group_is_switched_off(
    java_json: Driver, java_drivers: JavaDrivers, retrying: Cluster
) -> None:
    topic, group = fresh("switched"), fresh("group")
    produce(java_json, retrying, message(topic, "x"))
    with java_drivers("4.9.4").start("start_admin", namesrv=retrying.namesrv) as admin:
        admin.admin("create_group", addr=retrying.broker.address, group=group, consume_enable=False)
        with consume(java_json, retrying, topic, group=group) as consumer:
            assert consumer.received(1, 1.5) == []
            admin.admin("create_group", addr=retrying.broker.address, group=group, consume_enable=True)
            assert len(consumer.received(1)) == 1


# -- Java and Python in one group


async def committed(servers: Cluster, group: str, topic: str, queue_id: int) -> int:
    """Where a group stands in a queue, -1 while it has committed nothing."""
    try:
        reply = await ask(servers, QueryConsumerOffsetRequest(group, topic, queue_id))
    except ResponseError:
        return -1
    return reply.read(QueryConsumerOffsetResponse).offset


def received(each: pymq.ReceivedMessage) -> dict[str, Any]:
    """A delivery to Python as the driver tells one to Java."""
    return {
        "msg_id": each.msg_id,
        "offset_msg_id": each.offset_msg_id,
        "properties": each.properties,
        "born_ms": each.born_timestamp,
        "reconsume_times": each.reconsume_times,
    }


async def test_what_fails_in_java_comes_to_python_and_the_other_way_round(
    java_json: Driver, retrying: Cluster
) -> None:
    topic, group = fresh("handed-over"), fresh("group")
    [sent] = await asyncio.to_thread(produce, java_json, retrying, message(topic, "x", tags="t"))

    async def in_java(later_until: int) -> dict[str, Any]:
        """Let a Java member have it; gives what it got."""
        settings = {"group": group, "later_level": SECOND, "later_until": later_until}
        async with await asyncio.to_thread(consume, java_json, retrying, topic, **settings) as consumer:
            [got] = await consumer.received_async(1)
            if got["reconsume_times"] < later_until:
                await eventually("it is handed back", lambda: is_handed_back(consumer))
        return got

    async def is_handed_back(consumer: Started) -> bool:
        await consumer.ask_async("commit_all")  # Java moves the offset when the broker has taken it back
        return await committed(retrying, group, topic, sent["queue_id"]) == int(sent["queue_offset"]) + 1

    first = await in_java(later_until=1)
    async with (
        pymq.Client(retrying.namesrv, settings=QUICK) as mq,
        mq.consumer(group, topic, start="first") as consumer,
    ):
        [second] = await consumer.fetch(max=1, wait=60)
        assert (text(second), second.topic, second.tags) == ("x", topic, "t")
        await second.retry(SECOND)
    third = await in_java(later_until=0)
    deliveries = [first, received(second), third]
    assert [each["reconsume_times"] for each in deliveries] == [0, 1, 2]
    check_ids(sent, deliveries)


# -- Python at either broker


@pytest.fixture(scope="module", params=["pymq", "apache"])
def servers(request: pytest.FixtureRequest, retrying: Cluster, apache_clusters: ApacheClusters) -> Cluster:
    """The Python client's brokers."""
    return retrying if request.param == "pymq" else apache_clusters("4.9.4")


async def fail_until_dead(
    mq: pymq.Client, topic: str, group: str, *levels: int
) -> list[pymq.ReceivedMessage]:
    """Fail as often as there are levels, asking for these; gives the deliveries and then the dead letter."""
    deliveries: list[pymq.ReceivedMessage] = []
    remaining = list(levels)

    async def handle(each: pymq.ReceivedMessage) -> None:
        deliveries.append(each)
        raise pymq.RetryLater(delay_level=remaining.pop(0))

    consuming = asyncio.ensure_future(
        mq.consume(group, topic, handle, start="first", max_retries=len(levels) - 1)
    )
    try:
        async with mq.consumer(fresh("undertaker"), f"%DLQ%{group}", start="first") as dead_letters:
            return deliveries + await take(dead_letters, 1)
    finally:
        consuming.cancel()
        await asyncio.wait([consuming])


async def test_python_s_failures_are_retried_and_buried(servers: Cluster) -> None:
    topic, group = fresh("python-failing"), fresh("python-failing-group")
    async with pymq.Client(servers.namesrv, settings=QUICK) as mq:
        sent = await mq.send(topic, "x", tags="t", keys="k", properties={"own": "kept"})
        deliveries = await fail_until_dead(mq, topic, group, 0, 2, 0)
    assert [each.reconsume_times for each in deliveries] == [0, 1, 2, 3]
    check_ids({"msg_id": sent.msg_id, "offset_msg_id": sent.offset_msg_id}, list(map(received, deliveries)))
    assert [each.properties.get("DELAY") for each in deliveries] == [None, "3", "2", "0"]
    assert [each.topic for each in deliveries] == [topic] * 3 + [f"%DLQ%{group}"]
    assert {(text(each), each.tags, each.keys, each.properties["own"]) for each in deliveries} == {
        ("x", "t", ("k",), "kept")
    }


async def test_a_message_that_is_not_taken_back_is_retried_and_buried_all_the_same(
    servers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is asked for a message that is not there, so that each attempt is a new message."""

    def misdirected(*, offset: int, **fields: Any) -> ConsumerSendMsgBackRequest:
        return ConsumerSendMsgBackRequest(offset=offset + 1, **fields)

    monkeypatch.setattr("pymq.client.send_back.ConsumerSendMsgBackRequest", misdirected)
    topic, group = fresh("python-resent"), fresh("python-resent-group")
    async with pymq.Client(servers.namesrv, settings=QUICK) as mq:
        large = "".join(f"{i} 消息;" for i in range(2_000))  # compressed
        sent = await mq.send(topic, large, tags="t")
        deliveries = await fail_until_dead(mq, topic, group, 0, 0, 0)
    assert [each.reconsume_times for each in deliveries] == [0, 1, 2, 3]
    check_ids({"msg_id": sent.msg_id, "offset_msg_id": sent.offset_msg_id}, list(map(received, deliveries)))
    assert [each.topic for each in deliveries] == [topic] * 3 + [f"%DLQ%{group}"]
    assert {(text(each), each.tags) for each in deliveries} == {(large, "t")}
