"""What `pymq store ls` finds out from the files alone."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from pymq.store.inspection.dump import Wanted, dump
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.index_geometry import find_geometries
from pymq.store.inspection.problems import Problem
from pymq.store.inspection.survey import survey
from pymq.system_disk import SystemDisk
from tests.store.golden_store import facts, unpack
from tests.store.inspection.damaging import flip, log_file
from tests.store.making import open_store

FACTS = facts()
MESSAGES = FACTS["messages"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def folder(root: Path) -> StoreFolder:
    return StoreFolder(str(root), SystemDisk())


def test_it_sees_what_the_golden_store_is_said_to_hold(root: Path) -> None:
    found = survey(folder(root))
    assert found.was_closed_cleanly
    log = FACTS["commitLog"]
    assert (found.commit_log_min_offset, found.commit_log_max_offset) == (log["minOffset"], log["maxOffset"])
    assert [file.name for file in found.commit_log_files] == log["files"]
    queues: dict[str, dict[str, dict[str, int]]] = {}
    for queue in found.queues:
        bounds = {"min": queue.min_offset, "max": queue.max_offset}
        queues.setdefault(queue.topic, {})[str(queue.queue_id)] = bounds
    assert queues == FACTS["queues"]
    assert [
        {
            "file": file.name,
            "beginTimestamp": file.begin_timestamp,
            "endTimestamp": file.end_timestamp,
            "beginPhyOffset": file.begin_offset,
            "endPhyOffset": file.end_offset,
            "indexCount": file.entries + 1,
        }
        for file in found.index_files
    ] == [{k: v for k, v in file.items() if k != "hashSlotCount"} for file in FACTS["indexFiles"]]
    assert found.checkpoint == tuple(FACTS["checkpoint"].values())
    tables = {table.name: table.entries for table in found.tables}
    assert (tables["topics.json"], tables["subscriptionGroup.json"]) == (20, 10)
    assert found.delay_levels_ms == {1: 1000, 2: 1000, 3: 1000, 4: 1000, 5: 3_600_000, 6: 7_200_000}


def test_it_counts_the_filters_of_all_topics(root: Path) -> None:
    filters = {
        topic: {
            "topic": topic,
            "groupFilterData": {
                group: {
                    "topic": topic,
                    "consumerGroup": group,
                    "expression": "a = 1",
                    "expressionType": "SQL92",
                }
                for group in groups
            },
        }
        for topic, groups in (("t", ("g", "h")), ("u", ("g",)))
    }
    (root / "config" / "consumerFilter.json").write_text(json.dumps({"filterDataByTopic": filters}))
    tables = {table.name: table.entries for table in survey(folder(root)).tables}
    assert tables["consumerFilter.json"] == 3


def test_the_conf_lines_open_the_folder(root: Path) -> None:
    lines = dict(line.split("=") for line in survey(folder(root)).conf)
    said = FACTS["config"]
    for key in ("mappedFileSizeCommitLog", "mappedFileSizeConsumeQueue", "maxHashSlotNum", "maxIndexNum"):
        assert lines[key] == str(said[key])
    assert lines["storePathRootDir"] == str(root)


def test_defaults_of_the_index_are_told_too(tmp_path: Path) -> None:
    store = open_store(
        SystemDisk(), str(tmp_path / "store"), max_hash_slot_num=5_000_000, max_index_num=20_000_000
    )
    store.put("T", 0, b"", "KEYS\1k", born_host=bytes(8), keys="k")
    store.close()
    found = survey(folder(tmp_path / "store"))
    assert len(found.index_files) == 1
    assert found.conf[-2:] == ["maxHashSlotNum=5000000", "maxIndexNum=20000000"]
    assert found.remarks == []


@pytest.mark.parametrize("seed", range(12))
def test_the_number_of_slots_is_found_from_one_file_that_is_not_full(tmp_path: Path, seed: int) -> None:
    luck = random.Random(seed)
    slots, entries = luck.randrange(3, 3000), luck.randrange(60, 3000)
    store = open_store(SystemDisk(), str(tmp_path), max_hash_slot_num=slots, max_index_num=entries)
    for _ in range(luck.randrange(8, 50)):
        key = f"k{luck.random()}"
        store.put("T", 0, b"", f"KEYS\1{key}", born_host=bytes(8), keys=key)
    store.close()
    found = find_geometries(SystemDisk(), folder(tmp_path).index_files)
    assert found[0] == (slots, entries)


def test_a_log_with_a_damaged_record_is_dumped_around_it(root: Path) -> None:
    damaged = MESSAGES[3]
    flip(*log_file(root, damaged["phyOffset"] + 90))
    told: list[Problem] = []
    found = [record.physical_offset for record in dump(folder(root), Wanted(), told.append)]
    assert found == [m["phyOffset"] for m in MESSAGES if m is not damaged]
    assert [problem.offset for problem in told] == [damaged["phyOffset"]]


@pytest.mark.parametrize("lost", [False, True])
def test_dump_takes_what_is_wanted(root: Path, lost: bool) -> None:
    if lost:
        shutil.rmtree(root / "consumequeue")

    def offsets(**wanted: object) -> list[int]:
        records = dump(folder(root), Wanted(**wanted), lambda _: None)  # type: ignore[arg-type]
        return [record.physical_offset for record in records]

    plain = [m for m in MESSAGES if m["topic"] == "PlainTopic"]
    second = [m["phyOffset"] for m in plain if m["queueId"] == 2]
    assert offsets() == [m["phyOffset"] for m in MESSAGES]
    assert offsets(topic="PlainTopic") == [m["phyOffset"] for m in plain]
    assert offsets(topic="PlainTopic", queue_id=2) == second
    assert offsets(topic="PlainTopic", queue_id=2, from_queue_offset=27) == second[27:]
    assert offsets(from_offset=233, limit=2) == [464, 696]
    assert offsets(from_offset=10**9) == []
    assert offsets(topic="Nobody") == []
    assert offsets(limit=0) == []
