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

    def encode(self) -> bytes:
        """Levels quoted: fastjson reads both, and so does everyone else."""
        return msgspec.json.encode(self)
