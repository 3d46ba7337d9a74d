"""What topics and groups may be called, and in what numbers their settings may come (wire.md §6.4)."""

from __future__ import annotations

import re

NAME_PATTERN = re.compile(r"[%|a-zA-Z0-9_-]+")
"""Topics and groups."""

TOPIC_MAX_LENGTH = 127
GROUP_MAX_LENGTH = 255

QUEUES_MAX = 65_535
"""Queues of one topic. Each costs memory in every table that lists them; Apache has no bound."""

PERM_MAX = 7
"""All PERM_… bits."""

NOT_FOR_SENDING = frozenset(
    [
        "SCHEDULE_TOPIC_XXXX",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "rmq_sys_wheel_timer",
    ]
)
"""semantics.md §1.2, check 4; and the timer topic, which Apache 5.x lets clients write nonsense to."""


def topic_fault(topic: str) -> str | None:
    """What is wrong with a topic's name, or None (semantics.md §1.2, check 3)."""
    return _fault("topic", topic, TOPIC_MAX_LENGTH)


def group_fault(group: str) -> str | None:
    """What is wrong with a group's name, or None. Apache checks it in its clients only (§11.2)."""
    return _fault("group", group, GROUP_MAX_LENGTH)


def _fault(kind: str, name: str, limit: int) -> str | None:
    if not name or name.isspace():
        return f"The specified {kind} is blank."
    if len(name) > limit:
        return f"The specified {kind} is longer than {kind} max length {limit}."
    if not NAME_PATTERN.fullmatch(name):
        return f"The specified {kind}[{name}] contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
    return None


def queues_fault(what: str, number: int) -> str | None:
    """What is wrong with a number of queues, or None; `what` names the setting."""
    if 0 <= number <= QUEUES_MAX:
        return None
    return f"{what}={number}: expected a number from 0 to {QUEUES_MAX:,}"


def within(number: int, limit: int) -> int:
    """The nearest number from 0 to `limit`."""
    return min(max(number, 0), limit)
