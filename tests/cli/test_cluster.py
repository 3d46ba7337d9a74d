"""`pymq cluster up` as a user runs it: processes, ports, signals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import environment
from tests.cli.running_cluster import DEADLINE_S, Cluster, cluster, is_alive

pytestmark = pytest.mark.once

PYMQ = (sys.executable, "-m", "pymq")
TUTORIAL = Path(__file__).parent.parent / "fixtures" / "tutorial"
STOPPED = "INFO pymq.cli stopped\n"


@pytest.fixture
def two_masters_two_slaves(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(PYMQ, tmp_path, "2m-2s-sync", "--free-ports", "--set", "diskMinFreeBytes=1") as running:
        running.wait_ready()
        yield running


def test_a_layout_runs_tells_its_state_survives_a_dead_master_and_is_stopped_by_ctrl_c(
    two_masters_two_slaves: Cluster,
) -> None:
    running = two_masters_two_slaves
    assert list(running.pids()) == [
        "broker-a-0", "broker-a-1", "broker-b-0", "broker-b-1", "namesrv-1", "namesrv-2",
    ]  # fmt: skip
    lines = [running.until(r"^\S+: (name server|SYNC_MASTER|SLAVE) at ") for _ in range(6)]
    assert [line.split(" at ")[0] for line in lines] == [
        "namesrv-1: name server",
        "namesrv-2: name server",
        "broker-a-0: SYNC_MASTER",
        "broker-a-1: SLAVE",
        "broker-b-0: SYNC_MASTER",
        "broker-b-1: SLAVE",
    ]
    running.until_copying("broker-a-1", "broker-b-1")
    sent = re.match("SEND_OK .* broker=(broker-[ab]) ", running.pymq("send", "orders", "before"))
    assert sent is not None, "a SYNC_MASTER answers so when its slave has the message"
    dead, other = sent[1], {"broker-a": "broker-b", "broker-b": "broker-a"}[sent[1]]

    os.kill(running.pids()[f"{dead}-0"], signal.SIGKILL)
    told = running.until("has ended")
    assert re.search(
        rf"^{dead}-0 has ended: killed by SIGKILL \(log: data/2m-2s-sync/logs/{dead}-0\.log\)$", told
    )
    running.until(rf"^{dead}-0: SYNC_MASTER at \S+, no answer, registered with 0 of 2 name servers$")
    assert f"broker={other}" in running.pymq("send", "others", "after")
    found = running.pymq("consume", "orders", "--from", "first", "--count", "1")
    assert found == "before\n", "what the dead master held comes from its slave"

    groups = {os.getpgid(pid) for name, pid in running.pids().items() if name != f"{dead}-0"}
    assert os.getpgid(running.process.pid) not in groups, "a terminal's Ctrl-C must not reach them"
    running.stop(signal.SIGINT)
    assert "lost; registering again" not in running.log(f"{other}-0"), "name servers end after brokers"
    for name in (f"{dead}-1", f"{other}-0", f"{other}-1", "namesrv-1", "namesrv-2"):
        assert STOPPED in running.log(name)


def test_a_cluster_whose_own_process_is_killed_leaves_nobody_behind(tmp_path: Path) -> None:
    with cluster(PYMQ, tmp_path, "1m", "--free-ports") as running:
        running.wait_ready()
        pids = running.pids()
        assert len(pids) == 3
        running.process.kill()
        deadline = time.monotonic() + DEADLINE_S
        while any(is_alive(pid) for pid in pids.values()):
            assert time.monotonic() < deadline, "still there"
            time.sleep(0.02)
        assert STOPPED in running.log("broker-a-0"), "cleanly"


def test_a_cluster_with_no_process_left_ends_and_says_so(tmp_path: Path) -> None:
    with cluster(PYMQ, tmp_path, "1m", "--free-ports") as running:
        running.wait_ready()
        for pid in running.pids().values():
            os.kill(pid, signal.SIGKILL)
        assert running.until("^pymq: ").startswith("pymq: all processes of the cluster have ended (logs: ")
        assert running.process.wait(DEADLINE_S) == 1


@pytest.mark.parametrize("taken", ["name server", "broker"])
def test_a_taken_port_is_one_line_and_nobody_is_left_behind(tmp_path: Path, taken: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        name, namesrv, own = "namesrv-1", port, ""
        if taken == "broker":
            name, namesrv, own = "a-0", _free_port(), f"listenPort={port}"
        conf = tmp_path / "a.conf"
        conf.write_text(f"brokerName=a\nnamesrvAddr=127.0.0.1:{namesrv}\n{own}\n")
        with cluster(PYMQ, tmp_path, conf, "--data", "data") as running:
            said = running.until("^pymq: ")
            assert said.startswith(
                f"pymq: {name} did not start: cannot listen on 127.0.0.1:{port}: the port is"
            )
            assert f"(log: data/logs/{name}.log)" in said
            assert running.process.wait(DEADLINE_S) == 1
            running.data = tmp_path / "data"
            assert running.pids() == {}, "those that had started have ended"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


INSIDE = "ip link set lo up && exec "
"""A network of its own, where the tutorial's ports are free."""


def has_own_network() -> bool:
    """Whether this system lets a test have a network of its own."""
    if not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "-rn", "sh", "-c", f"{INSIDE} true"], capture_output=True).returncode == 0
    )


SCENE = """
"$@" cluster up {files} > out 2>&1 &
cluster=$!
trap 'kill -9 $cluster' EXIT
tail -f out --pid=$cluster | sed '/^broker02-1: SLAVE at .* registered with 2 of 2/q'
for body in 1 2; do
  "$@" send my-test-topic $body --tags SEND_MSG -n '127.0.0.1:9876;127.0.0.1:9877'
done
kill -9 $(cat data/tutorial/run/broker01-0.pid) $(cat data/tutorial/run/broker02-0.pid)
"$@" consume my-test-topic --from first --count 2 -n 127.0.0.1:9877
kill -INT $cluster
wait $cluster
echo "status $?"
trap - EXIT
"""


@pytest.mark.skipif(not has_own_network(), reason="the tutorial's fixed ports need a network of their own")
def test_the_tutorials_four_files_form_its_cluster_as_they_are(tmp_path: Path) -> None:
    files = " ".join(map(str, sorted(TUTORIAL.glob("broker0*.conf"))))
    (tmp_path / "scene.sh").write_text(SCENE.format(files=files))
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f"{INSIDE} sh scene.sh {' '.join(PYMQ)}"],
        env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=120, check=True,
    )  # fmt: skip
    for line in (
        "namesrv-1: name server at 127.0.0.1:9876",
        "namesrv-2: name server at 127.0.0.1:9877",
        "broker01-0: SYNC_MASTER at 127.0.0.1:10911, registered with 2 of 2 name servers",
        "broker01-1: SLAVE at 127.0.0.1:10711, registered with 2 of 2 name servers",
        "broker02-0: SYNC_MASTER at 127.0.0.1:10811, registered with 2 of 2 name servers",
        "broker02-1: SLAVE at 127.0.0.1:10611, registered with 2 of 2 name servers",
    ):
        assert line in done.stdout
    assert done.stdout.count("SEND_OK") == 2
    *_, one, two, status = done.stdout.splitlines()
    assert {one, two} == {"1", "2"}, "from the slaves: both masters are dead"
    assert status == "status 0"
