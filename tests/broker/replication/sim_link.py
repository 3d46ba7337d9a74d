"""Master and slave in one process, on simulated disks and a simulated link, one step at a time.

Everything that happens is decided by a seed: what is sent, how the link cuts the bytes into pieces, when it
breaks or falls silent one way or both, and when either side is killed, restarted or loses power.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from pymq.broker.replication.master import ReplicationMaster, SlaveLink, Terms
from pymq.broker.replication.slave import MasterLink
from pymq.errors import StoreFull
from pymq.store.messagestore import MessageStore
from tests.sim import SimClock
from tests.store.making import open_store, put
from tests.store.sim_disk import SimDisk
from tests.store.test_replica import SEGMENT, log_bytes, queues

HOUSEKEEPING_MS = 20_000


class Wire:
    """One end of the link, as a transport: what is written waits for `Link.carry`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.buffer = bytearray()
        self.high = 1 << 20
        self.is_open = True
        self.is_silent = False
        """What is written from here is swallowed."""
        self.protocol: asyncio.Protocol | None = None
        self._is_paused = False

    def get_extra_info(self, name: str) -> Any:
        return ("sim", 1) if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def pause_reading(self) -> None:
        """Nothing comes before the next `Link.carry` anyway."""

    def resume_reading(self) -> None:
        """As pause_reading."""

    def write(self, data: bytes) -> None:
        if self.is_open and not self.is_silent:
            self.buffer += data
            if len(self.buffer) > self.high and not self._is_paused and self.protocol is not None:
                self._is_paused = True
                self.protocol.pause_writing()

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.write(b"".join(parts))

    def take(self, size: int) -> bytes:
        """Up to `size` bytes that the other end gets now."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        if self._is_paused and len(self.buffer) <= self.high // 4 and self.protocol is not None:
            self._is_paused = False
            self.protocol.resume_writing()
        return data

    def abort(self) -> None:
        self._link.hang_up(self)


class Link:
    """A connection between the two, whose bytes move when they are told to."""

    def __init__(self, master: ReplicationMaster, slave: MasterLink) -> None:
        self.at_master, self.at_slave = Wire(self), Wire(self)
        self._ends: list[tuple[Wire, asyncio.Protocol]] = [
            (self.at_master, master.connected()),  # type: ignore[list-item]
            (self.at_slave, slave),
        ]
        for wire, protocol in self._ends:
            wire.protocol = protocol
        for wire, protocol in self._ends:
            protocol.connection_made(wire)  # type: ignore[arg-type]

    @property
    def master_link(self) -> SlaveLink:
        """The master's end."""
        link = self._ends[0][1]
        assert isinstance(link, SlaveLink)
        return link

    @property
    def is_open(self) -> bool:
        """Whether both ends believe in it."""
        return self.at_master.is_open and self.at_slave.is_open

    def carry(self, luck: random.Random, most: int) -> None:
        """Let some bytes through, both ways."""
        for wire, (other, protocol) in zip(
            (self.at_slave, self.at_master), (self._ends[0], self._ends[1]), strict=True
        ):
            data = wire.take(luck.randrange(most + 1))
            if data and other.is_open:
                protocol.data_received(data)

    def hang_up(self, wire: Wire) -> None:
        """One end has closed; what was on its way is lost. The other learns of it unless it is cut off."""
        if not wire.is_open:
            return
        wire.is_open = False
        wire.buffer.clear()
        own = next(protocol for each, protocol in self._ends if each is wire)
        other, protocol = next(end for end in self._ends if end[0] is not wire)
        own.connection_lost(None)
        if not wire.is_silent and other.is_open:
            other.is_open = False
            protocol.connection_lost(None)

    def cut(self, *, is_told: bool = True) -> None:
        """The connection ends; without `is_told` neither end learns of it before housekeeping."""
        if is_told:
            self.hang_up(self.at_master)
            self.hang_up(self.at_slave)
        else:
            self.at_master.is_silent = self.at_slave.is_silent = True
            self.at_master.buffer.clear()
            self.at_slave.buffer.clear()


