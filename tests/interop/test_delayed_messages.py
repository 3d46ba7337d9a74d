"""Delayed messages: what Java's producers send is stored as Apache's broker stores it, and either broker goes
on where the other one stopped or was killed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pymq.network import SystemNetwork
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.interop.apache import apache_broker
from tests.interop.conftest import ApacheClusters, fresh, message
from tests.interop.drivers import Driver, Started
from tests.interop.processes import Cluster, Node, wait_until
from tests.interop.pymq_servers import pymq_broker, pymq_name_server

SCHEDULE_TOPIC = "SCHEDULE_TOPIC_XXXX"
FIRST_LEVEL, ABOVE_THE_LAST = 1, 99
OF_THE_READER = {"MIN_OFFSET", "MAX_OFFSET"}
STORED = ("topic", "queue_id", "body", "tags", "keys", "flag", "sys_flag", "reconsume_times", "store_size")


@pytest.fixture(scope="module")
def clusters(cluster: Cluster, apache_clusters: ApacheClusters) -> dict[str, Cluster]:
    """pymq, and Apache as the measure."""
    return {"pymq": cluster, "apache": apache_clusters("4.9.4")}


def read_all(reader: Started, topic: str, queue_id: int) -> list[dict[str, Any]]:
    """All messages of a queue."""
    got: list[dict[str, Any]] = []
    while True:
        answer = reader.ask("pull", topic=topic, broker="broker-a", queue_id=queue_id, offset=len(got))
        if answer["status"] != "FOUND":
            return got
        got += answer["messages"]


def stored(each: dict[str, Any]) -> dict[str, Any]:
    """What two brokers must store alike of one message."""
    table = {name: value for name, value in each["properties"].items() if name not in OF_THE_READER}
    table.pop("UNIQ_KEY")
    return {name: each[name] for name in STORED} | {"properties": table}


def test_java_s_delayed_messages_are_stored_as_apache_stores_them(
    java_json: Driver, clusters: dict[str, Cluster]
) -> None:
    topic = fresh("delayed")
    seen: dict[str, list[dict[str, Any]]] = {}
    for kind, servers in clusters.items():
        with (
            java_json.start("start_producer", group="delaying", namesrv=servers.namesrv) as producer,
            java_json.start("start_reader", group=fresh("reader"), namesrv=servers.namesrv) as reader,
        ):
            producer.send(message(topic, "makes the topic"))
            place = {"broker": "broker-a", "queue_id": 3}
            full = {"tags": "late", "keys": "k1 k2", "flag": 7, "properties": {"customer": "Łukasz 消息"}}
            producer.send(message(topic, "none", delay_level=0, **full, **place))  # before one may be due
            sent = producer.send(
                message(topic, "full", delay_level=FIRST_LEVEL, **full, **place),
                message(topic, "bare", delay_level=FIRST_LEVEL, **place),
                message(topic, "capped", delay_level=ABOVE_THE_LAST, **full, **place),
            )
            assert [each["queue_id"] for each in sent] == [3] * 3

            def come(reader: Started = reader) -> list[dict[str, Any]]:
                # not the one that makes the topic, nor "capped", which comes where the last level is short
                return [
                    each for each in read_all(reader, topic, 3) if each["body"] in ("none", "full", "bare")
                ]

            wait_until("they are delivered", lambda come=come: len(come()) == 3)  # type: ignore[misc]
            waiting = [each for level in (1, 18) for each in read_all(reader, SCHEDULE_TOPIC, level - 1)]
            own = [each for each in waiting if each["properties"]["REAL_TOPIC"] == topic]
            delivered = come()
            assert [each["body"] for each in delivered] == ["none", "full", "bare"]
            late_ms = delivered[1]["store_ms"] - own[0]["store_ms"] - 1000
            assert 0 <= late_ms < 15_000
            assert delivered[1]["msg_id"] == own[0]["msg_id"] == sent[0]["msg_id"]
            assert own[0]["offset_msg_id"] == sent[0]["offset_msg_id"]
            seen[kind] = [stored(each) for each in own + delivered]
    assert len(seen["apache"]) == 6
    assert seen["pymq"] == seen["apache"]


# -- one store, two brokers


@pytest.fixture(scope="module")
def name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = pymq_name_server(tmp_path_factory.mktemp("namesrv"))
    yield node
    node.kill()


Start = Callable[[], Node]


@pytest.fixture
def starts(apache_clusters: ApacheClusters, tmp_path: Path, name_server: Node) -> dict[str, Start]:
    """Starts the one or the other broker on the same folder."""
    del apache_clusters  # skips where there is no Java
    return {
        "pymq": lambda: pymq_broker(tmp_path, [name_server], messageDelayLevel="1s " * 17 + "1s"),
        "apache": lambda: apache_broker("4.9.4", tmp_path, [name_server]),
    }


async def come(pool: Pool, broker: Node, count: int) -> Counter[bytes]:
    """How often each message came, once `count` different ones have; what there is after a minute."""
    found: list[bytes] = []
    end = time.monotonic() + 60
    while len(set(found)) < count and time.monotonic() < end:
        answer = await pull(pool, broker.address, "moved", offset=len(found))
        found += [record.body for record in records(answer)]
        if not records(answer):
            await asyncio.sleep(0.05)
    return Counter(found)


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize(("first", "second"), [("pymq", "apache"), ("apache", "pymq")])
async def test_one_broker_delivers_what_the_other_one_took(
    starts: dict[str, Start], first: str, second: str, how: str
) -> None:
    pool = Pool(SystemNetwork(), {})
    broker = await asyncio.to_thread(starts[first])
    try:
        await send(pool, broker.address, "moved", b"makes the topic", queue_id=1)
        for number in range(60):
            level = number % 2 + 1
            await send(pool, broker.address, "moved", b"%d" % number, properties=f"DELAY\x01{level}")
        assert len(await come(pool, broker, 60)) == 60
        for number in range(60, 100):
            await send(pool, broker.address, "moved", b"%d" % number, properties="DELAY\x011")
        await asyncio.to_thread(broker.stop if how == "stop" else broker.kill)
        broker = await asyncio.to_thread(starts[second])
        counts = await come(pool, broker, 100)
        assert counts.keys() == {b"%d" % number for number in range(100)}
        if (
            second == "pymq" or how == "stop"
        ):  # Apache's own start after a crash repeats what it does not know
            assert set(counts.values()) == {1}, "some were delivered again"
    finally:
        await pool.close()
        broker.kill()
