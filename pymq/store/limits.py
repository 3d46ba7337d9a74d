"""What a message may not exceed to be stored (store.md §2)."""

from __future__ import annotations

from pymq.errors import MessageIllegal
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
