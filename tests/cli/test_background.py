"""Daemons, pid files and shutting down, with a program that does nothing but be ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymq.cli.background import shut_down
from pymq.errors import PymqError

PROGRAM = """
import asyncio, contextlib, logging, os, sys
from pathlib import Path
from pymq.cli.background import Background
from pymq.cli.programs import Started, run
from pymq.errors import PymqError

@contextlib.asynccontextmanager
async def opening():
    if "fail" in sys.argv:
        raise PymqError("the store is held by another process")
    if "slow" in sys.argv:
        print("opening" if "daemon" not in sys.argv else f"opening as pid {os.getpid()} ", flush=True)
        try:
            await asyncio.sleep(60)
        finally:
            print("undone", flush=True)
    if "die" in sys.argv:
        os._exit(7)
    logging.getLogger("pymq.fake").info("one\\ntwo")
    yield Started("fake-1", "fake is ready")
    logging.getLogger("pymq.fake").info("closed")

daemon = "daemon" in sys.argv
pid_file = Path("own.pid") if "own" in sys.argv else None
run("fake", 1, ["mind this"], opening, Background(daemon, pid_file))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home folder of its own to this process and those it starts."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def fake(home: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Collect processes to end after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the program in the foreground."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    )


def start_daemon(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start the program in the background and give what its parent said."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "daemon", *arguments],
        capture_output=True,
        text=True,
        cwd=home,
        timeout=90,
        check=False,
    )


def read_until(process: subprocess.Popen[str], line: str) -> list[str]:
    """Read stdout up to a line."""
    assert process.stdout is not None
    lines = []
    for text in process.stdout:
        lines.append(text.rstrip("\n"))
        if lines[-1] == line:
            return lines
    raise AssertionError(f"ended without {line!r}: {lines}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_foreground_a_signal_ends_a_program_cleanly(
    home: Path, fake: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = start(home)
    fake.append(process)
    lines = read_until(process, "fake is ready")
    assert lines[0].endswith("WARNING pymq.cli mind this")
    assert lines[1].endswith("INFO pymq.fake one\\ntwo"), "an event is one line"
    pid_file = home / ".pymq" / "run" / "fake-1.pid"
    assert pid_file.read_text() == f"{process.pid}\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "INFO pymq.fake closed" in out
    assert err == ""
    assert not pid_file.exists()


def test_a_signal_ends_a_program_that_is_not_ready_yet(home: Path, fake: list[subprocess.Popen[str]]) -> None:
    process = start(home, "slow")
    fake.append(process)
    read_until(process, "opening")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    lines = out.splitlines()
    assert lines[0] == "undone", "what was opened is closed again"
    assert lines[1].endswith("INFO pymq.cli stopped before it was ready")
    assert err == ""
    assert not (home / ".pymq").exists()


def test_a_daemon_that_is_stopped_before_it_is_ready_says_so(home: Path) -> None:
    log = home / ".pymq" / "logs" / "fake-1.log"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "daemon", "slow", "own"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home,
    ) as parent:
        deadline = time.monotonic() + 60
        while not (log.exists() and "opening" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(int(log.read_text().split("pid ")[1].split()[0]), signal.SIGTERM)
        _, err = parent.communicate(timeout=60)
    assert parent.returncode == 1
    assert err == f"pymq: stopped before it was ready (log: {log})\n"


def test_a_daemon_is_ready_when_its_parent_returns_and_ends_by_its_pid_file(home: Path) -> None:
    parent = start_daemon(home)
    assert parent.returncode == 0, parent.stderr
    pid = int((home / ".pymq" / "run" / "fake-1.pid").read_text())
    log = home / ".pymq" / "logs" / "fake-1.log"
    assert parent.stdout == f"fake is ready (pid {pid}, log: {log})\n"
    assert os.getsid(pid) == pid, "it has left its terminal"
    assert list(shut_down("fake")) == [f"fake-1 (pid {pid}) has ended"]
    assert "INFO pymq.cli stopped" in log.read_text()
    with pytest.raises(PymqError, match="no fake is running"):
        list(shut_down("fake"))


def test_a_daemon_has_its_pid_file_where_it_was_told(home: Path) -> None:
    assert start_daemon(home, "own").returncode == 0
    pid = int((home / "own.pid").read_text())
    assert list(shut_down("fake", home / "own.pid")) == [f"own (pid {pid}) has ended"]


def test_a_daemon_that_fails_says_why_in_one_line_with_status_1(home: Path) -> None:
    parent = start_daemon(home, "fail")
    log = home / ".pymq" / "logs" / "fake-1.log"
    assert parent.returncode == 1
    assert parent.stdout == ""
    assert parent.stderr == f"pymq: the store is held by another process (log: {log})\n"


def test_a_daemon_that_dies_before_it_is_ready_is_noticed(home: Path) -> None:
    parent = start_daemon(home, "die")
    assert parent.returncode == 1
    assert "ended before it was ready" in parent.stderr


def test_a_pid_file_that_is_held_is_refused(home: Path, fake: list[subprocess.Popen[str]]) -> None:
    first = start(home, "own")
    fake.append(first)
    read_until(first, "fake is ready")
    second = start_daemon(home, "own")
    assert second.returncode == 1
    assert "another process holds the pid file own.pid" in second.stderr
    assert first.poll() is None


def test_the_process_that_got_the_number_of_a_dead_one_is_left_alone(home: Path) -> None:
    stale = home / ".pymq" / "run" / "fake-1.pid"
    stale.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        stale.write_text(f"{bystander.pid}\n")
        with pytest.raises(PymqError, match="no fake is running"):
            list(shut_down("fake"))
        time.sleep(0.05)
        assert bystander.poll() is None
        assert not stale.exists()
        bystander.communicate(b"\n", timeout=60)
