"""One store folder, by turns in the hands of Apache 4.9.4 and pymq, after clean stops and after kill -9.

Whoever has it serves all that is in it: the same messages at the same offsets, ids, topics, groups, offsets
of consumers and delay levels; and all of it is found by its keys.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pymq.clock import SystemClock
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.bodies.offsets import ConsumerOffsets, DelayOffsets
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig, SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    GetAllConsumerOffsetRequest,
    GetAllDelayOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetAllTopicConfigRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.messaging import (
    GetMinOffsetRequest,
    OffsetResponse,
    QueryMessageRequest,
    UpdateConsumerOffsetRequest,
    ViewMessageRequest,
)
from pymq.protocol.message import RECORD_HEADS, decode_record, decode_records
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.problems import Problem
from pymq.store.inspection.repair import Repair, repair
from pymq.store.inspection.survey import survey
from pymq.store.inspection.verify import verify
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records, send
from tests.interop.apache import apache_broker
from tests.interop.conftest import ApacheClusters
from tests.interop.processes import Node
from tests.interop.pymq_servers import pymq_broker, pymq_name_server

SETTINGS = {
    "mappedFileSizeCommitLog": 262_144,
    "mappedFileSizeConsumeQueue": 2_000,
    "maxHashSlotNum": 500,
    "maxIndexNum": 400,
    "maxMessageSize": 65_536,
    "messageDelayLevel": "1s 1h 2h",
}
"""Several files of each kind."""
TOPICS = {"orders": 3, "bills": 1}
ALONE = "alone"
"""A topic with one message, at the beginning."""
GROUPS = ("clerks", "auditors")
SCHEDULE_TOPIC, DELAY_QUEUES = "SCHEDULE_TOPIC_XXXX", 3
MESSAGES = 80
"""To each topic, in each life."""
BODY_POSITION = RECORD_HEADS[0].size

State = dict[str, Any]


class Exchange:
    """The folder, and who has it."""

    def __init__(self, folder: Path, name_server: Node) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._name_server = name_server
        self._pool = Pool(SystemNetwork(), {})
        self._node: Node | None = None
        self._life = 0

    def start(self, broker: Callable[..., Node]) -> None:
        """Give the folder to a new broker."""
        self._life += 1
        self._node = broker(self.folder, [self._name_server], **SETTINGS | self._listed())

    def _listed(self) -> dict[str, Any]:
        """The settings with which `pymq store ls` says that the folder opens."""
        if not self.store.exists():
            return {}
        lines = survey(StoreFolder(str(self.store), SystemDisk())).conf
        listed = dict(line.split("=", 1) for line in lines)
        assert listed.keys() >= SETTINGS.keys() - {"maxMessageSize", "messageDelayLevel"}
        return listed

    @property
    def address(self) -> str:
        """Of the broker that has it."""
        assert self._node is not None
        return self._node.address

    async def stop(self, *, are_some_lost: bool = False) -> None:
        """End the broker cleanly; nothing is wrong in what it leaves, but keys of messages that were lost."""
        await self.end()
        self.check(are_some_lost=are_some_lost)

    async def end(self) -> None:
        """End the broker cleanly."""
        assert self._node is not None
        await asyncio.to_thread(self._node.stop)
        assert not (self.store / "abort").exists()

    def check(self, *, are_some_lost: bool) -> None:
        """Nothing is wrong in the folder, but keys of messages that were lost."""
        found: list[Problem] = []
        summary = verify(StoreFolder(str(self.store), SystemDisk()), found.append)
        wrong = [problem for problem in found if not problem.is_note]
        assert [problem for problem in wrong if not (are_some_lost and problem.part == "index")] == []
        assert summary.records > 0

    async def kill(self) -> None:
        """End the broker as a crash does; the log, as far as it goes, is sound."""
        assert self._node is not None
        self._node.kill()
        assert (self.store / "abort").exists()
        found: list[Problem] = []
        copy = self.folder / f"killed-{self._life}"
        shutil.copytree(self.store, copy)
        verify(StoreFolder(str(copy), SystemDisk()), found.append)
        assert [problem for problem in found if problem.part == "commitlog" and not problem.is_note] == []

    async def close(self) -> None:
        """End what still runs."""
        await self._pool.close()
        if self._node is not None:
            self._node.kill()

    # -- what a life leaves behind

    async def make_tables(self) -> None:
        """Topics, and groups with settings of their own."""
        for topic, queues in {**TOPICS, ALONE: 1}.items():
            await self._pool.call(self.address, CreateTopicRequest(topic, queues, queues, 6), timeout_s=10)
        for number, group in enumerate(GROUPS, 3):
            config = SubscriptionGroupConfig(
                group_name=group, retry_max_times=number, consume_broadcast_enable=False
            )
            header = UpdateAndCreateSubscriptionGroupRequest()
            await self._pool.call(self.address, header, config.encode(), timeout_s=10)

    async def send_many(self) -> None:
        """Messages of many sizes to each queue, with tags, two keys, and a unique key."""
        for topic, queues in TOPICS.items():
            ends = [0] * queues
            for i in range(MESSAGES):
                key = f"{topic}-{self._life}-{i}"
                unique = _unique_key(topic, self._life, i)
                text = f"KEYS\1{key} 键{i}\2UNIQ_KEY\1{unique}\2TAGS\1tag{i % 4}"
                body = f"消息 {key} ".encode() * (1 + i * 7 % 90)
                sent = await send(self._pool, self.address, topic, body, queue_id=i % queues, properties=text)
                ends[i % queues] = sent.queue_offset + 1
            async with asyncio.timeout(60):  # Apache serves and indexes what it has taken a moment later
                for queue_id, end in enumerate(ends):
                    while await self._end_of(topic, queue_id) < end:  # noqa: ASYNC110 - a broker's doing
                        await asyncio.sleep(0.05)

    async def send_alone(self, body: bytes) -> int:
        """One to the topic `ALONE`; gives its number."""
        return (await send(self._pool, self.address, ALONE, body)).queue_offset

    async def read_alone(self) -> tuple[int, int, list[Any]]:
        """First number, end and messages of `ALONE`: number, physical offset and body of each."""
        begin, end, found = await self._queue(ALONE, 0)
        return begin, end, [(number, physical, body) for number, _, physical, body, _ in found]

    async def send_delayed(self) -> None:
        """One that is delivered within this life, two that are still to come in the last one."""
        for level in (1, 2, 3):
            text = f"DELAY\1{level}\2UNIQ_KEY\1DELAYED{self._life}{level}"
            await send(self._pool, self.address, "bills", b"later", properties=text)
        async with asyncio.timeout(60):
            while await self._is_undelivered():  # noqa: ASYNC110 - a broker's doing
                await asyncio.sleep(0.1)

    async def _is_undelivered(self) -> bool:
        delivered = (await self._tables())["delays"].get(1, 0)
        return bool(delivered < await self._end_of(SCHEDULE_TOPIC, 0))

    async def commit(self, offset: int) -> None:
        """Let the groups stand there in all queues."""
        for topic, queues in TOPICS.items():
            for group in GROUPS:
                for queue_id in range(queues):
                    header = UpdateConsumerOffsetRequest(group, topic, queue_id, offset + queue_id)
                    await self._pool.call(self.address, header)

    async def _end_of(self, topic: str, queue_id: int) -> int:
        return bounds(await pull(self._pool, self.address, topic, queue_id=queue_id)).max_offset

    # -- what is in it

    async def state(self) -> State:
        """All that is asked of a broker; the same of whoever has the folder."""
        state = await self._tables()
        queues = {topic: await self._queues(topic, number) for topic, number in TOPICS.items()}
        queues[SCHEDULE_TOPIC] = await self._queues(SCHEDULE_TOPIC, DELAY_QUEUES)
        return state | {"queues": queues}

    async def _tables(self) -> State:
        topics = await self._ask(GetAllTopicConfigRequest(), TopicConfigSerializeWrapper)
        groups = await self._ask(GetAllSubscriptionGroupConfigRequest(), SubscriptionGroupWrapper)
        offsets = await self._ask(GetAllConsumerOffsetRequest(), ConsumerOffsets)
        delays = await self._ask(GetAllDelayOffsetRequest(), DelayOffsets)
        return {
            "topics": {name: msgspec.structs.asdict(topics.topic_config_table[name]) for name in TOPICS},
            "groups": {
                name: msgspec.structs.asdict(groups.subscription_group_table[name]) for name in GROUPS
            },
            "offsets": {
                key: dict(sorted(offsets.offset_table[key].items()))
                for key in (f"{topic}@{group}" for topic in TOPICS for group in GROUPS)
            },
            "delays": {level: offset for level, offset in sorted(delays.offset_table.items()) if offset},
        }

    async def _ask(self, header: Any, body: Any) -> Any:
        return body.decode((await self._pool.call(self.address, header, timeout_s=10)).body)

    async def _queues(self, topic: str, number: int) -> list[Any]:
        return [await self._queue(topic, queue_id) for queue_id in range(number)]

    async def _queue(self, topic: str, queue_id: int) -> Any:
        reply = await self._pool.call(self.address, GetMinOffsetRequest(topic, queue_id))
        offset = begin = reply.read(OffsetResponse).offset
        end, found, waits = begin + 1, [], 0
        while offset < end:
            answer = await pull(self._pool, self.address, topic, queue_id=queue_id, offset=offset)
            got = records(answer)
            found += [(r.queue_offset, r.offset_msg_id, r.physical_offset, r.body, r.properties) for r in got]
            offset, end = max(bounds(answer).next_begin_offset, offset), bounds(answer).max_offset
            if not got:
                waits += 1
                if waits > 100:
                    break
                await asyncio.sleep(0.1)  # pymq may be searching its log for a message
        return begin, end, found

    async def assert_found_by_key(self, state: State) -> None:
        """Each life's messages are found by key and by unique key, and by their ids."""
        queues = state["queues"]
        for topic in TOPICS:
            placed = {
                number: [m for queue in queues[topic] for m in queue[2] if f"{topic}-{number}-77 " in m[4]]
                for number in range(1, self._life + 1)
            }
            for number, [(_, _, offset, body, _)] in placed.items():
                key = f"{topic}-{number}-77"
                assert [r.physical_offset for r in await self._query(topic, key)] == [offset], key
                view = await self._pool.call(self.address, ViewMessageRequest(offset))
                assert decode_record(view.body).body == body
            [found] = await self._query(topic, _unique_key(topic, 1, 5), unique=True)
            assert f"{topic}-1-5 " in found.properties
        many = await self._query("orders", "键77")
        assert len(many) == self._life

    async def _query(self, topic: str, key: str, *, unique: bool = False) -> list[Any]:
        header = QueryMessageRequest(topic, key, 64, 0, 2**62, unique or None)
        try:
            return decode_records((await self._pool.call(self.address, header, timeout_s=10)).body)
        except ResponseError:
            return []


