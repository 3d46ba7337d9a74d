"""The commands: their options, what they print, and how they say no."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pymq.cli.commands import commands
from pymq.cli.messages import start_of


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the home folder and NAMESRV_ADDR of the machine out of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NAMESRV_ADDR", raising=False)


def pymq(*arguments: str) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(commands, arguments, prog_name="pymq")


def shown(result: Result) -> dict[str, str]:
    """Give setting → origin of what `-p` printed."""
    lines = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    return {setting.strip(): origin for setting, origin in (line.split("  # ") for line in lines)}


def test_p_shows_each_setting_and_where_it_came_from(tmp_path: Path) -> None:
    conf = tmp_path / "broker.conf"
    conf.write_text("brokerName=broker-a # the first\nlistenPort=20911\n")
    result = pymq("broker", "-c", str(conf), "-n", "127.0.0.1:9876", "-p")
    assert result.exit_code == 0
    settings = shown(result)
    assert settings["brokerName=broker-a"] == f"{conf}:1"
    assert settings["listenPort=20911"] == f"{conf}:2"
    assert settings["namesrvAddr=127.0.0.1:9876"] == "command line"
    assert settings["brokerRole=ASYNC_MASTER"] == "default"
    assert result.stderr.startswith(f"warning: {conf}:1: brokerName: the comment '# the first' cut off")


def test_p_shows_what_would_be_taken_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMESRV_ADDR", "127.0.0.1:19876")
    settings = shown(pymq("broker", "-p"))
    assert settings["namesrvAddr=127.0.0.1:19876"] == "environment NAMESRV_ADDR"
    assert "this machine's name" in settings.values()
    assert list(settings.values()).count("this machine's address") == 1
    assert list(settings.values()).count("brokerIP1") == 1


def test_p_of_standalone_shows_both_and_the_sample_it_stands_on(tmp_path: Path) -> None:
    result = pymq("standalone", "--data", str(tmp_path / "data"), "--port", "0", "-p")
    assert result.stdout.count("listenPort=") == 2
    settings = shown(result)
    assert settings[f"storePathRootDir={tmp_path / 'data' / 'store'}"] == "command line"
    assert "standalone.conf:" in settings["diskMinFreeBytes=268435456"]


def test_p_of_a_name_server_names_the_file_that_updates_go_to(tmp_path: Path) -> None:
    conf = tmp_path / "namesrv.conf"
    conf.write_text("listenPort=19876\n")
    settings = shown(pymq("namesrv", "-c", str(conf), "-p"))
    assert settings["listenPort=19876"] == f"{conf}:1"
    assert f"configStorePath={conf}" in settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listenPort=x", "broker.conf:1: listenPort: expected a whole number from 0 to 65535, got 'x'"),
        (
            "aclEnable=true",
            "broker.conf:1: aclEnable=true is not supported yet by this version",
        ),
        ("a=b listenPort=1", "two settings on one line, a and listenPort"),
    ],
)
def test_a_conf_file_that_cannot_be_used_is_one_line_on_stderr_and_status_1(
    tmp_path: Path, text: str, said: str
) -> None:
    conf = tmp_path / "broker.conf"
    conf.write_text(text)
    result = pymq("broker", "-c", str(conf))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("pymq: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("program", ["namesrv", "broker", "standalone"])
def test_shutting_down_what_does_not_run_is_one_line_and_status_1(program: str) -> None:
    result = pymq("shutdown", program)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"pymq: no {program} is running (looked for ")


def test_a_log_file_in_the_foreground_is_refused(tmp_path: Path) -> None:
    result = pymq("namesrv", "--log-file", str(tmp_path / "x.log"))
    assert (result.exit_code, result.stderr.startswith("pymq: --log-file goes with --daemon")) == (1, True)


def test_a_property_without_a_value_is_a_mistake_in_the_command() -> None:
    result = pymq("send", "t", "body", "--property", "k")
    assert result.exit_code == 2
    assert "'k' is not K=V" in result.stderr


def test_consuming_begins_where_from_says() -> None:
    assert (start_of("first"), start_of("last")) == ("first", "last")
    begin = start_of("2024-05-01T12:00:00+02:00")
    assert not isinstance(begin, str)
    assert begin.timestamp() == 1_714_557_600
    result = pymq("consume", "t", "--from", "yesterday")
    assert result.exit_code == 2
    assert "'yesterday' is neither first, last nor a time" in result.stderr


def test_sending_where_no_name_server_is_ends_with_one_line() -> None:
    result = pymq("send", "t", "body", "-n", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("pymq: ")
    assert "127.0.0.1:1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_consuming_where_no_name_server_is_ends_with_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pymq", "consume", "t", "-n", "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pymq: no name server answered: ")
    assert "127.0.0.1:1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_log_file_that_cannot_be_written_is_named_with_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = tmp_path / "file" / "x.log"
    result = pymq("namesrv", "--daemon", "--log-file", str(log))
    assert result.exit_code == 1
    assert result.stderr == f"pymq: cannot make the log file's folder {log.parent}: File exists\n"


def test_a_pid_file_that_cannot_be_written_is_named_with_what_it_is_for(tmp_path: Path) -> None:
    conf = tmp_path / "namesrv.conf"
    conf.write_text("listenPort=0\nbindAddress=127.0.0.1\n")
    pid_file = tmp_path / "missing" / "x.pid"
    done = subprocess.run(
        [sys.executable, "-m", "pymq", "namesrv", "-c", str(conf), "--pid-file", str(pid_file)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"pymq: cannot write the pid file {pid_file}: No such file or directory\n"


def test_help_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys, pymq.cli\n"
        "try: pymq.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'asyncio', 'msgspec', 'uvloop', 'pymq.broker', 'pymq.client', 'pymq.network'}\n"
        "print('loaded:', sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")
    assert "standalone" in done.stdout


def test_set_goes_before_the_conf_file(tmp_path: Path) -> None:
    conf = tmp_path / "broker.conf"
    conf.write_text("brokerName=broker-a\nlistenPort=20911\n")
    settings = shown(
        pymq("broker", "-c", str(conf), "--set", "listenPort=0", "--set", "brokerIp2=127.0.0.1", "-p")
    )
    assert settings["listenPort=0"] == "command line"
    assert settings["brokerIP2=127.0.0.1"] == "command line"
    assert settings["brokerName=broker-a"] == f"{conf}:1"
    assert shown(pymq("namesrv", "--set", "listenPort=1", "-p"))["listenPort=1"] == "command line"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("listenport=1", "pymq: command line: unknown key listenport: did you mean listenPort?\n"),
        (
            "listenPort=x",
            "pymq: command line: listenPort: expected a whole number from 0 to 65535, got 'x'\n",
        ),
    ],
)
def test_a_bad_setting_of_the_command_line_stops_the_start(setting: str, said: str) -> None:
    result = pymq("broker", "--set", setting)
    assert result.exit_code == 1
    assert result.stderr == said


def test_a_setting_without_a_value_is_refused() -> None:
    result = pymq("broker", "--set", "listenPort")
    assert result.exit_code == 2
    assert "'listenPort' is not K=V" in result.stderr
