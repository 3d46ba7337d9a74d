"""A stored message is stored once more: delivered after a delay, put again at the log's end, copied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from pymq.protocol.message import MessageRecord
from pymq.protocol.properties import KEYS, TAGS, UNIQ_KEY, get_property
from pymq.protocol.tag_filter import tags_code
from pymq.store.results import ChangedFields, PutResult


def renew(
    put: Callable[..., PutResult],
    record: MessageRecord,
    topic: str,
    queue_id: int,
    properties: str,
    **changes: Unpack[ChangedFields],
) -> PutResult:
    """Store `record` anew under `topic`, its fields as they were but for `changes`.

    `put`: `MessageStore.put`, or one that takes the same and holds the message back. `properties`: the whole
    text as it is to be stored. Raises what `put` does.
    """
    return put(
        topic,
        queue_id,
        record.body,
        properties,
        born_host=record.born_host,
        flag=record.flag,
        sys_flag=changes.get("sys_flag", record.sys_flag),
        born_timestamp=record.born_timestamp,
        reconsume_times=changes.get("reconsume_times", record.reconsume_times),
        prepared_transaction_offset=changes.get(
            "prepared_transaction_offset", record.prepared_transaction_offset
        ),
        tags_code=tags_code(get_property(properties, TAGS)),
        keys=get_property(properties, KEYS) or "",
        unique_key=get_property(properties, UNIQ_KEY) or "",
        is_accepted=True,
    )
