"""A disk that is too full refuses sends, says so once, and serves all else."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.disk_watch import DiskWatch
from pymq.disk import DiskUsage
from pymq.errors import ResponseError, StoreError
from pymq.protocol.codes import ResponseCode
from pymq.store.retention import RetentionRules
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send
from tests.broker.conftest import StartBroker

MIB = 1 << 20


class Gauge(SystemDisk):
    """A disk that is as full as it is told."""

    def __init__(self, *, used: int, free: int) -> None:
        super().__init__()
        self.by_folder: dict[str, DiskUsage | StoreError] = {}
        self.used, self.free = used, free

    def usage(self, path: str) -> DiskUsage:
        usage = self.by_folder.get(path, DiskUsage(self.used + self.free, self.used, self.free))
        if isinstance(usage, StoreError):
            raise usage
        return usage


def watch(disk: Gauge, told: list[str], **settings: Any) -> DiskWatch:
    """A watch that writes what it tells the store into `told`."""
    config = BrokerConfig(store_path_root_dir="/s", store_path_commit_log="/log")
    return DiskWatch(config, RetentionRules(**settings), disk, told.append)


@pytest.mark.parametrize(
    ("settings", "used", "free", "is_full"),
    [
        ({}, 90 * MIB, 10 * MIB, False),
        ({}, 90 * MIB + 1, 10 * MIB - 1, True),
        ({"disk_space_warning_level_ratio": 50}, 51, 49, True),
        ({"disk_space_warning_level_ratio": 100}, 100, 0, False),
        ({"disk_min_free_bytes": 10}, 990, 10, False),
        ({"disk_min_free_bytes": 10}, 991, 9, True),
        ({"disk_min_free_bytes": 10, "disk_space_warning_level_ratio": 1}, 500, 500, False),
    ],
)
def test_the_disk_is_full_by_free_bytes_where_they_are_set_and_else_by_its_used_share(
    settings: dict[str, int], used: int, free: int, is_full: bool
) -> None:
    told: list[str] = []
    watch(Gauge(used=used, free=free), told, **settings).judge()
    assert bool(told[-1]) == is_full


@pytest.mark.parametrize("folder", ["/s", "/log"])
def test_one_full_partition_of_two_is_enough(folder: str) -> None:
    told: list[str] = []
    disk = Gauge(used=1, free=99)
    disk.by_folder[folder] = DiskUsage(100, 99, 1)
    watch(disk, told).judge()
    assert f"the disk of {folder} is too full" in told[-1]


def test_each_change_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    disk = Gauge(used=0, free=100 * MIB)
    judged = watch(disk, told, disk_min_free_bytes=10 * MIB)
    caplog.set_level(logging.WARNING)
    for free in (100, 9, 5, 8, 10, 50):
        disk.free = free * MIB
        judged.judge()
    refused, accepted = (record.getMessage() for record in caplog.records)
    assert "sends are refused: the disk of /log is too full, 9 MiB are free" in refused
    assert "less than 10 MiB are free (diskMinFreeBytes)" in refused
    assert "sends are accepted again" in accepted


def test_a_disk_that_cannot_be_looked_at_changes_nothing_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    disk = Gauge(used=0, free=1)
    disk.by_folder["/log"] = StoreError("no such disk")
    judged = watch(disk, told)
    judged.judge()
    judged.judge()
    assert told == []
    assert [record.getMessage() for record in caplog.records] == [
        "how full the disk is cannot be told: no such disk"
    ]


async def sent_until(pool: Pool, address: str, *, is_refused: bool) -> ResponseError | None:
    """Send until that is refused, or no longer; gives the refusal."""
    refusal: ResponseError | None = None
    async with asyncio.timeout(30):
        while True:
            try:
                await send(pool, address, "orders", b"again")
                refusal = None
            except ResponseError as error:
                refusal = error
            if (refusal is not None) == is_refused:
                return refusal
            await asyncio.sleep(0.005)


async def test_sends_to_a_full_disk_are_refused_and_reads_go_on(
    start_broker: StartBroker, pool: Pool
) -> None:
    disk = Gauge(used=0, free=100 * MIB)
    broker = await start_broker(disk=disk, disk_min_free_bytes=10 * MIB, clean_resource_interval=10)
    await send(pool, broker.address, "orders", b"before")
    disk.free = 5 * MIB
    refused = await sent_until(pool, broker.address, is_refused=True)
    assert refused is not None
    assert refused.code == ResponseCode.SERVICE_NOT_AVAILABLE
    assert "too full, 5 MiB are free" in refused.remark
    assert records(await pull(pool, broker.address, "orders"))[0].body == b"before"
    disk.free = 10 * MIB
    await sent_until(pool, broker.address, is_refused=False)


async def test_a_disk_that_is_full_at_the_start_refuses_from_the_first_send_on(
    start_broker: StartBroker, pool: Pool
) -> None:
    broker = await start_broker(disk_min_free_bytes=1 << 62)
    with pytest.raises(ResponseError, match="too full"):
        await send(pool, broker.address, "orders", b"x")
