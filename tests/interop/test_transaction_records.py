"""What pymq's broker stores of transactions is, field by field, what Apache's stores."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from pymq.protocol.message import MESSAGE_MAGIC, MessageRecord, decode_record
from pymq.protocol.sysflags import COMPRESSED, MULTI_TAGS
from tests.interop.conftest import ApacheClusters, fresh
from tests.interop.half_producer import (
    COMMIT,
    DISCARDED,
    HALF_TOPIC,
    OP_TOPIC,
    ROLLBACK,
    Check,
    Half,
    HalfProducer,
)
from tests.interop.processes import Cluster
from tests.interop.python_client import eventually

SEGMENT = 16 << 20
QUEUE = 1
CHECK_MAX = 3
FULL: dict[str, Any] = {
    "flag": 7,
    "properties": {"KEYS": "k1 k2", "TAGS": "paid", "WAIT": "true", "customer": "Łukasz 消息"},
}
SENDS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "bare": {},
    "waits for nothing": {"properties": {"WAIT": "false"}},
    "compressed": {"sys_flag": COMPRESSED | MULTI_TAGS},
    "checked": FULL,
    "given up": FULL,
}
ENDS = {"full": COMMIT, "bare": ROLLBACK, "waits for nothing": COMMIT, "compressed": COMMIT}
COMMITTED = ["full", "waits for nothing", "compressed", "checked"]
OF_THE_PLACE = {
    "queue_offset", "physical_offset", "store_timestamp", "store_host", "born_timestamp", "born_host",
    "prepared_transaction_offset", "properties",
}  # fmt: skip
"""Fields that differ from broker to broker, or are compared in another way."""


def log_from(folder: Path, offset: int) -> Iterator[MessageRecord]:
    """The records of a running broker's commit log from one on."""
    for file in sorted((folder / "store" / "commitlog").iterdir()):
        base = int(file.name)
        if base + SEGMENT <= offset:
            continue
        data, position = file.read_bytes(), max(0, offset - base)
        while int.from_bytes(data[position + 4 : position + 8], "big") == MESSAGE_MAGIC:
            size = int.from_bytes(data[position : position + 4], "big")
            yield decode_record(data[position : position + size])
            position += size


class Stored(NamedTuple):
    """What a broker made of it, by the messages' names."""

    halves: dict[str, list[MessageRecord]]
    """The half message and its copies."""
    ops: dict[str, list[MessageRecord]]
    """What says that one of them is not to be looked at any more."""
    committed: dict[str, list[MessageRecord]]
    given_up: dict[str, list[MessageRecord]]
    checks: dict[str, list[Check]]

    def half(self, name: str) -> MessageRecord:
        """The half message as it was sent."""
        return self.halves[name][0]


class Teller:
    """Sends all and ends some."""

    def __init__(self, servers: Cluster, topic: str, group: str) -> None:
        self._folder, self._topic = servers.broker.folder, topic
        self._producer = HalfProducer(servers.broker.address, group)
        self._halves: dict[str, Half] = {}

    async def tell(self) -> Stored:
        """Let it happen."""
        async with self._producer as producer:
            for name, fields in SENDS.items():
                body = zlib.compress(name.encode()) if name == "compressed" else name.encode()
                half = await producer.half(
                    self._topic, body, unique_key=f"{name:_>32}", queue_id=QUEUE, **fields
                )
                self._halves[name] = half
                if name in ENDS:
                    assert await producer.end(half, ENDS[name]) == 0
            producer.answers[b"checked"] = COMMIT
            await eventually("all is decided", self._is_over, 120)
            return self._stored()

    async def _is_over(self) -> bool:
        stored = self._stored()
        checks = stored.checks.get("given up", ())
        return "checked" in stored.committed and "given up" in stored.given_up and len(checks) >= CHECK_MAX

    def _stored(self) -> Stored:
        names = {half.unique_key: name for name, half in self._halves.items()}
        found: dict[str, dict[str, list[MessageRecord]]] = {
            topic: {} for topic in (HALF_TOPIC, OP_TOPIC, self._topic, DISCARDED)
        }
        numbers: dict[str, str] = {}
        for record in log_from(self._folder, self._halves["full"].physical_offset):
            if record.topic == OP_TOPIC:
                name = numbers.get(record.body.decode(), "")
            else:
                name = names.get(record.read_properties().get("UNIQ_KEY", ""), "")
            if name and record.topic in found:
                found[record.topic].setdefault(name, []).append(record)
                if record.topic == HALF_TOPIC:
                    numbers[str(record.queue_offset)] = name
        checks: dict[str, list[Check]] = {}
        for check in self._producer.checks:
            checks.setdefault(names[check.header.msg_id or ""], []).append(check)
        for each in checks.values():  # Apache asks from several threads
            each.sort(key=lambda check: check.header.tran_state_table_offset)
        halves, ops, committed, given_up = found.values()
        return Stored(halves, ops, committed, given_up, checks)


