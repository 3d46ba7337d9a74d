"""A master is killed with transactions open: its slave, promoted, goes on with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pymq
from tests.interop.processes import Node, kill_what_runs
from tests.interop.pymq_servers import pymq_broker, pymq_name_server
from tests.interop.python_client import eventually

pytestmark = pytest.mark.once

OFTEN = {"transactionCheckInterval": 300, "transactionTimeOut": 100, "transactionCheckMax": 10_000}
SELDOM = {"transactionCheckInterval": 600_000, "transactionTimeOut": 600_000}


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Ends servers of a test that failed."""
    yield
    kill_what_runs()


def start(folder: Path, names: Node, role: str, broker_id: int, **settings: Any) -> Node:
    """A broker called a."""
    common = {"mappedFileSizeCommitLog": 1 << 20, "maxMessageSize": 1 << 16, "slaveTimeout": 20_000}
    return pymq_broker(folder, [names], "a", brokerRole=role, brokerId=broker_id, **common, **settings)


async def test_open_ones_are_asked_about_and_settled_ones_stay_as_they_are(tmp_path: Path) -> None:
    names = pymq_name_server(tmp_path / "names")
    master = start(tmp_path / "master", names, "SYNC_MASTER", 0, **SELDOM)
    slave = start(tmp_path / "slave", names, "SLAVE", 1, **SELDOM)
    async with pymq.Client(names.address, producer_group="orders") as mq:

        async def has_slave() -> bool:
            return (await mq.send("other", "joined?")).status is pymq.SendStatus.SEND_OK

        await eventually("the slave has joined", has_slave)
        async with mq.transaction("T", "committed"):
            pass
        with pytest.raises(RuntimeError):
            async with mq.transaction("T", "rolled back"):
                raise RuntimeError
        for body in ("open, to be committed", "open, to be rolled back"):
            async with mq.transaction("T", body) as transaction:
                await transaction.unknown()
        # What is behind it in the log: then the ends of the others are on the slave too.
        assert (await mq.send("other", "last")).status is pymq.SendStatus.SEND_OK
        master.kill()
        slave.kill()

    asked: set[str] = set()

    def decide(message: pymq.ReceivedMessage) -> pymq.TransactionState:
        body = message.body.decode()
        asked.add(body)
        return pymq.TransactionState.ROLLBACK if "rolled back" in body else pymq.TransactionState.COMMIT

    start(tmp_path / "slave", names, "ASYNC_MASTER", 0, **OFTEN)
    found: list[str] = []
    async with (
        pymq.Client(names.address, producer_group="orders", transaction_checker=decide) as mq,
        mq.consumer("consumers", "T", start="first") as consumer,
    ):

        async def have_come() -> bool:
            for message in await consumer.fetch(wait=0.5):
                found.append(message.body.decode())
                message.ack()
            return len(found) >= 2 and len(asked) >= 2

        await eventually("the committed ones", have_come)
        found += [message.body.decode() for message in await consumer.fetch(wait=1.5)]
    assert sorted(found) == ["committed", "open, to be committed"]
    assert asked == {"open, to be committed", "open, to be rolled back"}
