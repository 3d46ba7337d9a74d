"""Recall handles: what a broker gives for a timed message, so that it can be cancelled (Apache 5.3)."""

from __future__ import annotations

import base64
import binascii

import msgspec

_VERSION = "v1"


class RecallHandle(msgspec.Struct, frozen=True):
    """Which message: `deliver_ms` is when it is due, ms since 1970; `unique_key` its UNIQ_KEY."""

    topic: str
    broker_name: str
    deliver_ms: int
    unique_key: str


def recall_handle(topic: str, broker_name: str, deliver_ms: int, unique_key: str) -> str:
    """The handle's text: base64, with - and _, of the version and the four parts with blanks in between."""
    text = f"{_VERSION} {topic} {broker_name} {deliver_ms} {unique_key}"
    return base64.urlsafe_b64encode(text.encode()).decode()


def read_recall_handle(text: str) -> RecallHandle | None:
    """What a handle says; None when it is none."""
    try:
        parts = base64.urlsafe_b64decode(text.encode() + b"==").decode().split(" ")
        version, topic, broker_name, deliver_ms, unique_key = parts[:5]
        if version != _VERSION:
            return None
        return RecallHandle(topic, broker_name, int(deliver_ms), unique_key)
    except (ValueError, binascii.Error):
        return None
