"""Held pulls: who is woken, who stays, and that their number is bounded."""

from __future__ import annotations

import asyncio

import pytest

from pymq.broker.arrivals import HEARTBEAT, Arrivals, HeldPull
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.transport.connection import Connection
from tests.store.test_many_queues import work


class Story:
    """An `Arrivals` and what it has woken."""

    def __init__(self, capacity: int = 10) -> None:
        self.arrivals = Arrivals(capacity)
        self.woken: list[str] = []
        self.connection = Connection({})

    def hold(
        self, name: str, key: tuple[str, int], codes: frozenset[int] | None = None, timeout_ms: int = 60_000
    ) -> None:
        """Hold a pull at offset 5."""
        pull = HeldPull(key, 5, codes, self.connection, lambda: self.woken.append(name))
        self.arrivals.hold(pull, timeout_ms)


async def test_a_message_wakes_those_who_want_it_and_only_those() -> None:
    story = Story()
    story.hold("all", ("t", 0))
    story.hold("tagged", ("t", 0), frozenset([7]))
    story.hold("other queue", ("t", 1))
    story.arrivals.notify("t", 0, 4, 7)  # below the offset they wait at
    story.arrivals.notify("t", 0, 5, 8)
    await asyncio.sleep(0)
    assert story.woken == ["all"]
    story.arrivals.notify("t", 0, 6, 7)
    story.arrivals.notify("t", 0, 7, 7)
    await asyncio.sleep(0)
    assert story.woken == ["all", "tagged"]
    assert len(story.arrivals) == 1
    story.arrivals.close()


async def test_a_pull_is_woken_once_at_its_time_limit() -> None:
    story = Story()
    story.hold("late", ("t", 0), timeout_ms=10)
    await asyncio.sleep(0.05)
    story.arrivals.notify("t", 0, 9, 0)
    await asyncio.sleep(0)
    assert story.woken == ["late"]


async def test_topics_and_groups_are_woken_apart() -> None:
    story = Story()
    story.hold("pull", ("name", 0))
    story.hold("waits for a heartbeat", ("name", HEARTBEAT))
    story.arrivals.wake_topic("name")
    await asyncio.sleep(0)
    assert story.woken == ["pull"]
    story.arrivals.wake_group("name")
    await asyncio.sleep(0)
    assert story.woken == ["pull", "waits for a heartbeat"]


async def test_the_pulls_of_a_connection_that_ends_are_forgotten() -> None:
    story = Story()
    story.hold("gone", ("t", 0))
    story.arrivals.forget(story.connection)
    story.arrivals.notify("t", 0, 9, 0)
    await asyncio.sleep(0)
    assert (story.woken, len(story.arrivals)) == ([], 0)


async def test_no_more_are_held_than_there_is_room_for() -> None:
    story = Story(capacity=2)
    story.hold("1", ("t", 0))
    story.hold("2", ("t", 0))
    with pytest.raises(ResponseError) as refused:
        story.hold("3", ("t", 0))
    assert refused.value.code == ResponseCode.SYSTEM_BUSY
    story.arrivals.notify("t", 0, 9, 0)
    story.hold("4", ("t", 0))
    story.arrivals.close()


async def test_many_pulls_of_one_queue_end_without_looking_at_each_other() -> None:
    """Half a minute, with the loop held, if each one that ends walks over all the others."""
    pulls = 20_000
    arrivals, woken, everyone = Arrivals(), 0, asyncio.Event()

    def rerun() -> None:
        nonlocal woken
        woken += 1
        if woken == pulls // 2:
            everyone.set()

    connections = [Connection({}) for _ in range(2)]
    for number in range(pulls):
        arrivals.hold(HeldPull(("t", 0), 5, frozenset(), connections[number % 2], rerun), 1)
    for connection in [Connection({}) for _ in range(pulls)]:
        arrivals.forget(connection)
    arrivals.forget(connections[0])
    assert len(arrivals) == pulls // 2
    async with asyncio.timeout(30):
        await everyone.wait()
    assert woken == pulls // 2


async def test_to_wake_a_topic_takes_no_longer_beside_more_others() -> None:
    async def steps(others: int) -> int:
        story = Story(capacity=10_000)
        for number in range(others):
            story.hold("other", (f"other-{number}", 0))
        story.hold("one", ("t", 0))
        story.hold("two", ("t", 1))
        taken = work(lambda: story.arrivals.wake_topic("t"))
        await asyncio.sleep(0)
        assert sorted(story.woken) == ["one", "two"]
        assert len(story.arrivals) == others
        story.arrivals.close()
        return taken

    assert await steps(2_000) == await steps(5)
