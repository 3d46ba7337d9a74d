"""Unmodified Java clients, of two versions and with both header serialisations, against pymq's servers."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.conftest import are_prompt, fresh, message, wait_for_commits
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster, wait_until

QUEUES = 4
SYSTEM_ERROR, MESSAGE_ILLEGAL = 1, 13
ACCESS_BROKER_TIMEOUT = 10002
"""Java's ClientErrorCode."""


@pytest.fixture(scope="module")
def producer(java: Driver, cluster: Cluster) -> Iterator[Started]:
    with java.start("start_producer", group="interop-producer", namesrv=cluster.namesrv) as started:
        yield started


@pytest.fixture(scope="module")
def producer_json(java_json: Driver, cluster: Cluster) -> Iterator[Started]:
    with java_json.start("start_producer", group="interop-producer", namesrv=cluster.namesrv) as started:
        yield started


@pytest.fixture
def topic(admin: Started, cluster: Cluster) -> str:
    name = fresh("java")
    admin.admin("create_topic", addr=cluster.broker.address, topic=name, queues=QUEUES)
    return name


def consume(java: Driver, cluster: Cluster, topic: str, **fields: Any) -> Started:
    settings = {"group": fresh("group"), "from": "FIRST_OFFSET", "topic": topic} | fields
    return java.start("start_consumer", namesrv=cluster.namesrv, **settings)


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(each["body"] for each in messages)


def where(each: dict[str, Any]) -> tuple[str, int, int]:
    return each["broker"], each["queue_id"], each["queue_offset"]


def failure(act: Callable[[], object]) -> DriverError:
    with pytest.raises(DriverError) as caught:
        act()
    return caught.value


def test_the_tutorials_producer_and_consumer_run_as_they_stand(java: Driver, cluster: Cluster) -> None:
    sent: dict[str, Any] = {}

    def is_sent() -> bool:
        try:
            sent.update(java.ask("tutorial_send", namesrv=cluster.namesrv, body="你好，这是第一条消息"))
        except DriverError as error:  # it allows a second, too little while a machine pauses
            if error.code != ACCESS_BROKER_TIMEOUT and "timeout" not in error.message:
                raise
        return bool(sent)

    wait_until("the tutorial's message is sent", is_sent)
    assert sent["status"] == "SEND_OK"
    with java.start("start_tutorial_consumer", namesrv=cluster.namesrv) as consumer:
        got: list[dict[str, Any]] = []

        def came() -> bool:
            got[:] = [each for each in consumer.received(0) if each["offset_msg_id"] == sent["offset_msg_id"]]
            return bool(got)

        wait_until("the tutorial's message comes", came)
    assert got[0]["body"] == "你好，这是第一条消息"
    assert got[0]["tags"] == "SEND_MSG"
    assert got[0]["msg_id"] == sent["msg_id"]
    assert where(got[0]) == where(sent)


def test_what_was_sent_in_any_mode_arrives_as_it_was_sent(
    java: Driver, cluster: Cluster, producer: Started, topic: str
) -> None:
    def full(i: int) -> dict[str, Any]:
        return message(topic, f"naïve 消息 {i} 🚀", tags="created", keys=f"k{i} order-{i}",
                       properties={"customer": f"Łukasz {i}", "empty-ish": "0"})  # fmt: skip

    results = producer.send(*map(full, range(4))) + producer.send(*map(full, range(4, 8)), mode="async")
    batch = producer.send(*map(full, range(8, 11)), mode="batch")
    producer.send(full(11), mode="oneway")
    assert {each["status"] for each in [*results, batch]} == {"SEND_OK"}

    with consume(java, cluster, topic) as consumer:
        got = {each["body"]: each for each in consumer.received(12)}
    assert sorted(got) == sorted(full(i)["body"] for i in range(12))
    for i in range(12):
        each = got[full(i)["body"]]
        assert (each["tags"], each["keys"]) == ("created", f"k{i} order-{i}")
        assert each["properties"].items() >= {"customer": f"Łukasz {i}", "empty-ish": "0"}.items()
        assert each["born_host"].startswith("/127.0.0.1:")
        assert each["store_host"] == f"/{cluster.broker.address}"
        assert each["reconsume_times"] == 0
    for i, result in enumerate(results):
        each = got[full(i)["body"]]
        assert each["msg_id"] == result["msg_id"]
        assert each["offset_msg_id"] == result["offset_msg_id"]
        assert where(each) == where(result)
    in_batch = [got[full(i)["body"]] for i in range(8, 11)]
    assert batch["msg_id"].split(",") == [each["msg_id"] for each in in_batch]
    assert batch["offset_msg_id"].split(",") == [each["offset_msg_id"] for each in in_batch]
    first = batch["queue_offset"]
    assert [each["queue_offset"] for each in in_batch] == [first, first + 1, first + 2]


