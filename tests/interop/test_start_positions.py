"""Where groups begin: new ones at what the broker holds, broadcasting ones at what their file says."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

import pymq
from pymq.client.start_offset import Start
from tests.interop.conftest import VERSIONS, JavaDrivers, fresh
from tests.interop.drivers import Driver, Started
from tests.interop.offset_tools import QUEUES, Tools, stored_ms, tools_of
from tests.interop.processes import Cluster
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually, python_client, take, texts


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """pymq's servers; no message counts as being in memory."""
    folder = tmp_path_factory.mktemp("forgetful")
    name_server = pymq_name_server(folder / "namesrv")
    broker = pymq_broker(folder / "broker", [name_server], accessMessageInMemoryMaxRatio=0)
    made = Cluster("pymq", name_server, broker)
    yield made
    made.kill()


async def test_new_java_groups_pass_over_what_is_not_in_memory(
    forgetful: Cluster, java_drivers: JavaDrivers
) -> None:
    expected = {"LAST_OFFSET": [], "FIRST_OFFSET": ["new", "old"], "TIMESTAMP": ["new"]}
    async with AsyncExitStack() as stack:
        tools = await tools_of(forgetful, java_drivers, stack)
        # A TIMESTAMP is whole seconds, and the message that is nearer to it counts.
        topic, since = await _with_an_old_and_a_new_message(tools, apart_s=2.1)
        at = datetime.datetime.fromtimestamp(since / 1000).strftime("%Y%m%d%H%M%S")
        consumers: list[tuple[Started, list[str]]] = []
        for version in VERSIONS:
            java = await asyncio.to_thread(java_drivers, version)
            for start, bodies in expected.items():
                settings = {"group": fresh("begin"), "topic": topic, "from": start, "timestamp": at}
                consumer = await java.start_async("start_consumer", namesrv=forgetful.namesrv, **settings)
                consumers.append((await stack.enter_async_context(consumer), bodies))

        async def own_all() -> bool:
            owned = [await consumer.ask_async("assigned") for consumer, _ in consumers]
            return all(len(queues) == QUEUES for queues in owned)

        await eventually("they own their queues", own_all)
        await tools.client.send(topic, "later", queue=(await tools.client.queues(topic))[0])
        for consumer, bodies in consumers:
            got = await consumer.received_async(len(bodies) + 1)
            assert sorted(each["body"] for each in got) == sorted([*bodies, "later"])


async def test_a_python_group_passes_over_what_apache_does_not_hold_in_memory(
    servers: Cluster, forgetful: Cluster, java_drivers: JavaDrivers
) -> None:
    """And on pymq the same."""
    async with AsyncExitStack() as stack:
        cluster = forgetful if servers.kind == "pymq" else servers
        tools = await tools_of(cluster, java_drivers, stack)
        if cluster is servers:
            set_ratio = partial(tools.api, "update_broker_config", addr=cluster.broker.address)
            await set_ratio(properties={"accessMessageInMemoryMaxRatio": "0"})
            stack.push_async_callback(set_ratio, properties={"accessMessageInMemoryMaxRatio": "40"})
        topic, since = await _with_an_old_and_a_new_message(tools)
        at = datetime.datetime.fromtimestamp(since / 1000, datetime.UTC)
        starts: list[tuple[Start, list[str]]] = [("last", []), (at, ["new"]), ("first", ["new", "old"])]
        for start, bodies in starts:
            async with tools.client.consumer(fresh("begin"), topic, start=start) as consumer:

                async def owns_all(consumer: pymq.Consumer = consumer) -> bool:
                    return len([each for each in consumer.queues() if each.topic == topic]) == QUEUES

                await eventually("it owns its queues", owns_all)
                later = f"later than {start}"
                await tools.client.send(topic, later, queue=(await tools.client.queues(topic))[0])
                got: list[str] = []
                while later not in got:
                    got += texts(await take(consumer, 1))
                got += texts(await consumer.fetch(wait=0.1))
                assert sorted(each for each in got if not each.startswith("later")) == bodies, start


async def _with_an_old_and_a_new_message(tools: Tools, apart_s: float = 0.1) -> tuple[str, int]:
    """A topic with both in its first queue; and when the new one was stored, ms since 1970."""
    topic = await tools.topic("begin")
    [old] = await tools.send(topic, "old")
    await asyncio.sleep(apart_s)
    queues = await tools.client.queues(topic)
    new = await tools.client.send(topic, "new", queue=queues[0])
    assert new.queue_offset == old.queue_offset + 1
    return topic, await stored_ms(tools, topic, new)


async def test_a_broadcasting_consumer_goes_on_from_the_file_of_one_in_the_other_language(
    cluster: Cluster, java_json: Driver, java_drivers: JavaDrivers
) -> None:
    async with AsyncExitStack() as stack:
        await _go_on_in_turn(await tools_of(cluster, java_drivers, stack), java_json)


async def _go_on_in_turn(tools: Tools, java_json: Driver) -> None:
    """Java, Python, and Java again."""
    topic, group, instance = await tools.topic("all"), fresh("all"), fresh("instance")
    folder = java_json.folder / "home/.rocketmq_offsets"
    settings = {"group": group, "topic": topic, "from": "FIRST_OFFSET", "broadcast": True}
    start_java = partial(
        java_json.start_async,
        "start_consumer",
        namesrv=tools.cluster.namesrv,
        instance=instance,
        **settings,
    )
    mine = python_client(tools.cluster, instance_name=instance, offsets_folder=str(folder))

    async with await start_java() as consumer:
        await tools.send(topic, "a", "b", "c")
        assert len(await consumer.received_async(3)) == 3
        java_id = str(consumer.client_id)
        file = folder / java_id / group / "offsets.json"

        async def is_written() -> bool:
            await consumer.ask_async("commit_all")
            with contextlib.suppress(FileNotFoundError):  # while it is written anew
                return sum(map(int, re.findall(r"\}:(\d+)", file.read_text()))) == 3
            return False

        await eventually("all three are in its file", is_written)
    hand_over = _same_address(folder, java_id, mine.client_id)

    hand_over(java_id, mine.client_id)
    async with mine, mine.consumer(group, topic, broadcast=True, start="first") as ours:
        await tools.send(topic, "d", "e")
        assert texts(await take(ours, 2)) == ["d", "e"]
    hand_over(mine.client_id, java_id)
    assert (file.parent / "offsets.json.bak").exists()

    async with await start_java() as consumer:
        await tools.send(topic, "f", "g")
        assert sorted(each["body"] for each in await consumer.received_async(2)) == ["f", "g"]


def _same_address(folder: Path, *client_ids: str) -> Callable[[str, str], None]:
    """Moves a client's offsets to another id, where the two languages disagree on the machine's address."""
    assert len({each.split("@", 1)[1] for each in client_ids}) == 1

    def hand_over(source: str, target: str) -> None:
        if source != target:
            shutil.copytree(folder / source, folder / target, dirs_exist_ok=True)

    return hand_over
