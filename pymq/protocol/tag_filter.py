"""Tag subscriptions `a || b` and the hash the broker filters by (semantics.md §2.3, store.md §3)."""

from __future__ import annotations

import functools

from pymq.errors import PymqError

ALL_TAGS = "*"


class TagExpressionError(PymqError):
    """A tag subscription that names no tag at all (the broker answers SUBSCRIPTION_PARSE_FAILED)."""


def java_hash(text: str, start: int = 0) -> int:
    """Java's `String.hashCode` as a signed 32-bit int: h = 31·h + c over UTF-16 code units.

    `start` is the hash of what stands before `text`: java_hash(b, java_hash(a)) == java_hash(a + b).
    """
    h = start & 0xFFFFFFFF
    if text.isascii():
        for unit in text.encode():
            h = (h * 31 + unit) & 0xFFFFFFFF
    else:
        units = text.encode("utf-16-be", "surrogatepass")
        for i in range(0, len(units), 2):
            h = (h * 31 + (units[i] << 8 | units[i + 1])) & 0xFFFFFFFF
    return h - 0x1_0000_0000 if h & 0x8000_0000 else h


@functools.lru_cache(maxsize=4096)
def tags_code(tags: str | None) -> int:
    """The tags code of a message whose TAGS property is `tags`: its Java hash, 0 without tags."""
    return java_hash(tags) if tags else 0


@functools.lru_cache(maxsize=4096)
def parse_tags(expression: str | None) -> frozenset[str] | None:
    """The tags of a subscription, or None when it takes all (`*`, blank or absent).

    TagExpressionError when there are separators only, as `||`.
    """
    if expression is None:
        return None
    stripped = expression.strip()
    if not stripped or stripped == ALL_TAGS:
        return None
    tags = frozenset(tag for part in stripped.split("||") if (tag := part.strip()))
    if not tags:
        raise TagExpressionError(f"the subscription {expression!r} names no tag")
    return tags


@functools.lru_cache(maxsize=4096)
def tag_codes(expression: str | None) -> frozenset[int] | None:
    """The tags codes that a subscription lets through, None for all. TagExpressionError as `parse_tags`."""
    tags = parse_tags(expression)
    return None if tags is None else frozenset(java_hash(tag) for tag in tags)