def test_a_large_body_which_java_compresses_arrives_whole(
    java: Driver, cluster: Cluster, producer: Started, topic: str
) -> None:
    text = "".join(f"{i} 消息;" for i in range(20_000))
    [result] = producer.send(message(topic, text))
    with consume(java, cluster, topic) as consumer:
        [got] = consumer.received(1)
    assert got["body"] == text
    assert got["sys_flag"] & 1, "it lay compressed in the store"
    assert got["store_size"] < len(text) / 2
    assert got["msg_id"] == result["msg_id"]


def test_a_consumer_gets_only_the_tags_it_asked_for(
    java: Driver, cluster: Cluster, producer: Started, topic: str
) -> None:
    tags = ["a", "b", "c", None, "Aa", "BB"]  # the last two have the same hash
    producer.send(
        *(message(topic, f"{tag} {i}", **({"tags": tag} if tag else {})) for i in range(3) for tag in tags)
    )
    producer.send(
        *(message(topic, f"last of {q}", tags="a", broker="broker-a", queue_id=q) for q in range(QUEUES))
    )
    with consume(java, cluster, topic, filter="a || BB") as consumer:
        got = bodies(consumer.received(6 + QUEUES))
    lasts = [f"last of {q}" for q in range(QUEUES)]
    assert got == sorted([f"{tag} {i}" for i in range(3) for tag in ("a", "BB")] + lasts)


def test_a_waiting_consumer_gets_a_message_the_moment_it_arrives(
    java_json: Driver, cluster: Cluster, producer_json: Started, topic: str
) -> None:
    with consume(java_json, cluster, topic) as consumer:
        producer_json.send(*(message(topic, "warm up", broker="broker-a", queue_id=q) for q in range(QUEUES)))
        assert len(consumer.received(QUEUES)) == QUEUES
        late: list[int] = []
        while not are_prompt(late):
            time.sleep(0.1)  # every queue's pull is held by the broker again
            producer_json.send(message(topic, f"now {len(late)}"))
            got = consumer.received(QUEUES + len(late) + 1)[-1]
            late.append(int(got["properties"]["CONSUME_START_TIME"]) - got["store_ms"])


def test_every_broadcast_consumer_gets_every_message(
    java_json: Driver, cluster: Cluster, producer_json: Started, topic: str
) -> None:
    group = fresh("broadcast")
    with (
        consume(java_json, cluster, topic, group=group, broadcast=True) as one,
        consume(java_json, cluster, topic, group=group, broadcast=True) as other,
    ):
        producer_json.send(*(message(topic, f"to all {i}") for i in range(8)))
        expected = sorted(f"to all {i}" for i in range(8))
        assert bodies(one.received(8)) == expected
        assert bodies(other.received(8)) == expected


def test_a_group_shares_the_queues_and_hands_them_over(
    java_json: Driver, cluster: Cluster, producer_json: Started, topic: str
) -> None:
    group = fresh("shared")
    with consume(java_json, cluster, topic, group=group) as one:
        with consume(java_json, cluster, topic, group=group) as other:

            def halves() -> bool:
                mine, others = one.ask("assigned"), other.ask("assigned")
                return len(mine) == len(others) == QUEUES // 2 and all(each not in others for each in mine)

            wait_until("each of two members has half of the queues", halves)
            producer_json.send(*(message(topic, f"to one {i}") for i in range(20)))
            wait_until("all are consumed", lambda: len(one.received(0)) + len(other.received(0)) >= 20)
            assert bodies(one.received(0) + other.received(0)) == sorted(f"to one {i}" for i in range(20))
        # the broker tells the one that is left, which need not wait for its next round (20 s)
        wait_until("the other takes all queues", lambda: len(one.ask("assigned")) == QUEUES, 18)


