"""SYNC_MASTER: an answer waits for a slave, and says what became of the wait (semantics.md §1.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pymq.broker.acknowledgements import Acknowledgements
from pymq.protocol.codes import ResponseCode
from pymq.store.watermark import Watermark
from tests.broker.test_acknowledgements import World, turn
from tests.transport.peers import until

DISK_MS, SLAVE_MS = 5000, 3000


class Slaves:
    """Slaves as a test wants them."""

    def __init__(self, log_end: Callable[[], int]) -> None:
        self.acknowledged = Watermark()
        self.is_there = True
        self.block_due = 1 << 62
        self.sent: list[int] = []
        """Where the log ended, each time it was sent on."""
        self._log_end = log_end

    @property
    def reach(self) -> int:
        return 1 << 62 if self.is_there else 0

    def send(self) -> None:
        self.sent.append(self._log_end())


class SyncMaster(World):
    """A broker that waits for a slave, and for the disk too if it is to."""

    def __init__(
        self, *, sync_flush: bool = False, slave_ms: int = SLAVE_MS, tells_slave: bool = True
    ) -> None:
        super().__init__(tells_slave=tells_slave)
        self.slaves = Slaves(lambda: self.store.commit_log_max_offset)
        self.waiting = Acknowledgements(
            self.store,
            self.clock,
            sync_flush_timeout_ms=DISK_MS if sync_flush else None,
            slaves=self.slaves,
            slave_timeout_ms=slave_ms,
        )

    def acknowledge(self) -> None:
        """A slave has all."""
        self.slaves.acknowledged.advance(self.store.commit_log_max_offset)


async def test_an_answer_waits_for_a_slave_and_many_share_its_word() -> None:
    world = SyncMaster()
    client = world.client()
    client.send(1, 2, 3)
    await turn()
    assert client.answers() == []
    assert world.slaves.sent == [world.store.commit_log_max_offset], "one block for all of a turn"
    assert world.disk.jobs == [], "the disk is not waited for"
    world.acknowledge()
    await turn()
    assert client.codes() == {1: 0, 2: 0, 3: 0}


async def test_answers_leave_as_the_slaves_word_comes_in_one_write_for_each_connection() -> None:
    """Not at the end of the turn: the other connections' requests may take milliseconds before that."""
    world = SyncMaster()
    clients = [world.client(), world.client()]
    for opaque in (1, 2, 3):
        for client in clients:
            client.send(opaque)
    world.acknowledge()
    assert [len(client.wire.writes) for client in clients] == [1, 1]
    assert [client.codes() for client in clients] == [{1: 0, 2: 0, 3: 0}] * 2


async def test_a_slave_works_beside_the_master_each_whole_block_goes_out_before_the_turn_ends() -> None:
    world = SyncMaster()
    client = world.client()
    client.send(1)
    await turn()
    [record] = world.slaves.sent
    world.slaves.block_due = 2 * record
    client.send(2, 3)
    assert world.slaves.sent == [record, 2 * record, 3 * record], "this slave's next block is always due"
    world.slaves.block_due = 1 << 62
    client.send(4, 5)
    assert len(world.slaves.sent) == 3, "less than a block waits for the turn's end"
    await turn()
    assert world.slaves.sent[3:] == [5 * record]


@pytest.mark.parametrize("sync_flush", [False, True])
async def test_what_waits_holds_the_answer_and_not_the_request(sync_flush: bool) -> None:
    """Hundreds wait at any time: with their bodies and headers they slowed every send down by a fifth."""
    world = SyncMaster(sync_flush=sync_flush)
    client = world.client()
    client.send(*range(10))
    await turn()
    assert len(world.waiting) == 10
    assert [(each.body, each.header) for each in world.commands] == [(b"", None)] * 10
    world.slaves.acknowledged.advance(world.store.commit_log_max_offset)
    world.disk.run_jobs()
    await turn()
    assert client.codes() == dict.fromkeys(range(10), 0)


async def test_without_a_slave_the_answer_says_so_at_once() -> None:
    world = SyncMaster()
    world.slaves.is_there = False
    client = world.client()
    client.send(1)
    await turn()
    assert client.codes() == {1: ResponseCode.SLAVE_NOT_AVAILABLE}


async def test_a_slave_that_is_late_is_told_of_after_slave_timeout() -> None:
    world = SyncMaster()
    client = world.client()
    client.send(1)
    await turn()
    world.clock.advance(SLAVE_MS - 1)
    world.waiting.expire()
    await turn()
    assert client.answers() == []
    world.clock.advance(1)
    world.waiting.expire()
    await turn()
    assert client.codes() == {1: ResponseCode.FLUSH_SLAVE_TIMEOUT}


async def test_disk_and_slave_are_both_waited_for() -> None:
    world = SyncMaster(sync_flush=True)
    client = world.client()
    client.send(1)
    await turn()
    world.acknowledge()
    await turn()
    assert client.answers() == []
    world.disk.run_jobs()
    await turn()
    assert client.codes() == {1: 0}


@pytest.mark.parametrize("is_there", [False, True])
async def test_the_slaves_status_wins_over_the_disks(is_there: bool) -> None:
    world = SyncMaster(sync_flush=True)
    world.slaves.is_there = is_there
    client = world.client()
    client.send(1)
    await turn()
    world.clock.advance(DISK_MS)
    world.waiting.expire()
    await turn()
    expected = ResponseCode.FLUSH_SLAVE_TIMEOUT if is_there else ResponseCode.SLAVE_NOT_AVAILABLE
    assert client.codes() == {1: expected}


async def test_without_a_slave_the_disk_is_still_waited_for() -> None:
    world = SyncMaster(sync_flush=True)
    world.slaves.is_there = False
    client = world.client()
    client.send(1)
    await turn()
    assert client.answers() == []
    world.disk.run_jobs()
    await turn()
    assert client.codes() == {1: ResponseCode.SLAVE_NOT_AVAILABLE}


async def test_the_slaves_time_limit_rings_though_the_disks_is_longer() -> None:
    world = SyncMaster(sync_flush=True, slave_ms=20)
    client = world.client()
    client.send(1)
    await turn()
    world.disk.run_jobs()
    await turn()
    world.clock.advance(20)
    await until(lambda: client.wire.writes)
    assert client.codes() == {1: ResponseCode.FLUSH_SLAVE_TIMEOUT}


async def test_a_stop_waits_for_the_slaves_word() -> None:
    world = SyncMaster()
    client = world.client()
    client.send(1)
    closing = asyncio.ensure_future(world.waiting.close())
    await turn()
    assert not closing.done()
    world.acknowledge()
    await asyncio.wait_for(closing, 30)
    await turn()
    assert client.codes() == {1: 0}


@pytest.mark.parametrize("sync_flush", [False, True])
@pytest.mark.parametrize("is_there", [False, True])
async def test_who_would_send_again_is_not_told_of_slaves(is_there: bool, sync_flush: bool) -> None:
    """Java's consumers take anything but success for a refusal of what they hand back, and send it anew."""
    world = SyncMaster(sync_flush=sync_flush, tells_slave=False)
    world.slaves.is_there = is_there
    client = world.client()
    client.send(1)
    await turn()
    world.disk.run_jobs()
    await turn()
    assert client.codes() == ({} if is_there else {1: 0})
    world.clock.advance(SLAVE_MS)
    world.waiting.expire()
    await turn()
    assert client.codes() == ({1: 0} if is_there else {})
