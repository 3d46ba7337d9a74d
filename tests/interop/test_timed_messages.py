"""Timed messages: Java's clients of 4.9.4 and 5.3.3 with pymq, and pymq's client with Apache's 5.3.3."""

from __future__ import annotations

import asyncio
import datetime
import os
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

import pymq
from tests.interop.apache import HERE, JVM_OPTIONS, built, java_jars, run
from tests.interop.conftest import ApacheClusters, JavaDrivers, fresh, message
from tests.interop.processes import Cluster
from tests.interop.python_client import python_client, take, take_until_quiet, text, texts

V5 = "5.3.3"
MESSAGE_ILLEGAL = 13


def now_ms() -> int:
    """The machine's time."""
    return time.time_ns() // 1_000_000


LATE_MS = 15_000
"""So late may anything be on a machine that pauses; how punctual brokers are is seen in simulated time."""


async def test_a_java_4_9_4_producer_that_sets_the_property_itself(
    java_drivers: JavaDrivers, cluster: Cluster
) -> None:
    topic = fresh("timed")
    java = java_drivers("4.9.4")
    async with (
        await java.start_async("start_producer", group="timing", namesrv=cluster.namesrv) as producer,
        python_client(cluster) as client,
    ):
        await producer.send_async(message(topic, "now"))
        due = now_ms() + 1_500
        await producer.send_async(
            message(topic, "delay", properties={"TIMER_DELAY_MS": 1_500}),
            message(topic, "time", properties={"TIMER_DELIVER_MS": due + 500}),
        )
        async with client.consumer(fresh("group"), topic, start="first") as consumer:
            got = {text(each): each.store_timestamp for each in await take(consumer, 3)}
    assert due <= got["delay"] < due + LATE_MS
    assert due + 500 <= got["time"] < due + LATE_MS
    assert got["now"] < due - 1_000


class Ran(NamedTuple):
    """What a run of the 5.x client printed: the lines of each kind, cut at the tabs."""

    sent: dict[str, int]
    """Body → not due before, ms since 1970."""
    got: dict[str, int]
    """Body → stored at."""
    recalled: list[list[str]]
    refused: list[list[str]]


def run_java_5(cluster: Cluster, topic: str, folder: Path) -> Ran:
    """Run interop5.TimedMessages."""
    source = HERE / "java5/interop5/TimedMessages.java"
    jars = java_jars(V5)

    def compile_it(classes: Path) -> None:
        run("javac", "-encoding", "UTF-8", "-proc:none", "-nowarn", "-cp", f"{jars}/*", "-d", classes, source)

    classes = built(f"timed-{V5}", [source], compile_it)
    done = subprocess.run(
        [
            "java", *JVM_OPTIONS, "-Xmx256m", f"-Duser.home={folder}", "-cp", f"{classes}:{jars}/*",
            "interop5.TimedMessages", cluster.namesrv, topic,
        ],
        cwd=folder, env=os.environ, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
    return Ran(
        {line[1]: int(line[2]) for line in lines if line[0] == "sent" and line[3] == "SEND_OK"},
        {line[1]: int(line[2]) for line in lines if line[0] == "got"},
        [line[1:] for line in lines if line[0] == "recalled"],
        [line[1:] for line in lines if line[0] == "refused"],
    )


def test_an_unmodified_java_5_client(java_drivers: JavaDrivers, cluster: Cluster, tmp_path: Path) -> None:
    del java_drivers  # skips where there is no Java
    ran = run_java_5(cluster, fresh("timed"), tmp_path)
    assert sorted(ran.got) == ["millis", "now", "seconds", "time"]
    assert sorted(ran.sent) == ["millis", "seconds", "time"]
    for body, due in ran.sent.items():
        assert due <= ran.got[body] < due + LATE_MS, body
    ((msg_id, answered),) = ran.recalled
    assert msg_id == answered
    assert [line[0] for line in ran.refused] == [str(MESSAGE_ILLEGAL)]


@pytest.mark.parametrize("kind", ["pymq", V5])
async def test_pymq_s_client(cluster: Cluster, apache_clusters: ApacheClusters, kind: str) -> None:
    """With Apache's broker a message may come up to a second early or late: that is its wheel's precision."""
    servers = cluster if kind == "pymq" else await asyncio.to_thread(apache_clusters, kind)
    slack_ms = 0 if kind == "pymq" else 1_000
    topic = fresh("timed")
    async with python_client(servers) as client:
        await client.send(topic, "now", timeout=20)
        due = now_ms() + 8_000
        at = datetime.datetime.fromtimestamp((due + 1_000) / 1000, datetime.UTC)
        results = {
            "delay": await client.send(topic, "delay", delay=timedelta(milliseconds=8_000)),
            "time": await client.send(topic, "time", deliver_at=at),
            "level": await client.send(topic, "level", delay_level=1),
            "cancelled": await client.send(topic, "cancelled", deliver_at=at),
            "cancelled too": await client.send(topic, "cancelled too", delay=timedelta(milliseconds=8_500)),
        }
        for body in ("cancelled", "cancelled too"):
            await client.cancel(results[body])
        with pytest.raises(pymq.MessageInvalid):
            await client.cancel(results["level"])
        with pytest.raises(pymq.SendFailed) as far:
            await client.send(topic, "far", delay=timedelta(days=4))
        assert far.value.code == MESSAGE_ILLEGAL
        async with client.consumer(fresh("group"), topic, start="first") as consumer:
            got = await take(consumer, 4)
            stored = {text(each): each.store_timestamp for each in got}
            assert texts(await take_until_quiet(consumer, 3.0)) == []
        assert sorted(stored) == ["delay", "level", "now", "time"]
        assert due - slack_ms <= stored["delay"] < due + LATE_MS
        assert due + 1_000 - slack_ms <= stored["time"] < due + LATE_MS
        ids = {text(each): each.msg_id for each in got}
        assert all(ids[body] == results[body].msg_id for body in ("delay", "time", "level"))
        with pytest.raises(pymq.TooLateToCancel):
            await client.cancel(results["time"])


@pytest.mark.parametrize("version", ["4.3.2", "4.9.4"])
async def test_an_older_apache_broker_gets_no_timed_message(
    apache_clusters: ApacheClusters, version: str
) -> None:
    servers = await asyncio.to_thread(apache_clusters, version)
    topic = fresh("timed")
    async with python_client(servers) as client:
        await client.send(topic, "now", timeout=20)
        with pytest.raises(pymq.SendFailed, match=f"version {version}, which knows delay levels"):
            await client.send(topic, "later", delay=timedelta(seconds=7))
        result = await client.send(topic, "level", delay=timedelta(seconds=10))  # the tests' brokers: 1 s
        assert result.recall_handle is None
        async with client.consumer(fresh("group"), topic, start="first") as consumer:
            assert texts(await take(consumer, 2)) == ["level", "now"]
