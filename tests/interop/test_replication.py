"""Masters and slaves of pymq and of Apache, each with the other: one log, byte for byte, through every fault.

Apache's slaves ask for their position haSendHeartbeatInterval after they connect, and not at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymq.errors import PymqError
from pymq.network import SystemNetwork
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.transport.pool import Pool
from tests.broker.asking import send_header
from tests.interop.apache import apache_broker
from tests.interop.conftest import need
from tests.interop.flaky_link import FlakyLink
from tests.interop.processes import HOST, Node
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.stored_logs import assert_same

SEGMENT = 262_144
MESSAGES = 60

PATIENT = {"slaveTimeout": 20_000, "syncFlushTimeout": 20_000}
"""Of a master whose slave stands still for a second: no pause of the machine is to last longer."""

STORED = frozenset((0, 11, 12))
"""Answers that say that a message is stored, whatever became of it on a slave."""
ANY = STORED | {-1}
"""Also no answer at all."""
PAIRS = [
    ("pymq", "pymq"),
    ("pymq", "4.9.4"),
    ("4.9.4", "pymq"),
    ("pymq", "4.3.2"),
    ("4.3.2", "pymq"),
]


def start(kind: str, folder: Path, names: Node, role: str, port: int = 0, **more: object) -> Node:
    """A broker called a, of pymq or of an Apache version."""
    settings: dict[str, Any] = {
        "brokerRole": role,
        "brokerId": int(role == "SLAVE"),
        "slaveTimeout": 4000,
        "syncFlushTimeout": 4000,
        "haSendHeartbeatInterval": 500,
        "maxMessageSize": 65_536,
        ("mapedFileSizeCommitLog" if kind == "4.3.2" else "mappedFileSizeCommitLog"): SEGMENT,
        **more,
    }
    if kind == "pymq":
        return pymq_broker(folder, [names], "a", port, **settings)
    return apache_broker(kind, folder, [names], "a", port, **settings)


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Node]:
    """A name server of pymq."""
    need("java", "mvn")
    node = pymq_name_server(tmp_path / "names")
    yield node
    node.kill()


async def fill(pool: Pool, master: Node, first: int, wanted: frozenset[int] = STORED) -> set[int]:
    """Send messages of several sizes; the codes of the answers."""
    codes = set()
    for number in range(first, first + MESSAGES):
        body = b"%d " % number + b"x" * (number * 97 % 9000)
        codes.add(await send_code(pool, master.address, body))
    assert codes <= wanted
    return codes


async def until_joined(pool: Pool, master: Node) -> None:
    """Send until a slave has what was sent."""
    async with asyncio.timeout(120):
        while await send_code(pool, master.address, b"joined?"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def send_code(pool: Pool, address: str, body: bytes) -> int:
    """Send a message of topic T; the answer's code."""
    try:
        await pool.call(address, send_header("T"), body, timeout_s=30)
    except PymqError as error:
        return int(getattr(error, "code", -1))
    return 0


@pytest.mark.parametrize(("master_kind", "slave_kind"), PAIRS)
async def test_the_logs_are_the_same_whatever_happens_to_either_and_between_them(
    tmp_path: Path, names: Node, master_kind: str, slave_kind: str
) -> None:
    pool = Pool(SystemNetwork(), {})
    master = start(master_kind, tmp_path / "master", names, "SYNC_MASTER")
    link = FlakyLink(master.port + 1)
    await link.start()
    through: dict[str, Any] = {"haMasterAddress": f"{HOST}:{link.port}"}
    await pool.call(master.address, CreateTopicRequest("T", 1, 1, 6), timeout_s=60)
    await fill(pool, master, 0)
    link.bytes_per_s = 1 << 20
    slave = start(slave_kind, tmp_path / "slave", names, "SLAVE", **through)
    try:
        await until_joined(pool, master)
        link.cut_after(20_001)  # within a block
        sending = asyncio.ensure_future(fill(pool, master, 100, ANY))
        async with asyncio.timeout(90):
            while not link.was_cut:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        master.kill()
        await sending
        master = start(master_kind, tmp_path / "master", names, "SYNC_MASTER", master.port, **PATIENT)
        await fill(pool, master, 200)
        await until_joined(pool, master)
        slave.kill()
        await asyncio.sleep(0.2)  # until the master knows: it would wait for its slave
        await fill(pool, master, 300)
        slave = start(slave_kind, tmp_path / "slave", names, "SLAVE", **through)
        await until_joined(pool, master)
        slave.server.pause()
        sending = asyncio.ensure_future(fill(pool, master, 400, frozenset((0,))))
        await asyncio.sleep(1)
        assert not sending.done(), "a message was acknowledged by a slave that stands still"
        slave.server.go_on()
        assert await sending == {0}
    finally:
        await pool.close()
        master.kill()
        slave.kill()
        link.close()
    assert_same(tmp_path / "master", tmp_path / "slave")
