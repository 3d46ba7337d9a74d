"""The master's half of replication: slaves connect, say where their logs end, and get the rest (store.md §9).

A block ends where a record ends, so that a slave whose connection breaks stands between two records, where
both sides can see whether their logs agree. Safer than Apache: the first report of a connection asks for a
position and acknowledges nothing; a report acknowledges only what was sent on its connection; a position
that is not in this log, or within a record, is refused with a line that says what to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from pymq.clock import Clock
from pymq.errors import ProtocolError, StoreError
from pymq.protocol.ha_frames import ReportReader, encode_block_head
from pymq.store.watermark import Watermark

log = logging.getLogger("pymq.broker.replication")

_TURN_BYTES = 1 << 20
"""So much is handed to one slave's connection before others get their turn."""
_BUFFER_BYTES = 1 << 20
"""A connection that holds more than this, unsent, gets no more until half of it is gone."""
_POLL_S = 0.005
"""How often it is looked for new data that nobody announced."""
_TELL_AGAIN_S = 60.0
"""A slave that is refused comes again every few seconds, and is told of as often as that."""
_MEND = "stop the slave, move its store folder away, and start it again: it then copies all of this log"


class ReplicatedLog(Protocol):
    """What replication needs of the master's commit log. Offsets are physical."""

    @property
    def min_offset(self) -> int:
        """Of the first byte kept: where a file begins."""
        ...

    @property
    def end(self) -> int:
        """Behind the last record."""
        ...

    def is_boundary(self, offset: int) -> bool:
        """Whether a record, the blank end of a file, or a file begins there, or the log ends there."""
        ...

    def block(self, offset: int, size: int) -> bytes | None:
        """Whole records from `offset` on, of up to `size` bytes together, all in one file.

        At least one record, unless it is huge: of that a piece. None when memory may hold them no more and
        they have to be fetched; b"" at the end.
        """
        ...

    def fetch(self, offset: int, size: int, done: Callable[[bytes, StoreError | None], None]) -> None:
        """As `block`, read in a thread; `done` gets the bytes, or the error, in the loop."""
        ...


class Terms:
    """How a master deals with its slaves. Times in s, sizes in bytes."""

    __slots__ = ("batch_bytes", "fall_behind_max", "heartbeat_s", "housekeeping_s")

    def __init__(
        self,
        *,
        batch_bytes: int = 32 << 10,
        heartbeat_s: float = 5.0,
        housekeeping_s: float = 20.0,
        fall_behind_max: int = 256 << 20,
    ) -> None:
        """haTransferBatchSize, haSendHeartbeatInterval, haHousekeepingInterval, haSlaveFallbehindMax."""
        self.batch_bytes = batch_bytes
        self.heartbeat_s = heartbeat_s
        self.housekeeping_s = housekeeping_s
        self.fall_behind_max = fall_behind_max


class ReplicationMaster:
    """All slaves of a broker.

    Attributes:
        acknowledged: the physical offset up to which some slave has the log.
        reach: a record that ends before it, a slave is there to acknowledge, and not far behind. As Apache's
            isSlaveOK (store.md §9): with no slave, or one that lags by haSlaveFallbehindMax or more, a
            producer is not kept waiting for it. 0 without slaves. Each send asks, so it is kept.
        block_due: once the log goes to this physical offset, a whole block waits to be sent.
    """

    def __init__(self, commit_log: ReplicatedLog, clock: Clock, terms: Terms) -> None:
        self.acknowledged = Watermark()
        self.reach = self.block_due = 0
        self._log = commit_log
        self._clock = clock
        self._terms = terms
        self._links: set[SlaveLink] = set()
        self._refused: dict[str, float] = {}
        """Host → when its slave was refused."""
        self._polling: asyncio.TimerHandle | None = None
        self._is_due = False
        self._closed = False

    def connected(self) -> asyncio.BaseProtocol:
        """The protocol of a slave's new connection."""
        return SlaveLink(self, self._log, self._clock, self._terms)

    @property
    def slaves(self) -> list[SlaveLink]:
        """Those that are joined, in no order."""
        return [link for link in self._links if link.has_joined]

    def is_near(self, link: SlaveLink) -> bool:
        """Whether a slave lags by less than haSlaveFallbehindMax."""
        return self._log.end - link.reported < self._terms.fall_behind_max

    def send(self) -> None:
        """Send what was appended, at once."""
        # A little less than a block's size, so that the record that reaches it fits in.
        self.block_due = self._log.end + self._terms.batch_bytes * 3 // 4
        for link in list(self._links):
            link.send_on()

    def send_soon(self) -> None:
        """Something was appended: send it at the end of this turn of the loop."""
        if not self._is_due and self._links:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._send_due)

    def close(self) -> None:
        """Hang up on all slaves."""
        self._closed = True
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
        for link in list(self._links):
            link.close()

    # -- what the links call

    def joined(self, link: SlaveLink) -> None:
        """A connection is there."""
        self._links.add(link)
        if self._polling is None and not self._closed:
            self._poll()

    def left(self, link: SlaveLink) -> None:
        """A connection has ended."""
        self._links.discard(link)
        self.moved()

    def moved(self) -> None:
        """Slaves have come, gone, or got on."""
        furthest = max((link.reported for link in self._links if link.has_joined), default=None)
        self.reach = 0 if furthest is None else furthest + self._terms.fall_behind_max

    def accepted(self, host: str) -> None:
        """A slave there has got its position."""
        self._refused.pop(host, None)

    def refused(self, host: str) -> bool:
        """A slave there does not get its position; whether that is news."""
        now = self._clock.monotonic()
        before = self._refused.get(host)
        if before is not None and now - before < _TELL_AGAIN_S:
            return False
        self._refused[host] = now
        return True

    def _send_due(self) -> None:
        self._is_due = False
        self.send()

    def _poll(self) -> None:
        """For what is appended without `send_soon`, heartbeats, and slaves that fell silent."""
        self._polling = None
        if not self._links or self._closed:
            return
        for link in list(self._links):
            link.look()
        self._polling = asyncio.get_running_loop().call_later(_POLL_S, self._poll)


