"""Where groups stand, and moving them: with consumers running and without, by the client and by hand."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import pymq
from pymq.cli.commands import commands
from pymq.client import Settings
from pymq.client.group_offsets import ResetTo
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.transport.pool import Pool
from tests.integration.conftest import Standalone

QUICK = Settings(commit_s=0.05, call_timeout_s=20.0)
NOW = datetime.timedelta()


@pytest.fixture
async def mq(standalone: Standalone) -> AsyncIterator[pymq.Client]:
    async with pymq.Client(standalone.namesrv, settings=QUICK) as client:
        yield client


class Queues:
    """A topic of two queues, which gets its messages in the first unless said otherwise."""

    def __init__(self, mq: pymq.Client, topic: str) -> None:
        self._mq = mq
        self.topic = topic

    @classmethod
    async def made(cls, mq: pymq.Client, standalone: Standalone, pool: Pool, topic: str) -> Queues:
        await pool.call(standalone.broker, CreateTopicRequest(topic, 2, 2, 6))
        queues = cls(mq, topic)
        queues.first, queues.second = await mq.queues(topic)
        return queues

    first: pymq.MessageQueue
    second: pymq.MessageQueue

    async def send(self, *bodies: str) -> list[pymq.SendResult]:
        """Send to the first queue, some milliseconds after each other."""
        results = []
        for body in bodies:
            results.append(await self._mq.send(self.topic, body, queue=self.first))
            await asyncio.sleep(0.01)
        return results


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    pool = Pool(SystemNetwork(), {})
    yield pool
    await pool.close()


@pytest.fixture
async def orders(
    mq: pymq.Client, standalone: Standalone, pool: Pool, request: pytest.FixtureRequest
) -> Queues:
    """A topic of this test's own."""
    return await Queues.made(mq, standalone, pool, f"orders-{abs(hash(request.node.name))}")


async def taken(consumer: pymq.Consumer, count: int) -> list[str]:
    """The bodies of `count` messages, acknowledged."""
    bodies: list[str] = []
    async with asyncio.timeout(60):
        while len(bodies) < count:
            for message in await consumer.fetch(max=count - len(bodies)):
                message.ack()
                bodies.append(message.body.decode())
    return bodies


async def committed(mq: pymq.Client, group: str, queue: pymq.MessageQueue, offset: int) -> pymq.GroupLag:
    """Wait until a group stands there; gives its lag."""
    async with asyncio.timeout(60):
        while True:
            lag = await mq.lag(group, queue.topic)
            if {each.queue: each for each in lag.queues}[queue].consumer_offset == offset:
                return lag
            await asyncio.sleep(0.02)


async def test_the_lag_of_a_group_in_messages_and_in_time(mq: pymq.Client, orders: Queues) -> None:
    async with mq.consumer("lagging", orders.topic, start="first") as consumer:
        await orders.send("0", "1")
        assert await taken(consumer, 2) == ["0", "1"]
        lag = await committed(mq, "lagging", orders.first, 2)
        assert (lag.messages, lag.behind) == (0, NOW)
        last = {each.queue: each for each in lag.queues}[orders.first].last_consumed
        assert last is not None
        assert abs(datetime.datetime.now(datetime.UTC) - last) < datetime.timedelta(seconds=30)
    await orders.send("2", "3", "4")
    await asyncio.sleep(0.1)
    lag = await mq.lag("lagging")
    by_queue = {each.queue: each for each in lag.queues}
    row = by_queue[orders.first]
    assert (row.broker_offset, row.consumer_offset, row.messages) == (5, 2, 3)
    assert row.behind is not None
    assert datetime.timedelta(seconds=0.1) <= row.behind < datetime.timedelta(seconds=30)
    assert by_queue[orders.second].behind == NOW
    assert (lag.messages, lag.behind) == (3, row.behind)
    assert [each.queue for each in lag.queues] == sorted(by_queue)
    assert [each.topic for each in by_queue if each.topic.startswith("%")] == ["%RETRY%lagging"]
    with pytest.raises(pymq.GroupNotFound, match="no consumer group 'nobody'"):
        await mq.lag("nobody")


