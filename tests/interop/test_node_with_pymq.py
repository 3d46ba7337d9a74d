"""Node's client, ali-ons, against pymq's servers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.conftest import fresh, message
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster


@pytest.fixture
def topic(admin: Started, cluster: Cluster) -> str:
    """Made beforehand: ali-ons does not send to topics that no name server knows."""
    name = fresh("node")
    admin.admin("create_topic", addr=cluster.broker.address, topic=name, queues=4)
    return name


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(each["body"] for each in messages)


def consume(node: Driver, cluster: Cluster, topic: str, **fields: Any) -> Started:
    settings = {"group": fresh("node-group"), "from": "FIRST_OFFSET", "topic": topic} | fields
    return node.start("start_consumer", namesrv=cluster.namesrv, **settings)


def test_node_sends_and_consumes_what_it_sent(node: Driver, cluster: Cluster, topic: str) -> None:
    large = "".join(f"{i} 消息;" for i in range(5_000))
    with node.start("start_producer", group="node-producer", namesrv=cluster.namesrv) as producer:
        first = message(topic, "héllo 你好", tags="a", keys="k1 k2", properties={"colour": "blue"})
        sent = producer.send(first, message(topic, large))
        assert {each["status"] for each in sent} == {"SEND_OK"}
        with consume(node, cluster, topic) as consumer:
            got = {each["body"]: each for each in consumer.received(2)}
            producer.send(message(topic, "while it waits"))
            assert consumer.received(3)[-1]["body"] == "while it waits"
    assert sorted(got) == sorted(["héllo 你好", large])
    one = got["héllo 你好"]
    assert (one["tags"], one["keys"], one["properties"]["colour"]) == ("a", "k1 k2", "blue")
    for result, text in zip(sent, ("héllo 你好", large), strict=True):
        assert got[text]["msg_id"] == result["msg_id"]
        assert (got[text]["queue_id"], got[text]["queue_offset"]) == (
            result["queue_id"],
            result["queue_offset"],
        )


def test_node_filters_by_tag(node: Driver, cluster: Cluster, topic: str) -> None:
    with node.start("start_producer", group="node-producer", namesrv=cluster.namesrv) as producer:
        producer.send(*(message(topic, f"{tag} {i}", tags=tag) for i in range(3) for tag in ("a", "b", "c")))
        with consume(node, cluster, topic, filter="a || c") as consumer:
            assert bodies(consumer.received(6)) == [f"{tag} {i}" for tag in ("a", "c") for i in range(3)]


def test_node_and_java_read_each_other(node: Driver, java_json: Driver, cluster: Cluster, topic: str) -> None:
    for driver in (node, java_json):
        with driver.start("start_producer", group="any", namesrv=cluster.namesrv) as producer:
            producer.send(message(topic, f"from {driver.name}", tags="t", properties={"by": driver.name}))
    for driver in (node, java_json):
        with consume(driver, cluster, topic) as consumer:
            got = consumer.received(2)
        assert {each["body"]: each["properties"]["by"] for each in got} == {
            f"from {each.name}": each.name for each in (node, java_json)
        }