def assert_same(found: State, expected: State) -> None:
    """Queue by queue, so that a difference can be read."""
    for topic, queues in expected["queues"].items():
        for queue_id, expected_queue in enumerate(queues):
            assert found["queues"][topic][queue_id] == expected_queue, (topic, queue_id)
    assert found == expected


def damage(store: Path, physical_offset: int) -> None:
    """Change the first byte of a record's body."""
    base = physical_offset - physical_offset % SETTINGS["mappedFileSizeCommitLog"]  # type: ignore[operator]
    with (store / "commitlog" / f"{base:020d}").open("r+b") as file:
        file.seek(physical_offset - base + BODY_POSITION)
        file.write(b"\xff")


def _unique_key(topic: str, life: int, number: int) -> str:
    return f"{life:016X}{topic.upper():0>12}{number:04X}"


@pytest.fixture
async def exchange(tmp_path: Path, apache_clusters: ApacheClusters) -> AsyncIterator[Exchange]:
    name_server = pymq_name_server(tmp_path / "namesrv")
    exchange = Exchange(tmp_path / "broker", name_server)
    yield exchange
    await exchange.close()
    name_server.kill()


async def test_a_store_goes_from_hand_to_hand(exchange: Exchange) -> None:
    def apache(*args: Any, **settings: Any) -> Node:
        return apache_broker("4.9.4", *args, **settings)

    lives = [(apache, exchange.stop), (pymq_broker, exchange.stop), (apache, exchange.kill)]
    lives += [(pymq_broker, exchange.kill), (apache, exchange.stop)]
    left: State | None = None
    for number, (broker, end) in enumerate(lives):
        exchange.start(broker)
        if left is None:
            await exchange.make_tables()
        else:
            assert_same(await exchange.state(), left)
        await exchange.send_many()
        if end == exchange.stop:  # a crash may forget how far consumers and delay levels had come
            await exchange.commit(10 * number)
            await exchange.send_delayed()
        left = await exchange.state()
        await exchange.assert_found_by_key(left)
        await end()


