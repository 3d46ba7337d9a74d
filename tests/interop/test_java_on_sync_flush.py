"""Java's producer against a pymq broker that answers when a message is on the disk."""

from __future__ import annotations

from pathlib import Path

from tests.interop.conftest import fresh, message
from tests.interop.drivers import Driver
from tests.interop.pymq_servers import pymq_broker, pymq_name_server


def test_every_kind_of_send_is_answered_send_ok(java_json: Driver, tmp_path: Path) -> None:
    name_server = pymq_name_server(tmp_path / "namesrv")
    broker = pymq_broker(
        tmp_path / "broker", [name_server], flushDiskType="SYNC_FLUSH", syncFlushTimeout=60_000
    )
    topic = fresh("sync")
    try:
        with java_json.start("start_producer", group="sync", namesrv=name_server.address) as producer:
            results = producer.send(*(message(topic, f"sync {i}") for i in range(20)))
            results += producer.send(*(message(topic, f"async {i}") for i in range(20)), mode="async")
            results.append(producer.send(*(message(topic, f"batch {i}") for i in range(20)), mode="batch"))
    finally:
        broker.server.kill()
        name_server.server.kill()
    assert {each["status"] for each in results} == {"SEND_OK"}
