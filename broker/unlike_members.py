"""Members of one group that subscribe differently: noticed at their heartbeats, told once.

A broker knows one set of subscriptions for each group, the last heartbeat's (semantics.md §3.1), while every
member owns queues of what it takes for the group's topics. So some queues have no owner, and of others only
a part is handled; nobody sees an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import msgspec

from pymq.protocol.bodies.subscription import SubscriptionData

log = logging.getLogger("pymq.broker.clients")

_RETRY_PREFIX = "%RETRY%"

Wants = frozenset[str]
"""What one member subscribes to, as text: topics with their expressions."""

_MEMBERS_TOLD = 5
_SITUATIONS = 100
"""So many different situations of a group are told; then it is known that its members differ."""


def wants_of(subscriptions: Iterable[SubscriptionData]) -> Wants:
    """What a member wants. The order of its tags does not matter, nor its retry topic."""
    wants = set()
    for subscription in subscriptions:
        if subscription.topic.startswith(_RETRY_PREFIX):
            continue
        expression = subscription.sub_string
        if subscription.expression_type in ("", "TAG"):
            tags = subscription.tags_set or {tag.strip() for tag in expression.split("||")}
            expression = " || ".join(sorted(tags)) or "*"
        wants.add(f"{subscription.topic} [{expression}]")
    return frozenset(wants)


class UnlikeMembers(msgspec.Struct):
    """Tells when the members of one group differ, each situation once."""

    told: set[frozenset[Wants]] = msgspec.field(default_factory=set)

    def look(self, group: str, members: Iterable[tuple[str, Wants]]) -> None:
        """Look at the members, given by client id, when one of them has joined or changed what it wants."""
        by_wants: dict[Wants, list[str]] = {}
        for client_id, wants in members:
            by_wants.setdefault(wants, []).append(client_id)
        situation = frozenset(by_wants)
        if len(by_wants) < 2 or situation in self.told or len(self.told) >= _SITUATIONS:
            return
        self.told.add(situation)
        log.warning(
            "group %s: its members subscribe differently, so some messages reach none of them: %s; "
            "let all members of a group subscribe to the same topics and expressions",
            group,
            "; ".join(
                f"{_few(ids)}: {', '.join(sorted(wants)) or 'nothing'}" for wants, ids in by_wants.items()
            ),
        )


def _few(client_ids: list[str]) -> str:
    ids = sorted(set(client_ids))
    named = ", ".join(ids[:_MEMBERS_TOLD])
    return named if len(ids) <= _MEMBERS_TOLD else f"{named} and {len(ids) - _MEMBERS_TOLD} more"
