"""From where on half and op messages have to be looked at: kept as Apache keeps it (§6.4).

It is the offsets of the group CID_RMQ_SYS_TRANS in the two topics, in `consumerOffset.json`. A half message
that was put again lies behind them with its new copy only. So they are told only when the log is on the disk
up to there: else a power cut could take the copy and leave the offsets.

A file of our own, `transactions.json`, says up to where in the log every committed message has its op
message, so that a start need not read the log from an old open half message on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.protocol.bodies.body import Body
from pymq.protocol.header import Long
from pymq.store.messagestore import MessageStore
from pymq.store.transaction_topics import HALF_TOPIC, OP_TOPIC, TRANS_GROUP


class TransactionMark(Body):
    """What `transactions.json` holds."""

    commit_log_offset: Long = 0
    """Physical offset before which every committed message has its op message."""


class HalfProgress:
    """The two offsets, and the mark, as a table that can be saved.

    `on_change`: the table of offsets should be written; `on_mark`: the mark.
    """

    def __init__(
        self,
        store: MessageStore,
        offsets: ConsumerOffsetTable,
        current: Callable[[], tuple[int, int]],
        is_noted: Callable[[], bool],
    ) -> None:
        """`current`: the two offsets of now; `is_noted`: whether no op message is owed."""
        self.on_change: list[Callable[[], None]] = []
        self.on_mark: list[Callable[[], None]] = []
        self.mark = 0
        """As `TransactionMark.commit_log_offset`; beyond the log's end it says nothing."""
        self._is_noted = is_noted
        self._store = store
        self._offsets = offsets
        self._current = current
        self._waiting: tuple[int, int, int, int] | None = None
        """Where the log ended, and offsets and mark of that time: told when it is flushed up to there."""
        self._settled: asyncio.Event | None = None
        store.flushed.on_change.append(self._flushed)

    def known(self, topic: str) -> int | None:
        """The offset in one of the two topics that was told last; None without one."""
        return self._offsets.query(TRANS_GROUP, topic, 0)

    def save_soon(self) -> None:
        """Have the offsets of now told once the log is on the disk up to here."""
        if self._waiting is not None or not self._store.max_offset(HALF_TOPIC, 0):
            return
        half, op = self._current()
        end = self._store.commit_log_max_offset
        mark = end if self._is_noted() else self.mark
        if (self.known(HALF_TOPIC) or 0, self.known(OP_TOPIC) or 0, self.mark) == (half, op, mark):
            return
        self._waiting = end, half, op, mark
        self._flushed()
        if self._waiting is not None:
            self._store.flush_now()

    def _flushed(self) -> None:
        flushed, waiting = self._store.flushed, self._waiting
        if waiting is not None and waiting[0] <= flushed.position:
            self._waiting = None
            self.mark = waiting[3]
            self._tell(waiting[1], waiting[2])
            for listener in self.on_mark:
                listener()
        if self._settled is not None and (self._waiting is None or flushed.failure is not None):
            self._settled.set()

    def _tell(self, half: int, op: int) -> None:
        if (self.known(HALF_TOPIC) or 0, self.known(OP_TOPIC) or 0) == (half, op):
            return
        self._offsets.commit(TRANS_GROUP, HALF_TOPIC, 0, half)
        self._offsets.commit(TRANS_GROUP, OP_TOPIC, 0, op)
        for listener in self.on_change:
            listener()

    def snapshot(self) -> TransactionMark:
        """What may stand in the file."""
        return TransactionMark(self.mark)

    def load(self, text: str) -> None:
        """Take what a file holds. Raises BodyError."""
        self.mark = TransactionMark.decode(text.encode()).commit_log_offset

    def forget_mark(self) -> None:
        """For a slave, whose log is its master's: as such it says nothing about op messages."""
        if self.mark:
            self.mark = 0
            for listener in self.on_mark:
                listener()

    async def settle(self) -> None:
        """At the end: have the offsets of now told, unless the disk is broken."""
        self._settled = asyncio.Event()
        for _ in range(2):  # behind those that wait there may be newer ones
            self.save_soon()
            self._flushed()
            await self._settled.wait()
            self._settled.clear()
            if self._store.flushed.failure is not None:
                break
