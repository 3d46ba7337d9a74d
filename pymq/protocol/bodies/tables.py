"""Tables of names and texts."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body


class KVTable(Body):
    """Names and values: the broker's runtime info (28), a namespace of the KV config (219, 103)."""

    table: dict[str, str] = field(default_factory=dict)
