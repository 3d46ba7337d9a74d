"""What a start of a broker would mend is mended without one, and said; the dry run changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pymq.dry_disk import dry_disk
from pymq.errors import StoreCorrupt, StoreError, StoreLocked
from pymq.store.inspection.repair import Repair, repair
from pymq.system_disk import SystemDisk
from tests.sim import SimClock
from tests.store.golden_store import facts, open_golden, queue_files, unpack
from tests.store.inspection.damaging import log_file, overwrite, problems, queue_file
from tests.store.making import put

pytestmark = pytest.mark.once

FACTS = facts()
MESSAGES = FACTS["messages"]
END = FACTS["commitLog"]["maxOffset"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def mend(root: Path, *, rebuild: bool = False, dry: bool = False, cut: bool = False) -> list[str]:
    disk = dry_disk(SystemDisk()) if dry else SystemDisk()
    return repair(
        str(root),
        disk,
        SimClock(now_ms=1_795_600_000_000),
        Repair(rebuild=rebuild, may_cut_sound_messages=cut),
    )


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_sound_store_needs_no_change(root: Path) -> None:
    before = queue_files(root)
    assert mend(root, dry=True) == []
    assert mend(root) == []
    assert queue_files(root) == before
    assert problems(root) == []


def tear_the_end(root: Path) -> None:
    path, position = log_file(root, MESSAGES[-1]["phyOffset"])
    overwrite(path, position + MESSAGES[-1]["size"] - 20, bytes(20))
    (root / "abort").touch()


def lose_queues(root: Path) -> None:
    shutil.rmtree(root / "consumequeue")


def lose_a_queue(root: Path) -> None:
    shutil.rmtree(root / "consumequeue" / "OrderTopic")


def make_a_hole(root: Path) -> None:
    overwrite(queue_file(root, "OrderTopic", 0), 100, bytes(40))
    (root / "abort").touch()


def lose_an_index_file(root: Path) -> None:
    (root / "index" / FACTS["indexFiles"][3]["file"]).unlink()


DAMAGES = [tear_the_end, lose_queues, lose_a_queue, make_a_hole, lose_an_index_file]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_recovery_can_mend_is_mended_and_the_dry_run_says_the_same(
    root: Path, damage: Callable[[Path], None]
) -> None:
    mend(root)  # from then on it is a store of pymq's, whose checkpoint knows more
    damage(root)
    assert problems(root) != []
    before = contents(root)
    planned = mend(root, dry=True)
    assert contents(root) == before
    assert planned == mend(root) != []
    left = [p.text for p in problems(root) if p.part != "config"]
    assert [text for text in left if "is later than the newest message" not in text] == []
    assert mend(root) == []


def test_it_says_what_it_changed(root: Path) -> None:
    tear_the_end(root)
    last = MESSAGES[-1]
    changes = mend(root)
    assert f"commit log: ends at {last['phyOffset']:,} instead of {END:,}" in changes
    queue, number = f"queue {last['topic']}/{last['queueId']}", last["queueOffset"]
    assert f"{queue}: messages 0 to {number - 1} instead of messages 0 to {number}" in changes
    assert changes[-1] == "abort: removed, the store is closed cleanly now"


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("rebuild", [False, True])
def test_it_does_not_give_up_sound_messages_unasked(root: Path, dry: bool, rebuild: bool) -> None:
    """Where Apache wrote the folder and was killed, a start ends the log at the first damage."""
    damaged = MESSAGES[10]
    overwrite(*log_file(root, damaged["phyOffset"] + 90), b"?")
    (root / "checkpoint").unlink()
    (root / "abort").touch()
    before = contents(root)
    with pytest.raises(StoreCorrupt) as refused:
        mend(root, rebuild=rebuild, dry=dry)
    assert f"damaged at {damaged['phyOffset']:,} (its body has CRC " in str(refused.value)
    assert f"from {MESSAGES[11]['phyOffset']:,} on" in str(refused.value)
    assert contents(root) == before
    changes = mend(root, rebuild=rebuild, dry=dry, cut=True)
    assert f"commit log: ends at {damaged['phyOffset']:,} instead of {END:,}" in changes
    lost = "gone: the log has no message of it" if rebuild else "no message instead of messages 0 to 3"
    assert f"queue BigTopic/0: {lost}" in changes


def test_a_rebuild_makes_the_same_queues_again_delay_levels_included(root: Path) -> None:
    before = queue_files(root)
    overwrite(queue_file(root, "PlainTopic", 2), 60, bytes(20))
    overwrite(queue_file(root, "SCHEDULE_TOPIC_XXXX", 4), 15, b"\1")
    changes = mend(root, rebuild=True)
    after = queue_files(root)
    assert {name: data for name, data in after.items() if data.strip(b"\0")} == before
    assert {"queue PlainTopic/2: units put right", "queue SCHEDULE_TOPIC_XXXX/4: units put right"} <= set(
        changes
    )
    assert problems(root) == []


def test_a_rebuild_keeps_the_number_of_a_queue_without_messages(root: Path) -> None:
    """Only the queue itself knows it when the log has none of its messages any more."""
    for base in (0, 65536, 131072):
        log_file(root, base)[0].unlink()
    early = {(m["topic"], m["queueId"]) for m in MESSAGES if m["phyOffset"] < 196608}
    late = {(m["topic"], m["queueId"]) for m in MESSAGES if m["phyOffset"] >= 196608}
    topic, queue_id = sorted(early - late)[0]
    mend(root, rebuild=True)
    store = open_golden(root, SystemDisk())
    assert put(store, topic, queue_id).queue_offset == FACTS["queues"][topic][str(queue_id)]["max"]
    store.close()


@pytest.mark.parametrize("dry", [False, True])
@pytest.mark.parametrize("rebuild", [False, True])
def test_it_refuses_while_somebody_holds_the_store(root: Path, dry: bool, rebuild: bool) -> None:
    store = open_golden(root, SystemDisk())
    before = contents(root)
    with pytest.raises(StoreLocked):
        mend(root, rebuild=rebuild, dry=dry)
    assert contents(root) == before
    store.close()


def test_it_refuses_where_there_is_no_log(root: Path) -> None:
    shutil.rmtree(root / "commitlog")
    before = contents(root)
    with pytest.raises(StoreError, match="holds no commit log: there is nothing to repair from"):
        mend(root, rebuild=True)
    assert contents(root) == before
