"""One store with open transactions, by turns in the hands of pymq and Apache, after stops and kill -9.

Whoever has it asks about what is open and decides it; what had ended before is neither asked about nor
delivered again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pymq.errors import ResponseError
from pymq.protocol.message import MessageRecord
from tests.broker.asking import send_header
from tests.interop.apache import apache_broker
from tests.interop.conftest import ApacheClusters
from tests.interop.half_producer import COMMIT, HALF_TOPIC, ROLLBACK, Half, HalfProducer
from tests.interop.processes import Node, free_port
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually

TOPIC = "moved"
SETTINGS: dict[str, Any] = {
    "transactionTimeOut": 500,
    "transactionCheckInterval": 500,
    "transactionCheckMax": 100,
}
PATIENCE_S = 60
LIVES = [("pymq", "stop"), ("4.3.2", "stop"), ("pymq", "kill"), ("4.9.4", "kill"), ("pymq", "stop")]
HOW = {"commit": COMMIT, "rollback": ROLLBACK}
ENDED = ("at once", "at a check")
OPEN = ("asked about", "fresh")
IMMUNE = "immune"
"""When a message of one life ends: in that life, or in the next one, whose broker may be the other.

The immune one is never asked about: its producer comes back for it.
"""

Start = Callable[[], Node]


@pytest.fixture(scope="module")
def name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = pymq_name_server(tmp_path_factory.mktemp("namesrv"))
    yield node
    node.kill()


@pytest.fixture
def starts(apache_clusters: ApacheClusters, tmp_path: Path, name_server: Node) -> dict[str, Start]:
    """Starts the one or the other broker on the same folder."""
    del apache_clusters  # skips where there is no Java
    return {
        "pymq": lambda: pymq_broker(tmp_path, [name_server], **SETTINGS),
        "4.3.2": lambda: apache_broker("4.3.2", tmp_path, [name_server], **SETTINGS),
        "4.9.4": lambda: apache_broker("4.9.4", tmp_path, [name_server], **SETTINGS),
    }


def name(when: str, how: str, life: int) -> bytes:
    """A message's body."""
    return f"{when}: {how} {life}".encode()


def bodies(when: str, life: int) -> dict[bytes, int]:
    """What a producer says about the messages of a life that end then."""
    return {name(when, word, life): how for word, how in HOW.items()}


class Life:
    """What happens while one broker has the store."""

    def __init__(self, kind: str, number: int, producer: HalfProducer) -> None:
        self.number = number
        self.commits: set[bytes] = set()
        """Messages of this life that are committed, whenever."""
        self.ended: set[bytes] = set()
        """Messages that ended in this life, for good: Apache may ask once more where an end comes late."""
        self.amid_ends: dict[bytes, int] = {}
        """Messages whose ends came when the broker was killed."""
        self.immune: list[Half] = []
        self._kind = kind
        self._producer = producer

    async def decide_what_is_left(self, life: Life) -> None:
        """Say what became of the messages that an earlier life left open: when asked, or unasked."""
        left = {body: how for when in OPEN for body, how in bodies(when, life.number).items()}
        await self._decide_at_checks(left, life.amid_ends)
        for half, how in zip(life.immune, HOW.values(), strict=True):
            assert await self._producer.end(half, how) == 0
        if self._kind == "pymq":
            self.ended |= {*left, *life.amid_ends, *bodies(IMMUNE, life.number)}

    async def leave_some_open(self) -> None:
        """Send one for each thing that can happen in this life, and end those that end in it."""
        producer, own = self._producer, self.number
        self.commits |= {name(when, "commit", own) for when in (*ENDED, *OPEN, IMMUNE)}
        await producer.heartbeat()
        for word, how in HOW.items():
            half = await producer.half(TOPIC, name("at once", word, own))
            assert await producer.end(half, how) == 0
        for body in bodies(IMMUNE, own):
            hour = {"CHECK_IMMUNITY_TIME_IN_SECONDS": "3600"}
            self.immune.append(await producer.half(TOPIC, body, properties=hour))
        ended, asked = bodies("at a check", own), bodies("asked about", own)
        for body in ended | asked:
            await producer.half(TOPIC, body)
        await self._decide_at_checks(ended)
        await eventually("those left open are asked about", lambda: self._are_asked(asked, 2), PATIENCE_S)
        for body in bodies("fresh", own):
            await producer.half(TOPIC, body)
        stored = Counter(record.body for record in await producer.read(HALF_TOPIC))
        for copies, when in enumerate(ENDED, 1):
            self.ended |= {each for each in bodies(when, own) if stored[each] == copies}

    async def be_killed_amid_ends(self, broker: Node) -> None:
        """Have the broker killed while it commits one message after the other."""
        self.amid_ends = {f"amid ends: commit {number}".encode(): COMMIT for number in range(200)}
        self.commits |= self.amid_ends.keys()
        producer = self._producer
        first, one, *others = [await producer.half(TOPIC, body) for body in self.amid_ends]
        await producer.end_all([first], COMMIT)
        answer = asyncio.ensure_future(producer.end(one, COMMIT))
        await asyncio.sleep(0)  # until it is sent
        await producer.end_all(others, COMMIT)
        assert await answer == 0
        broker.kill()

    async def _decide_at_checks(
        self, asked: dict[bytes, int], others: dict[bytes, int] | None = None
    ) -> None:
        """Answer checks of some messages that must come, and of others that may."""
        self._producer.answers = asked | (others or {})
        await self._producer.heartbeat()
        await eventually("they are asked about", lambda: self._are_asked(asked, 1), PATIENCE_S)
        commits = [body for body, how in self._producer.answers.items() if how == COMMIT]
        await eventually("they are delivered", lambda: self._are_delivered(commits), PATIENCE_S)

    async def _are_asked(self, messages: Iterable[bytes], times: int) -> bool:
        counts = Counter(check.record.body for check in self._producer.checks)
        return all(counts[body] >= times for body in messages)

    async def _are_delivered(self, messages: Iterable[bytes]) -> bool:
        return set(messages) <= {record.body for record in await self._producer.read(TOPIC)}


