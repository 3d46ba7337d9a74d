"""RocketMQ's Go client (v2) against pymq's servers."""

from __future__ import annotations

from typing import Any

from tests.interop.conftest import fresh, message, wait_for_commits
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(each["body"] for each in messages)


def consume(go: Driver, cluster: Cluster, topic: str, **fields: Any) -> Started:
    settings = {"group": fresh("go-group"), "from": "FIRST_OFFSET", "topic": topic} | fields
    return go.start("start_consumer", namesrv=cluster.namesrv, **settings)


def test_go_sends_in_every_mode_and_consumes_what_it_sent(go: Driver, cluster: Cluster) -> None:
    topic = fresh("go")
    large = "".join(f"{i} 消息;" for i in range(5_000))
    with go.start("start_producer", group="go-producer", namesrv=cluster.namesrv) as producer:
        first = message(topic, "héllo 你好", tags="a", keys="k1 k2", properties={"colour": "blue"})
        sent = producer.send(first, message(topic, large))  # the broker makes the topic
        later = producer.send(*(message(topic, f"async {i}") for i in range(3)), mode="async")
        batch = producer.send(message(topic, "batch 0"), message(topic, "batch 1"), mode="batch")
        producer.send(message(topic, "oneway"), mode="oneway")
        assert {each["status"] for each in [*sent, *later, batch]} == {"SEND_OK"}

        with consume(go, cluster, topic) as consumer:
            got = {each["body"]: each for each in consumer.received(8)}
    expected = ["héllo 你好", large, "async 0", "async 1", "async 2", "batch 0", "batch 1", "oneway"]
    assert sorted(got) == sorted(expected)
    one = got["héllo 你好"]
    assert (one["tags"], one["keys"], one["properties"]["colour"]) == ("a", "k1 k2", "blue")
    for result, text in zip(sent, expected, strict=False):
        assert got[text]["msg_id"] == result["msg_id"]
        assert got[text]["offset_msg_id"] == result["offset_msg_id"]
        assert (got[text]["queue_id"], got[text]["queue_offset"]) == (
            result["queue_id"],
            result["queue_offset"],
        )


def test_go_filters_by_tag_and_goes_on_where_it_stopped(go: Driver, cluster: Cluster, admin: Started) -> None:
    topic, group = fresh("go"), fresh("go-group")
    with go.start("start_producer", group="go-producer", namesrv=cluster.namesrv) as producer:
        producer.send(*(message(topic, f"{tag} {i}", tags=tag) for i in range(3) for tag in ("a", "b", "c")))
        with consume(go, cluster, topic, group=group, filter="a || c") as consumer:
            got = consumer.received(6)
            assert bodies(got) == [f"{tag} {i}" for tag in ("a", "c") for i in range(3)]
            wait_for_commits(admin, group, consumer, got)
        producer.send(message(topic, "c later", tags="c"), message(topic, "b later", tags="b"))
        with consume(go, cluster, topic, group=group, filter="a || c") as consumer:
            assert bodies(consumer.received(1)) == ["c later"]


def test_go_and_java_read_each_other(go: Driver, java_json: Driver, cluster: Cluster) -> None:
    topic = fresh("go-java")
    for driver in (go, java_json):
        with driver.start("start_producer", group="any", namesrv=cluster.namesrv) as producer:
            producer.send(message(topic, f"from {driver.name}", tags="t", properties={"by": driver.name}))
    for driver in (go, java_json):
        with consume(driver, cluster, topic) as consumer:
            got = consumer.received(2)
        assert {each["body"]: each["properties"]["by"] for each in got} == {
            f"from {each.name}": each.name for each in (go, java_json)
        }
