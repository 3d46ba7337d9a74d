"""What a slave copies besides the log: topics, offsets, groups, how far delays are (semantics.md §9).

Offsets point into the log, which comes on another connection, and may be late. Taken as they come, as Apache
does, they would tell a slave that becomes the master of messages that it does not have: delayed ones would
count as delivered whose copies are lost, and new messages would get numbers that groups have passed. So
offsets wait here until the log has come up to where the master's ended when it told them. Of a master whose
log is another one nothing is taken: the topics of messages that only this broker has would be lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from pymq.errors import BodyError, PymqError, TransportError
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import GetBrokerRuntimeInfoRequest
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.broker.replication")

FIRST_S, PERIOD_S = 3.0, 10.0
"""As 4.9.4."""
_HURRY_S = 0.05
"""Behind the first message of a topic that is not known here, its configuration is asked for."""
_LOOK_S = 0.2
"""How often it is looked whether the log has come that far."""
_LOG_END = "commitLogMaxOffset"
"""In the runtime info of every version (wire.md §5.3)."""


class CopiedTable(Protocol):
    """A table that follows the master's."""

    def take(self, body: bytes) -> None:
        """Be as the master's answer says. Raises BodyError."""
        ...


class Source(NamedTuple):
    """Where a table comes from."""

    name: str
    request: Header
    table: CopiedTable
    needs_log: bool = False
    """It points into the log, and is taken when that has come."""


class MasterTables:
    """Asks the master for its tables: soon after the start, every 10 s, and when there is reason to."""

    def __init__(
        self,
        pool: Pool,
        sources: Sequence[Source],
        has_log: Callable[[int], bool],
        on_away: Callable[[], None] = lambda: None,
    ) -> None:
        """`has_log`: whether the master's log is being copied, and has come up to an offset.

        `on_away`: the master did not answer.
        """
        self.master_address = ""
        """`host:port` of the master; empty while it is not known: then nothing is asked."""
        self._pool = pool
        self._sources = sources
        self._has_log = has_log
        self._on_away = on_away
        self._waiting: tuple[int, list[tuple[CopiedTable, bytes]]] | None = None
        """Where the master's log ended, and what it told before."""
        self._times_void = 0
        self._left_out = False
        """Something was not taken, since the log is not being copied."""
        self._told: dict[str, str] = {}
        self._is_due = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Ask within a moment, once for all who call until then."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_HURRY_S, self._hurry)

    def _hurry(self) -> None:
        self._soon = None
        self._is_due.set()

    async def run(self) -> None:
        """Follow the master until cancelled."""
        pause_s = FIRST_S
        while True:
            await self._pause(asyncio.get_running_loop().time() + pause_s)
            self._is_due.clear()  # before the copy: what becomes due meanwhile is not in it
            pause_s = PERIOD_S
            if self.master_address:
                await self.copy()

    async def _pause(self, until: float) -> None:
        """Up to the loop's time `until`, or until it is due before; meanwhile take what has waited."""
        loop = asyncio.get_running_loop()
        while not self._is_due.is_set() and loop.time() < until:
            self.take_waiting()
            if self._left_out and self._has_log(0):
                return
            is_all_taken = self._waiting is None and not self._left_out
            next_look = until if is_all_taken else min(until, loop.time() + _LOOK_S)
            try:
                async with asyncio.timeout_at(next_look):
                    await self._is_due.wait()
            except TimeoutError:
                pass

    async def copy(self) -> None:
        """Ask for all tables now. What fails is logged, once for each reason, and the others are taken."""
        waiting: list[tuple[CopiedTable, bytes]] = []
        times_void = self._times_void
        self._left_out = False
        for name, request, table, needs_log in self._sources:
            try:
                reply = await self._pool.call(self.master_address, request)
                if needs_log:
                    waiting.append((table, reply.body))
                elif self._has_log(0):
                    table.take(reply.body)
                else:
                    self._left_out = True
            except PymqError as error:
                self._tell(name, error)
                if isinstance(error, TransportError):
                    self._on_away()
                    return
            else:
                self._told.pop(name, None)
        if waiting and not self.take_waiting():
            return  # the log is behind: what waits comes sooner than what is newer
        try:
            log_end = await self._log_end() if waiting else 0
            if waiting and times_void == self._times_void:
                self._waiting = log_end, waiting
        except PymqError as error:
            self._tell(_LOG_END, error)
        self.take_waiting()

    def void_offsets(self) -> None:
        """A queue starts anew, or the master is another one: offsets that were told before do not count. Ask
        again."""
        self._waiting = None
        self._times_void += 1
        self.soon()

    def take_waiting(self) -> bool:
        """Take the offsets for which the log has come; whether none are left."""
        if self._waiting is not None:
            end, tables = self._waiting
            if not self._has_log(end):
                return False
            self._waiting = None
            for table, body in tables:
                try:
                    table.take(body)
                except PymqError as error:
                    self._tell(type(table).__name__, error)
        return True

    async def _log_end(self) -> int:
        """Where the master's log ends by now, later than all that it has told."""
        reply = await self._pool.call(self.master_address, GetBrokerRuntimeInfoRequest())
        end = KVTable.decode(reply.body).table.get(_LOG_END, "")
        if not end.isdecimal():
            raise BodyError(f"the runtime info has {_LOG_END}={end!r}: no offsets are copied")
        return int(end)

    def _tell(self, name: str, error: PymqError) -> None:
        """The same reason is logged once."""
        if self._told.get(name) != str(error):
            self._told[name] = str(error)
            log.warning("%s of master %s: %s", name, self.master_address, error)