class Trouble:
    """A life of master and slave by a seed.

    Attributes:
        story: what happened, for who has to find out why.
        acknowledged: physical offset up to which a producer of a SYNC_MASTER was told that a slave has it.
    """

    def __init__(self, seed: int, *, power_cuts: bool) -> None:
        self.luck = random.Random(seed)
        self.story: list[str] = []
        self.acknowledged = 0
        self.refusals = 0
        self._power_cuts = power_cuts
        self._clock = SimClock()
        self._disks = {"/m": SimDisk(), "/s": SimDisk()}
        self._stores: dict[str, MessageStore] = {}
        self._link: Link | None = None
        self._number = 0
        for root in ("/m", "/s"):
            self._open(root)

    # -- the two

    def _open(self, root: str) -> None:
        self._stores[root] = open_store(self._disks[root], root, self._clock, is_replica=root == "/s")
        if root == "/m":
            self._master = ReplicationMaster(self._stores["/m"].blocks(), self._clock, Terms())
        else:
            self._replica = self._stores["/s"].replica()

    @property
    def master(self) -> MessageStore:
        """The master's store."""
        return self._stores["/m"]

    @property
    def slave(self) -> MessageStore:
        """The slave's store."""
        return self._stores["/s"]

    def _note(self) -> None:
        self.acknowledged = max(self.acknowledged, self._master.acknowledged.position)

    def _connect(self) -> None:
        """As `ReplicationSlave` does: compare, then ask."""
        if self._link is not None and self._link.at_slave.is_open:
            return
        if self._link is not None:
            self._replica.forget_part()
        if not self.is_same():
            self.refusals += 1
            self.story.append("refused")
            return
        self._link = Link(self._master, MasterLink(self._replica, self._clock, SEGMENT))
        self.story.append(f"connected at {self._replica.end}")

    def is_same(self) -> bool:
        """What `compare` finds out."""
        newest = self._replica.newest_record()
        return newest is None or self.master.record_at(newest[0]) == newest[1]

    # -- what happens

    def step(self) -> None:
        """One thing, of many."""
        likely: list[Callable[[], None]] = [self._put, self._put, self._carry, self._carry, self._carry]
        rare: list[Callable[[], None]] = [
            self._break, self._vanish, self._one_way, self._throttle, self._patience, self._restart,
            self._kill, self._flush, self._full,
        ]  # fmt: skip
        if self._power_cuts:
            rare.append(self._power_cut)
        self.luck.choice(rare if self.luck.random() < 0.08 else likely)()
        self._note()
        self._connect()

    def _put(self) -> None:
        for _ in range(self.luck.randrange(1, 8)):
            self._number += 1
            body = b"%d " % self._number + bytes(self.luck.choice((0, 30, 900, 9000)))
            put(self.master, f"T{self.luck.randrange(3)}", self.luck.randrange(2), body)

    def _carry(self, most: int = 20_000) -> None:
        for link in self._master.slaves:
            link.send_on()
        if self._link is not None:
            self._link.carry(self.luck, most)

    def _break(self) -> None:
        if self._link is not None:
            self.story.append("the connection breaks")
            self._link.cut()

    def _vanish(self) -> None:
        if self._link is not None:
            self.story.append("the connection vanishes")
            self._link.cut(is_told=False)

    def _one_way(self) -> None:
        if self._link is not None:
            wire = self.luck.choice((self._link.at_master, self._link.at_slave))
            self.story.append(f"the {'master' if wire is self._link.at_master else 'slave'} is not heard")
            wire.is_silent = True

    def _throttle(self) -> None:
        for _ in range(50):
            self._carry(60)

    def _patience(self) -> None:
        """So much time passes in silence that both give a connection up on which nothing comes."""
        self.story.append("time passes")
        self._clock.advance(HOUSEKEEPING_MS + 1)
        if self._link is not None:
            self._link.master_link.look()
            self._link.at_slave.abort()

    def _restart(self) -> None:
        root = self.luck.choice(("/m", "/s"))
        self.story.append(f"{root} restarts at {self._stores[root].commit_log_max_offset}")
        self._break()
        self._stores[root].close()
        self._open(root)

    def _kill(self) -> None:
        root = self.luck.choice(("/m", "/s"))
        self.story.append(f"{root} is killed at {self._stores[root].commit_log_max_offset}")
        if self._link is not None:
            self._link.cut(is_told=self.luck.random() < 0.7)
        self._disks[root] = self._disks[root].kill()
        self._open(root)

    def _power_cut(self) -> None:
        root = self.luck.choice(("/m", "/s"))
        before = self._stores[root].commit_log_max_offset
        if self._link is not None:
            self._link.cut(is_told=self.luck.random() < 0.5)
        self._disks[root] = self._disks[root].crash(self.luck.randrange(1 << 30))
        self._open(root)
        self.story.append(f"{root} loses power at {before}, has {self._stores[root].commit_log_max_offset}")

    def _flush(self) -> None:
        for store in self._stores.values():
            store.flush_now()
            store.tick()

    def _full(self) -> None:
        """The slave's disk is full for a while."""
        disk = self._disks["/s"]
        capacity, disk.capacity = disk.capacity, disk.capacity - disk.free + 3 * 4096
        self.story.append("the slave's disk is full")
        try:
            for _ in range(5):
                self._carry(100_000)
                self._connect()
        except StoreFull:
            self.story.append("and says so")
        disk.capacity = capacity
        self._clock.advance(5000)

    # -- the end

    def settle(self) -> None:
        """Let all faults be over, and the slave catch up if it may."""
        self._break()
        self._connect()
        for _ in range(10_000):
            if self._link is None or not self._link.is_open or self.is_level():
                break
            self._carry(1 << 20)
        self._note()

    def is_level(self) -> bool:
        """Whether the slave has all of the master's log."""
        return self.slave.commit_log_max_offset == self.master.commit_log_max_offset

    def check_logs(self) -> int:
        """Over the range that both hold the logs are the same; gives its length."""
        both = min(self.master.commit_log_max_offset, self.slave.commit_log_max_offset)
        assert log_bytes(self._disks["/s"], "/s", both) == log_bytes(self._disks["/m"], "/m", both)
        return both

    def check_queues(self) -> None:
        """Consumers read the same from both."""
        mine, theirs = (
            {key: messages for key, messages in queues(store).items() if messages}
            for store in (self.master, self.slave)
        )
        assert theirs == mine