LOST = {("orders", 0): [0, 1], ("orders", 1): [12, 13, 17], ("orders", 2): [24, 25]}
"""Numbers in a queue: its first, some amid, its last."""


def with_copies(queue: Any, lost: list[int]) -> Any:
    """What Apache serves of a queue: the neighbour's message at the number of a lost one."""
    begin, end, found = queue
    there = {message[0]: message for message in found}
    owners = [max((n for n in there if n <= number), default=min(there)) for number in range(begin, end)]
    assert [number for number in range(begin, end) if number not in there] == lost
    return begin, end, [there[owner] for owner in owners]


def as_apache_serves(state: State) -> State:
    """The same, with copies at the numbers that are lost."""
    queues = {
        topic: [with_copies(queue, LOST.get((topic, number), [])) for number, queue in enumerate(of_topic)]
        for topic, of_topic in state["queues"].items()
    }
    return state | {"queues": queues}


def without_copies(state: State) -> State:
    """What Apache served, each message once."""
    queues = {
        topic: [(begin, end, list(dict.fromkeys(found))) for begin, end, found in of_topic]
        for topic, of_topic in state["queues"].items()
    }
    return state | {"queues": queues}


async def test_apache_goes_on_with_a_folder_in_which_pymq_passed_over_lost_messages(
    exchange: Exchange,
) -> None:
    def apache(*args: Any, **settings: Any) -> Node:
        return apache_broker("4.9.4", *args, **settings)

    exchange.start(pymq_broker)
    await exchange.make_tables()
    assert await exchange.send_alone(b"the only one") == 0
    [(_, lonely, _)] = (await exchange.read_alone())[2]
    await exchange.send_many()
    await exchange.commit(5)
    left = await exchange.state()
    await exchange.stop()
    damage(exchange.store, lonely)
    for (topic, queue_id), numbers in LOST.items():
        messages = left["queues"][topic][queue_id][2]
        for number in reversed(numbers):
            damage(exchange.store, messages.pop(number)[2])

    exchange.start(pymq_broker)
    assert_same(await exchange.state(), left)
    assert await exchange.read_alone() == (0, 1, [])
    await exchange.end()
    repair(str(exchange.store), SystemDisk(), SystemClock(), Repair())
    exchange.check(are_some_lost=True)

    exchange.start(apache)
    assert_same(await exchange.state(), as_apache_serves(left))
    assert await exchange.read_alone() == (0, 1, [])
    for number in (1, 2):
        assert await exchange.send_alone(b"%d" % number) == number, "no number is given twice"
    await exchange.send_many()
    assert [(number, body) for number, _, body in (await exchange.read_alone())[2]] == [(1, b"1"), (2, b"2")]
    grown = await exchange.state()
    for topic, queues in TOPICS.items():
        for queue_id in range(queues):
            end_before = left["queues"][topic][queue_id][1]
            _, end, found = grown["queues"][topic][queue_id]
            numbers = [message[0] for message in found[end_before:]]
            assert numbers == list(range(end_before, end)), "they were dispatched"
            assert len(numbers) >= MESSAGES // queues
    await exchange.stop(are_some_lost=True)

    exchange.start(pymq_broker)
    assert_same(await exchange.state(), without_copies(grown))
    assert [(number, body) for number, _, body in (await exchange.read_alone())[2]] == [(1, b"1"), (2, b"2")]
    await exchange.stop(are_some_lost=True)
