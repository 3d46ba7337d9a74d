"""The tags code of a queue unit: the tags' hash; in the schedule topic the time of delivery (store.md §3)."""

from __future__ import annotations

from pymq.errors import ConfigError
from pymq.protocol.properties import DELAY, TAGS, get_property
from pymq.protocol.tag_filter import tags_code

SCHEDULE_TOPIC = "SCHEDULE_TOPIC_XXXX"
_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_UNKNOWN_LEVEL_MS = 1000


def parse_delay_levels(text: str) -> list[int]:
    """messageDelayLevel, as `1s 5s 1h`, in ms by level − 1. ConfigError names the part that is wrong."""
    levels = []
    for part in text.split():
        factor = _UNITS_MS.get(part[-1])
        if factor is None or not part[:-1].isdecimal():
            raise ConfigError(
                f"messageDelayLevel: {part!r} is no time; a number and one of s m h d were expected"
            )
        levels.append(int(part[:-1]) * factor)
    return levels


def unit_tags_code(topic: str, properties: str, store_timestamp: int, delay_levels_ms: list[int]) -> int:
    """The tags code that belongs into the queue unit of a stored record, by what stands in the record."""
    if topic == SCHEDULE_TOPIC:
        level = get_property(properties, DELAY) or ""
        if level.isdecimal() and int(level) > 0:
            known = min(int(level), len(delay_levels_ms))
            delay_ms = delay_levels_ms[known - 1] if known else _UNKNOWN_LEVEL_MS
            return store_timestamp + delay_ms
    return tags_code(get_property(properties, TAGS))
