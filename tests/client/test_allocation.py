"""How members share queues: exactly as Apache's clients do, or a mixed group overlaps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymq.client import Client
from pymq.client.allocation import (
    Allocation,
    Averagely,
    AveragelyByCircle,
    ByConfig,
    ByMachineRoom,
    ConsistentHash,
    MachineRoomNearby,
    allocate,
    allocation_named,
)
from pymq.errors import ConfigError
from pymq.protocol.bodies import MessageQueue
from tests.client.allocation_cases import Case, read_golden
from tests.client.fake_cluster import FAST, FakeCluster, until

ALL_OF_THEM = [
    Averagely(),
    AveragelyByCircle(),
    ConsistentHash(),
    MachineRoomNearby(lambda queue: "here", lambda client_id: "here"),
    MachineRoomNearby(lambda queue: str(queue.queue_id % 3), lambda client_id: client_id[-1]),
]


def queues(count: int) -> list[MessageQueue]:
    return [MessageQueue("t", "b", queue_id) for queue_id in range(count)]


def share(own: str, of: list[MessageQueue], ids: list[str]) -> list[MessageQueue]:
    return allocate(Averagely(), own, of, ids)


# -- as in Java ---------------------------------------------------------------------------------------


def parse(name: str) -> MessageQueue:
    broker, _, queue_id = name.rpartition(":")
    return MessageQueue("orders", broker, int(queue_id))


def room(name: str) -> str:
    return name.split("@")[0]


def rule(case: Case, name: str) -> Allocation:
    if name.startswith("MACHINE_ROOM_NEARBY-"):
        inner = rule(case, name.removeprefix("MACHINE_ROOM_NEARBY-"))
        return MachineRoomNearby(lambda queue: room(queue.broker_name), room, inner)
    if name == "MACHINE_ROOM":
        return ByMachineRoom(case["rooms"])
    if name == "CONFIG":
        return ByConfig([parse(each) for each in case["config"]])
    return allocation_named(name)


def test_shares_are_those_of_the_java_classes() -> None:
    golden = read_golden()
    assert len(golden) >= 400
    for case in golden:
        allocation = rule(case, case["name"])
        assert allocation.name == case["name"]
        found = allocate(allocation, case["own"], [parse(each) for each in case["queues"]], case["ids"])
        assert [f"{each.broker_name}:{each.queue_id}" for each in found] == case["share"], case


# -- averagely ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "members", "shares"),
    [
        (8, 3, [[0, 1, 2], [3, 4, 5], [6, 7]]),
        (2, 3, [[0], [1], []]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 4, [[0, 1], [2], [3], [4]]),
        (0, 2, [[], []]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_the_first_members_get_the_longer_runs(count: int, members: int, shares: list[list[int]]) -> None:
    ids = [f"c{index}" for index in range(members)]
    found = [[queue.queue_id for queue in share(own, queues(count), ids)] for own in ids]
    assert found == shares


def test_queues_and_ids_are_sorted_first() -> None:
    mixed = [MessageQueue("t", "b", 1), MessageQueue("t", "a", 2), MessageQueue("t", "a", 10)]
    assert share("x", mixed, ["y", "x"]) == [MessageQueue("t", "a", 2), MessageQueue("t", "a", 10)]
    # Ids sort as text: 10 stands before 9.
    assert share("1.1.1.1@10", queues(1), ["1.1.1.1@9", "1.1.1.1@10"]) == queues(1)


@given(count=st.integers(0, 70), members=st.integers(1, 40))
def test_the_formula_is_the_published_one(count: int, members: int) -> None:
    ids = [f"{index:03}" for index in range(members)]
    for i in range(members):
        left = count % members
        size = 1 if count <= members else count // members + (1 if left and i < left else 0)
        start = i * size if left and i < left else i * size + left
        expected = queues(count)[start : start + max(0, min(size, count - start))]
        assert share(ids[i], queues(count), ids) == expected


# -- all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", ALL_OF_THEM, ids=lambda each: each.name)
def test_who_is_no_member_gets_nothing(allocation: Allocation) -> None:
    assert allocate(allocation, "stranger", queues(4), ["a", "b"]) == []
    assert allocate(allocation, "stranger", queues(4), []) == []
    assert allocate(allocation, "a", [], ["a"]) == []


@pytest.mark.parametrize("allocation", ALL_OF_THEM, ids=lambda each: each.name)
@given(count=st.integers(0, 30), members=st.integers(1, 12))
def test_every_queue_has_exactly_one_owner(allocation: Allocation, count: int, members: int) -> None:
    ids = [f"{index:03}" for index in range(members)]
    shares = [allocate(allocation, own, queues(count), ids) for own in ids]
    assert sorted(itertools.chain.from_iterable(shares)) == queues(count)


def test_by_circle_each_member_gets_every_so_many_th() -> None:
    found = [allocate(AveragelyByCircle(), own, queues(7), ["a", "b", "c"]) for own in "abc"]
    assert [[queue.queue_id for queue in each] for each in found] == [[0, 3, 6], [1, 4], [2, 5]]


def test_on_the_hash_ring_a_member_that_leaves_moves_only_its_own_queues() -> None:
    ids = [f"10.0.0.{index}@{index}" for index in range(6)]
    before = {own: allocate(ConsistentHash(), own, queues(64), ids) for own in ids}
    for own in ids[1:]:
        assert set(before[own]) <= set(allocate(ConsistentHash(), own, queues(64), ids[1:]))


def test_by_config_a_topic_that_is_not_named_is_shared_averagely() -> None:
    named = ByConfig([MessageQueue("t", "b", 2), MessageQueue("t", "b", 99)])
    assert allocate(named, "a", queues(4), ["a", "b"]) == [MessageQueue("t", "b", 2)]
    retry = [MessageQueue("%RETRY%g", "b", 0)]
    assert allocate(named, "a", retry, ["a", "b"]) == retry
    assert allocate(named, "b", retry, ["a", "b"]) == []


# -- by name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AVG", "AVG_BY_CIRCLE", "CONSISTENT_HASH"])
def test_a_rule_that_needs_nothing_more_is_made_by_its_name(name: str) -> None:
    assert allocation_named(name).name == name


@pytest.mark.parametrize("name", ["CONFIG", "MACHINE_ROOM", "MACHINE_ROOM_NEARBY"])
def test_a_rule_that_has_to_be_told_more_says_how(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^allocation='{name}' .* give pymq\.client\.allocation\.\w+\("):
        allocation_named(name)


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'RANDOM': expected one of AVG, AVG_BY_CIRCLE, CONSISTENT_HASH"):
        allocation_named("RANDOM")


@pytest.mark.parametrize(
    ("allocation", "shares"),
    [
        ("AVG", [[0, 1], [2, 3]]),
        ("AVG_BY_CIRCLE", [[0, 2], [1, 3]]),
        (MachineRoomNearby(lambda queue: "x", lambda client_id: client_id, AveragelyByCircle()), None),
    ],
)
async def test_the_members_of_a_group_share_by_the_rule_that_their_consumers_name(
    allocation: str | Allocation, shares: list[list[int]] | None
) -> None:
    async with (
        FakeCluster() as cluster,
        Client(cluster.name_servers, settings=FAST) as one,
        Client(cluster.name_servers, settings=FAST) as two,
        one.consumer("g", "orders", allocation=allocation) as first,
        two.consumer("g", "orders", allocation=allocation) as second,
    ):
        by_id = {one.client_id: first, two.client_id: second}

        def owned() -> list[list[int]]:
            return [[queue.queue_id for queue in by_id[each].queues()] for each in sorted(by_id)]

        await until(lambda: owned() == (shares or [[0, 2], [1, 3]]))


async def test_a_wrong_rule_is_said_when_the_consumer_is_made() -> None:
    async with Client("127.0.0.1:1") as mq:
        with pytest.raises(ConfigError, match="allocation='NEAREST'"):
            mq.consumer("g", "orders", allocation="NEAREST")
