"""What `pymq cluster up` makes of conf files, before it starts anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from pymq.cli.cluster_layout import Layout, find_files, plan, shipped_layouts
from pymq.errors import ConfigError
from pymq.network import SystemNetwork

TUTORIAL = Path(__file__).parent.parent / "fixtures" / "tutorial"


def planned(*words: str | Path, free_ports: bool = False, **settings: str) -> Layout:
    """Plan what such words stand for, to be stored below /data."""
    name, files = find_files([str(word) for word in words])
    return plan(name, files, Path("/data"), settings, free_ports, SystemNetwork())


def ports(layout: Layout) -> dict[str, str]:
    """Where brokers are told to listen; those that their file tells are absent."""
    return {b.name: b.settings["listenPort"] for b in layout.brokers if "listenPort" in b.settings}


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """Write conf files, `;` for the ends of lines."""
    for name, text in files.items():
        (folder / name).write_text(text.replace(";", "\n"))
    return folder


@pytest.mark.parametrize(
    ("name", "brokers"),
    [
        ("1m", ["broker-a-0"]),
        ("2m-noslave", ["broker-a-0", "broker-b-0"]),
        ("2m-2s-async", ["broker-a-0", "broker-a-1", "broker-b-0", "broker-b-1"]),
        ("2m-2s-sync", ["broker-a-0", "broker-a-1", "broker-b-0", "broker-b-1"]),
    ],
)
def test_a_layout_has_two_name_servers_and_its_brokers(name: str, brokers: list[str]) -> None:
    layout = planned(name)
    assert layout.name == name
    assert [(s.name, s.host, s.port) for s in layout.name_servers] == [
        ("namesrv-1", "127.0.0.1", 9876),
        ("namesrv-2", "127.0.0.1", 9877),
    ]
    assert [broker.name for broker in layout.brokers] == brokers
    assert {b.name: b.settings["storePathRootDir"] for b in layout.brokers} == {
        each: f"/data/{each}" for each in brokers
    }
    assert ports(layout) == {}, "the files tell"
    assert layout.warnings == []


def test_every_layout_that_is_shipped_is_tested() -> None:
    assert list(shipped_layouts()) == ["1m", "2m-2s-async", "2m-2s-sync", "2m-noslave"]


def test_the_tutorials_four_files_are_two_name_servers_and_four_brokers_where_they_say() -> None:
    layout = planned(*sorted(TUTORIAL.glob("broker0*.conf")))
    assert layout.name == "tutorial"
    assert [(s.host, s.port) for s in layout.name_servers] == [("127.0.0.1", 9876), ("127.0.0.1", 9877)]
    assert [(b.name, b.role) for b in layout.brokers] == [
        ("broker01-0", "SYNC_MASTER"),
        ("broker01-1", "SLAVE"),
        ("broker02-0", "SYNC_MASTER"),
        ("broker02-1", "SLAVE"),
    ]
    assert ports(layout) == {}
    assert sum("brokerIp2 is read as brokerIP2" in warning for warning in layout.warnings) == 4
    assert sum("blanks at the end cut off" in warning for warning in layout.warnings) == 1


def test_brokers_whose_files_say_nothing_of_ports_and_name_servers_get_their_own(tmp_path: Path) -> None:
    # So are Apache's own conf/2m-2s-sync files.
    folder = written(
        tmp_path,
        {
            "a.properties": "brokerName=a;brokerId=0;brokerRole=SYNC_MASTER",
            "a-s.properties": "brokerName=a;brokerId=1;brokerRole=SLAVE",
            "b.properties": "brokerName=b;brokerId=0;brokerRole=SYNC_MASTER;listenPort=10922",
        },
    )
    layout = planned(folder)
    assert [(s.host, s.port) for s in layout.name_servers] == [("127.0.0.1", 9876), ("127.0.0.1", 9877)]
    assert all(b.namesrv_addresses == ("127.0.0.1:9876", "127.0.0.1:9877") for b in layout.brokers)
    # 10921 would need 10922, too.
    assert ports(layout) == {"a-0": "10911", "a-1": "10931"}


def test_free_ports_are_the_systems_choice(tmp_path: Path) -> None:
    layout = planned("2m-noslave", free_ports=True)
    assert [server.port for server in layout.name_servers] == [0, 0]
    assert ports(layout) == {"broker-a-0": "0", "broker-b-0": "0"}


def test_brokers_are_seen_on_this_machine_only_unless_their_file_says_more(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        {
            "a.conf": "brokerName=a;listenPort=20010",
            "b.conf": "brokerName=b;listenPort=20020;brokerIP1=192.0.2.1",
            "c.conf": "brokerName=c;listenPort=20030;bindAddress=0.0.0.0",
        },
    )
    bound = {broker.name: broker.settings.get("bindAddress") for broker in planned(folder).brokers}
    assert bound == {"a-0": "127.0.0.1", "b-0": None, "c-0": None}


def test_settings_go_for_all_brokers() -> None:
    layout = planned("2m-2s-async", fileReservedTime="1")
    assert [broker.settings["fileReservedTime"] for broker in layout.brokers] == ["1"] * 4


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"a.conf": "brokerName=x;brokerId=0", "b.conf": "brokerName=x;brokerId=0"},
            r"a\.conf and .*b\.conf are both brokerName=x, brokerId=0",
        ),
        (
            {"a.conf": "brokerName=a;listenPort=20010", "b.conf": "brokerName=b;listenPort=20012"},
            r"b\.conf: listenPort=20012 takes port 20010, as does .*a\.conf",
        ),
        ({"a.conf": "listenPort=9875"}, r"listenPort=9875 takes port 9876, as does the name server 127"),
        (
            {"a.conf": "namesrvAddr=192.0.2.7:9876"},
            r"a\.conf:1: namesrvAddr=192\.0\.2\.7:9876 is not on this machine \(.+\): `pymq cluster up` runs",
        ),
        ({"a.conf": "brokerRole=SLAVE"}, "brokerId: expected more than 0"),
        ({}, "no conf file"),
    ],
)
def test_what_cannot_run_together_is_refused_in_one_line(
    tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        planned(written(tmp_path, files))


def test_the_tutorials_explained_file_is_refused_for_its_double_line() -> None:
    with pytest.raises(ConfigError, match=r"annotated\.conf:2: two settings on one line"):
        planned(TUTORIAL)


def test_an_unknown_layout_is_answered_with_those_that_exist() -> None:
    known = "1m, 2m-2s-async, 2m-2s-sync, 2m-noslave"
    with pytest.raises(ConfigError, match=f"called 3m; there are the layouts {re.escape(known)}"):
        planned("3m")


def test_folders_are_the_business_of_data() -> None:
    with pytest.raises(ConfigError, match="storePathRootDir cannot be set for a whole cluster: --data says"):
        planned("1m", storePathRootDir="/elsewhere")


def test_a_folder_that_a_users_file_sets_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    folder = written(tmp_path, {"a.conf": "brokerName=a;storePathRootDir=/var/lib/a"})
    layout = planned(folder)
    assert layout.brokers[0].settings["storePathRootDir"] == "/data/a-0"
    assert layout.warnings == [
        f"{folder}/a.conf:2: storePathRootDir has no effect on a cluster: it stores below /data"
    ]