async def test_a_running_group_goes_on_where_it_is_told_to(mq: pymq.Client, orders: Queues) -> None:
    sent = await orders.send("0", "1", "2", "3", "4")
    [middle] = await mq.query(orders.topic, sent[2].msg_id)
    since = datetime.datetime.fromtimestamp(middle.store_timestamp / 1000, datetime.UTC)
    async with mq.consumer("moved", orders.topic, start="first") as consumer:
        assert len(await taken(consumer, 5)) == 5
        await committed(mq, "moved", orders.first, 5)

        async def moves(to: ResetTo, first: int, *bodies: str) -> None:
            moved = await mq.reset_offsets("moved", orders.topic, to)
            assert moved == {orders.first: first, orders.second: 0}
            assert await taken(consumer, len(bodies)) == list(bodies)
            await committed(mq, "moved", orders.first, 5)

        await moves("first", 0, "0", "1", "2", "3", "4")
        await moves(since, 2, "2", "3", "4")
        await moves({orders.first: 4, orders.second: 0}, 4, "4")
        assert await mq.reset_offsets("moved", orders.topic, {orders.first: 3}) == {orders.first: 3}
        assert await taken(consumer, 2) == ["3", "4"]
        with pytest.raises(ValueError, match="holds 0 to 5, it cannot go on at 6"):
            await mq.reset_offsets("moved", orders.topic, {orders.first: 6})
        with pytest.raises(ValueError, match="is not a queue of topic"):
            await mq.reset_offsets("moved", orders.topic, {pymq.MessageQueue(orders.topic, "b", 0): 0})
        with pytest.raises(ValueError, match="expected 'first'"):
            await mq.reset_offsets("moved", orders.topic, "middle")  # type: ignore[arg-type]


async def test_an_ordered_group_goes_on_in_order(mq: pymq.Client, orders: Queues) -> None:
    await orders.send("0", "1", "2")
    async with mq.consumer("in-order", orders.topic, start="first", order="ordered") as consumer:
        assert await taken(consumer, 3) == ["0", "1", "2"]
        await committed(mq, "in-order", orders.first, 3)
        for _ in range(2):
            await mq.reset_offsets("in-order", orders.topic, {orders.first: 1})
            assert await taken(consumer, 2) == ["1", "2"]
        await mq.reset_offsets("in-order", orders.topic, "first")
        [held] = await consumer.fetch(max=1)
        await mq.reset_offsets("in-order", orders.topic, {orders.first: 2})
        assert await consumer.fetch(wait=0.2) == []  # one at a time, also of what was given out before
        held.ack()
        assert await taken(consumer, 1) == ["2"]
        await committed(mq, "in-order", orders.first, 3)


async def test_messages_that_nobody_wants_are_passed_over_by_a_reset_to_the_end(
    mq: pymq.Client, orders: Queues
) -> None:
    await orders.send(*"01234567")
    async with mq.consumer("skipping", orders.topic, start="first", prefetch=2) as consumer:
        [first] = await consumer.fetch(max=1)
        assert await mq.reset_offsets("skipping", orders.topic, "last") == {
            orders.first: 8,
            orders.second: 0,
        }
        await committed(mq, "skipping", orders.first, 8)
        first.ack()  # of the time before: of no effect
        await orders.send("8")
        assert await taken(consumer, 1) == ["8"]
        await committed(mq, "skipping", orders.first, 9)


async def test_a_running_group_that_has_committed_nothing_is_moved_nevertheless(
    mq: pymq.Client, orders: Queues
) -> None:
    """The broker refuses that, as Apache's does; the client then commits what it wants first."""
    await orders.send("0", "1", "2")
    async with mq.consumer("fresh", orders.topic, start="first", prefetch=2) as consumer:
        [held] = await consumer.fetch(max=1)
        assert held.body == b"0"
        moved = await mq.reset_offsets("fresh", orders.topic, {orders.first: 2})
        assert moved == {orders.first: 2}
        assert await taken(consumer, 1) == ["2"]
    async with mq.consumer("fresher", orders.topic, start="first", prefetch=2) as consumer:
        [held] = await consumer.fetch(max=1)
        assert await mq.reset_offsets("fresher", orders.topic, "last") == {orders.first: 3, orders.second: 0}
        await committed(mq, "fresher", orders.first, 3)
        await orders.send("3")
        assert await taken(consumer, 1) == ["3"]


async def test_the_offsets_of_a_group_without_consumers_are_committed_for_it(
    mq: pymq.Client, orders: Queues
) -> None:
    sent = await orders.send("0", "1", "2")
    [middle] = await mq.query(orders.topic, sent[1].msg_id)
    since = datetime.datetime.fromtimestamp(middle.store_timestamp / 1000, datetime.UTC)
    places: list[tuple[ResetTo, int]] = [("last", 3), (since, 1), ("first", 0), ({orders.first: 2}, 2)]
    for to, offset in places:
        moved = await mq.reset_offsets("away", orders.topic, to)
        assert moved[orders.first] == offset
    async with mq.consumer("away", orders.topic, start="first") as consumer:
        assert await taken(consumer, 1) == ["2"]
        await committed(mq, "away", orders.first, 3)
    with pytest.raises(ValueError, match="cannot go on at 1"):
        await mq.reset_offsets("away", orders.topic, 1)  # the second queue has no message
    with pytest.raises(pymq.RouteNotFound, match=f"similar name: {orders.topic}"):
        await mq.reset_offsets("away", orders.topic + "s", "first")


