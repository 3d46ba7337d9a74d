"""The SQL92 filters that consumer groups have registered: file consumerFilter.json (store.md §8)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body, Int, Long


class BloomFilterData(Body):
    """Where a group's filter stands in the bitmaps that an Apache broker may keep with its queues."""

    bit_num: Int = 0
    bit_pos: list[Int] = field(default_factory=list)


class ConsumerFilterData(Body):
    """The filter of one group on one topic. Times in ms since 1970.

    `dead_time` is when the group left or gave the topic up, 0 before that; `client_version` is the version
    of the subscription that it came with.
    """

    topic: str
    consumer_group: str
    expression: str
    expression_type: str
    born_time: Long = 0
    dead_time: Long = 0
    client_version: Long = 0
    bloom_filter_data: BloomFilterData | None = None
    dead: bool = False
    """Written for Apache, and for who reads the file: `is_dead` counts."""

    @property
    def is_dead(self) -> bool:
        """Whether the group has left, or given the topic up."""
        return self.dead_time >= self.born_time


class FilterDataMapByTopic(Body):
    """The filters on one topic, by group."""

    topic: str
    group_filter_data: dict[str, ConsumerFilterData] = field(default_factory=dict)


class ConsumerFilters(Body):
    """All filters: what the file is."""

    filter_data_by_topic: dict[str, FilterDataMapByTopic] = field(default_factory=dict)
