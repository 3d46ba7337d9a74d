"""Moving groups: mqadmin's commands and Python's, on running consumers of all kinds and on none."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

import pymq
from tests.interop.conftest import VERSIONS, ApacheClusters, JavaDrivers, fresh
from tests.interop.drivers import Started
from tests.interop.offset_tools import Tools, stored_ms, table, tools_of
from tests.interop.processes import Cluster
from tests.interop.python_client import python_client, take, texts

APART_S = 2.0
"""Of two messages the nearer one to a time counts: more than may lie between those sent to two queues."""


@pytest.fixture
async def tools(cluster: Cluster, java_drivers: JavaDrivers) -> AsyncIterator[Tools]:
    """With pymq's servers (Apache's when PYMQ_INTEROP_SERVERS names a version)."""
    async with AsyncExitStack() as stack:
        yield await tools_of(cluster, java_drivers, stack)


@pytest.fixture
async def tools_of_both(servers: Cluster, java_drivers: JavaDrivers) -> AsyncIterator[Tools]:
    """With pymq's servers, and then with Apache's."""
    async with AsyncExitStack() as stack:
        yield await tools_of(servers, java_drivers, stack)


async def test_running_consumers_of_all_kinds_go_on_where_they_are_told_to(
    tools: Tools, java_drivers: JavaDrivers
) -> None:
    """Java's take ten seconds for it, so that all are told at once."""
    topic = await tools.topic("moved")
    old_java, java, python = fresh("old-java"), fresh("java"), fresh("python")
    async with AsyncExitStack() as stack:
        consumers: dict[str, Started] = {}
        for group, version in ((old_java, "4.3.2"), (java, "4.9.4")):
            driver = await asyncio.to_thread(java_drivers, version)
            settings = {"group": group, "topic": topic, "from": "FIRST_OFFSET"}
            consumer = await driver.start_async("start_consumer", namesrv=tools.cluster.namesrv, **settings)
            consumers[group] = await stack.enter_async_context(consumer)
        ours = await stack.enter_async_context(tools.client.consumer(python, topic, start="first"))
        await tools.send(topic, "early 0", "early 1")
        await asyncio.sleep(APART_S)
        sent = await tools.send(topic, "late 0", "late 1", "last 0", "last 1")
        since = await stored_ms(tools, topic, sent[0])
        for consumer in consumers.values():
            assert len(await consumer.received_async(6)) == 6
        assert len(await take(ours, 6)) == 6
        for group in (old_java, java, python):
            await tools.stands(group, topic, 3, 3, by=consumers.get(group))

        # Where they stand and what they own, as they say themselves.
        status = await tools.api("consumer_status", topic=topic, group=java)
        assert [row["offset"] for row in status[consumers[java].client_id]] == [3, 3]
        status = await tools.api(
            "consumer_status", topic=topic, group=python, client_id=tools.client.client_id
        )
        assert [row["offset"] for row in status[tools.client.client_id]] == [3, 3]
        for group, client_id in ((java, consumers[java].client_id), (python, tools.client.client_id)):
            owned = await tools.api("running_queues", group=group, client_id=client_id)
            assert [row["queue_id"] for row in owned if row["topic"] == topic] == [0, 1]

        for group in (old_java, python):
            printed = await tools.mqadmin(
                "offset.ResetOffsetByTimeCommand", "-g", group, "-t", topic, "-s", str(since)
            )
            assert sorted(table(printed)) == [["broker-a", "0", "1"], ["broker-a", "1", "1"]]
        if tools.cluster.kind == "pymq":  # to offsets, of which Apache's protocol knows nothing
            queues = await tools.client.queues(topic)
            moved = await tools.client.reset_offsets(java, topic, {queues[0]: 2, queues[1]: 1})
            assert moved == {queues[0]: 2, queues[1]: 1}
            again = ["last 0", "last 1", "late 1"]
        else:
            at = datetime.datetime.fromtimestamp(since / 1000, datetime.UTC)
            assert set((await tools.client.reset_offsets(java, topic, at)).values()) == {1}
            again = ["last 0", "last 1", "late 0", "late 1"]

        assert texts(await take(ours, 4)) == ["last 0", "last 1", "late 0", "late 1"]
        for group, bodies in ((old_java, ["last 0", "last 1", "late 0", "late 1"]), (java, again)):
            got = await consumers[group].received_async(6 + len(bodies), 100)
            assert sorted(each["body"] for each in got[6:]) == bodies
        for group in (old_java, java, python):
            await tools.stands(group, topic, 3, 3, by=consumers.get(group))


