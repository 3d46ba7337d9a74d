"""The unit that belongs to a record of the log (store.md §3)."""

from __future__ import annotations

import functools

from pymq.protocol.properties import NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR, TAGS
from pymq.store.scan import LogRecord
from pymq.store.tags_codes import SCHEDULE_TOPIC, unit_tags_code

_SEPARATOR = PROPERTY_SEPARATOR.encode()
_TAGS = (TAGS + NAME_VALUE_SEPARATOR).encode()


def has_unit(record: LogRecord, unit: tuple[int, int, int]) -> bool:
    """Whether a unit is the record's. A time of delivery is what it was by the levels of then."""
    if unit[:2] != (record.physical_offset, record.total_size):
        return False
    return record.topic == SCHEDULE_TOPIC or unit[2] == record_tags_code(record, [])


def record_tags_code(record: LogRecord, delay_levels_ms: list[int]) -> int:
    """The tags code for a record's unit; `delay_levels_ms` count in the schedule topic."""
    text = record.text
    if record.topic != SCHEDULE_TOPIC:
        start = text.find(_TAGS)
        if start < 0:
            return 0
        if start == 0 or text[start - 1] == _SEPARATOR[0]:
            end = text.find(_SEPARATOR, start)
            return _tags_code(text[start:] if end < 0 else text[start:end])
    properties = str(text, "utf-8", "replace")
    return unit_tags_code(record.topic, properties, record.store_timestamp, delay_levels_ms)


@functools.lru_cache(maxsize=4096)
def _tags_code(pair: bytes) -> int:
    """The tags code of a record with this property: the same few come again and again."""
    return unit_tags_code("", str(pair, "utf-8", "replace"), 0, [])
