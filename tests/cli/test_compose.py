"""The compose file: nothing runs it here, but its commands are those of this version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from pymq.cli.commands import commands

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
SERVICE = re.compile(
    r"^  ([\w-]+):\n    <<: \*\w+\n    command: \[(.+)\]\n    volumes: \[(.+)\]$", re.MULTILINE
)


def shown(command: str) -> set[str]:
    """The settings with which a service's command would run."""
    words = [word.strip('"') for word in command.replace("/conf/", f"{ROOT}/conf/2m-2s-sync/").split(", ")]
    result = CliRunner().invoke(commands, [*words, "-p"])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return {line.split("  #")[0].strip() for line in result.stdout.splitlines()}


def services() -> dict[str, tuple[str, str]]:
    """Command and volumes by name."""
    return {name: (command, volumes) for name, command, volumes in SERVICE.findall(TEXT)}


def test_the_compose_file_has_the_topology_of_the_layout() -> None:
    files = {path.stem for path in (ROOT / "conf" / "2m-2s-sync").iterdir()}
    assert set(services()) == {"namesrv-1", "namesrv-2"} | files
    declared = re.findall(r"^  ([\w-]+):$", TEXT.split("\nvolumes:\n")[1], re.MULTILINE)
    assert declared == list(services())
    assert all(f'"{name}:/data"' in volumes for name, (_, volumes) in services().items())


@pytest.mark.parametrize("name", [name for name in services() if name.startswith("broker")])
def test_each_broker_knows_both_name_servers_and_stores_in_its_volume(name: str) -> None:
    settings = shown(services()[name][0])
    assert "namesrvAddr=namesrv-1:9876;namesrv-2:9876" in settings
    assert "storePathRootDir=/data" in settings
    assert f"brokerName={name.removesuffix('-s')}" in settings
    assert f"brokerRole={'SLAVE' if name.endswith('-s') else 'SYNC_MASTER'}" in settings


@pytest.mark.parametrize("name", ["namesrv-1", "namesrv-2"])
def test_each_name_server_listens_where_the_brokers_look(name: str) -> None:
    settings = shown(services()[name][0])
    assert {"listenPort=9876", "bindAddress=0.0.0.0", "kvConfigPath=/data/kvConfig.json"} <= settings
