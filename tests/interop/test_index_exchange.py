"""Index files that pymq left serve Apache's broker, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.interop.apache import apache_broker
from tests.interop.conftest import JavaDrivers, fresh, message
from tests.interop.drivers import Driver, DriverError, Started
from tests.interop.processes import Node, wait_until
from tests.interop.pymq_servers import pymq_broker, pymq_name_server

NO_MESSAGE = 208


def send(java: Driver, name_server: Node, topic: str, numbers: range) -> list[str]:
    """Send messages, of which each has a key of its own and one that all have; gives their ids."""
    with java.start("start_producer", group="movers", namesrv=name_server.address) as producer:
        sent = producer.send(*(message(topic, str(n), keys=f"o-{n} all", queue_id=0) for n in numbers))
    return [each["msg_id"] for each in sent]


def make_topic(java: Driver, name_server: Node, broker: Node, topic: str) -> None:
    """Make it by request: one that a send makes may be unknown after a kill."""
    with java.start("start_admin", namesrv=name_server.address) as admin:
        admin.admin("create_topic", addr=broker.address, topic=topic, queues=1)


def found(reader: Started, topic: str, key: str) -> list[str]:
    try:
        got: list[dict[str, Any]] = reader.ask("query", topic=topic, key=key)
    except DriverError as error:
        if error.code != NO_MESSAGE:
            raise
        return []
    return sorted((each["body"] for each in got), key=int)


def check_all_are_found(java: Driver, name_server: Node, topic: str, ids: list[str]) -> None:
    with java.start("start_reader", group=fresh("mover"), namesrv=name_server.address) as reader:
        everything = [str(n) for n in range(len(ids))]
        wait_until("all are found by the key they share", lambda: found(reader, topic, "all") == everything)
        for n, msg_id in enumerate(ids):
            assert found(reader, topic, f"o-{n}") == [str(n)]
            assert reader.ask("view_unique", topic=topic, msg_id=msg_id)["body"] == str(n)


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_one_index_serves_pymq_and_apache_in_turn(
    clean: bool, java_version: str, java_drivers: JavaDrivers, tmp_path: Path
) -> None:
    java, topic = java_drivers("4.9.4"), fresh("moved")
    name_server = pymq_name_server(tmp_path / "namesrv")
    folder = tmp_path / "broker"
    ids: list[str] = []
    index = folder / "store" / "index"
    kept: list[str] = []
    try:
        for turn in range(3):
            is_ours = turn != 1
            broker = (
                pymq_broker(folder, [name_server])
                if is_ours
                else apache_broker(java_version, folder, [name_server])
            )
            if turn == 0:
                make_topic(java, name_server, broker, topic)
            else:
                check_all_are_found(java, name_server, topic, ids)
            ids += send(java, name_server, topic, range(10 * turn, 10 * turn + 10))
            check_all_are_found(java, name_server, topic, ids)
            names = sorted(path.name for path in index.iterdir())
            if clean:
                assert names == (kept or names), "the file that the other left is used on"
                broker.stop()
            else:
                broker.kill()
            kept = names
    finally:
        name_server.kill()
