"""What a message may not exceed to be stored (store.md §2)."""

from __future__ import annotations

from pymq.errors import MessageIllegal
from pymq.protocol.message import BatchEntry
from pymq.protocol.properties import PROPERTIES_MAX_LENGTH
from pymq.store.commitlog import looks_torn


def check_limits(body: bytes, properties: str, text: bytes, max_body: int) -> None:
    """MessageIllegal for a message over the limits, or one that recovery would take for torn.

    `text` is `properties` encoded, `max_body` maxMessageSize in bytes.
    """
    if len(body) > max_body:
        raise MessageIllegal(f"a body of {len(body)} bytes is over the limit of {max_body} (maxMessageSize)")
    if len(text) > PROPERTIES_MAX_LENGTH:
        raise MessageIllegal(f"properties of {len(text)} bytes are over the limit of {PROPERTIES_MAX_LENGTH}")
    if looks_torn(properties):
        raise MessageIllegal("the properties end in NUL, or hold hundreds of them in a row")


def checked_length(entry: BatchEntry, max_body: int) -> int:
    """What a batch entry adds to a record's fixed size, in bytes. MessageIllegal for one not to be stored."""
    try:
        text = entry.properties.encode()
    except UnicodeEncodeError:
        raise MessageIllegal("the properties hold half a UTF-16 pair") from None
    check_limits(entry.body, entry.properties, text, max_body)
    if not -(2**31) <= entry.flag < 2**31:
        raise MessageIllegal(f"the flag {entry.flag} does not fit 32 bits")
    return len(entry.body) + len(text)
