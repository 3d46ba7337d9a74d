"""Consumers that filter by SQL92, and brokers that do it: a whole `pymq standalone`, as users run it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

import pymq
from tests.integration.conftest import Standalone

pytestmark = pytest.mark.once


async def settled(consumer: pymq.Consumer) -> AsyncIterator[pymq.ReceivedMessage]:
    """The next messages, acknowledged."""
    for message in await consumer.fetch(wait=1):
        message.ack()
        yield message


async def put(mq: pymq.Client, topic: str, *values: object) -> None:
    """A message for each value, which is its body and its property `a`."""
    for value in values:
        await mq.send(
            topic, str(value), tags="even" if value in (2, 4) else "odd", properties={"a": str(value)}
        )


async def test_a_consumer_gets_what_its_expression_wants_stored_or_arriving(standalone: Standalone) -> None:
    async with pymq.Client(standalone.namesrv) as mq:
        await put(mq, "sql-orders", *range(10), "none")
        async with mq.consumer("sql-1", "sql-orders", sql="a BETWEEN 3 AND 7", start="first") as consumer:
            got: set[bytes] = set()
            async with asyncio.timeout(90):
                while len(got) < 5:
                    got |= {m.body async for m in settled(consumer)}
                await put(mq, "sql-orders", 100, 5.5, "006", 2)
                while b"006" not in got:
                    got |= {m.body async for m in settled(consumer)}
            assert await consumer.fetch(wait=0.2) == []
    assert got == {b"3", b"4", b"5", b"6", b"7", b"006"}  # "5.5" is no integer to Java, and so not matched


async def test_topics_of_one_consumer_are_filtered_each_in_its_way(standalone: Standalone) -> None:
    topics: dict[str, str | pymq.Sql] = {
        "by-tags": "even",
        "by-sql": pymq.Sql("TAGS = 'odd' AND a > 1"),
        "all": "*",
    }
    async with pymq.Client(standalone.namesrv) as mq:
        for topic in topics:
            await put(mq, topic, *range(6))
        got: dict[str, set[bytes]] = {topic: set() for topic in topics}
        async with mq.consumer("sql-2", topics, start="first") as consumer, asyncio.timeout(90):
            while sum(map(len, got.values())) < 10:
                async for message in settled(consumer):
                    got[message.topic].add(message.body)
    assert got == {
        "by-tags": {b"2", b"4"},
        "by-sql": {b"3", b"5"},
        "all": {b"0", b"1", b"2", b"3", b"4", b"5"},
    }


async def test_a_wrong_expression_is_an_error_that_points_at_the_character(standalone: Standalone) -> None:
    async with pymq.Client(standalone.namesrv) as mq:
        await put(mq, "sql-orders", 1)
        with pytest.raises(pymq.FilterRefused) as refused:
            await mq.consumer("sql-3", "sql-orders", sql="a > > 1").start()
    assert refused.value.code == 23
    assert "character 5" in str(refused.value)
    assert "[a > ^> 1]" in str(refused.value)


def pymq_command(standalone: Standalone, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pymq", *arguments],
        env={**os.environ, "NAMESRV_ADDR": standalone.namesrv},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_filters_too(standalone: Standalone) -> None:
    for colour in ("red", "blue"):
        pymq_command(standalone, "send", "cli-sql", colour, "--property", f"colour={colour}")
    consume = ("consume", "cli-sql", "--from", "first", "--count", "1", "--sql")
    assert pymq_command(standalone, *consume, "colour = 'blue'").stdout == "blue\n"
    wrong = pymq_command(standalone, *consume, "colour == 'blue'")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("pymq: broker standalone (")
    assert wrong.stderr.endswith(
        'SQL92 filter, character 9: expected a property, a value or "(", found "=" [colour =^= \'blue\']\n'
    )
    assert wrong.stderr.count("\n") == 1
    both = pymq_command(standalone, *consume, "a = 1", "--tags", "x")
    assert both.stderr.startswith("pymq: tags and sql: a topic has one of them")
