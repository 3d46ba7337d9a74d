"""`pymq standalone`, as a user runs it: processes, TCP, a folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.running import environment, standalone

PYMQ = (sys.executable, "-m", "pymq")


def test_a_message_is_sent_and_consumed_and_survives_a_restart(tmp_path: Path) -> None:
    with standalone(PYMQ, tmp_path) as one:
        sent = one.pymq("send", "orders", "grüße", "--tags", "created", "--keys", "o-1", "--property", "k=v")
        assert re.fullmatch(r"SEND_OK msgId=\w+ broker=standalone queueId=\d+ queueOffset=0\n", sent)
        consumed = one.pymq("consume", "orders", "-g", "first", "--from", "first", "--count", "1")
        assert consumed == "grüße\n"
        one.stop()
    with standalone(PYMQ, tmp_path) as one:
        consumed = one.pymq("consume", "orders", "-g", "second", "--from", "first", "--count", "1", "-v")
        assert re.fullmatch(r"queueId=\d+ queueOffset=0 tags=created keys=o-1 grüße\n", consumed)
        one.stop()


def test_messages_are_consumed_in_order_and_broadcast(tmp_path: Path) -> None:
    with standalone(PYMQ, tmp_path) as one:
        for body in ("1", "2"):
            one.pymq("send", "orders", body)

        def consumed(*options: str) -> list[str]:
            text = one.pymq("consume", "orders", "-g", "g", "--from", "first", "--count", "2", *options)
            return sorted(text.split())

        assert consumed("--ordered") == ["1", "2"]
        assert consumed("--broadcast") == ["1", "2"], "the group's offsets are none of a broadcast consumer's"
        one.stop()


def test_hello_shows_a_first_message_and_how_to_connect(tmp_path: Path) -> None:
    with standalone(PYMQ, tmp_path, "--hello") as one:
        assert one.process.stdout is not None
        lines = [one.process.stdout.readline() for _ in range(9)]
        text = "".join(lines)
        assert re.search(r"^sent +SEND_OK msgId=\w+ ", text, re.MULTILINE)
        assert re.search(r"^consumed +Hello from pymq$", text, re.MULTILINE)
        assert f'pymq.Client("{one.namesrv}")' in text
        assert f'setNamesrvAddr("{one.namesrv}")' in text
        one.stop()


def test_a_store_folder_that_another_process_holds_is_refused_with_one_line(tmp_path: Path) -> None:
    with standalone(PYMQ, tmp_path) as one:
        command = [*PYMQ, "standalone", "--data", "data", "--port", "0", "--namesrv-port", "0"]
        second = subprocess.run(
            command,
            env=environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert second.returncode == 1
        assert second.stderr.startswith("pymq: ")
        assert str(tmp_path / "data" / "store") in second.stderr
        assert second.stderr.count("\n") == 1
        one.stop()


def test_a_daemon_is_stopped_by_shutdown(tmp_path: Path) -> None:
    def pymq(*arguments: str) -> str:
        return subprocess.run(
            [*PYMQ, *arguments],
            env=environment(tmp_path),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            timeout=90,
            check=True,
        ).stdout

    said = pymq("standalone", "--port", "0", "--namesrv-port", "0", "--daemon")
    try:
        assert said.startswith("pymq standalone is ready: name server 127.0.0.1:")
    finally:
        ended = pymq("shutdown", "standalone")
    assert re.fullmatch(r"standalone-\d+ \(pid \d+\) has ended\n", ended)
