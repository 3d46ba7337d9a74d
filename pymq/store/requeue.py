"""Giving a record of the log its unit in its queue, or seeing that it has it (store.md §3)."""

from __future__ import annotations

import logging

import msgspec

from pymq.errors import MessageIllegal, StoreCorrupt
from pymq.protocol.sysflags import TRANSACTION_PREPARED, has_queue_unit
from pymq.store.consumequeue import BLANK_UNIT_SIZE, ConsumeQueue
from pymq.store.lost_units import filler, is_copy, settle_each
from pymq.store.queues import ConsumeQueues
from pymq.store.record_units import has_unit, record_tags_code
from pymq.store.scan import RECORD_MIN_SIZE, LogRecord, LogScan
from pymq.store.unit_match import Unit
from pymq.store.unit_reads import stands_for_nothing

log = logging.getLogger("pymq.store.recovery")


class UnitsMissing(StoreCorrupt):
    """A record's number is behind its queue's end: the units between them are lost."""


class _Expected(msgspec.Struct, gc=False):
    """Units that name one record: all but one of them are copies, which lost messages have."""

    queue: ConsumeQueue
    number: int
    """The first of them."""
    unit: Unit
    count: int = 1

    def is_of(self, queue: ConsumeQueue | None, number: int) -> bool:
        """Whether it is this queue, and the number is among them."""
        return self.queue is queue and self.number <= number < self.number + self.count