async def test_a_broadcasting_group_cannot_be_moved(
    mq: pymq.Client, orders: Queues, tmp_path: Path, standalone: Standalone
) -> None:
    async with (
        pymq.Client(standalone.namesrv, offsets_folder=str(tmp_path)) as other,
        other.consumer("everyone", orders.topic, broadcast=True),
    ):
        places: tuple[ResetTo, ...] = ("first", {orders.first: 0})
        for to in places:
            with pytest.raises(pymq.MoveRefused, match="'everyone' is broadcasting"):
                await mq.reset_offsets("everyone", orders.topic, to)
        assert (await mq.lag("everyone")).queues == ()


async def test_a_group_begins_where_another_stands(mq: pymq.Client, orders: Queues) -> None:
    await orders.send("0", "1", "2")
    async with mq.consumer("model", orders.topic, start="first") as consumer:
        assert await taken(consumer, 3) == ["0", "1", "2"]
    await orders.send("3")
    with pytest.raises(pymq.MoveRefused, match="'model' has committed no offset in topic 'elsewhere'"):
        await mq.clone_offsets("model", "copy", "elsewhere")
    assert await mq.clone_offsets("model", "copy") == [orders.topic]
    async with pymq.Client(mq._instance.routes.name_servers[0], settings=QUICK) as other:
        assert (await other.lag("copy", orders.topic)).messages == 1  # though it had no consumer yet
        with pytest.raises(pymq.GroupNotFound):
            await other.lag("nobody", orders.topic)
    async with mq.consumer("copy", orders.topic, start="first") as consumer:
        assert await taken(consumer, 1) == ["3"]
        with pytest.raises(pymq.MoveRefused, match="consumers of group 'copy' are running"):
            await mq.clone_offsets("model", "copy", orders.topic)


async def test_groups_in_a_namespace_go_by_their_own_names(
    mq: pymq.Client, standalone: Standalone, pool: Pool
) -> None:
    await pool.call(standalone.broker, CreateTopicRequest("tenant%bills", 1, 1, 6))
    async with pymq.Client(standalone.namesrv, namespace="tenant", settings=QUICK) as tenant:
        sent = [await tenant.send("bills", body) for body in ("0", "1")]
        [queue] = {each.queue for each in sent}
        async with tenant.consumer("g", "bills", start="first") as consumer:
            assert await taken(consumer, 2) == ["0", "1"]
            lag = await committed(tenant, "g", queue, 2)
            assert {each.queue.topic for each in lag.queues} == {"bills"}
            assert await tenant.reset_offsets("g", "bills", {queue: 1}) == {queue: 1}
            assert await taken(consumer, 1) == ["1"]
        assert await tenant.clone_offsets("g", "h") == ["bills"]
        assert (await mq.lag("tenant%g")).messages == 0


async def test_by_hand(mq: pymq.Client, orders: Queues, standalone: Standalone) -> None:
    async def run(*arguments: str) -> Result:
        asked = [*arguments, "-n", standalone.namesrv]
        return await asyncio.to_thread(CliRunner().invoke, commands, asked, prog_name="pymq")

    await orders.send("0", "1")
    async with mq.consumer("handy", orders.topic, start="first") as consumer:
        await taken(consumer, 1)
    first = f"topic={orders.topic} broker={orders.first.broker_name} queueId=0"
    lag = (await run("group", "lag", "handy", "--topic", orders.topic)).stdout.splitlines()
    assert lag[0].startswith(f"{first} brokerOffset=2 consumerOffset=1 lag=1 behind=")
    assert lag[1].endswith(" brokerOffset=0 consumerOffset=0 lag=0 behind=0.0s")
    assert lag[2].startswith("lag=1 behind=")
    assert len(lag) == 3
    moved = await run("group", "reset", "handy", orders.topic, "--to", "last")
    assert moved.stdout.splitlines()[0] == f"{first} consumerOffset=2"
    assert (await run("group", "clone", "handy", "handier")).stdout == f"topic={orders.topic}\n"
    assert (await mq.lag("handy")).messages == 0
    for asked, said in (
        (("lag", "nobody"), "pymq: no consumer group 'nobody'"),
        (("reset", "handy", orders.topic, "--to", "7"), "pymq: to: MessageQueue("),
        (("reset", "handy", "nowhere", "--to", "first"), "pymq: no route to topic 'nowhere'"),
        (("clone", "handy", "handier", "--topic", "nowhere"), "pymq: group 'handy' has committed no offset"),
    ):
        refused = await run("group", *asked)
        assert refused.exit_code == 1
        assert refused.stderr.startswith(said)
        assert refused.stderr.count("\n") == 1
