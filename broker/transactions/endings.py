"""How a transaction ends: the message is delivered, or not, and an op message says that it has ended (§6.2).

Both records are written in one turn of the loop, the message first. Should the process die in between, the
message itself tells at the next start that its transaction has ended (`half_recovery`). What Apache's broker
does not know is that a transaction has ended before: it delivers again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from pymq.broker.delayed_puts import DelayedPuts
from pymq.broker.renewal import renew
from pymq.broker.transactions.halves import Half, OpenHalf, new_open_half
from pymq.broker.transactions.open_halves import OpenHalves
from pymq.broker.transactions.ops import OpQueue
from pymq.errors import StoreError
from pymq.protocol.message import MessageRecord
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_MASK
from pymq.store.messagestore import MessageStore, PutResult
from pymq.store.transaction_topics import HALF_TOPIC

log = logging.getLogger("pymq.broker.transactions")


class Endings:
    """Commits and rolls back."""

    def __init__(self, store: MessageStore, halves: OpenHalves, ops: OpQueue, delayed: DelayedPuts) -> None:
        self._store = store
        self._halves = halves
        self._ops = ops
        self._delayed = delayed
        self._owed: list[Callable[[], PutResult]] = []
        """Write the op messages that the store refused."""

    def commit(self, half: Half) -> int:
        """Deliver a half message, whichever of its copies this is, unless it has ended.

        Returns the physical offset behind what was stored, 0 when nothing was. MessageIllegal, StoreError,
        ResponseError of a delay: the transaction is still open.
        """
        waiting = self._halves.find(half)
        if waiting is None:
            return self._commit_late(half) if self._halves.was_discarded(half.identity) else 0
        end = self._deliver(half)
        self._halves.remove(waiting)
        return self._note(waiting.number) or end

    def roll_back(self, half: Half) -> int:
        """Never deliver a half message. Returns and raises as `commit`."""
        waiting = self._halves.find(half)
        if waiting is not None:
            end = self._ops.write(waiting.number).end_offset
            self._halves.remove(waiting)
            return end
        if self._halves.was_discarded(half.identity):
            end = self._ops.write_late(half.record).end_offset
            self._halves.not_discarded(half.identity)
            return end
        return 0

    def found_ended(self, waiting: OpenHalf) -> None:
        """The log tells that it has ended, but has no op message for its newest copy: write it."""
        self._halves.remove(waiting)
        self._note(waiting.number)

    def found_ended_late(self, half: Half) -> None:
        """The log tells that it was committed late, but has no op message for that: write it."""
        self._halves.not_discarded(half.identity)
        self.note_not_discarded(half.record)

    def note_not_discarded(self, record: MessageRecord) -> int:
        """A half message has ended, or is open again, that had been discarded: `record` is any copy.

        Returns the physical offset behind the op message, 0 when it has to wait.
        """
        return self._write(partial(self._ops.write_late, record), record.queue_offset)

    def note_moved(self, number: int) -> None:
        """There is a newer copy of a half message, or it was discarded: who reads the old one passes it."""
        self._note(number, moved=True)

    def resume(self, half: Half) -> int:
        """Open a half message again that was discarded: `half` is its record in the discard topic.

        Returns the physical offset behind what was stored, 0 when it has ended since. Raises as
        `MessageStore.put`.
        """
        if not self._halves.was_discarded(half.identity):
            return 0
        text = half.again(0, half.first)
        result = renew(self._store.put, half.record, HALF_TOPIC, 0, text)
        opened = new_open_half(result, half.record.born_timestamp, text)
        opened.first = result.queue_offset if half.first is None else half.first
        self._halves.add(opened)
        self._halves.note_stranger(opened, half.identity)
        self._halves.not_discarded(half.identity)
        return self.note_not_discarded(half.record) or result.end_offset

    def _commit_late(self, half: Half) -> int:
        """The producer comes for a half message that was given up."""
        end = self._deliver(half)
        self._halves.not_discarded(half.identity)
        log.warning(
            "topic %s: transaction %s is committed after it was discarded", half.topic, half.unique_key
        )
        return self.note_not_discarded(half.record) or end

    def _deliver(self, half: Half) -> int:
        record = half.record
        delayed = self._delayed.choose(record.properties)
        return renew(
            self._store.put if delayed is None else delayed.put,
            record,
            half.topic,
            half.queue_id,
            record.properties if delayed is None else delayed.properties,
            sys_flag=record.sys_flag & ~TRANSACTION_MASK | TRANSACTION_COMMIT,
            prepared_transaction_offset=record.physical_offset,
        ).end_offset

    def _note(self, number: int, *, moved: bool = False) -> int:
        return self._write(partial(self._ops.write, number, moved=moved), number)

    def _write(self, write: Callable[[], PutResult], number: int) -> int:
        """Write an op message; 0 when the store refuses it, which is then done later."""
        self._owed.append(write)
        try:
            end = write().end_offset
        except StoreError as error:
            log.error("the op message for half message %d has to wait: %s", number, error)
            return 0
        self._owed.pop()
        return end

    @property
    def is_noted(self) -> bool:
        """Whether no op message is owed."""
        return not self._owed

    def write_owed(self) -> None:
        """Write the op messages that the store refused. StoreError when it still does."""
        while self._owed:
            self._owed[-1]()
            self._owed.pop()
