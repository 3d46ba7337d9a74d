"""SQL92 filters with the real thing: Java's consumers on pymq, pymq's on Apache, and the file in between."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import pymq
from tests.interop.apache import apache_broker
from tests.interop.conftest import ApacheClusters, JavaDrivers, fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster, Node, wait_until
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually, place, python_client, take, text, texts

EXPRESSION = "a BETWEEN 3 AND 7 AND (region IN ('north', 'it''s') OR region IS NULL) AND NOT (TAGS = 'odd')"
WANTED = ["4", "6"]
ON: dict[str, Any] = {"enablePropertyFilter": "true"}


@pytest.fixture(scope="module")
def filtering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """pymq with filters switched on."""
    folder = tmp_path_factory.mktemp("pymq-filters")
    name_server = pymq_name_server(folder / "namesrv")
    made = Cluster("pymq", name_server, pymq_broker(folder / "broker", [name_server], **ON))
    yield made
    made.kill()


def fields(number: int) -> dict[str, Any]:
    """Tags and properties of the message with this number."""
    regions = ("north", None, "it's", "south", "it's", "north", None, "north", "south")
    region = regions[number % len(regions)]
    own = {"a": str(number), **({"region": region} if region else {})}
    return {"tags": "odd" if number % 2 else "even", "properties": own}


def send(java: Driver, cluster: Cluster, topic: str) -> None:
    """Ten messages with the numbers 0 to 9."""
    with java.start("start_producer", group=fresh("producer"), namesrv=cluster.namesrv) as producer:
        producer.send(*[message(topic, str(number), **fields(number)) for number in range(10)])


def consume(java: Driver, cluster: Cluster, topic: str, sql: str, group: str = "") -> Started:
    return java.start(
        "start_consumer",
        group=group or fresh("group"),
        namesrv=cluster.namesrv,
        topic=topic,
        sql=sql,
        **{"from": "FIRST_OFFSET"},
    )


def bodies(received: list[dict[str, Any]]) -> list[str]:
    return sorted(each["body"] for each in received)


def test_a_java_consumer_gets_what_its_expression_wants(java_json: Driver, filtering: Cluster) -> None:
    topic = fresh("sql")
    send(java_json, filtering, topic)
    with consume(java_json, filtering, topic, EXPRESSION) as consumer:
        assert bodies(consumer.received(2)) == WANTED
        send(java_json, filtering, topic)
        assert bodies(consumer.received(4)) == sorted(WANTED * 2)
        time.sleep(0.3)
        assert len(consumer.received(4)) == 4


def test_a_java_consumer_is_told_at_its_start_what_is_wrong(java_json: Driver, filtering: Cluster) -> None:
    topic = fresh("sql")
    send(java_json, filtering, topic)
    with pytest.raises(DriverError, match=r"SQL92 filter, character 5: .* \[a > \^> 1\]"):
        consume(java_json, filtering, topic, "a > > 1")


def test_a_java_consumer_is_told_that_filtering_is_off(java_json: Driver, cluster: Cluster) -> None:
    topic = fresh("sql")
    send(java_json, cluster, topic)
    with pytest.raises(DriverError, match=r"filter message by SQL92 \(enablePropertyFilter=false\)"):
        consume(java_json, cluster, topic, "a > 1")


def test_a_running_java_consumer_changes_its_expression(java_json: Driver, filtering: Cluster) -> None:
    topic = fresh("sql")
    send(java_json, filtering, topic)
    with consume(java_json, filtering, topic, "a = 1") as consumer:
        assert bodies(consumer.received(1)) == ["1"]
        time.sleep(0.01)  # versions of subscriptions are milliseconds
        consumer.ask("subscribe_sql", topic=topic, sql=f"a = 2 OR a > 8 OR TAGS = '{topic}'")
        # The client tells its brokers with some heartbeat; what comes before that is filtered as it was.
        kept = filtering.broker.folder / "store/config/consumerFilter.json"
        wait_until("filters are kept", kept.exists)
        wait_until("the new filter is kept", lambda: f"TAGS = '{topic}'" in kept.read_text())
        send(java_json, filtering, topic)
        assert bodies(consumer.received(3)) == ["1", "2", "9"]


async def test_java_and_python_share_a_filtering_group(java_drivers: JavaDrivers, filtering: Cluster) -> None:
    java_json = java_drivers("4.9.4")
    topic, group = fresh("sql"), fresh("group")
    await asyncio.to_thread(send, java_json, filtering, topic)
    started = await asyncio.to_thread(consume, java_json, filtering, topic, EXPRESSION, group)
    async with started as java, python_client(filtering) as client:
        assert bodies(await java.received_async(2)) == WANTED
        async with client.consumer(group, topic, sql=EXPRESSION) as consumer:
            await eventually("a share of the queues", lambda: asyncio.sleep(0, consumer.queues()))
            for _ in range(8):
                await asyncio.to_thread(send, java_json, filtering, topic)
            ours: list[pymq.ReceivedMessage] = []
            theirs: list[dict[str, Any]] = []
            # A message may come twice when its queue changes hands.
            places: set[tuple[int, int]] = set()

            async def all_came() -> bool:
                ours.extend(await take(consumer, 16, seconds=0.5))
                theirs[:] = await java.received_async(0)
                places.update(place(each)[1:] for each in ours)
                places.update((each["queue_id"], each["queue_offset"]) for each in theirs)
                return len(places) >= 18

            await eventually("all came", all_came, 60)
    assert ours
    assert {text(each) for each in ours} | set(bodies(theirs)) == set(WANTED)
    assert len(places) == 18


# -- pymq's client on Apache, and consumerFilter.json from hand to hand -------------------------------


class Exchange:
    """One store folder, and the broker that has it."""

    def __init__(self, folder: Path, name_server: Node) -> None:
        self.folder = folder
        self.name_server = name_server
        self._node: Node | None = None

    async def start(self, *, apache: bool) -> Cluster:
        """Give the folder to a broker that filters."""

        def begin() -> Node:
            if apache:
                return apache_broker("4.9.4", self.folder, [self.name_server], **ON)
            return pymq_broker(self.folder, [self.name_server], **ON)

        self._node = await asyncio.to_thread(begin)
        return Cluster("exchange", self.name_server, self._node)

    async def stop(self) -> dict[str, dict[str, Any]]:
        """End it; gives the filters in the file: group → its data."""
        assert self._node is not None
        await asyncio.to_thread(self._node.stop)
        text = (self.folder / "store/config/consumerFilter.json").read_text()
        table = json.loads(text)["filterDataByTopic"]
        return {group: data for entry in table.values() for group, data in entry["groupFilterData"].items()}

    def log(self) -> str:
        """What the broker has logged."""
        assert self._node is not None
        return self._node.server.log.read_text(errors="replace")


@pytest.fixture
async def exchange(tmp_path: Path) -> AsyncIterator[Exchange]:
    name_server = await asyncio.to_thread(pymq_name_server, tmp_path / "namesrv")
    made = Exchange(tmp_path / "broker", name_server)
    yield made
    if made._node is not None:
        made._node.kill()
    name_server.kill()


async def test_python_filters_on_apache_and_the_filters_go_from_hand_to_hand(
    exchange: Exchange, apache_clusters: ApacheClusters
) -> None:
    topic = fresh("sql")

    async def life(cluster: Cluster, group: str, sql: str, count: int) -> list[str]:
        """Let a consumer of a group filter what is stored; gives what it got."""
        async with (
            python_client(cluster) as client,
            client.consumer(group, topic, sql=sql, start="first") as consumer,
        ):
            got = texts(await take(consumer, count))
            assert await consumer.fetch(wait=0.3) == []
            return got

    apache = await exchange.start(apache=True)
    async with python_client(apache) as client:
        for number in range(10):
            await client.send(topic, str(number), **fields(number))
        with pytest.raises(pymq.FilterRefused, match="Encountered") as refused:
            await client.consumer(fresh("group"), topic, sql="a > > 1").start()
        assert refused.value.code == 23
    assert await life(apache, "by-apache", EXPRESSION, 2) == WANTED
    theirs = await exchange.stop()
    assert theirs["by-apache"]["expression"] == EXPRESSION

    ours = await exchange.start(apache=False)
    assert await life(ours, "by-pymq", "a > 7 AND note IS NULL", 2) == ["8", "9"]
    assert await life(ours, "by-apache", "a = 1 -- a newer version\n", 0) == []
    mine = await exchange.stop()
    assert mine.keys() == {"by-apache", "by-pymq"}
    assert mine["by-pymq"].keys() == theirs["by-apache"].keys()
    assert mine["by-apache"]["bloomFilterData"] == theirs["by-apache"]["bloomFilterData"]
    assert mine["by-apache"]["clientVersion"] > theirs["by-apache"]["clientVersion"]

    await exchange.start(apache=True)
    log = exchange.log()
    for group in mine:
        assert f"load exist consumer filter data: ConsumerFilterData[consumerGroup={group}," in log
    assert "Bloom filter is changed" not in log  # then it forgets them all
    assert "load filter data error" not in log

    # An Apache broker that has filtering off does not name the key: the client does.
    off = await asyncio.to_thread(apache_clusters, "4.9.4")
    async with python_client(off) as client:
        await client.send(topic, "x")
        with pytest.raises(pymq.FilterRefused, match="Set enablePropertyFilter=true"):
            await client.consumer(fresh("group"), topic, sql="a = 1").start()
