"""Name servers and brokers of both makers, mixed: each is to the other as its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.interop.apache import apache_broker, apache_name_server
from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster, Node, registered, wait_until
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import place, python_client, take, text

APACHE = "4.9.4"
FROM_BOTH = ["by java", "by python"]


@pytest.fixture(scope="session")
def name_servers(tmp_path_factory: pytest.TempPathFactory, java_drivers: JavaDrivers) -> Iterator[list[Node]]:
    """pymq's and Apache's."""
    folder = tmp_path_factory.mktemp("name-servers")
    ours = pymq_name_server(folder / "pymq")
    theirs = apache_name_server(APACHE, folder / "apache")
    yield [ours, theirs]
    theirs.kill()
    ours.kill()


@pytest.fixture(scope="session")
def ours_with_apache_broker(
    tmp_path_factory: pytest.TempPathFactory, name_servers: list[Node]
) -> Iterator[Cluster]:
    """pymq's name server knowing an Apache broker, which Apache's name server knows too."""
    folder = tmp_path_factory.mktemp("apache-broker")
    broker = apache_broker(APACHE, folder, name_servers, name="broker-apache")
    yield Cluster("pymq's name server, Apache's broker", name_servers[0], broker)
    broker.kill()


@pytest.fixture(scope="session")
def theirs_with_pymq_broker(
    tmp_path_factory: pytest.TempPathFactory, name_servers: list[Node]
) -> Iterator[Cluster]:
    """Apache's name server knowing a pymq broker, which pymq's name server knows too."""
    broker = pymq_broker(tmp_path_factory.mktemp("pymq-broker"), name_servers, name="broker-pymq")
    yield Cluster("Apache's name server, pymq's broker", name_servers[1], broker)
    broker.kill()


async def java_and_python_use(cluster: Cluster, java: Driver) -> None:
    """Both send to a topic of the cluster's broker, and both get all of it."""
    topic = fresh("both")
    async with await java.start_async("start_admin", namesrv=cluster.namesrv) as admin:
        create = partial(admin.admin, "create_topic", addr=cluster.broker.address, topic=topic, queues=4)
        await asyncio.to_thread(create)
    async with python_client(cluster) as python:
        async with await java.start_async(
            "start_producer", group="java-producer", namesrv=cluster.namesrv
        ) as producer:
            [by_java] = await producer.send_async(message(topic, "by java", tags="t"))
        by_python = await python.send(topic, "by python", tags="t")
        settings = {"group": fresh("java-group"), "from": "FIRST_OFFSET", "topic": topic}
        async with await java.start_async("start_consumer", namesrv=cluster.namesrv, **settings) as consumer:
            java_got = {each["body"]: each for each in await consumer.received_async(2)}
        async with python.consumer(fresh("python-group"), topic, start="first") as python_consumer:
            python_got = {text(each): each for each in await take(python_consumer, 2)}
    assert sorted(java_got) == sorted(python_got) == FROM_BOTH
    for got in (java_got["by java"], java_got["by python"]):
        assert got["store_host"] == f"/{cluster.broker.address}"
    assert java_got["by python"]["msg_id"] == by_python.msg_id
    assert python_got["by java"].msg_id == by_java["msg_id"]
    assert place(python_got["by python"]) == place(by_python)


async def test_clients_use_an_apache_broker_through_pymqs_name_server(
    ours_with_apache_broker: Cluster, java_json: Driver
) -> None:
    await java_and_python_use(ours_with_apache_broker, java_json)


async def test_clients_use_a_pymq_broker_through_apaches_name_server(
    theirs_with_pymq_broker: Cluster, java_json: Driver
) -> None:
    await java_and_python_use(theirs_with_pymq_broker, java_json)


def test_both_name_servers_say_the_same_of_both_brokers(
    name_servers: list[Node],
    ours_with_apache_broker: Cluster,
    theirs_with_pymq_broker: Cluster,
    java: Driver,
) -> None:
    brokers = {"broker-apache": ours_with_apache_broker.broker, "broker-pymq": theirs_with_pymq_broker.broker}
    made = {name: fresh("seen") for name in brokers}
    on_both = fresh("seen-on-both")
    with (
        java.start("start_admin", namesrv=name_servers[0].address) as ours,
        java.start("start_admin", namesrv=name_servers[1].address) as theirs,
    ):
        for queues, (name, broker) in enumerate(brokers.items(), start=2):
            ours.admin("create_topic", addr=broker.address, topic=made[name], queues=queues)
            ours.admin("create_topic", addr=broker.address, topic=on_both, queues=queues, perm=2 * queues)
        for topic in (*made.values(), on_both, "TBW102"):
            assert route(ours, topic) == route(theirs, topic)
        assert ours.admin("cluster_info") == theirs.admin("cluster_info")
        assert sorted(ours.admin("topic_list")) == sorted(theirs.admin("topic_list"))
        assert [each["name"] for each in route(ours, on_both)["brokers"]] == sorted(brokers)


def route(admin: Started, topic: str) -> dict[str, Any]:
    found = admin.admin("topic_route", topic=topic)
    return {
        "brokers": sorted(found["brokers"], key=lambda each: str(each["name"])),
        "queues": sorted(found["queues"], key=lambda each: str(each["broker"])),
    }


def known_to_all(broker: Node, name_servers: list[Node]) -> bool:
    return all(broker.address in registered(each.port) for each in name_servers)


def known_to_none(broker: Node, name_servers: list[Node]) -> bool:
    return not any(broker.address in registered(each.port) for each in name_servers)


def test_a_stopped_broker_says_goodbye_to_both(name_servers: list[Node], tmp_path: Path) -> None:
    broker = pymq_broker(tmp_path, name_servers, name="broker-stopped")
    assert known_to_all(broker, name_servers)
    assert broker.stop() == 0
    assert known_to_none(broker, name_servers)


@pytest.mark.parametrize("start", [pymq_broker, partial(apache_broker, APACHE)], ids=["pymq", "apache"])
def test_a_killed_broker_is_forgotten_by_both_at_once(
    name_servers: list[Node], tmp_path: Path, start: Callable[..., Node]
) -> None:
    broker = start(tmp_path, name_servers, name="broker-killed")
    assert known_to_all(broker, name_servers)
    broker.kill()
    wait_until("both have forgotten it", lambda: known_to_none(broker, name_servers), 30)


def test_a_broker_is_back_at_a_restarted_apache_name_server_in_seconds(
    tmp_path: Path, name_servers: list[Node]
) -> None:
    first = apache_name_server(APACHE, tmp_path / "namesrv")
    broker = pymq_broker(tmp_path / "broker", [name_servers[0], first], name="broker-patient")
    try:
        first.kill()
        second = apache_name_server(APACHE, tmp_path / "namesrv", port=first.port)
        try:
            wait_until("registered again", lambda: known_to_all(broker, [second]), 15)
        finally:
            second.kill()
        assert known_to_all(broker, name_servers[:1])
    finally:
        broker.kill()
