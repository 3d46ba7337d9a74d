"""Message properties as text: `name \\x01 value`, pairs separated by `\\x02` (wire.md §6.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NAME_VALUE_SEPARATOR: Final = "\x01"
PROPERTY_SEPARATOR: Final = "\x02"
PROPERTIES_MAX_LENGTH: Final = 32767
"""Limit of the encoded text in bytes: its length is a signed short."""

KEYS: Final = "KEYS"
TAGS: Final = "TAGS"
UNIQ_KEY: Final = "UNIQ_KEY"
WAIT: Final = "WAIT"
DELAY: Final = "DELAY"
CLUSTER: Final = "CLUSTER"
REAL_TOPIC: Final = "REAL_TOPIC"
REAL_QID: Final = "REAL_QID"
RETRY_TOPIC: Final = "RETRY_TOPIC"
ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
RECONSUME_TIME: Final = "RECONSUME_TIME"
MAX_RECONSUME_TIMES: Final = "MAX_RECONSUME_TIMES"
TRAN_MSG: Final = "TRAN_MSG"
PGROUP: Final = "PGROUP"
CHECK_IMMUNITY_TIME_IN_SECONDS: Final = "CHECK_IMMUNITY_TIME_IN_SECONDS"
"""How long after it was sent a broker does not ask how a transaction ended, s."""
TRANSACTION_CHECK_TIMES: Final = "TRANSACTION_CHECK_TIMES"
TRAN_PREPARED_QUEUE_OFFSET: Final = "TRAN_PREPARED_QUEUE_OFFSET"
"""In a half message that was put again: the queue offset it had at first."""
PYMQ_HALF_MOVED: Final = "PYMQ_HALF_MOVED"
"""Our own, in op messages: the half message was put again, or discarded; its transaction has not ended."""
MIN_OFFSET: Final = "MIN_OFFSET"
MAX_OFFSET: Final = "MAX_OFFSET"
MSG_REGION: Final = "MSG_REGION"
TRACE_ON: Final = "TRACE_ON"
CONSUME_START_TIME: Final = "CONSUME_START_TIME"
INSTANCE_ID: Final = "INSTANCE_ID"
CORRELATION_ID: Final = "CORRELATION_ID"
"""Joins a reply to its request."""
REPLY_TO_CLIENT: Final = "REPLY_TO_CLIENT"
"""The client id of who asked."""
TTL: Final = "TTL"
"""How long who asked waits, ms."""
MSG_TYPE: Final = "MSG_TYPE"
REPLY_TYPE: Final = "reply"
"""The MSG_TYPE of replies."""
ARRIVE_TIME: Final = "ARRIVE_TIME"
"""When a reply came to who asked, ms since 1970."""
PUSH_REPLY_TIME: Final = "PUSH_REPLY_TIME"
"""When the broker passed a reply on, ms since 1970."""
TIMER_DELAY_SEC: Final = "TIMER_DELAY_SEC"
TIMER_DELAY_MS: Final = "TIMER_DELAY_MS"
TIMER_DELIVER_MS: Final = "TIMER_DELIVER_MS"
TIMER_OUT_MS: Final = "TIMER_OUT_MS"
TIMER_ENQUEUE_MS: Final = "TIMER_ENQUEUE_MS"
TIMER_DEQUEUE_MS: Final = "TIMER_DEQUEUE_MS"
TIMER_ROLL_TIMES: Final = "TIMER_ROLL_TIMES"
TIMER_DEL_UNIQKEY: Final = "TIMER_DEL_UNIQKEY"
PYMQ_TIMER_OFFSET: Final = "PYMQ_TIMER_OFFSET"
"""Our own: the queue offset of the timed message that this one follows from."""
KEY_SEPARATOR: Final = " "
"""Between the keys in the value of KEYS."""

_RESERVED_NAMES = (
    "KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET MAX_OFFSET "
    "BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME "
    "MAX_RECONSUME_TIMES MSG_REGION TRACE_ON UNIQ_KEY CONSUME_START_TIME TRAN_PREPARED_QUEUE_OFFSET "
    "TRANSACTION_CHECK_TIMES CHECK_IMMUNITY_TIME_IN_SECONDS INSTANCE_ID CORRELATION_ID "
    "REPLY_TO_CLIENT TTL MSG_TYPE ARRIVE_TIME PUSH_REPLY_TIME CLUSTER INNER_MULTI_DISPATCH "
    "INNER_MULTI_QUEUE_OFFSET EXTEND_UNIQ_INFO INNER_NUM INNER_BASE DUP_INFO TIMER_DELAY_SEC "
    "TIMER_DELIVER_MS TIMER_DELAY_MS TIMER_ENQUEUE_MS TIMER_OUT_MS TIMER_ROLL_TIMES "
    "TIMER_DEL_UNIQKEY POP_CK POP_CK_OFFSET 1ST_POP_TIME __SHARDINGKEY __CRC32# DLQ_ORIGIN_TOPIC "
    "DLQ_ORIGIN_MESSAGE_ID __transactionId__ __BORNHOST BORN_TIMESTAMP TIMER_DEQUEUE_MS "
    "PYMQ_TIMER_OFFSET"
)
RESERVED: Final = frozenset(_RESERVED_NAMES.split())
"""Names that an application may not set itself."""


def decode_properties(text: str) -> dict[str, str]:
    """Read property text, with or without the trailing separator.

    A pair without a separator, or with an empty name or value, is skipped; the last of equal names wins.
    """
    properties = {}
    for pair in text.split(PROPERTY_SEPARATOR):
        name, _, value = pair.partition(NAME_VALUE_SEPARATOR)
        if name and value:
            properties[name] = value
    return properties


def encode_properties(properties: Mapping[str, str]) -> str:
    """Write property text as 4.9.4 does: no trailing separator. Empty names or values are left out.

    The caller sees to it that neither \\x01 nor \\x02 stands in a name or value (`is_encodable`).
    """
    return PROPERTY_SEPARATOR.join(
        [name + NAME_VALUE_SEPARATOR + value for name, value in properties.items() if name and value]
    )


def is_encodable(text: str) -> bool:
    """Whether a property's name or value survives the encoding: none of the two separators in it."""
    return NAME_VALUE_SEPARATOR not in text and PROPERTY_SEPARATOR not in text


def get_property(text: str, name: str) -> str | None:
    """The value of one property in property text, without decoding the rest; None when absent or empty."""
    wanted = name + NAME_VALUE_SEPARATOR
    if text.startswith(wanted):
        start = len(wanted)
    else:
        start = text.find(PROPERTY_SEPARATOR + wanted)
        if start < 0:
            return None
        start += len(wanted) + 1
    end = text.find(PROPERTY_SEPARATOR, start)
    return (text[start:] if end < 0 else text[start:end]) or None
