"""What a consumer may be told: bounds of its numbers, and the names of its topics."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pymq.client.flow_control import FlowControl
from pymq.client.outgoing import check_topic_name
from pymq.errors import ConfigError


def check_consumer_options(
    topics: Iterable[str],
    *,
    max_retries: int | None,
    prefetch: int,
    prefetch_bytes: int,
    flow: object,
    consume_timeout_s: float,
) -> None:
    """Raise MessageInvalid for a topic's name, ConfigError for no topic or a number out of bounds."""
    names = list(topics)
    if not names:
        raise ConfigError("topic: a consumer has to subscribe to at least one topic")
    for name in names:
        check_topic_name(name)
    _check_count("prefetch", prefetch, 1)
    _check_count("prefetch_bytes", prefetch_bytes, 1)
    if not isinstance(flow, FlowControl):
        raise ConfigError(f"flow={flow!r}: expected a FlowControl")
    if max_retries is not None:
        _check_count("max_retries", max_retries, 0)
    is_number = isinstance(consume_timeout_s, int | float) and not isinstance(consume_timeout_s, bool)
    if not is_number or not 0 < consume_timeout_s < math.inf:
        raise ConfigError(f"consume_timeout={consume_timeout_s!r}: expected seconds above 0")


def _check_count(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name}={value!r}: expected a whole number, {least} or more")
