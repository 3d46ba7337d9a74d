"""Java clients, of two versions and with both header serialisations, find messages by key and by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.interop.conftest import fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Cluster, wait_until

NO_MESSAGE, SENT = 208, 8  # the client's own code; how many messages `stored` has


@pytest.fixture(scope="module")
def reader(java: Driver, cluster: Cluster) -> Iterator[Started]:
    with java.start("start_reader", group=fresh("finder"), namesrv=cluster.namesrv) as started:
        yield started


@pytest.fixture(scope="module")
def topic(java: Driver, admin: Started, cluster: Cluster) -> str:
    """One for each client: a query finds what others sent, too."""
    name = fresh("found")
    admin.admin("create_topic", addr=cluster.broker.address, topic=name, queues=2)
    return name


@pytest.fixture(scope="module")
def stored(java: Driver, cluster: Cluster, reader: Started, topic: str) -> list[dict[str, Any]]:
    """What was sent: four messages one by one, four in a batch; with keys of their own and shared ones."""

    def one(i: int) -> dict[str, Any]:
        return message(topic, f"消息 {i}", keys=f"order-{i} 键-{i % 2} shared", tags="t")

    with java.start("start_producer", group="finders", namesrv=cluster.namesrv) as producer:
        results = producer.send(*map(one, range(4)))
        batch = producer.send(*map(one, range(4, SENT)), mode="batch")
    ids = [(each["msg_id"], each["offset_msg_id"]) for each in results]
    ids += zip(batch["msg_id"].split(","), batch["offset_msg_id"].split(","), strict=True)
    wait_until("all are indexed", lambda: len(found(reader, topic, "shared")) == SENT)
    return [one(i) | {"msg_id": msg_id, "offset_msg_id": own} for i, (msg_id, own) in enumerate(ids)]


def found(reader: Started, topic: str, key: str, **fields: Any) -> list[dict[str, Any]]:
    """What a query gives; nothing where the client throws that there is none."""
    try:
        got: list[dict[str, Any]] = reader.ask("query", topic=topic, key=key, **fields)
    except DriverError as error:
        if error.code != NO_MESSAGE:
            raise
        return []
    return got


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    return sorted(each["body"] for each in messages)


def test_messages_are_found_by_each_of_their_keys(
    reader: Started, topic: str, stored: list[dict[str, Any]]
) -> None:
    for i, sent in enumerate(stored):
        [got] = found(reader, topic, f"order-{i}")
        assert (got["body"], got["msg_id"], got["keys"]) == (sent["body"], sent["msg_id"], sent["keys"])
    assert bodies(found(reader, topic, "键-1")) == bodies(stored[1::2])
    assert bodies(found(reader, topic, "shared")) == bodies(stored)


def test_messages_are_found_by_their_unique_id(
    reader: Started, topic: str, stored: list[dict[str, Any]]
) -> None:
    for sent in stored:
        got = reader.ask("view_unique", topic=topic, msg_id=sent["msg_id"])
        assert (got["body"], got["msg_id"]) == (sent["body"], sent["msg_id"])
        assert reader.ask("view", offset_msg_id=sent["offset_msg_id"])["body"] == sent["body"]


def test_a_query_keeps_to_its_time_and_its_number(
    reader: Started, topic: str, stored: list[dict[str, Any]]
) -> None:
    all_found = found(reader, topic, "shared")
    last_ms = max(each["store_ms"] for each in all_found)
    first_ms = min(each["store_ms"] for each in all_found)
    assert found(reader, topic, "shared", begin_ms=last_ms + 5_000) == []
    assert found(reader, topic, "shared", end_ms=first_ms - 5_000) == []
    assert bodies(
        found(reader, topic, "shared", begin_ms=first_ms - 5_000, end_ms=last_ms + 5_000)
    ) == bodies(stored)
    assert bodies(found(reader, topic, "shared", max=3)) == bodies(stored[-3:])  # the newest


def test_what_does_not_exist_is_not_found(reader: Started, topic: str, stored: list[dict[str, Any]]) -> None:
    def nothing(ask: Callable[[], object]) -> None:
        with pytest.raises(DriverError) as error:
            ask()
        assert error.value.code == NO_MESSAGE

    nothing(lambda: reader.ask("query", topic=topic, key="no such key"))
    nothing(lambda: reader.ask("query", topic=topic, key="order-1 键-1"))  # all KEYS are no key
