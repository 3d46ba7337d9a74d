"""Topics: their configuration, as it is stored, registered and asked for (wire.md §5.1)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body, Int, Long

PERM_INHERIT = 1
PERM_WRITE = 2
PERM_READ = 4

TOPIC_UNIT = 1
"""Bit of topicSysFlag: a unit topic."""
TOPIC_UNIT_SUB = 2
"""Bit of topicSysFlag: subscribed to across units."""


class DataVersion(Body, frozen=True, omit_defaults=True):  # type: ignore[misc]  # Body has no fields
    """How new a table is: another version is another content, neither is "later" (wire.md §4)."""

    counter: Long
    timestamp: Long
    """When the table last changed, in milliseconds."""
    state_version: Long = 0
    """Written by 5.x peers only."""

    def next(self, now_ms: int) -> DataVersion:
        """The version after a change at `now_ms`."""
        return DataVersion(self.counter + 1, now_ms, self.state_version)


NO_DATA_VERSION = DataVersion(0, 0)
"""The version of a registration without a body (wire.md §7.2)."""


class TopicConfig(Body):
    """One topic of a broker. `perm` is made of PERM_… bits."""

    topic_name: str
    read_queue_nums: Int = 16
    write_queue_nums: Int = 16
    perm: Int = PERM_READ | PERM_WRITE
    topic_filter_type: str = "SINGLE_TAG"
    topic_sys_flag: Int = 0
    order: bool = False


class TopicConfigSerializeWrapper(Body):
    """All topics of a broker, or some of them (answer to 21, part of 103, file topics.json)."""

    data_version: DataVersion = NO_DATA_VERSION
    topic_config_table: dict[str, TopicConfig] = field(default_factory=dict)


class TopicList(Body, omit_defaults=True):
    """Topic names (answers to 206, 224, 304, 305, 311–313)."""

    topic_list: list[str]
    broker_addr: str | None = None
    """Some broker: only in the name server's list of system topics."""