class SlaveLink(asyncio.Protocol):
    """One slave's connection.

    Attributes:
        peer: its address, for the log.
        has_joined: it has asked for a position, and gets what lies behind.
        sent: physical offset behind what was sent.
        reported: the end of the slave's log, by its last report.
    """

    def __init__(
        self, master: ReplicationMaster, commit_log: ReplicatedLog, clock: Clock, terms: Terms
    ) -> None:
        self.peer = self._host = ""
        self.has_joined = False
        self.sent = self.reported = 0
        self._master = master
        self._log = commit_log
        self._clock = clock
        self._terms = terms
        self._reader = ReportReader()
        self._transport: asyncio.Transport | None = None
        self._start = 0
        self._is_paused = self._is_fetching = False
        self._last_report = self._last_write = clock.monotonic()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the slave's request."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "a slave"
        self._host = str(peer[0]) if peer else ""
        assert self._transport is not None
        self._transport.set_write_buffer_limits(_BUFFER_BYTES)
        self._last_report = self._last_write = self._clock.monotonic()
        self._master.joined(self)

    def data_received(self, data: bytes) -> None:
        """Reports."""
        try:
            reports = self._reader.feed(data)
        except ProtocolError as error:
            self._hang_up(str(error))
            return
        if not reports:
            return
        self._last_report = self._clock.monotonic()
        if not self.has_joined:
            self._join(reports[0])
            reports = reports[1:]
        if reports and self._transport is not None:
            self._acknowledge(max(reports))
        self.send_on()

    def connection_lost(self, error: Exception | None) -> None:
        """The slave has gone."""
        self._transport = None
        self._master.left(self)
        if self.has_joined:
            log.warning("slave %s has gone; it has the log up to %d", self.peer, self.reported)

    def pause_writing(self) -> None:
        """The slave does not read as fast as it is sent to."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._is_paused = False
        self.send_on()

    # -- joining and acknowledging

    def _join(self, request: int) -> None:
        start, end = self._log.min_offset, self._log.end
        if request == 0:
            request = start  # all of it, where Apache sends the last file only
        elif request > end:
            self._refuse(f"its log goes to {request}, beyond the end of this one at {end}: {_MEND}")
            return
        elif request < start:
            self._refuse(f"its log ends at {request}, and this one begins at {start} by now: {_MEND}")
            return
        elif not self._log.is_boundary(request):
            self._refuse(
                f"its log ends at {request}, which is within a message here: restart it, so that its recovery"
                f" cuts a message that is not whole; if it comes again its log is another one: {_MEND}"
            )
            return
        self.has_joined = True
        self._master.accepted(self._host)
        self._start = self.sent = self.reported = request
        self._master.moved()
        log.info("slave %s joins at %d, %d bytes before the end", self.peer, request, end - request)

    def _acknowledge(self, report: int) -> None:
        if report > self._log.end:
            self._hang_up(f"it reports {report}, beyond the end of this log at {self._log.end}: {_MEND}")
            return
        self.reported = report
        self._master.moved()
        if self._start < report <= self.sent:
            self._master.acknowledged.advance(report)

    # -- sending

    def send_on(self) -> None:
        """Send what the slave does not have yet, as much as its connection takes."""
        if not self.has_joined or self._is_fetching:
            return
        budget = _TURN_BYTES
        while budget > 0 and not self._is_paused and self._transport is not None:
            data = self._log.block(self.sent, self._terms.batch_bytes)
            if data is None:
                self._is_fetching = True
                self._log.fetch(self.sent, self._terms.batch_bytes, self._fetched)
                return
            if not data:
                return
            self._write(data)
            budget -= len(data)
        if budget <= 0:
            self._master.send_soon()

    def _fetched(self, data: bytes, error: StoreError | None) -> None:
        self._is_fetching = False
        if self._transport is None:
            return
        if error is not None or not data:
            self._hang_up(f"the log cannot be read at {self.sent}: {error or 'its file has gone'}")
            return
        self._write(data)
        self.send_on()

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.writelines((encode_block_head(self.sent, len(data)), data))
        self.sent += len(data)
        self._last_write = self._clock.monotonic()

    def look(self) -> None:
        """Send on; be heard from time to time; give up a slave that is not."""
        now = self._clock.monotonic()
        if now - self._last_report > self._terms.housekeeping_s:
            self._hang_up(f"nothing was heard of it for {self._terms.housekeeping_s:g} s")
            return
        self.send_on()
        is_idle = self.has_joined and not self._is_paused and self._transport is not None
        if is_idle and now - self._last_write > self._terms.heartbeat_s:
            self._write(b"")

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, reason: str) -> None:
        """It gets no position, and comes again: Apache's slaves do not know why."""
        if self._master.refused(self._host):
            self._hang_up(reason)
        else:
            self.close()

    def _hang_up(self, reason: str) -> None:
        log.error("slave %s is hung up on: %s", self.peer, reason)
        self.close()