def alike(record: MessageRecord, **other: Any) -> dict[str, Any]:
    """What two brokers must store alike; `other` takes the place of fields that may differ."""
    fields = {
        name: value for name, value in msgspec.structs.asdict(record).items() if name not in OF_THE_PLACE
    }
    host = record.born_host[:4]
    return fields | {"born_ip": host, "properties": record.read_properties()} | other


@pytest.fixture(scope="module")
def both(cluster: Cluster, apache_clusters: ApacheClusters) -> tuple[Stored, Stored]:
    """pymq's and Apache's."""
    apache = apache_clusters("4.9.4")
    topic, group = fresh("records"), fresh("deciding")

    async def tell() -> tuple[Stored, Stored]:
        return await asyncio.gather(Teller(cluster, topic, group).tell(), Teller(apache, topic, group).tell())

    return asyncio.run(tell())


PAIR = tuple[Stored, Stored]


def assert_alike_but_for_the_copy(mine: MessageRecord, theirs: MessageRecord, half: MessageRecord) -> None:
    """A copy of pymq's names the first half message, and keeps the flag, which Apache's copies lose."""
    expected = alike(theirs)
    assert (theirs.flag, mine.flag) == (0, half.flag)
    expected["flag"] = half.flag
    first = str(half.queue_offset)
    expected["properties"]["TRAN_PREPARED_QUEUE_OFFSET"] = first
    expected["total_size"] += len("TRAN_PREPARED_QUEUE_OFFSET") + len(first) + 2
    assert alike(mine) == expected


@pytest.mark.parametrize("name", SENDS)
def test_a_half_message_is_the_same(both: PAIR, name: str) -> None:
    mine, theirs = (stored.half(name) for stored in both)
    assert alike(mine) == alike(theirs)


@pytest.mark.parametrize("name", [name for name, how in ENDS.items() if how == COMMIT])
def test_a_committed_message_is_the_same(both: PAIR, name: str) -> None:
    ([mine], [theirs]) = (stored.committed[name] for stored in both)
    assert alike(mine) == alike(theirs)


@pytest.mark.parametrize("name", [*ENDS, "checked"])
def test_an_op_message_is_the_same(both: PAIR, name: str) -> None:
    for stored in both:
        op = stored.ops[name][-1]
        assert op.properties == "WAIT\x01true\x02TAGS\x01d"
        assert op.born_host == op.store_host
        assert 0 <= op.store_timestamp - op.born_timestamp < 10_000
        copies = [str(each.queue_offset).encode() for each in stored.halves[name]]
        assert op.body in copies[:1] if name in ENDS else copies[1:]
    mine, theirs = ([stored.ops[name][-1]] for stored in both)
    of_the_number = {"total_size": 0, "body": b"", "body_crc": 0}
    assert alike(mine[0], **of_the_number) == alike(theirs[0], **of_the_number)


def test_a_half_message_that_is_put_again_is_the_same(both: PAIR) -> None:
    ours, theirs = (stored.halves["given up"] for stored in both)
    assert len(ours) == len(theirs) == 1 + CHECK_MAX
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        assert_alike_but_for_the_copy(mine, other, ours[0])


def test_a_message_that_is_committed_at_a_check_is_the_same(both: PAIR) -> None:
    mine, theirs = (stored.committed["checked"][0] for stored in both)
    assert_alike_but_for_the_copy(mine, theirs, both[0].half("checked"))


def test_a_message_that_is_given_up_is_the_same(both: PAIR) -> None:
    ([mine], [theirs]) = (stored.given_up["given up"] for stored in both)
    assert_alike_but_for_the_copy(mine, theirs, both[0].half("given up"))


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_message_names_its_half_message_and_is_as_old(both: PAIR, name: str) -> None:
    for stored in both:
        message, halves = stored.committed[name][0], stored.halves[name]
        half = halves[0] if name in ENDS else halves[1]
        assert message.prepared_transaction_offset == half.physical_offset
        assert (message.born_timestamp, message.born_host) == (half.born_timestamp, half.born_host)
        assert message.queue_id == QUEUE


def test_a_check_names_the_newest_copy_and_brings_the_message(both: PAIR) -> None:
    mine, theirs = (stored.checks["given up"][:CHECK_MAX] for stored in both)
    for stored, checks in zip(both, (mine, theirs), strict=True):
        copies = stored.halves["given up"][1:]
        for check, copy in zip(checks, copies, strict=True):
            header = check.header
            assert (header.tran_state_table_offset, header.commit_log_offset) == (
                copy.queue_offset, copy.physical_offset,
            )  # fmt: skip
            assert header.offset_msg_id == copy.offset_msg_id
            key = copy.read_properties()["UNIQ_KEY"]
            assert (header.msg_id, header.transaction_id) == (key, key)
    for check, other in zip(mine, theirs, strict=True):
        first = str(both[0].half("given up").queue_offset)
        more = {"TRAN_PREPARED_QUEUE_OFFSET": first, "WAIT": "true"}  # Apache's: false, once it is put again
        properties = other.record.read_properties() | more
        fields = {"total_size": 0, "flag": 7, "body_crc": other.record.body_crc, "properties": properties}
        assert alike(check.record, total_size=0) == alike(other.record, **fields)
