"""`pymq store`: what an operator sees, and the exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pymq.cli.commands import commands
from pymq.cli.store_output import size_text, table
from tests.store.golden_store import facts, unpack
from tests.store.inspection.damaging import flip, log_file, overwrite

MESSAGES = facts()["messages"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def pymq(*arguments: object) -> Result:
    """Run `pymq store …` in this process."""
    return CliRunner().invoke(commands, ["store", *map(str, arguments)], prog_name="pymq")


def test_ls_shows_the_folder_and_the_conf_lines(root: Path) -> None:
    result = pymq("ls", root)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{root}: cleanly closed"
    assert "commitlog: 4 files of 64 KiB, offsets 0 to 246,555" in lines
    assert "consumequeue: 30 queues of 12 topics, files of 400 B (20 messages)" in lines
    assert "  PlainTopic                       2    0   30        30      2" in lines
    assert "index: 4 files of 50 slots and 150 entries" in lines
    assert lines[-1] == "Note: 2 transactions open: a broker on this folder asks their producers"
    assert lines[-8:-2] == [
        f"  storePathRootDir={root}",
        f"  storePathCommitLog={root}/commitlog",
        "  mappedFileSizeCommitLog=65536",
        "  mappedFileSizeConsumeQueue=400",
        "  maxHashSlotNum=50",
        "  maxIndexNum=150",
    ]
    assert max(map(len, lines)) <= 120


def test_ls_tells_of_an_unclean_end_and_of_a_broker_at_work(root: Path) -> None:
    (root / "abort").touch()
    assert "NOT cleanly closed (the file abort is there)" in pymq("ls", root).stdout
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX, 1); print(); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(root / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert f"{root}: in use by a broker" in pymq("ls", root).stdout
        assert "a broker runs on this folder" in pymq("verify", root).stderr
        result = pymq("repair", root)
        assert result.exit_code == 1
        assert result.stderr.endswith(f"pymq: the store folder {root} is in use by another process\n")
    finally:
        process.communicate(b"\n")


def test_ls_names_the_changes_that_a_table_lacks_in_its_file(root: Path) -> None:
    table_file = root / "config" / "subscriptionGroup.json"
    version = json.dumps(json.loads(table_file.read_text())["dataVersion"])
    entries = '{"subscriptionGroupTable":{"one-more":{"groupName":"one-more"}}}'
    table_file.with_name("subscriptionGroup.json.changes").write_text(
        f'{{"changesTo":{version}}}\n{{"entries":{entries},"deleted":[]}}\n'
    )
    [line] = [line for line in pymq("ls", root).stdout.splitlines() if "subscriptionGroup.json" in line]
    assert line.split()[:2] == ["subscriptionGroup.json", "11"]
    assert line.endswith("and 1 writing of subscriptionGroup.json.changes")
    assert len(line) <= 120
    assert pymq("verify", root).exit_code == 0


def test_ls_for_machines(root: Path) -> None:
    found = json.loads(pymq("ls", root, "--json").stdout)
    assert found["commit_log_max_offset"] == facts()["commitLog"]["maxOffset"]
    assert found["index_geometries"] == [[50, 150]]


def test_the_commit_log_may_lie_elsewhere(root: Path, tmp_path: Path) -> None:
    (root / "commitlog").rename(tmp_path / "log")
    result = pymq("verify", root, "--commitlog", tmp_path / "log")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "nothing is wrong")
    assert f"storePathCommitLog={tmp_path}/log" in pymq("ls", root, "--commitlog", tmp_path / "log").stdout


@pytest.mark.parametrize("command", ["ls", "verify", "dump", "repair"])
def test_a_folder_of_something_else_is_one_line_and_status_1(tmp_path: Path, command: str) -> None:
    result = pymq(command, tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"pymq: {tmp_path} is no folder of a store: neither commitlog nor consumequeue is in it\n"
    )


def test_verify_of_a_sound_store(root: Path) -> None:
    result = pymq("verify", root)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "checked 233 messages from offset 0 to 246,555, 233 units of 30 queues, 553 index entries in 4 files",
        "nothing is wrong",
    ]


def test_verify_prints_a_line_for_each_thing_and_ends_with_status_1(root: Path) -> None:
    overwrite(root / "consumequeue/OrderTopic/0" / ("0" * 20), 28, b"\0\0\0\1")
    result = pymq("verify", root)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(
        "consumequeue/OrderTopic/0/00000000000000000000, byte 28: unit 1 says 1 bytes, "
    )
    assert lines[2:] == ["1 thing is wrong"]
    (root / "abort").touch()
    assert "`pymq store repair`, puts right" in pymq("verify", root).stdout


def test_verify_for_machines(root: Path) -> None:
    overwrite(root / "checkpoint", 1000, b"x")
    result = pymq("verify", root, "--json")
    problem, summary = map(json.loads, result.stdout.splitlines())
    assert problem == {
        "type": "problem",
        "part": "checkpoint",
        "file": "checkpoint",
        "position": 1000,
        "offset": None,
        "text": "bytes that stand for nothing",
    }
    assert (summary["type"], summary["problems"], summary["records"]) == ("summary", 1, 233)
    assert result.exit_code == 1


def test_dump_prints_messages_as_lines(root: Path) -> None:
    lines = pymq("dump", root, "--topic", "UnicodeTopic").stdout.splitlines()
    assert lines[0].lstrip().startswith("34,340  20")
    assert "UnicodeTopic/1/0  258 B  tags=标签  keys='键一 键二'  消息体 — 你好" in lines[0]
    assert lines[1].endswith("UnicodeTopic/2/0  192 B  0x00")
    assert pymq("dump", root, "--limit", 1, "--body", "none").stdout.endswith("keys='key-0 grp-0'\n")
    assert pymq("dump", root, "--limit", 1, "--body", "hex").stdout.endswith("0x706c61696e20626f64792030\n")


def test_dump_for_machines_says_what_the_listing_says(root: Path) -> None:
    lines = pymq("dump", root, "--json", "--body", "hex").stdout.splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == len(MESSAGES)
    for got, expected in zip(found, MESSAGES, strict=True):
        both = got.keys() & expected.keys()
        assert {"phyOffset", "properties", "bornHost", "storeHost", "sysFlag"} <= both
        assert {key: got[key] for key in both} == {key: expected[key] for key in both}


def test_dump_of_one_queue_from_a_number_on(root: Path) -> None:
    result = pymq("dump", root, "--topic", "PlainTopic", "--queue", 2, "--from-number", 28, "--json")
    assert [json.loads(line)["queueOffset"] for line in result.stdout.splitlines()] == [28, 29]
    assert pymq("dump", root, "--from-number", 3).exit_code == 2


def test_dump_passes_over_damage_and_says_so(root: Path) -> None:
    flip(*log_file(root, 90))
    result = pymq("dump", root)
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "commitlog/00000000000000000000, byte 0: 232 bytes are no message: its body"
    )
    assert len(result.stdout.splitlines()) == 232


def test_what_stands_in_a_message_cannot_steer_the_terminal(root: Path) -> None:
    path, position = log_file(root, MESSAGES[0]["phyOffset"])
    data = path.read_bytes()
    overwrite(path, data.index(b"TagA", position), b"\x1b[2J")
    assert "tags=\\x1b[2J" in pymq("dump", root, "--limit", 1).stdout
    assert "\x1b" not in pymq("verify", root).stdout


def test_repair_says_what_it_did_and_the_dry_run_what_it_would(root: Path) -> None:
    (root / "abort").touch()
    torn = MESSAGES[-1]
    path, position = log_file(root, torn["phyOffset"])
    overwrite(path, position + torn["size"] - 20, bytes(20))
    before = path.read_bytes()
    dry = pymq("repair", root, "--dry-run")
    assert (dry.exit_code, dry.stdout.splitlines()[0]) == (0, "would change:")
    assert path.read_bytes() == before
    real = pymq("repair", root)
    assert real.exit_code == 0
    assert real.stdout.splitlines()[: len(dry.stdout.splitlines()) - 1] == dry.stdout.splitlines()[1:]
    assert f"commit log: ends at {torn['phyOffset']:,} instead of 246,555" in real.stdout
    assert pymq("repair", root, "--dry-run").stdout == "nothing would change\n"


def test_sizes_are_told_in_the_largest_whole_unit() -> None:
    assert [size_text(n) for n in (0, 400, 1024, 65536, 1 << 30, 1536)] == [
        "0 B",
        "400 B",
        "1 KiB",
        "64 KiB",
        "1 GiB",
        "1,536 B",
    ]


def test_a_table_puts_numbers_to_the_right() -> None:
    assert table(("A", "N"), [("x", 1), ("yy", 1000)], "") == ["A       N", "x       1", "yy  1,000"]