async def test_groups_without_consumers_are_looked_at_moved_and_copied_by_mqadmin(
    tools_of_both: Tools,
) -> None:
    tools = tools_of_both
    topic, group, copy = await tools.topic("away"), fresh("away"), fresh("copy")
    async with tools.client.consumer(group, topic, start="first") as consumer:
        sent = await tools.send(topic, *(f"old {i}" for i in range(4)))
        assert len(await take(consumer, 4)) == 4
    await tools.stands(group, topic, 2, 2)
    await asyncio.sleep(APART_S)
    sent = await tools.send(topic, *(f"new {i}" for i in range(5)))

    progress = await tools.mqadmin("consumer.ConsumerProgressSubCommand", "-g", group)
    rows = [row for row in table(progress) if row[0] == topic]
    assert [row[1:6] for row in rows] == [["broker-a", "0", "5", "2", "3"], ["broker-a", "1", "4", "2", "2"]]
    assert "Diff Total: 5" in progress
    lag = await tools.client.lag(group)
    assert lag.messages == 5
    ours = [each for each in lag.queues if each.queue.topic == topic]
    assert [(each.broker_offset, each.consumer_offset) for each in ours] == [(5, 2), (4, 2)]
    assert datetime.timedelta() < lag.behind < datetime.timedelta(minutes=1)
    spans = await tools.api("time_spans", topic=topic, group=group)
    assert [span["max_ms"] >= span["consumed_ms"] > 0 for span in spans] == [True, True]
    assert all(0 < span["delay_ms"] < 60_000 for span in spans)
    broker = await tools.api("broker_consume_stats", addr=tools.cluster.broker.address)
    assert [row["offset"] for row in broker["groups"][group] if row["topic"] == topic] == [2, 2]
    assert broker["total_diff"] >= 5

    async def moves(command: str, *args: str) -> dict[int, int] | None:
        await tools.mqadmin(f"offset.{command}", "-g", group, "-t", topic, *args)
        return await tools.committed(group, topic)

    assert await moves("SkipAccumulationSubCommand") == {0: 5, 1: 4}
    since = await stored_ms(tools, topic, sent[0])
    assert await moves("ResetOffsetByTimeCommand", "-s", str(since)) == {0: 2, 1: 2}
    assert await moves("ResetOffsetByTimeCommand", "-s", "now", "-f", "false") == {0: 2, 1: 2}
    assert await moves("ResetOffsetByTimeCommand", "-s", "1") == {0: 0, 1: 0}
    assert set((await tools.client.reset_offsets(group, topic, "last")).values()) == {5, 4}
    queues = await tools.client.queues(topic)
    await tools.client.reset_offsets(group, topic, {queues[0]: 4, queues[1]: 3})
    assert await tools.committed(group, topic) == {0: 4, 1: 3}

    await tools.mqadmin("offset.CloneGroupOffsetCommand", "-s", group, "-d", copy, "-t", topic)
    async with tools.client.consumer(copy, topic, start="first") as consumer:
        assert texts(await take(consumer, 2)) == ["new 3", "new 4"]
    for number, clone in enumerate(
        (
            partial(tools.api, "clone_offsets", source=group, topic=topic, offline=True),
            partial(tools.client.clone_offsets, group, topic=topic),
        )
    ):
        target = f"{copy}-{number}"
        await clone(target=target)
        async with tools.client.consumer(target, topic, start="first") as consumer:
            assert texts(await take(consumer, 2)) == ["new 3", "new 4"]


@pytest.fixture(params=["pymq", *VERSIONS])
async def tools_of_all(request: pytest.FixtureRequest, java_drivers: JavaDrivers) -> AsyncIterator[Tools]:
    """With pymq's servers, and then with Apache's of both versions."""
    if request.param == "pymq":
        cluster: Cluster = request.getfixturevalue("cluster")
    else:
        clusters: ApacheClusters = request.getfixturevalue("apache_clusters")
        cluster = clusters(request.param)
    async with AsyncExitStack() as stack:
        yield await tools_of(cluster, java_drivers, stack)


