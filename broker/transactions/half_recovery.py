"""Which transactions are open, found when a broker starts: the log is the record (§6.3, §6.4).

Half messages from the saved offset on that no op message names are open. Copies of one another are one; the
newest counts, and an op message for any of them is one for all. A message that was delivered, but whose op
message a crash has taken, names its half message: that gets its op message before anybody is asked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pymq.broker.searched_queue import SearchedQueue
from pymq.broker.transactions.endings import Endings
from pymq.broker.transactions.half_progress import HalfProgress
from pymq.broker.transactions.halves import (
    COPY_MARKS,
    Half,
    Identity,
    OpenHalf,
    identity_of,
    open_half,
    read_half,
)
from pymq.broker.transactions.open_halves import DISCARDED_MAX, OpenHalves
from pymq.broker.transactions.ops import LATE_QUEUE, OpQueue, read_op
from pymq.errors import ProtocolError
from pymq.protocol.message import MessageRecord, decode_record, read_commit_offset
from pymq.store.messagestore import MessageStore
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC, OP_TOPIC

log = logging.getLogger("pymq.broker.transactions")

_UNITS = 1000


class HalfRecovery:
    """One reading of the half and op queues, and of the log behind the first open half message."""

    def __init__(
        self,
        store: MessageStore,
        progress: HalfProgress,
        halves: OpenHalves,
        ops: OpQueue,
        endings: Endings,
    ) -> None:
        self._store = store
        self._progress = progress
        self._halves = halves
        self._ops = ops
        self._endings = endings
        self._ended: set[int] = set()
        """Half messages that an op message says have ended."""
        self._moved: set[int] = set()
        """Half messages that were put again or discarded."""
        self._ended_chains: set[int] = set()
        """The first numbers of half messages of which a later copy has ended."""
        self._over_at: set[int] = set()
        """Physical offsets of half messages that have ended: who names them is nothing new."""
        self._copies: dict[int, OpenHalf] = {}
        """Physical offset → what it is a copy of, of all that were read and are open."""
        self._newest: dict[Identity, OpenHalf] = {}
        """By what the copies have in common, for those that do not tell the first."""

    def run(self) -> None:
        """Fill the table of open ones. StoreError."""
        first, end = self._begin(HALF_TOPIC), self._store.max_offset(HALF_TOPIC, 0)
        self._read_ops(anew=first < 0)
        self._read_halves(max(first, self._store.min_offset(HALF_TOPIC, 0)), end)
        self._end_strangers()
        self._read_discarded()
        self._find_committed()
        if len(self._halves):
            log.info("%d transactions are open", len(self._halves))

    def _begin(self, topic: str) -> int:
        """The saved offset; -1 when it cannot be: all is read then."""
        saved = self._progress.known(topic)
        if saved is None:
            return 0
        if saved > self._store.max_offset(topic, 0):
            log.warning(
                "the saved offset %d is behind the end of %s: all of its messages are looked at", saved, topic
            )
            return -1
        return saved

    def _records(
        self, topic: str, first: int, end: int, queue_id: int = 0
    ) -> Iterator[tuple[int, int, bytes | None]]:
        """Number, place and record of each message of a queue; None for one that cannot be found."""
        number = first
        while number < end:
            units = self._store.units(topic, queue_id, number, min(_UNITS, end - number))
            for unit in units or [(-1, 0, 0)]:
                yield number, unit[0], self._store.record_at(unit[0])
                number += 1

    def _read_ops(self, *, anew: bool) -> None:
        first = max(0 if anew else self._begin(OP_TOPIC), self._store.min_offset(OP_TOPIC, 0))
        self._ops.restart(first)
        low, end = self._store.min_offset(OP_TOPIC, 0), self._store.max_offset(OP_TOPIC, 0)
        searched = SearchedQueue(self._store, OP_TOPIC, low, end, read_op)
        for number, _, data in self._records(OP_TOPIC, first, end):
            op = read_op(data)
            if op is None or op.record.queue_offset != number:
                op = searched.read(number)
            if op is None:
                log.error("op message %d is gone or damaged", number)
            else:
                (self._moved if op.is_moved else self._ended).update(op.numbers)
            self._ops.read(max(op.numbers) if op else -1)

    def _read_halves(self, first: int, end: int) -> None:
        low = self._store.min_offset(HALF_TOPIC, 0)
        searched = SearchedQueue(self._store, HALF_TOPIC, low, end, read_half)
        for number, physical_offset, data in self._records(HALF_TOPIC, first, end):
            is_over = number in self._ended or number in self._moved
            if is_over and (data is None or not any(mark in data for mark in COPY_MARKS)):
                if number in self._ended:
                    self._over_at.add(physical_offset)
                continue  # its copies say that it was the first
            half = read_half(data, number)
            if half is None and not is_over:
                half = searched.read(number)
            if half is not None:
                self._read_half(half)
            elif not is_over:
                log.error("half message %d is gone or damaged; left out", number)

    def _read_half(self, half: Half) -> None:
        """One more: it stands for its older copies, and is over as they would be."""
        record = half.record
        found = self._older(half)
        if found is not None:
            if found.number not in self._moved:
                self._endings.note_moved(found.number)
            found.checks = half.checks
            self._halves.moved(found, half.number, record.physical_offset)
        else:
            found = open_half(half)
            self._halves.add(found)
            if half.is_copy and half.first is None:
                self._halves.note_stranger(found, half.identity)
        self._newest[half.identity] = found
        self._copies[record.physical_offset] = found
        if half.number in self._ended:
            self._ended_chains.add(found.first)
            self._halves.remove(found)
        elif half.number in self._moved:
            self._halves.remove(found)
        elif found.first in self._ended or found.first in self._ended_chains:
            self._endings.found_ended(found)

    def _older(self, half: Half) -> OpenHalf | None:
        """What is known already of the half message that this is a copy of."""
        if not half.is_copy:
            return None
        found = self._halves.find(half)
        if found is None and half.first is None:
            found = self._newest.get(half.identity)
            if found is None or self._halves.get(found.number) is not found:
                return None
            self._halves.note_stranger(found, half.identity)
        return found

    def _end_strangers(self) -> None:
        """Those whose first copy has ended, which another broker's copies do not name."""
        if not self._halves.has_strangers:
            return
        for number in sorted(self._ended):
            for unit in self._store.units(HALF_TOPIC, 0, number, 1):
                half = read_half(self._store.record_at(unit[0]), number)
                found = None if half is None else self._halves.find(half)
                if found is not None:
                    self._endings.found_ended(found)

    def _find_committed(self) -> None:
        if self._progress.mark > self._store.commit_log_max_offset:
            self._progress.forget_mark()  # of another log
        mark = self._progress.mark
        open_at = [at for at, half in self._copies.items() if self._halves.get(half.number) is half]
        starts = [max(min(open_at), mark)] if open_at else []
        if self._halves.has_discarded:
            starts.append(self._late_from(mark))
        if not starts:
            return
        for data in self._store.records_from(max(min(starts), self._store.commit_log_min_offset)):
            offset = read_commit_offset(data)
            if offset is None or offset in self._over_at:
                continue
            half = read_half(self._store.record_at(offset))
            if half is None or not half.is_committed_as(decode_record(data)):
                continue
            waiting = self._halves.find(half)
            if waiting is not None:
                log.info("half message %d was committed before a crash", waiting.number)
                self._endings.found_ended(waiting)
            elif self._halves.was_discarded(half.identity):
                log.info("transaction %s was committed late, before a crash", half.unique_key)
                self._endings.found_ended_late(half)

    def _late_from(self, mark: int) -> int:
        """Before that physical offset no message that was committed late lacks its op message.

        Without a mark it can be the log's last one only: both are written in one turn.
        """
        queues = ((HALF_TOPIC, 0), (OP_TOPIC, 0), (OP_TOPIC, LATE_QUEUE), (CHECK_MAX_TOPIC, 0))
        ends = [(topic, queue_id, self._store.max_offset(topic, queue_id)) for topic, queue_id in queues]
        last = max(
            unit[0]
            for topic, queue_id, end in ends
            for unit in self._store.units(topic, queue_id, max(0, end - 1), 1) or [(0, 0, 0)]
        )
        return min(mark, last) if mark else last

    def _read_discarded(self) -> None:
        """Those given up whose producers may still come.

        A crash may have left one open that has its record in the discard topic: that counts no more.
        """
        late = {identity_of(each): each.physical_offset for each in self._newest_of(OP_TOPIC, LATE_QUEUE)}
        for record in self._newest_of(CHECK_MAX_TOPIC, 0):
            identity = identity_of(record)
            if late.get(identity, -1) > record.physical_offset:
                continue
            newest = self._newest.get(identity)
            if newest is None or self._is_given_up(newest):
                self._halves.discarded(identity)
            elif self._halves.get(newest.number) is newest:
                self._endings.note_not_discarded(record)
                late[identity] = self._store.commit_log_max_offset

    def _is_given_up(self, newest: OpenHalf) -> bool:
        """Whether the newest copy that was read is over, and its transaction has not ended."""
        has_ended = any(
            number in numbers
            for number in (newest.number, newest.first)
            for numbers in (self._ended, self._ended_chains)
        )
        return newest.number in self._moved and not has_ended

    def _newest_of(self, topic: str, queue_id: int) -> Iterator[MessageRecord]:
        end = self._store.max_offset(topic, queue_id)
        first = max(self._store.min_offset(topic, queue_id), end - DISCARDED_MAX)
        for _, _, data in self._records(topic, first, end, queue_id):
            try:
                yield decode_record(data or b"")
            except ProtocolError:
                continue
