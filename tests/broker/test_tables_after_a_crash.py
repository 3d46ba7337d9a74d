"""Topics and groups after a crash, after a change of the configuration, and out of damaged files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.saved_tables import SavedTable
from pymq.errors import ResponseError, StoreFull
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.bodies.topic_config import TopicConfig
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteTopicInBrokerRequest,
    GetTopicConfigRequest,
    GetTopicStatsInfoRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker


@pytest.fixture
def crash(tmp_path: Path) -> Callable[[], str]:
    """Gives the store as a broker that is killed now would leave it."""

    def copy() -> str:
        number = len(list(tmp_path.glob("crashed*")))
        target = tmp_path / f"crashed{number}"
        return str(shutil.copytree(tmp_path / "store", target, ignore=shutil.ignore_patterns("*.tmp")))

    return copy


def table_of(store: str, name: str) -> dict[str, Any]:
    """A saved table as it lies on the disk."""
    table: dict[str, Any] = json.loads(Path(store, "config", f"{name}.json").read_text())
    return table


async def topic_of(pool: Pool, broker: Broker, name: str) -> TopicConfig:
    """One topic's configuration."""
    return TopicConfig.decode((await pool.call(broker.address, GetTopicConfigRequest(name))).body)


async def test_a_topic_made_by_its_first_send_is_there_after_a_crash(
    start_broker: StartBroker,
    pool: Pool,
    tmp_path: Path,
    crash: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = await start_broker()
    await pool.call(first.address, CreateTopicRequest("early", 1, 1, 6))  # so there is a table on the disk
    saved = tmp_path / "store/config/topics.json"
    as_before = shutil.copy(saved, tmp_path / "topics.json")
    await send(pool, first.address, "fresh", b"one", queue_id=1)
    await send(pool, first.address, "wide", b"two", queue_id=6, default_topic_queue_nums=8)
    await send(pool, first.address, "%RETRY%g", b"three", default_topic_queue_nums=1)
    store = crash()
    shutil.copy(as_before, f"{store}/config/topics.json")  # a slow machine may have saved again by now

    second = await start_broker(store_path_root_dir=store, auto_create_topic_enable=False)

    assert [r.body for r in records(await pull(pool, second.address, "fresh", queue_id=1))] == [b"one"]
    assert (await topic_of(pool, second, "fresh")).write_queue_nums == 4
    assert (await topic_of(pool, second, "wide")).read_queue_nums == 7
    assert (await topic_of(pool, second, "%RETRY%g")).read_queue_nums == 1
    assert "topic fresh has messages but was not saved" in caplog.text


async def test_a_deleted_topic_does_not_come_back_by_a_crash(
    start_broker: StartBroker, pool: Pool, crash: Callable[[], str]
) -> None:
    first = await start_broker()
    await send(pool, first.address, "gone", b"x")
    await pool.call(first.address, DeleteTopicInBrokerRequest("gone"))

    second = await start_broker(store_path_root_dir=crash())

    with pytest.raises(ResponseError) as refused:
        await topic_of(pool, second, "gone")
    assert refused.value.code == ResponseCode.TOPIC_NOT_EXIST


async def test_what_is_set_up_by_request_is_on_the_disk_when_the_answer_comes(
    broker: Broker, pool: Pool, crash: Callable[[], str]
) -> None:
    group = SubscriptionGroupConfig("g", retry_max_times=3)
    await pool.call(broker.address, CreateTopicRequest("made", 3, 2, 6))
    await pool.call(broker.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
    store = crash()
    assert table_of(store, "topics")["topicConfigTable"]["made"]["readQueueNums"] == 3
    assert table_of(store, "subscriptionGroup")["subscriptionGroupTable"]["g"]["retryMaxTimes"] == 3


class FullDisk(SystemDisk):
    """Takes no table while it is full."""

    full = True

    async def write_text(self, path: str, text: str) -> None:
        if self.full:
            raise StoreFull("no room")
        await super().write_text(path, text)


@pytest.mark.parametrize("failed_before", [False, True])
async def test_at_the_end_the_log_says_that_what_cannot_be_saved_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failed_before: bool
) -> None:
    offsets = ConsumerOffsetTable()
    saved = SavedTable(str(tmp_path / "t.json"), offsets, FullDisk(), interval_s=60)
    if failed_before:
        with pytest.raises(StoreFull):
            await saved.save()
    caplog.clear()
    saved.changed()
    await saved.close()
    assert "t.json was not saved at the end, what changed since it last was is lost: no room" in caplog.text
    assert "trying on" not in caplog.text


async def test_a_request_is_told_when_its_table_cannot_be_saved(tmp_path: Path) -> None:
    disk, offsets = FullDisk(), ConsumerOffsetTable()
    saved = SavedTable(str(tmp_path / "t.json"), offsets, disk, interval_s=60)
    with pytest.raises(StoreFull):
        await saved.save()
    disk.full = False
    offsets.commit("g", "t", 0, 7)
    await saved.save()
    assert '"t@g"' in (tmp_path / "t.json").read_text()
    await saved.close()


async def test_auto_creation_that_is_switched_off_stays_off_with_an_old_table(
    start_broker: StartBroker, pool: Pool
) -> None:
    first = await start_broker()
    await pool.call(first.address, CreateTopicRequest("made", 1, 1, 6))
    await first.__aexit__(None, None, None)
    second = await start_broker(
        auto_create_topic_enable=False, cluster_topic_enable=False, broker_topic_enable=False
    )
    for template in ("TBW102", "DefaultCluster", "broker-a"):
        with pytest.raises(ResponseError) as refused:
            await send(pool, second.address, "other", b"x", default_topic=template)
        assert refused.value.code == ResponseCode.TOPIC_NOT_EXIST
    with pytest.raises(ResponseError, match="conflict with system topic"):
        await pool.call(second.address, CreateTopicRequest("TBW102", 8, 8, 7))
    await send(pool, second.address, "made", b"x")


async def test_numbers_out_of_bounds_in_the_files_are_bounded(
    start_broker: StartBroker, pool: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start_broker()
    await pool.call(first.address, CreateTopicRequest("made", 1, 1, 6))
    await pool.call(
        first.address,
        UpdateAndCreateSubscriptionGroupRequest(),
        SubscriptionGroupConfig("g").encode(),
    )
    await first.__aexit__(None, None, None)
    for name, table, key, changes in (
        (
            "topics",
            "topicConfigTable",
            "made",
            {"readQueueNums": 2**31 - 1, "writeQueueNums": -1, "perm": -2},
        ),
        ("subscriptionGroup", "subscriptionGroupTable", "g", {"retryQueueNums": 2**31 - 1}),
    ):
        content = table_of(str(tmp_path / "store"), name)
        content[table][key].update(changes)
        (tmp_path / "store/config" / f"{name}.json").write_text(json.dumps(content))

    second = await start_broker()

    made = await topic_of(pool, second, "made")
    assert (made.read_queue_nums, made.write_queue_nums, made.perm) == (65_535, 0, 6)
    await pool.call(second.address, GetTopicStatsInfoRequest("made"))
    assert "topic made: readQueueNums=2147483647" in caplog.text
    assert "group g: retryQueueNums=2147483647 taken as 65535" in caplog.text