class Requeuer:
    """Places records, which come in the order of the log, into the queues by the numbers in them.

    No checksum protects a record's topic, queue and number. So what it says is weighed against what the
    queues say, and against how many messages can have stood between two places of the log.
    """

    def __init__(self, queues: ConsumeQueues, scan: LogScan, delay_levels_ms: list[int]) -> None:
        """`scan` reads the log; it may be the one that is walking through it."""
        self.added = 0
        self.mended = 0
        """Units that stood for another record, or none."""
        self._queues = queues
        self._scan = scan
        self._delay_levels_ms = delay_levels_ms
        self._expected: dict[int, _Expected] = {}
        """Physical offset → what the walk will compare there."""
        self._compared_from = 0
        self._first_ones: dict[ConsumeQueue, dict[int, LogRecord]] = {}
        """By number, what belongs to bad units at a queue's beginning, unless it is of a former queue."""
        self._rivals: list[_Expected] = []
        """Others that name places which some were expected to name before."""
        self._blanks: list[tuple[ConsumeQueue, int]] = []
        """Queues and numbers of units that stand for nothing, until all that can be known is known."""
        self._doubtful: dict[ConsumeQueue, LogRecord] = {}
        """The last record of a queue, if its number was taken: the next one tells why."""

    # -- comparing

    def expect(self, start: int, end: int) -> None:
        """The records from physical offset `start` to `end` are going to be compared with the units."""
        self._expected.clear()
        self._compared_from = start
        for queue in self._queues:
            run: _Expected | None = None
            for units in queue.batches(number := queue.number_at(start)):
                for unit in units:
                    if run is not None and unit == run.unit:
                        run.count += 1
                    elif not start <= unit[0] < end:
                        run = None  # the walk does not come by, and the unit may be right
                    elif stands_for_nothing(unit):
                        run = None
                        self._blanks.append((queue, number))
                    else:
                        run = _Expected(queue, number, unit)
                        if self._expected.setdefault(unit[0], run) is not run:
                            self._rivals.append(run)
                    number += 1

    def compare(self, record: LogRecord) -> None:
        """Mend the unit at the record's number if it stands for nothing; blank one that it contradicts.

        Nothing is added: a record without a unit is one of a topic that was deleted.
        """
        queue = self._queues.table.get((record.topic, record.queue_id))
        number = record.queue_offset
        expected = self._expected.pop(record.physical_offset, None)
        if expected is None:
            self._compare_at_number(record, queue)
        elif not (expected.is_of(queue, number) and self._is_right(expected.unit, record)):
            self._compare_at_number(record, queue)
            self._contradict(record, expected)

    def _compare_at_number(self, record: LogRecord, queue: ConsumeQueue | None) -> None:
        """Mend the unit at a record's number unless it is right, or that of another record of this number."""
        number = record.queue_offset
        if queue is None or number >= queue.max_offset or not has_queue_unit(record.sys_flag):
            return
        unit = queue.unit(number)
        if unit is None or self._is_right(unit, record):
            return
        place = record.physical_offset
        if unit[0] != place and self._stands_for(queue, number, unit[0]):
            if place < unit[0]:  # of a topic that was deleted and made again, as all are that stand before
                self._first_ones.pop(queue, None)
            return
        earliest = self._earliest_place(queue, number, unit)
        if unit[0] == place or 0 <= earliest < place:
            self._mend(queue, record)
        elif earliest < 0:
            self._first_ones.setdefault(queue, {})[number] = record

    def _earliest_place(self, queue: ConsumeQueue, number: int, unit: Unit) -> int:
        """Behind which physical offset the record of a number stands that has another unit; -1: anywhere."""
        before = queue.unit(number - 1)
        for one in (unit, before):
            owner = self._message_at(queue, one[0]) if one is not None else None
            if one is not None and owner is not None and owner < number:
                return one[0]
        return -1

    def _contradict(self, record: LogRecord, expected: _Expected) -> None:
        """Units that name a record of another queue or number: one of the two is damaged."""
        queue, number = expected.queue, expected.number
        is_of_queue = (record.topic, record.queue_id) == (queue.topic, queue.queue_id)
        is_near = is_of_queue and number - 1 <= record.queue_offset <= number + expected.count
        if is_near and queue.unit(record.queue_offset) == expected.unit:
            return  # copies of its own unit, which is right now
        if not (is_of_queue and expected.is_of(queue, record.queue_offset)):
            log.error(
                "the message at %d of the commit log calls itself number %d of %s/%d, but is %d of %s/%d",
                record.physical_offset, record.queue_offset, record.topic, record.queue_id,
                number, queue.topic, queue.queue_id,
            )  # fmt: skip
        self._blank_expected(expected)

    def end_comparing(self) -> None:
        """No more records to compare: the units that stand for none of them are blanked."""
        for queue, first_ones in self._first_ones.items():
            for record in first_ones.values():
                self._mend(queue, record)
        self._first_ones.clear()
        for expected in self._expected.values():
            self._blank_expected(expected)
        for expected in self._rivals:
            owner = self._message_at(expected.queue, expected.unit[0])
            self._blank_expected(expected, owner)
        self._expected.clear()
        self._rivals.clear()

    def _blank_expected(self, expected: _Expected, owner: int | None = None) -> None:
        """`owner`: the number of the message to which they point; whose own unit and copies are right."""
        queue, unit = expected.queue, expected.unit
        for number in range(expected.number, expected.number + expected.count):
            is_right = owner is not None and (owner == number or is_copy(queue, number, unit, owner))
            if not is_right and queue.unit(number) == unit and not self._may_lie_before(queue, number):
                self._blank(queue, number, unit[0])

    def _may_lie_before(self, queue: ConsumeQueue, number: int) -> bool:
        """Whether a number's message may stand before those compared: its unit is left to the healing."""
        if self._compared_from <= self._scan.start:
            return False
        before = queue.unit(number - 1)
        return before is None or before[0] < self._compared_from

    def lose(self, start: int, end: int) -> int:
        """Let no unit stand for a record that begins from physical offset `start` on and before `end`.

        Returns how many did.
        """
        count = 0
        for queue in self._queues:
            number, before = queue.number_at(start), None
            while (unit := queue.unit(number)) is not None and unit[0] < end:
                if unit[0] >= start and not self._may_lie_before(queue, number):
                    self._blank(queue, number, unit[0])
                    count += unit != before  # equal ones: of messages that were lost before
                number, before = number + 1, unit
        return count

    def _blank(self, queue: ConsumeQueue, number: int, physical_offset: int) -> None:
        queue.replace(number, physical_offset, BLANK_UNIT_SIZE, 0)
        self._blanks.append((queue, number))
        self.mended += 1

    def settle_later(self, blanks: list[tuple[ConsumeQueue, int]]) -> None:
        """Take queues and numbers of more blank units."""
        self._blanks += blanks

    def settle(self, border: Unit | None) -> None:
        """All of the log is read and all units are as they stay: a blank one gets that of its neighbour.

        `border`: as `border_unit`.
        """
        settle_each(self._blanks, self._scan.start, border)
        self._blanks.clear()

    # -- placing

    @property
    def is_in_doubt(self) -> bool:
        """Whether the place of some record depends on what follows it."""
        return bool(self._doubtful)

    def place(self, record: LogRecord, *, fills_holes: bool) -> None:
        """Add a record's unit at the end of its queue, or see that it is there.

        A number below the end that an older record has, too, means that the topic was deleted and made again
        in between, if the next number follows: the queue starts anew. A number above the end means that units
        are lost: their messages are, too, if `fills_holes`, since all of the log is known then, else
        UnitsMissing is raised.
        """
        # A long log is built again by this: few calls where all is as it should be.
        queue = self._queues.table.get((record.topic, record.queue_id))
        if queue is None or record.sys_flag & TRANSACTION_PREPARED:
            queue = self._queue_of(record)
            if queue is None:
                return
        number = record.queue_offset
        if self._doubtful:
            self._decide(queue, number)
        if number != queue.max_offset:
            if number < queue.max_offset:
                self._place_again(queue, record)
                return
            if number - queue.max_offset > self._room_before(queue, record.physical_offset):
                log.error("the message at %d of the commit log has a wrong number", record.physical_offset)
                return
            if not fills_holes:
                raise UnitsMissing(
                    f"queue {record.topic}/{record.queue_id} ends at {queue.max_offset}, the commit log goes"
                    f" on at {number}"
                )
            self._skip_to(queue, record)
        if queue.position >= queue.tail.limit:
            queue.make_room(1)
        queue.append(record.physical_offset, record.total_size, self._tags_code(record))
        queue.dirty = True
        self.added += 1

    def _skip_to(self, queue: ConsumeQueue, record: LogRecord) -> None:
        """The messages before this record are lost."""
        unit = record.physical_offset, record.total_size, self._tags_code(record)
        queue.skip_to(record.queue_offset, filler(queue, unit, self._scan.start))

    def end_placing(self) -> None:
        """No more records to place: where a number 0 was doubtful, the topic was made again just before."""
        for queue in list(self._doubtful):
            self._decide(queue, 1)

    def _place_again(self, queue: ConsumeQueue, record: LogRecord) -> None:
        """A record whose number the queue has already."""
        unit = queue.unit(record.queue_offset)
        if unit is None or unit[0] < self._scan.start or self._is_lost(queue, record.queue_offset, unit):
            self._doubtful[queue] = record  # what had its number is gone, and stood before it in the log
        elif not self._is_right(unit, record):
            if not self._stands_for(queue, record.queue_offset, unit[0]):
                self._mend(queue, record)
            elif unit[0] < record.physical_offset:
                self._doubtful[queue] = record

    def _decide(self, queue: ConsumeQueue, number: int) -> None:
        """The queue's next record has this number: what was doubtful belongs to it, or is damaged."""
        record = self._doubtful.pop(queue, None)
        if record is None:
            return
        if not record.queue_offset < number <= queue.max_offset:  # if it were the queue's next, one more
            log.error("the message at %d of the commit log has a wrong number", record.physical_offset)
            return
        log.warning("queue %s/%d starts anew at %d", queue.topic, queue.queue_id, record.queue_offset)
        if self._is_of_log(queue, record.queue_offset - 1):
            queue.truncate(0)  # those before are a former queue's, not to be taken for messages of now
        else:
            queue.truncate(record.queue_offset)
        self.place(record, fills_holes=True)

    def _is_of_log(self, queue: ConsumeQueue, number: int) -> bool:
        """Whether the log has the message of this number."""
        unit = queue.unit(number)
        return unit is not None and self._stands_for(queue, number, unit[0])

    def _room_before(self, queue: ConsumeQueue, physical_offset: int) -> int:
        """How many messages the queue can have had between its last one and a place in the log."""
        last = queue.unit(queue.max_offset - 1) if queue.max_offset else None
        return (physical_offset - (last[0] if last else 0)) // RECORD_MIN_SIZE

    # -- what both need

    def is_believable(self, queue: ConsumeQueue) -> bool:
        """Whether a queue's last unit stands for its message; also when that is gone from the log."""
        unit = queue.last_unit()
        if unit is None or unit[0] < self._scan.start:
            return True
        number = queue.max_offset - 1
        return self._stands_for(queue, number, unit[0]) or self._is_lost(queue, number, unit)

    def mend_last(self, queue: ConsumeQueue, end: int) -> bool:
        """Mend a queue's last unit if its size is damaged and it reaches behind the physical offset `end`.

        Returns whether it is right now: not where no record of its number stands there.
        """
        unit = queue.last_unit()
        if unit is None or unit[0] + unit[1] <= end:
            return True
        record = self._scan.peek(unit[0])
        number = queue.max_offset - 1
        if record is None or not self._stands_for(queue, number, unit[0]):
            return False
        log.warning("the last unit of queue %s/%d, %d, is mended", queue.topic, queue.queue_id, number)
        self._mend(queue, record)
        return True

    def _queue_of(self, record: LogRecord) -> ConsumeQueue | None:
        if not has_queue_unit(record.sys_flag):
            return None
        queue = self._queues.table.get((record.topic, record.queue_id))
        if queue is None:
            try:
                queue = self._queues.make(record.topic, record.queue_id)
            except MessageIllegal as e:
                log.error("the message at %d of the commit log has no queue: %s", record.physical_offset, e)
        return queue

    def _is_right(self, unit: tuple[int, int, int], record: LogRecord) -> bool:
        return has_unit(record, unit)

    def _mend(self, queue: ConsumeQueue, record: LogRecord) -> None:
        """Give a record its unit. Copies of the former one, beside it, are to be copies of this one."""
        self.mended += 1
        number, unit = record.queue_offset, queue.unit(record.queue_offset)
        queue.replace(number, record.physical_offset, record.total_size, self._tags_code(record))
        owner = self._message_at(queue, unit[0]) if unit is not None else None
        if unit is not None and owner is not None and owner != number:
            step = 1 if owner < number else -1
            while (number := number + step) != owner and queue.unit(number) == unit:
                self._blank(queue, number, record.physical_offset)

    def _stands_for(self, queue: ConsumeQueue, number: int, physical: int) -> bool:
        """Whether the record at the physical offset belongs to this number of the queue."""
        return self._message_at(queue, physical) == number

    def _message_at(self, queue: ConsumeQueue, physical: int) -> int | None:
        """The number of the record at a physical offset, None when it is none of the queue."""
        record = self._scan.peek(physical)
        if record is None or (record.topic, record.queue_id) != (queue.topic, queue.queue_id):
            return None
        return record.queue_offset

    def _is_lost(self, queue: ConsumeQueue, number: int, unit: Unit) -> bool:
        """Whether the unit stands there because the number's message is lost."""
        if stands_for_nothing(unit):
            return True
        owner = self._message_at(queue, unit[0])
        return owner is not None and is_copy(queue, number, unit, owner)

    def _tags_code(self, record: LogRecord) -> int:
        return record_tags_code(record, self._delay_levels_ms)
