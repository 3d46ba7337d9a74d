"""Offsets and statistics of queues and groups (wire.md §4.5)."""

from __future__ import annotations

import msgspec
from msgspec import field

from pymq.protocol import tolerant_json
from pymq.protocol.bodies.body import Body, Int, Long, MessageQueue


class TopicOffset(Body):
    """How far one queue reaches. Timestamps in milliseconds, 0 when it is empty."""

    min_offset: Long = 0
    max_offset: Long = 0
    last_update_timestamp: Long = 0


class TopicStatsTable(Body):
    """How far the queues of a topic reach (answer to 202)."""

    offset_table: dict[MessageQueue, TopicOffset] = field(default_factory=dict)

    def encode(self) -> bytes:
        """With message queues as object keys."""
        return b'{"offsetTable":%b}' % bytes(tolerant_json.encode_map(self.offset_table))


class OffsetWrapper(Body):
    """How far a group has come in one queue. `last_timestamp`: store time of the last message it consumed."""

    broker_offset: Long = 0
    consumer_offset: Long = 0
    last_timestamp: Long = 0


class ConsumeStats(Body):
    """How far a group has come (answer to 208)."""

    offset_table: dict[MessageQueue, OffsetWrapper] = field(default_factory=dict)
    consume_tps: float = 0.0

    def encode(self) -> bytes:
        """With message queues as object keys."""
        table = tolerant_json.encode_map(self.offset_table)
        return b'{"consumeTps":%b,"offsetTable":%b}' % (tolerant_json.encode(self.consume_tps), bytes(table))


class BrokerConsumeStats(Body):
    """How far all groups of a broker have come (answer to 317): for each group the stats of its topics."""

    broker_addr: str
    consume_stats_list: list[dict[str, list[ConsumeStats]]]
    total_diff: Long
    """Messages that are not consumed, of all groups."""

    def encode(self) -> bytes:
        """With message queues as object keys."""
        groups = [
            {name: [msgspec.Raw(stats.encode()) for stats in topics] for name, topics in group.items()}
            for group in self.consume_stats_list
        ]
        return msgspec.json.encode(
            {"brokerAddr": self.broker_addr, "consumeStatsList": groups, "totalDiff": self.total_diff}
        )


class QueueTimeSpan(Body):
    """When messages of one queue were stored, in ms since 1970; -1 where there is none.

    `consume_time_stamp` is of the last message that the group consumed, or of the queue's first; `delay_time`
    the age in ms of the first that it has not consumed, 0 when there is none.
    """

    message_queue: MessageQueue
    min_time_stamp: Long = 0
    max_time_stamp: Long = 0
    consume_time_stamp: Long = 0
    delay_time: Long = 0


class ConsumeTimeSpans(Body):
    """How old the messages are at which a group stands (answer to 303)."""

    consume_time_span_set: list[QueueTimeSpan] = field(default_factory=list)


class CorrectionOffsets(Body):
    """The lowest offset of each queue (answer to 308)."""

    correction_offsets: dict[Int, Long] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Queue ids quoted, as in ConsumerOffsets."""
        return msgspec.json.encode(self)


class QueueOffset(Body):
    """One queue and an offset in it, as clients in C++ are told."""

    broker_name: str
    offset: Long
    queue_id: Int
    topic: str


class ResetOffsetBody(Body):
    """The offsets to go on at (body of 220, answer to 222): a map, or for clients in C++ a list."""

    offset_table: dict[MessageQueue, Long] | list[QueueOffset] = field(default_factory=dict)

    @property
    def offsets(self) -> dict[MessageQueue, int]:
        """The offsets by queue, whichever form they came in."""
        if isinstance(self.offset_table, dict):
            return self.offset_table
        return {
            MessageQueue(each.topic, each.broker_name, each.queue_id): each.offset
            for each in self.offset_table
        }

    def as_list(self) -> ResetOffsetBody:
        """The same in the form for C++."""
        return ResetOffsetBody(
            [
                QueueOffset(queue.broker_name, offset, queue.queue_id, queue.topic)
                for queue, offset in sorted(self.offsets.items())
            ]
        )

    def encode(self) -> bytes:
        """With message queues as object keys, where it is a map."""
        if isinstance(self.offset_table, dict):
            return b'{"offsetTable":%b}' % bytes(tolerant_json.encode_map(self.offset_table))
        return tolerant_json.encode(self)


class ConsumerStatusBody(Body):
    """Where consumers stand: one client in `message_queue_table` (answer to 221), all in `consumer_table`,
    by their ids (answer to 223)."""

    consumer_table: dict[str, dict[MessageQueue, Long]] = field(default_factory=dict)
    message_queue_table: dict[MessageQueue, Long] = field(default_factory=dict)

    def encode(self) -> bytes:
        """With message queues as object keys."""
        clients = {name: tolerant_json.encode_map(table) for name, table in self.consumer_table.items()}
        own = tolerant_json.encode_map(self.message_queue_table)
        return b'{"consumerTable":%b,"messageQueueTable":%b}' % (msgspec.json.encode(clients), bytes(own))


class OffsetMovedEvent(Body):
    """A consumer asked for an offset that is not there; it was sent to another (topic OFFSET_MOVED_EVENT)."""

    consumer_group: str
    message_queue: MessageQueue
    offset_request: Long
    offset_new: Long


class ConsumerOffsets(Body):
    """All offsets of all groups (answer to 43, file consumerOffset.json)."""

    offset_table: dict[str, dict[Int, Long]] = field(default_factory=dict)
    """`topic@group` → queue id → offset."""

    def encode(self) -> bytes:
        """Queue ids quoted: fastjson reads both, and so does everyone else."""
        return msgspec.json.encode(self)


class DelayOffsets(Body):
    """How far each delay level has been delivered (answer to 45, file delayOffset.json)."""

    offset_table: dict[Int, Long] = field(default_factory=dict)
    """Delay level → offset in its queue."""
    commit_log_offset: Long | msgspec.UnsetType = msgspec.UNSET
    """Our own, in the file only; Apache passes over it: what has been delivered up to these offsets stands
    before this physical offset of the commit log, what has been delivered since stands behind it."""

    def encode(self) -> bytes:
        """Levels quoted: fastjson reads both, and so does everyone else."""
        return msgspec.json.encode(self)
