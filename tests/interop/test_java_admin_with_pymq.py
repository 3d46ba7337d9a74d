"""Java's admin API, of two versions and with both header serialisations, against pymq's servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster, wait_until

TOPIC_NOT_EXIST, QUERY_NOT_FOUND, CONSUMER_NOT_ONLINE = 17, 22, 206
SHOWN_BY_MQADMIN = (
    "brokerVersionDesc",
    "bootTimestamp",
    "putTps",
    "getTransferedTps",
    "msgPutTotalTodayNow",
    "msgGetTotalTodayNow",
    "commitLogMaxOffset",
    "commitLogDiskRatio",
)


@pytest.fixture(scope="module")
def tools(java: Driver, cluster: Cluster) -> Iterator[Started]:
    with java.start("start_admin", namesrv=cluster.namesrv) as started:
        yield started


def test_topics_are_made_shown_changed_and_deleted(tools: Started, cluster: Cluster) -> None:
    topic, addr = fresh("made"), cluster.broker.address
    tools.admin("create_topic", addr=addr, topic=topic, queues=3)
    route = tools.admin("topic_route", topic=topic)  # the broker answers after it told the name server
    assert route["brokers"] == [{"cluster": "DefaultCluster", "name": "broker-a", "addrs": {"0": addr}}]
    assert route["queues"] == [{"broker": "broker-a", "read_queues": 3, "write_queues": 3, "perm": 6}]
    assert topic in tools.admin("topic_list")
    assert tools.admin("topic_configs", addr=addr)[topic] == {"read_queues": 3, "write_queues": 3, "perm": 6}

    tools.admin("create_topic", addr=addr, topic=topic, queues=5, perm=4)
    [queues] = tools.admin("topic_route", topic=topic)["queues"]
    assert (queues["read_queues"], queues["perm"]) == (5, 4)

    tools.admin("delete_topic", addr=addr, topic=topic)
    tools.admin("delete_topic_in_name_server", addr=cluster.namesrv, cluster="DefaultCluster", topic=topic)
    with pytest.raises(DriverError) as gone:
        tools.admin("topic_route", topic=topic)
    assert gone.value.code == TOPIC_NOT_EXIST
    assert topic not in tools.admin("topic_list")
    assert topic not in tools.admin("topic_configs", addr=addr)


def test_groups_are_made_shown_and_deleted(tools: Started, cluster: Cluster) -> None:
    group, addr = fresh("group"), cluster.broker.address
    tools.admin("create_group", addr=addr, group=group, retry_max_times=5, consume_enable=False)
    made = tools.admin("groups", addr=addr)[group]
    assert made == {"retry_max_times": 5, "retry_queues": 1, "consume_enable": False}
    tools.admin("delete_group", addr=addr, group=group)
    assert group not in tools.admin("groups", addr=addr)


def test_the_cluster_and_its_broker_show_themselves(tools: Started, cluster: Cluster) -> None:
    addr = cluster.broker.address
    info = tools.admin("cluster_info")
    assert info == {"clusters": {"DefaultCluster": ["broker-a"]}, "brokers": {"broker-a": {"0": addr}}}
    runtime = tools.admin("runtime_stats", addr=addr)
    for key in SHOWN_BY_MQADMIN:
        assert runtime.get(key), key


def test_statistics_follow_what_is_sent_and_consumed(java: Driver, tools: Started, cluster: Cluster) -> None:
    topic, group = fresh("counted"), fresh("counting")
    tools.admin("create_topic", addr=cluster.broker.address, topic=topic, queues=2)
    with java.start("start_producer", group="counted", namesrv=cluster.namesrv) as producer:
        sent = producer.send(*(message(topic, str(i), broker="broker-a", queue_id=i % 2) for i in range(6)))
    assert len(sent) == 6
    rows = tools.admin("topic_stats", topic=topic)
    assert [(row["queue_id"], row["min"], row["max"]) for row in rows] == [(0, 0, 3), (1, 0, 3)]
    assert all(row["last_ms"] > 0 for row in rows)

    started = {"group": group, "topic": topic, "from": "FIRST_OFFSET"}
    with java.start("start_consumer", namesrv=cluster.namesrv, **started) as consumer:
        assert len(consumer.received(6)) == 6
        seen = tools.admin("consumer_connection", group=group)
        assert [each["client_id"] for each in seen["connections"]] == [consumer.client_id]
        assert seen["connections"][0]["language"] == "JAVA"
        assert (seen["from"], seen["model"]) == ("CONSUME_FROM_FIRST_OFFSET", "CLUSTERING")
        assert sorted(seen["topics"]) == [f"%RETRY%{group}", topic]

        def progress() -> list[tuple[int, int]]:
            # Again and again, as consumers do: Apache's brokers may lose the first ones of a new group.
            consumer.ask("commit_all")
            try:
                rows = tools.admin("consume_stats", group=group)
            except DriverError as error:
                if error.code != CONSUMER_NOT_ONLINE:
                    raise
                return []  # no offset is committed yet
            return [(row["broker_offset"], row["consumer_offset"]) for row in rows if row["topic"] == topic]

        wait_until("what was consumed is committed", lambda: progress() == [(3, 3), (3, 3)])


def test_name_servers_keep_settings_of_others(tools: Started, cluster: Cluster) -> None:
    namespace = fresh("namespace")
    tools.admin("put_kv", namespace=namespace, key="greeting", value="你好")
    tools.admin("put_kv", namespace=namespace, key="other", value="2")
    assert tools.admin("get_kv", namespace=namespace, key="greeting") == "你好"
    assert tools.admin("list_kv", namespace=namespace) == {"greeting": "你好", "other": "2"}
    tools.admin("delete_kv", namespace=namespace, key="greeting")
    with pytest.raises(DriverError) as gone:
        tools.admin("get_kv", namespace=namespace, key="greeting")
    assert gone.value.code == QUERY_NOT_FOUND


def test_name_servers_show_and_change_their_own_settings(tools: Started, cluster: Cluster) -> None:
    shown = tools.admin("name_server_config", addr=cluster.namesrv)
    assert shown["listenPort"] == str(cluster.name_server.port)
    for value in ("true", "false"):
        tools.admin(
            "update_name_server_config", addr=cluster.namesrv, properties={"orderMessageEnable": value}
        )
        assert tools.admin("name_server_config", addr=cluster.namesrv)["orderMessageEnable"] == value


def test_mqadmin_shows_all_producers(java_drivers: JavaDrivers, cluster: Cluster) -> None:
    java, group, topic = java_drivers("4.9.4"), fresh("producers"), fresh("made")
    with java.start("start_producer", group=group, namesrv=cluster.namesrv) as producer:
        producer.send(message(topic, "x"))

        def printed() -> str:
            """It prints straight to the standard output, one line a group."""
            shown: str = java.ask(
                "mqadmin",
                namesrv=cluster.namesrv,
                command="producer.ProducerSubCommand",
                args=["-b", cluster.broker.address],
            )
            return shown

        wait_until(f"{group} is shown", lambda: group in printed())
        [line] = [line for line in printed().splitlines() if group in line]
        assert "127.0.0.1:" in line
        assert "JAVA" in line
