"""Tables with very many entries: a change costs its own size, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.saved_tables import SavedTable
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.errors import ResponseError, StoreFull
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig, SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import DataVersion, TopicConfig, TopicConfigSerializeWrapper
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteSubscriptionGroupRequest,
    DeleteTopicInBrokerRequest,
    GetSubscriptionGroupConfigRequest,
    GetTopicConfigRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.transport.pool import Pool
from tests.broker.conftest import StartBroker
from tests.sim import SimClock
from tests.store.sim_disk import SimDisk
from tests.store.sim_files import Content

PATH = "/s/config/topics.json"
CHANGES = PATH + ".changes"
NEVER_S = 3600.0


class CountingDisk(SimDisk):
    """Counts the bytes that tables write."""

    written = 0

    def append(self, path: str, data: bytes, offset: int) -> None:
        self.written += len(data)
        super().append(path, data, offset)

    async def write_text(self, path: str, text: str) -> None:
        self.written += len(text)
        await super().write_text(path, text)


def topic_table(count: int = 0) -> TopicTable:
    """A table of topics."""
    table = TopicTable(BrokerConfig(broker_name="b"), SimClock())
    for number in range(count):
        table.put(TopicConfig(f"topic-{number:06d}", 4, 4))
    return table


async def saved(disk: SimDisk, table: TopicTable, fold_s: float = NEVER_S) -> SavedTable:
    """The table, whole in its file and followed from now on."""
    if not disk.exists("/s/config"):
        disk.make_folder("/s/config", sync=True)
    file = SavedTable(PATH, table, disk, entries=table, interval_s=NEVER_S, fold_s=fold_s)
    file.changed()
    await file.save()
    table.on_change.append(file.changed)
    return file


def started(disk: SimDisk) -> tuple[TopicTable, SavedTable]:
    """The table as a broker has it after its start."""
    table = topic_table()
    file = SavedTable(PATH, table, disk, entries=table)
    file.load()
    return table, file


def names_in_file(disk: SimDisk) -> set[str]:
    """The topics that an Apache broker would find."""
    return set(json.loads(disk.read_bytes(PATH) or b"{}")["topicConfigTable"])


async def written_for_each(among: int, count: int = 200) -> float:
    """Bytes written for the creation, and later the deletion, of a topic among so many others."""
    disk, table = CountingDisk(), topic_table(among)
    file = await saved(disk, table)
    before = disk.written
    for number in range(count):
        table.put(TopicConfig(f"made-{number:06d}"))
        await file.save()
    for number in range(count):
        table.delete(f"made-{number:06d}")
        await file.save()
    return (disk.written - before) / (2 * count)


async def test_what_the_creation_of_a_topic_writes_does_not_grow_with_their_number() -> None:
    among_1_000, among_20_000 = await written_for_each(1_000), await written_for_each(20_000)
    assert among_20_000 <= 1.1 * among_1_000
    assert among_20_000 < 400


async def test_whoever_asks_at_the_same_time_shares_one_writing() -> None:
    disk, table = CountingDisk(), topic_table(1_000)
    file = await saved(disk, table)
    steps: list[tuple[str, str]] = []
    disk.before = lambda action, path: steps.append((action, path))

    async def create(number: int) -> None:
        table.put(TopicConfig(f"made-{number}"))
        await file.save()

    await asyncio.gather(*(create(number) for number in range(50)))
    assert steps.count(("write", CHANGES)) <= 2
    again, _ = started(disk.kill())
    assert set(again.names()) == set(table.names())


async def test_changes_are_in_the_tables_own_file_after_a_while_and_nothing_repeats_it() -> None:
    disk, table = CountingDisk(), topic_table(1_000)
    file = await saved(disk, table, fold_s=0.05)
    folded = asyncio.Event()
    disk.before = lambda action, path: folded.set() if (action, path) == ("rename", PATH) else None
    table.put(TopicConfig("made"))
    await file.save()
    assert "made" not in names_in_file(disk)
    async with asyncio.timeout(20):
        await folded.wait()
    assert "made" in names_in_file(disk)
    written = disk.written
    await asyncio.sleep(0.2)
    assert disk.written == written
    table.put(TopicConfig("next"))  # its changes are to the file as it is now
    await file.save()
    assert {"made", "next"} <= set(started(disk.kill())[0].names())


async def test_the_start_takes_the_changes_and_writes_them_into_the_tables_own_file() -> None:
    disk, table = SimDisk(), topic_table(1_000)
    file = await saved(disk, table)
    table.put(TopicConfig("made", 3, 2))
    await file.save()
    table.delete("topic-000007")
    await file.save()
    table.put(TopicConfig("made", 5, 2))
    await file.save()
    assert "made" not in names_in_file(disk), "it is the start that is looked at"

    again, _ = started(disk.kill())

    assert again.names() == [name for name in table.names() if name != "made"] + ["made"]
    made = again.get("made")
    assert made is not None
    assert made.read_queue_nums == 5
    assert again.data_version == table.data_version
    assert names_in_file(disk) == set(again.names())
    third, _ = started(disk.kill())
    assert third.snapshot().encode() == again.snapshot().encode()


async def test_after_a_clean_stop_there_is_one_whole_file() -> None:
    disk, table = SimDisk(), topic_table(1_000)
    file = await saved(disk, table)
    table.put(TopicConfig("told"))
    await file.save()
    table.put(TopicConfig("untold"))
    await file.close()
    assert {"told", "untold"} <= names_in_file(disk)
    assert not disk.exists(CHANGES)


async def test_a_last_line_torn_at_any_byte_costs_nothing_but_itself() -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("first"))
    await file.save()
    whole = len(disk.read_bytes(CHANGES) or b"")
    table.put(TopicConfig("second"))
    await file.save()
    changes, main = disk.read_bytes(CHANGES) or b"", disk.contents[PATH]
    for cut in range(whole, len(changes) - 1):  # all of it but its newline is whole
        for tail in (b"", bytes(len(changes) - cut)):
            disk.contents[PATH], disk.contents[CHANGES] = main, Content.of(changes[:cut] + tail)
            again, _ = started(disk)
            assert again.get("first") is not None
            assert again.get("second") is None, cut


async def test_a_damaged_line_is_named_and_the_others_count(caplog: pytest.LogCaptureFixture) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    for name in ("first", "second", "third"):
        table.put(TopicConfig(name))
        await file.save()
    changes = disk.read_bytes(CHANGES) or b""
    at = changes.index(b"second")
    disk.contents[CHANGES] = Content.of(changes[: at + 2] + b'"' + changes[at + 3 :])
    again, _ = started(disk)
    assert [again.get(name) is not None for name in ("first", "second", "third")] == [True, False, True]
    assert f"{CHANGES} is damaged, line 3 is left out" in caplog.text


async def written_elsewhere(disk: SimDisk, *, without: str = "") -> None:
    """An Apache broker makes two topics, and deletes one."""
    body = json.loads(disk.read_bytes(PATH) or b"")
    for number in range(2):
        name = f"by-apache-{number}"
        body["topicConfigTable"][name] = body["topicConfigTable"]["topic-000001"] | {"topicName": name}
    body["topicConfigTable"].pop(without, None)
    body["dataVersion"] = {"counter": body["dataVersion"]["counter"] + 3, "timestamp": SimClock().now_ms()}
    disk.write_atomically(PATH, json.dumps(body))


async def test_what_a_table_lacks_that_somebody_else_has_written_since_is_taken_from_the_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("late"))
    await file.save()
    table.put(TopicConfig("topic-000002", 9, 9))
    table.put(TopicConfig("gone"))
    await file.save()
    table.delete("gone")
    table.delete("topic-000003")
    await file.save()
    await written_elsewhere(disk, without="topic-000004")
    theirs = json.loads(disk.read_bytes(PATH) or b"")["dataVersion"]
    again, _ = started(disk.kill())
    assert {"late", "by-apache-0", "by-apache-1", "topic-000003"} <= set(again.names())
    assert not {"gone", "topic-000004"} & set(again.names())
    kept = again.get("topic-000002")
    assert kept is not None
    assert kept.read_queue_nums == 4  # what is in the file counts for more
    assert f"what it lacks is taken from {CHANGES}" in caplog.text
    assert again.data_version.counter > theirs["counter"]
    last, _ = started(disk.kill())
    assert set(last.names()) == set(again.names())
    assert caplog.text.count("what it lacks") == 1


async def test_a_copy_put_back_gets_what_was_acknowledged_since_its_changes_began(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    older = disk.contents[PATH]
    table.put(TopicConfig("early"))
    await file.close()
    file = await saved(disk, table)
    table.put(TopicConfig("late"))
    await file.save()
    disk.contents[PATH] = older
    again, _ = started(disk)
    assert (again.get("early"), again.get("late")) == (None, table.get("late"))
    assert f"what it lacks is taken from {CHANGES}" in caplog.text


async def test_what_was_deleted_after_its_change_was_folded_does_not_come_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("made"))
    await file.save()
    file.changed()
    await file.save()
    table.delete("made")
    file.changed()
    await file.save()
    again, _ = started(disk.kill())
    assert again.get("made") is None
    await written_elsewhere(disk)
    again, _ = started(disk.kill())
    assert again.get("made") is None
    assert caplog.text == ""


async def test_old_changes_beside_a_table_that_has_them_say_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.delete("topic-000001")
    await file.save()
    table.put(TopicConfig("topic-000001"))
    file.changed()
    await file.save()  # whole: what stands in the changes is old now
    assert disk.exists(CHANGES)
    again, _ = started(disk.kill())
    assert again.get("topic-000001") is not None
    assert caplog.text == ""


async def test_a_torn_table_starts_from_its_backup_and_the_changes_to_that() -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("made"))
    await file.save()
    file.changed()
    await file.save()
    disk.contents[PATH] = Content.of((disk.read_bytes(PATH) or b"")[:1000])
    again, _ = started(disk)
    assert set(again.names()) == set(table.names())


async def test_a_request_is_told_when_its_change_cannot_be_written_and_the_next_writes_the_table_whole() -> (
    None
):
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    disk.failing["write"] = StoreFull
    table.put(TopicConfig("made"))
    with pytest.raises(StoreFull):
        await file.save()
    disk.failing.clear()
    table.put(TopicConfig("next"))
    await file.save()
    assert {"made", "next"} <= names_in_file(disk)


async def test_a_start_on_a_full_disk_has_the_changes_and_writes_them_when_there_is_room(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("made"))
    await file.save()
    full = disk.kill()
    full.failing["write"] = StoreFull
    again, file = started(full)
    assert again.get("made") is not None
    assert f"{PATH} was not written" in caplog.text
    assert started(full)[0].get("made") is not None, "and so had another start"
    full.failing.clear()
    await file.save()
    assert "made" in names_in_file(full)


async def test_an_end_on_a_full_disk_loses_no_change_that_somebody_was_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    table.put(TopicConfig("made"))
    await file.save()
    disk.failing["write"] = StoreFull
    await file.close()
    assert f"the next start takes what is missing from {CHANGES}" in caplog.text
    disk.failing.clear()
    assert started(disk)[0].get("made") is not None


def a_large_store(folder: Path) -> None:
    """Tables of a broker with many topics and groups."""
    folder.mkdir(parents=True)
    topics = {f"topic-{n:05d}": TopicConfig(f"topic-{n:05d}", 4, 4) for n in range(1_000)}
    groups = {f"group-{n:05d}": SubscriptionGroupConfig(f"group-{n:05d}") for n in range(1_000)}
    version = DataVersion(7, 1_700_000_000_000)
    for name, body in (
        ("topics", TopicConfigSerializeWrapper(version, topics)),
        ("subscriptionGroup", SubscriptionGroupWrapper(version, groups)),
    ):
        (folder / f"{name}.json").write_bytes(body.encode())


async def test_topics_and_groups_by_request_outlast_a_kill_and_a_stop_among_many(
    start_broker: StartBroker, pool: Pool, tmp_path: Path
) -> None:
    config = tmp_path / "store/config"
    a_large_store(config)
    whole = (config / "topics.json").read_bytes()
    first = await start_broker()
    ask: Callable[..., Any] = pool.call
    await ask(first.address, CreateTopicRequest("made", 3, 2, 6))
    await ask(first.address, DeleteTopicInBrokerRequest("topic-00005"))
    await ask(first.address, UpdateAndCreateSubscriptionGroupRequest(), SubscriptionGroupConfig("g").encode())
    await ask(first.address, DeleteSubscriptionGroupRequest("group-00005"))
    assert (config / "topics.json").read_bytes() == whole
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "store", killed)
    await first.__aexit__(None, None, None)

    for store in (tmp_path / "store", killed):
        again = await start_broker(store_path_root_dir=str(store))
        made = TopicConfig.decode((await ask(again.address, GetTopicConfigRequest("made"))).body)
        assert (made.read_queue_nums, made.write_queue_nums) == (3, 2)
        await ask(again.address, GetSubscriptionGroupConfigRequest("g"))
        for request in (
            GetTopicConfigRequest("topic-00005"),
            GetSubscriptionGroupConfigRequest("group-00005"),
        ):
            with pytest.raises(ResponseError):
                await ask(again.address, request)
        saved_topics = json.loads((store / "config/topics.json").read_text())["topicConfigTable"]
        assert "made" in saved_topics, "already before the end of this broker"
        assert "topic-00005" not in saved_topics


async def test_groups_are_saved_by_the_entry_too() -> None:
    disk = CountingDisk()
    groups = SubscriptionGroups(BrokerConfig(broker_name="b"), SimClock())
    disk.make_folder("/s/config", sync=True)
    for number in range(2_000):
        groups.put(SubscriptionGroupConfig(f"group-{number}"))
    file = SavedTable(PATH, groups, disk, entries=groups, fold_s=NEVER_S)
    file.changed()
    await file.save()
    groups.on_change.append(file.changed)
    before = disk.written
    groups.put(SubscriptionGroupConfig("made", retry_max_times=3))
    await file.save()
    groups.delete("group-7")
    await file.save()
    assert disk.written - before < 1000
    again = SubscriptionGroups(BrokerConfig(broker_name="b"), SimClock())
    SavedTable(PATH, again, disk.kill(), entries=again).load()
    assert again.snapshot().encode() == groups.snapshot().encode()


async def test_a_fault_while_a_table_is_written_loses_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, table = SimDisk(), topic_table(800)
    file = await saved(disk, table)
    with monkeypatch.context() as patched:
        patched.setattr("pymq.broker.table_changes.TableChanges.append", None)
        table.put(TopicConfig("made"))
        saving = asyncio.ensure_future(file.save())
        await asyncio.sleep(0.05)
        assert not saving.done()
    await file.close()
    await saving
    assert "made" in names_in_file(disk)
