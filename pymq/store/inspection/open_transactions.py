"""Transactions that are open in a store's folder: a broker that runs on it asks their producers."""

from __future__ import annotations

from pymq.protocol.bodies.offsets import ConsumerOffsets
from pymq.protocol.message import MessageRecord
from pymq.store.inspection.files import StoreFolder
from pymq.store.inspection.log_walk import LogReader
from pymq.store.inspection.queue_units import Bounds, unit_at
from pymq.store.inspection.table_check import read_table
from pymq.store.transaction_topics import HALF_TOPIC, OP_TOPIC, TRANS_GROUP


def open_transactions(folder: StoreFolder, queue_bounds: Bounds) -> int:
    """How many half messages no op message names, of those that the saved offsets leave. Nothing is changed.

    After a kill some may be counted twice that were put again just before.
    """
    first, end = _left(folder, queue_bounds, HALF_TOPIC)
    if first >= end:
        return 0
    reader = LogReader(folder.commit_log)
    ended: set[int] = set()
    for number in range(*_left(folder, queue_bounds, OP_TOPIC)):
        record = reader.examine(unit_at(folder.queues[OP_TOPIC, 0], number).physical_offset)
        if isinstance(record, MessageRecord) and record.queue_offset == number:
            ended.update(int(each) for each in record.body.split(b",") if each.isdigit())
    return end - first - sum(first <= number < end for number in ended)


def _left(folder: StoreFolder, queue_bounds: Bounds, topic: str) -> tuple[int, int]:
    """The numbers of a topic's messages from the saved offset on: the first, and the one behind the last."""
    low, high = queue_bounds.get((topic, 0), (0, 0))
    offsets = read_table(folder, "consumerOffset").value
    saved = 0
    if isinstance(offsets, ConsumerOffsets):
        saved = offsets.offset_table.get(f"{topic}@{TRANS_GROUP}", {}).get(0, 0)
    return max(low, saved), high
