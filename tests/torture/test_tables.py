"""Topics, groups and offsets: a crash at any step of their writing leaves the old or the new file."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.saved_tables import SavedTable, Table
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.table_changes import TableChanges
from pymq.broker.topics import TopicTable
from pymq.errors import StoreError
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.bodies.topic_config import DataVersion, TopicConfig
from tests.sim import SimClock
from tests.store.sim_disk import SimDisk
from tests.store.sim_files import Content, PowerCut

pytestmark = pytest.mark.once

PATH = "/s/config/table.json"


def offsets(number: int) -> ConsumerOffsetTable:
    """A table that says which one it is; the later the longer."""
    table = ConsumerOffsetTable()
    for queue_id in range(1 + 40 * (number % 3)):
        table.commit("group", "topic", queue_id, number)
    return table


def text_of(table: Table) -> str:
    """A table as its file."""
    return table.snapshot().encode().decode()


async def load(disk: SimDisk, table: Table) -> Table:
    """A table out of its file, as the broker has it after its start."""
    saved = SavedTable(PATH, table, disk)
    saved.load()
    return table


async def number_in(disk: SimDisk) -> int | None:
    """Which table the broker starts with; None for an empty one."""
    table = ConsumerOffsetTable()
    await load(disk, table)
    number = table.query("group", "topic", 0)
    if number is not None:
        assert text_of(table) == text_of(offsets(number)), "all of one table"
    return number


def run_now(writing: Coroutine[Any, Any, None]) -> None:
    """Run what never waits: a power cut must not meet the event loop."""
    with pytest.raises(StopIteration):
        writing.send(None)


@pytest.mark.parametrize("first_seed", range(0, 300, 30))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_table(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 30):
        write_and_crash(seed)


def write_and_crash(seed: int) -> None:
    """Write tables, be cut off at any step, and look which one is found."""
    luck = random.Random(seed)
    disk = SimDisk()
    disk.make_folder("/s/config", sync=True)
    possible: set[int | None] = {None}  # the last table that was written for sure, and those begun since
    for number in range(1, 12):
        steps = luck.randrange(12)

        def step(action: str, path: str) -> None:
            nonlocal steps
            steps -= 1
            if steps < 0:
                raise PowerCut

        disk.before = step
        is_killed = luck.random() < 0.4
        try:
            run_now(disk.write_text(PATH, text_of(offsets(number))))
            possible = {number}
        except PowerCut:
            possible.add(number)
            disk = disk.kill() if is_killed else disk.crash(luck.randrange(1 << 30))
        disk.before = None
        found = asyncio.run(number_in(disk))
        assert found in possible, f"seed {seed}"
        if not is_killed:
            possible = {found}  # what outlived a power cut is on the disk
    left = [name for name in disk.list_folder("/s/config") if name not in ("table.json", "table.json.bak")]
    assert all(name.endswith(".tmp") for name in left)


@pytest.mark.parametrize("first_seed", range(900, 1200, 60))
def test_a_crash_at_any_step_loses_no_single_change_that_was_told(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 60):
        change_and_crash(seed)


def change_and_crash(seed: int) -> None:
    """Change single topics, fold now and then, be cut off at any step, and look what is found."""
    luck = random.Random(seed)
    disk = SimDisk()
    disk.make_folder("/s/config", sync=True)
    table, changes = topics(), TableChanges(PATH + ".changes", disk)
    base = DataVersion(0, 0)
    possible: dict[str, set[int | None]] = {}
    """Topic → queues that it may be found with: what was told last, and what was cut off since."""
    for number in range(1, 40):
        name = f"topic-{luck.randrange(8)}"
        queues = None if luck.random() < 0.3 else number
        steps = luck.choice((luck.randrange(12), 1000))

        def step(action: str, path: str) -> None:
            nonlocal steps
            steps -= 1
            if steps < 0:
                raise PowerCut

        disk.before = step
        try:
            if queues is None:
                table.delete(name)
            else:
                table.put(TopicConfig(name, queues, 1))
            if not disk.exists(PATH) or luck.random() < 0.2:
                changes.fold(table.data_version)
                run_now(disk.write_text(PATH, text_of(table)))
                base, changes.size = table.data_version, 0
            else:
                changes.append(base, table.part([] if queues is None else [name]), {name} - {*table.names()})
            possible[name] = {queues}
            continue
        except PowerCut:
            is_killed = luck.random() < 0.4
            disk = disk.kill() if is_killed else disk.crash(luck.randrange(1 << 30))
        table = topics()
        saved = SavedTable(PATH, table, disk, entries=table)
        saved.load()
        found = {n: config.read_queue_nums for n in table.names() if (config := table.get(n)) and "-" in n}
        possible[name] = possible.get(name, {None}) | {queues}
        for other in possible.keys() | found.keys():
            assert found.get(other) in possible[other], f"seed {seed}, {other}"
            if not is_killed:
                possible[other] = {found.get(other)}  # what outlived a power cut is on the disk
        base, changes = table.data_version, saved._changes


def topics() -> TopicTable:
    """A table of topics."""
    return TopicTable(BrokerConfig(broker_name="b"), SimClock())


def groups() -> SubscriptionGroups:
    """A table of groups."""
    return SubscriptionGroups(BrokerConfig(broker_name="b"), SimClock())


def filled(table: Table, name: str) -> Table:
    """A table with something in it."""
    if isinstance(table, TopicTable):
        table.put(TopicConfig(name, 3, 2))
    elif isinstance(table, SubscriptionGroups):
        table.put(SubscriptionGroupConfig(name))
    elif isinstance(table, ConsumerOffsetTable):
        table.commit(name, "topic", 1, 7)
    return table


@pytest.mark.parametrize("make", [topics, groups, ConsumerOffsetTable])
def test_a_table_torn_at_any_byte_starts_from_its_backup_and_says_so(
    make: Callable[[], Table], caplog: pytest.LogCaptureFixture
) -> None:
    disk = SimDisk()
    old, new = text_of(filled(make(), "old")), text_of(filled(filled(make(), "old"), "later")).encode()
    disk.contents[PATH + ".bak"] = Content.of(old.encode())
    before_and_after = [(new[:cut], b"") for cut in range(len(new.rstrip()))]
    before_and_after += [(new[:cut], bytes(len(new) - cut)) for cut in range(0, len(new.rstrip()), 7)]

    async def start_from_each() -> None:
        for whole, zeros in before_and_after:
            caplog.clear()
            disk.contents[PATH] = Content.of(whole + zeros)
            assert text_of(await load(disk, make())) == old, whole
            assert [r for r in caplog.records if "started from" in r.message and r.levelno >= logging.ERROR]

    asyncio.run(start_from_each())


def test_where_nothing_can_be_read_the_start_is_refused_and_both_files_are_named() -> None:
    disk = SimDisk()
    disk.contents[PATH], disk.contents[PATH + ".bak"] = Content.of(b"{"), Content.of(b"\xff")
    with pytest.raises(StoreError, match=r"neither .*table\.json nor its \.bak"):
        asyncio.run(number_in(disk))
    assert disk.read_bytes(PATH) == b"{", "nothing was overwritten"