def test_a_group_goes_on_where_it_stopped(
    java_json: Driver, cluster: Cluster, producer_json: Started, topic: str, admin: Started
) -> None:
    group = fresh("resumed")
    producer_json.send(*(message(topic, f"early {i}") for i in range(8)))
    with consume(java_json, cluster, topic, group=group) as consumer:
        got = consumer.received(8)
        assert len(got) == 8
        wait_for_commits(admin, group, consumer, got)
    producer_json.send(*(message(topic, f"later {i}") for i in range(8)))
    with consume(java_json, cluster, topic, group=group) as consumer:
        assert bodies(consumer.received(8)) == sorted(f"later {i}" for i in range(8))


@pytest.mark.parametrize("start", ["LAST_OFFSET", "FIRST_OFFSET", "TIMESTAMP"])
def test_a_new_group_gets_all_of_a_young_topic_wherever_it_asks_to_start(
    java_json: Driver, cluster: Cluster, producer_json: Started, topic: str, start: str
) -> None:
    producer_json.send(*(message(topic, f"before {i}") for i in range(8)))
    later = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() + 60))
    with consume(java_json, cluster, topic, timestamp=later, **{"from": start}) as consumer:
        assert bodies(consumer.received(8)) == [f"before {i}" for i in range(8)]


def test_a_pull_consumer_reads_messages_and_offsets(
    java: Driver, cluster: Cluster, producer: Started, topic: str
) -> None:
    queue: dict[str, Any] = {"broker": "broker-a", "queue_id": 1}
    sent = producer.send(
        *(message(topic, f"m{i}", **queue, tags="odd" if i % 2 else "even") for i in range(10))
    )
    queue["topic"] = topic
    with java.start("start_reader", group=fresh("reader"), namesrv=cluster.namesrv) as reader:
        assert reader.ask("queues", topic=topic) == [queue | {"queue_id": i} for i in range(QUEUES)]

        def pull(offset: int, **fields: Any) -> tuple[str, list[str], int]:
            got = reader.ask("pull", offset=offset, **queue, **fields)
            assert (got["min_offset"], got["max_offset"]) == (0, 10)
            return got["status"], [each["body"] for each in got["messages"]], got["next_offset"]

        assert pull(0) == ("FOUND", [f"m{i}" for i in range(10)], 10)
        assert pull(3, max=2) == ("FOUND", ["m3", "m4"], 5)
        assert pull(4, filter="odd", max=3)[:2] == ("FOUND", ["m5", "m7", "m9"])
        assert pull(0, filter="none")[0] == "NO_MATCHED_MSG"
        assert pull(10) == ("NO_NEW_MSG", [], 10)
        assert pull(99)[::2] == ("OFFSET_ILLEGAL", 10)

        offsets = reader.ask("offsets", **queue)
        assert (offsets["min"], offsets["max"]) == (0, 10)
        first = reader.ask("view", offset_msg_id=sent[0]["offset_msg_id"])
        assert (first["body"], first["queue_offset"]) == ("m0", sent[0]["queue_offset"])
        assert offsets["earliest_store_ms"] == first["store_ms"]
        assert reader.ask("search_offset", time_ms=first["store_ms"], **queue) == 0
        assert reader.ask("search_offset", time_ms=first["store_ms"] + 3_600_000, **queue) in (9, 10)

        reader.ask("commit", offset=7, **queue)
        assert reader.ask("committed", **queue) == 7


def test_java_is_told_why_a_request_fails(
    java: Driver, cluster: Cluster, producer: Started, topic: str
) -> None:
    noise = base64.b64encode(random.Random(7).randbytes(5 << 20)).decode()  # does not shrink below 4 MiB
    with java.start("start_producer", group="big", namesrv=cluster.namesrv, max_message_size=8 << 20) as big:
        assert failure(lambda: big.send({"topic": topic, "body_base64": noise})).code == MESSAGE_ILLEGAL
    assert (
        failure(lambda: producer.send(message(topic, "x", broker="broker-a", queue_id=77))).code
        == SYSTEM_ERROR
    )
    with java.start("start_reader", group=fresh("reader"), namesrv=cluster.namesrv) as reader:
        assert failure(lambda: reader.ask("queues", topic=fresh("unknown"))).kind == "MQClientException"
        nowhere = f"7F000001{cluster.broker.port:08X}{1 << 40:016X}"
        assert failure(lambda: reader.ask("view", offset_msg_id=nowhere)).code == SYSTEM_ERROR
