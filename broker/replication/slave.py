"""The slave's half of replication: copying the master's commit log, byte for byte (store.md §9).

Safer than Apache: before the first report the newest record of this log is compared with what the master has
in its place. Where they differ, nothing is copied, cut or overwritten: the log says so, and how to mend it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from pymq.clock import Clock
from pymq.errors import ConnectFailed, ProtocolError, PymqError, StoreBroken, StoreError
from pymq.network import Network, split_address
from pymq.protocol.ha_frames import BlockReader, encode_report

log = logging.getLogger("pymq.broker.replication")

_CONNECT_TIMEOUT_S = 5.0
_MUCH_BYTES = 64 << 10
"""After so much in one piece others get their turn: uvloop reads on as long as there is something."""


class LogsDiffer(PymqError):
    """The master's log is not the one that this slave has copied."""


class ReplicaLog(Protocol):
    """What the slave needs of its store. Offsets are physical."""

    @property
    def end(self) -> int:
        """Behind the last whole record; 0 when there is nothing."""
        ...

    def append(self, physical_offset: int, data: bytes) -> None:
        """Take a block. StoreError."""
        ...

    def build_index(self) -> None:
        """Do what may come after the report."""
        ...

    def forget_part(self) -> None:
        """What did not come whole comes again."""
        ...


class ReplicationSlave:
    """Keeps one connection to the master, as long as it is known where that is.

    Attributes:
        is_connected: blocks come, or may come.
        master_ha_address: `host:port` of the master's replication port, empty while it is not known.
    """

    def __init__(
        self,
        replica: ReplicaLog,
        compare: Callable[[], Awaitable[None]],
        network: Network,
        clock: Clock,
        *,
        segment_bytes: int,
        heartbeat_s: float = 5.0,
        housekeeping_s: float = 20.0,
        retry_s: float = 5.0,
    ) -> None:
        """`compare` raises LogsDiffer where the master's log is another one, or why that cannot be seen now.

        The times in s: haSendHeartbeatInterval, haHousekeepingInterval, and between two attempts.
        """
        self.is_connected = False
        self.master_ha_address = ""
        self._replica = replica
        self._compare = compare
        self._network = network
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._heartbeat_s = heartbeat_s
        self._housekeeping_s = housekeeping_s
        self._retry_s = retry_s
        self._moved = asyncio.Event()
        self._told = ""
        self._link: MasterLink | None = None
        self._last_times: tuple[float | None, float | None] = (None, None)

    @property
    def last_times(self) -> tuple[float | None, float | None]:
        """When the master was last heard, and reported to, on the clock's monotonic time; None: not yet."""
        return self._last_times if self._link is None else self._link.last_times

    def set_master(self, ha_address: str) -> None:
        """The master's replication port is there from now on; empty: there is no master."""
        if ha_address != self.master_ha_address:
            self.master_ha_address = ha_address
            self._moved.set()
            if self._link is not None:
                self._link.close()

    async def run(self) -> None:
        """Copy the log until cancelled. What goes wrong is logged, once for each reason, and tried again.

        Ends by itself only when the disk is broken.
        """
        while True:
            self._moved.clear()
            if self.master_ha_address:
                try:
                    await self._compare()
                    await self._copy(self.master_ha_address)
                except StoreBroken as error:
                    log.critical("replication has ended: %s", error)
                    return
                except PymqError as error:
                    self._tell(error)
            try:
                async with asyncio.timeout(self._retry_s if self.master_ha_address else None):
                    await self._moved.wait()
            except TimeoutError:
                pass

    def _tell(self, error: PymqError) -> None:
        """The same reason is logged once, until something comes."""
        if str(error) != self._told:
            self._told = str(error)
            level = logging.ERROR if isinstance(error, (LogsDiffer, StoreError)) else logging.WARNING
            log.log(level, "not replicating from %s: %s", self.master_ha_address, error)

    async def _copy(self, address: str) -> None:
        try:
            host, port = split_address(address)
        except ValueError as error:
            raise ConnectFailed(address, str(error)) from None
        link = MasterLink(self._replica, self._clock, self._segment_bytes)
        await self._network.connect(host, port, lambda: link, _CONNECT_TIMEOUT_S)
        self._link, self.is_connected, before = link, True, self._replica.end
        log.info("replicating from %s, from %d on", address, self._replica.end)
        try:
            await link.run(self._heartbeat_s, self._housekeeping_s)
        finally:
            self._link, self.is_connected, self._last_times = None, False, link.last_times
            if self._replica.end != before:
                self._told = ""
            link.close()
            self._replica.forget_part()


class MasterLink(asyncio.Protocol):
    """The connection to the master: takes blocks, reports how far the log goes."""

    def __init__(self, replica: ReplicaLog, clock: Clock, segment_bytes: int) -> None:
        self._replica = replica
        self._clock = clock
        self._reader = BlockReader(segment_bytes)
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.Event()
        self._error: PymqError | None = None
        self._last_read = self._last_report = clock.monotonic()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for what follows the log's end, at once, where Apache waits for five seconds."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's are no asyncio.Transport
        self._report()

    def data_received(self, data: bytes) -> None:
        """Append blocks; what they hold is reported together."""
        self._last_read = self._clock.monotonic()
        before = self._replica.end
        try:
            for physical_offset, content in self._reader.feed(data):
                if content:
                    self._replica.append(physical_offset, content)
        except (ProtocolError, StoreError) as error:
            self._error = error
            self.close()
            return
        if self._replica.end != before:
            self._report()
            self._replica.build_index()
        if len(data) >= _MUCH_BYTES and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """It has ended."""
        self._transport = None
        self._ended.set()

    # --

    @property
    def last_times(self) -> tuple[float, float]:
        """As those of ReplicationSlave."""
        return self._last_read, self._last_report

    async def run(self, heartbeat_s: float, housekeeping_s: float) -> None:
        """Report now and then, until the connection ends; then raises why."""
        while not self._ended.is_set():
            try:
                async with asyncio.timeout(heartbeat_s / 2):
                    await self._ended.wait()
            except TimeoutError:
                now = self._clock.monotonic()
                if now - self._last_read > housekeeping_s:
                    self._error = ConnectFailed("", f"nothing was heard of it for {housekeeping_s:g} s")
                    self.close()
                elif now - self._last_report >= heartbeat_s:
                    self._report()
        raise self._error or ConnectFailed("", "the master has hung up")

    def _report(self) -> None:
        if self._transport is not None:
            self._last_report = self._clock.monotonic()
            self._transport.write(encode_report(self._replica.end))

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()
        self._ended.set()