def assert_delivered(found: list[MessageRecord], commits: set[bytes], ended: set[bytes]) -> None:
    """What was committed is there, what ended for good is there once, and nothing else is."""
    counts = Counter(record.body for record in found)
    assert counts.keys() == commits
    assert {body: times for body, times in counts.items() if body in ended and times > 1} == {}


async def test_a_store_with_open_transactions_goes_from_hand_to_hand(starts: dict[str, Start]) -> None:
    commits: set[bytes] = set()
    ended: set[bytes] = set()
    before: Life | None = None
    for number, (kind, end) in enumerate(LIVES):
        broker = await asyncio.to_thread(starts[kind])
        try:
            async with HalfProducer(broker.address, "deciding") as producer:
                life = Life(kind, number, producer)
                if before is not None:
                    await life.decide_what_is_left(before)
                if number < len(LIVES) - 1:
                    await life.leave_some_open()
                asked_again = {check.record.body for check in producer.checks} & ended
                assert asked_again == set(), f"{kind} asks about what had ended"
                found = await producer.read(TOPIC)
                if (kind, end) == ("4.9.4", "kill"):
                    await life.be_killed_amid_ends(broker)
            commits, ended, before = commits | life.commits, ended | life.ended, life
            await asyncio.to_thread(broker.stop if end == "stop" else broker.kill)
        finally:
            broker.kill()
    assert_delivered(found, commits, ended)


async def test_a_slave_of_apache_s_broker_goes_on_as_the_new_master(
    apache_clusters: ApacheClusters, tmp_path: Path, name_server: Node
) -> None:
    del apache_clusters  # skips where there is no Java
    names, port, folder = [name_server], free_port(), tmp_path / "slave"
    master = apache_broker(
        "4.9.4", tmp_path, names, "b", brokerRole="SYNC_MASTER", slaveTimeout=20_000, **SETTINGS
    )
    slave = pymq_broker(folder, names, "b", port, brokerRole="SLAVE", brokerId=1, **SETTINGS)
    try:
        async with HalfProducer(master.address, "deciding") as producer:

            async def has_joined() -> bool:
                return await send_code(producer, b"joined?") == 0

            await eventually("the slave joins", has_joined, PATIENCE_S)
            life = Life("4.9.4", 0, producer)
            await life.leave_some_open()
            assert await send_code(producer, b"all is on the slave") == 0
        master.kill()
        await asyncio.to_thread(slave.stop)
        slave = await asyncio.to_thread(pymq_broker, folder, names, "b", port, **SETTINGS)
        async with HalfProducer(slave.address, "deciding") as producer:
            after = Life("pymq", 1, producer)
            await after.decide_what_is_left(life)
            asked_again = {check.record.body for check in producer.checks} & life.ended
            assert asked_again == set()
            assert_delivered(await producer.read(TOPIC), life.commits, life.ended | after.ended)
    finally:
        master.kill()
        slave.kill()


async def send_code(producer: HalfProducer, body: bytes) -> int:
    """Send a plain message to another topic and wait for a slave; the answer's code."""
    header = send_header("joining", properties="WAIT\x01true")
    try:
        return (await producer.pool.call(producer.address, header, body, timeout_s=30)).code
    except ResponseError as error:
        return error.code
