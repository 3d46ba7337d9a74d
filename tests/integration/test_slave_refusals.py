"""A slave that cannot follow its master copies nothing, cuts nothing, and says what to do."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from pymq.broker.broker_config import BrokerRole
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import CreateTopicRequest
from tests.broker.asking import bounds, pull, send
from tests.integration.replicated_cluster import (
    SEGMENT,
    Cluster,
    cluster,
    stop,
    until,
    until_answered,
    until_code,
)

pytestmark = pytest.mark.once

__all__ = ["cluster"]

MEND = "stop this slave, move its store folder away and start it again"


async def test_a_slave_of_a_master_that_lost_its_tail_refuses_until_it_is_wiped(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a power cut of the master; it may even have gone on and be the longer one again."""
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(10):
        with pytest.raises(ResponseError):  # no slave yet
            await send(cluster.pool, master.address, "T", b"%d" % number)
    await stop(master)
    shutil.copytree(tmp_path / "master", tmp_path / "before")
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    for number in range(10, 20):
        await send(cluster.pool, master.address, "T", b"%d" % number)
    await stop(slave)
    await stop(master)
    shutil.rmtree(tmp_path / "master")
    shutil.move(tmp_path / "before", tmp_path / "master")
    copied = cluster.log("slave")
    master = await cluster.broker("master", BrokerRole.SYNC_MASTER)
    caplog.set_level(logging.ERROR, "pymq.broker.replication")

    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await until(lambda: "has no message at" in caplog.text)
    assert MEND in caplog.text
    await stop(slave)
    for number in range(20, 60):
        with pytest.raises(ResponseError) as refused:
            await send(cluster.pool, master.address, "T", b"another %d" % number)
        assert refused.value.code == ResponseCode.SLAVE_NOT_AVAILABLE
    caplog.clear()
    slave = await cluster.broker("slave", BrokerRole.SLAVE)
    await until(lambda: MEND in caplog.text)
    await stop(slave)
    assert cluster.log("slave") == copied

    shutil.move(tmp_path / "slave", tmp_path / "aside")
    await cluster.broker("slave", BrokerRole.SLAVE)
    await until_code(cluster, master, 0)
    assert cluster.log("slave") == cluster.log("master")


async def test_where_the_master_has_deleted_old_files_only_a_new_slave_can_follow(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    old = await cluster.broker("old", BrokerRole.SLAVE)
    await send(cluster.pool, master.address, "T", b"0")
    await until_answered(cluster, old, "T", 1)
    await stop(old)
    for number in range(1, 60):
        await send(cluster.pool, master.address, "T", b"%d" % number + bytes(60_000))
    await stop(master)
    for base in (0, SEGMENT):
        (tmp_path / "master" / "commitlog" / f"{base:020}").unlink()
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    caplog.set_level(logging.ERROR, "pymq.broker.replication")

    old = await cluster.broker("old", BrokerRole.SLAVE)
    await until(lambda: "has no message at" in caplog.text)
    assert MEND in caplog.text
    await stop(old)

    new = await cluster.broker("new", BrokerRole.SLAVE)
    first = bounds(await pull(cluster.pool, master.address, "T")).min_offset
    assert first > 0
    body = b"%d" % (60 - 1) + bytes(60_000)
    assert (await until_answered(cluster, new, "T", 1, offset=59)) == [body]
    assert cluster.log("new") == cluster.log("master")
    reply = await pull(cluster.pool, new.address, "T")
    assert reply.code == ResponseCode.PULL_RETRY_IMMEDIATELY, "a slave moves no consumer"
    assert (bounds(reply).next_begin_offset, bounds(reply).suggest_which_broker_id) == (0, 0)


async def test_files_of_another_size_are_refused(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    master = await cluster.broker("master", BrokerRole.ASYNC_MASTER)
    caplog.set_level(logging.ERROR, "pymq.broker.replication")
    await cluster.broker("slave", BrokerRole.SLAVE, mapped_file_size_commit_log=2 * SEGMENT)
    await cluster.pool.call(master.address, CreateTopicRequest("T", 1, 1, 6))
    for number in range(20):
        await send(cluster.pool, master.address, "T", b"%d" % number + bytes(60_000))
    await until(lambda: "mappedFileSizeCommitLog must be the same on both" in caplog.text)