async def test_a_running_python_group_is_moved_by_a_python_client(tools_of_all: Tools) -> None:
    tools = tools_of_all
    topic, group = await tools.topic("running"), fresh("running")
    queues = await tools.client.queues(topic)
    async with (
        python_client(tools.cluster) as other,
        other.consumer(group, topic, start="first") as consumer,
    ):
        await tools.send(topic, "m0", "m1", "m2", "m3")
        await asyncio.sleep(APART_S)
        sent = await tools.send(topic, "m4", "m5")
        assert len(await take(consumer, 6)) == 6
        await tools.stands(group, topic, 3, 3)
        assert set((await tools.client.reset_offsets(group, topic, "first")).values()) == {0}
        assert len(await take(consumer, 6)) == 6
        await tools.stands(group, topic, 3, 3)
        at = datetime.datetime.fromtimestamp(await stored_ms(tools, topic, sent[0]) / 1000, datetime.UTC)
        assert set((await tools.client.reset_offsets(group, topic, at)).values()) == {2}
        assert texts(await take(consumer, 2)) == ["m4", "m5"]
        await tools.stands(group, topic, 3, 3)
        assert (await tools.client.lag(group)).messages == 0
        if tools.cluster.kind == "pymq":
            await tools.client.reset_offsets(group, topic, {queues[0]: 1})
            assert texts(await take(consumer, 2)) == ["m2", "m4"]
        else:
            with pytest.raises(pymq.MoveRefused, match="resets these to times only"):
                await tools.client.reset_offsets(group, topic, {queues[0]: 1})


async def test_mqadmin_sees_how_fast_a_member_is_and_lets_it_handle_a_message(
    tools: Tools, java_drivers: JavaDrivers
) -> None:
    """Of ours and of Java's."""
    topic = await tools.topic("directly")
    group, java_group = fresh("python"), fresh("java")
    got: list[str] = []

    async def handle(message: pymq.ReceivedMessage) -> None:
        got.append(message.body.decode())
        if message.body == b"no":
            raise pymq.RetryLater("no", delay_level=18)  # not while this test runs

    driver = await asyncio.to_thread(java_drivers, "4.9.4")
    settings = {"group": java_group, "topic": topic, "from": "FIRST_OFFSET"}
    consumer = await driver.start_async("start_consumer", namesrv=tools.cluster.namesrv, **settings)
    consuming = asyncio.create_task(tools.client.consume(group, topic, handle, start="first"))
    async with consumer as java:
        sent = await tools.send(topic, "yes", "no")
        assert len(await java.received_async(2)) == 2
        async with asyncio.timeout(90):
            while len(got) < 2:  # noqa: ASYNC110 - the handler runs beside
                await asyncio.sleep(0.01)

        async def handled(message: pymq.SendResult, by: str, client_id: str) -> str:
            command = "message.QueryMsgByIdSubCommand"
            return await tools.mqadmin(command, "-i", message.offset_msg_id, "-g", by, "-d", client_id)

        ours = tools.client.client_id
        assert "consumeResult=CR_SUCCESS" in await handled(sent[0], group, ours)
        assert "consumeResult=CR_LATER" in await handled(sent[1], group, ours)
        assert sorted(got) == ["no", "no", "yes", "yes"]
        assert java.client_id is not None
        assert "consumeResult=CR_SUCCESS" in await handled(sent[0], java_group, java.client_id)
        assert len(await java.received_async(3)) == 3

        printed = await tools.mqadmin("consumer.ConsumerStatusSubCommand", "-g", group, "-i", ours)
        rates = printed.partition("#Consumer RT&TPS#")[2]
        [row] = [line.split() for line in rates.splitlines() if line.startswith(topic)]
        pull_tps, ok_tps, failed_tps, failed = (float(row[i]) for i in (2, 4, 5, 6))
        assert pull_tps > 0
        assert ok_tps == failed_tps > 0
        assert failed == 1
    consuming.cancel()
    await asyncio.wait([consuming])
