"""What became of a message, as an operator finds it out: traced clients, a real broker, `pymq trace`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

import pymq
from tests.integration.conftest import Standalone, start_standalone

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """One that has the trace topic from the start, and whose retries come soon."""
    lines = "traceTopicEnable=true\nmessageDelayLevel=1s 1s 1s 1s\n"
    started = start_standalone(tmp_path_factory.mktemp("traced"), lines)
    yield started
    started.process.terminate()
    started.process.wait(timeout=60)


def run_trace(running: Standalone, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `pymq trace`. It blocks: only when no client runs in this process."""
    command = [sys.executable, "-m", "pymq", "trace", *arguments, "-n", running.namesrv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def found(running: Standalone, key: str) -> list[dict[str, Any]]:
    """What it gives as JSON."""
    done = run_trace(running, key, "--json")
    assert done.returncode == 0, done.stderr
    traces: list[dict[str, Any]] = json.loads(done.stdout)
    return traces


async def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - conditions are of all kinds
            await asyncio.sleep(0.02)


Handle = Callable[[pymq.ReceivedMessage], Awaitable[object]]


async def consume(mq: pymq.Client, topic: str, **handlers: Handle) -> None:
    """Let groups consume until cancelled."""
    async with asyncio.TaskGroup() as group:
        for name, handler in handlers.items():
            group.create_task(mq.consume(name, topic, handler, start="first", grace=0.1))


async def test_the_life_of_a_message_through_three_groups(running: Standalone) -> None:
    done: set[str] = set()

    async def billing(message: pymq.ReceivedMessage) -> None:
        if message.reconsume_times == 0:
            raise ValueError("not now")
        done.add("billing")

    async def audit(message: pymq.ReceivedMessage) -> object:
        done.add("audit")
        return pymq.RetryLater("never", delay_level=-1)

    async def mail(message: pymq.ReceivedMessage) -> None:
        done.add("mail")

    async with pymq.Client(running.namesrv, producer_group="shop", trace=True) as mq:
        sent = await mq.send("orders", b"x" * 700, tags="created", keys=["o-1"])
        consuming = asyncio.ensure_future(consume(mq, "orders", billing=billing, audit=audit, mail=mail))
        await until(lambda: done == {"billing", "audit", "mail"})
        consuming.cancel()
        await asyncio.wait([consuming])

    [trace] = found(running, sent.msg_id)
    assert (trace["topic"], trace["tags"], trace["keys"]) == ("orders", "created", ["o-1"])
    steps = {(s["event"], s["group"], s["attempt"], s["result"]) for s in trace["steps"]}
    assert steps == {
        ("send", "shop", None, "ok"),
        ("consume", "billing", 1, "exception"),
        ("consume", "billing", 2, "ok"),
        ("consume", "audit", 1, "later"),
        ("dead letter", "audit", None, None),
        ("consume", "mail", 1, "ok"),
    }
    assert trace["steps"][0]["event"] == "send"
    times = [step["time_ms"] for step in trace["steps"]]
    assert times == sorted(times)
    places = {(s["topic"], s["queue_id"], s["queue_offset"], s["size"]) for s in trace["stored"]}
    assert places == {
        ("orders", sent.queue.queue_id, sent.queue_offset, 700),
        ("%DLQ%audit", 0, 0, 700),
    }

    shown = run_trace(running, "o-1")
    assert shown.returncode == 0
    assert f"message  {sent.msg_id}  topic orders  tags created  keys o-1\n" in shown.stdout
    assert "group billing: consumed after 1 failed attempt, " in shown.stdout
    assert "group audit: a dead letter after 1 failed attempt\n" in shown.stdout
    assert "group mail: consumed, " in shown.stdout


async def test_a_send_that_failed_is_found_by_its_key(running: Standalone) -> None:
    async with pymq.Client(running.namesrv, trace=True) as mq:
        good = await mq.send("orders", "x", keys="good")
        no_queue = pymq.MessageQueue("orders", good.queue.broker_name, 99)
        with pytest.raises(pymq.SendFailed):
            await mq.send("orders", "x", keys="bad", queue=no_queue)
    [trace] = found(running, "bad")
    assert {(s["event"], s["result"], s["broker"]) for s in trace["steps"]} == {
        ("send", "failed", running.broker)
    }
    assert trace["stored"] == []


async def test_the_end_of_a_transaction_is_found(running: Standalone) -> None:
    async with pymq.Client(running.namesrv, producer_group="deals", trace=True) as mq:
        await mq.send("deals", "to have the topic")
        async with mq.transaction("deals", "x", keys="deal") as committed:
            pass
    [trace] = found(running, "deal")
    assert trace["msg_id"] == committed.transaction_id
    assert [(s["event"], s["result"], s["message_type"]) for s in trace["steps"]] == [
        ("send", "ok", 1),
        ("end transaction", "commit", None),
    ]
    assert [copy["topic"] for copy in trace["stored"]] == ["deals"]


def test_commands_are_traced_that_are_to_be(running: Standalone) -> None:
    for command in (
        ("send", "shell", "by hand", "--keys", "shell-1", "--trace"),
        ("send", "shell", "in secret", "--keys", "shell-2"),
        ("consume", "shell", "--from", "first", "--count", "2", "-g", "shell", "--trace"),
    ):
        subprocess.run(
            [sys.executable, "-m", "pymq", *command, "-n", running.namesrv], timeout=60, check=True
        )
    [trace] = found(running, "shell-1")
    assert [step["event"] for step in trace["steps"]] == ["send", "consume"]
    [trace] = found(running, "shell-2")
    assert (trace["topic"], [step["event"] for step in trace["steps"]]) == (None, ["consume"])


def test_of_what_is_not_traced_one_line_says_how_to_trace(running: Standalone) -> None:
    done = run_trace(running, "C0000202794559531EBA99AB1D98D92F")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("pymq: RMQ_SYS_TRACE_TOPIC tells nothing of C0000202794559531EBA99AB1D98D92F; ")
    assert "trace=True" in line
    assert "enableMsgTrace" in line
    done = run_trace(running, "x", "--topic", "none")
    assert done.returncode == 1
