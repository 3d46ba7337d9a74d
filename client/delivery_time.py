"""When a message is to be delivered: as a delay level, or as a time that 5.x brokers and pymq's keep."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from pymq.client.failures import MessageInvalid
from pymq.protocol import properties as names

LEVELS_S = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""Seconds of delay levels 1 to 18, unless a broker's messageDelayLevel says otherwise (semantics.md §5)."""
LEVEL_MAX = 2**31 - 1


class DeliveryTime(msgspec.Struct, frozen=True):
    """What a message asks of its broker.

    Attributes:
        properties: by which it asks.
        is_timed: only brokers with timers can do it.
        deliver_ms: the time, ms since 1970; 0 when only the broker knows, or there is none.
        level: the delay level that says the same to a broker without timers; 0 when there is none.
    """

    properties: Mapping[str, str]
    is_timed: bool = False
    deliver_ms: int = 0
    level: int = 0


AT_ONCE = DeliveryTime({})


def delivery_time(
    delay: datetime.timedelta | None, deliver_at: datetime.datetime | None, delay_level: int | None
) -> DeliveryTime:
    """What `delay`, `deliver_at` or `delay_level` ask for; MessageInvalid for more than one, or nonsense.

    A delay that is just that of a level can be sent as the level, which 4.x brokers serve, too; but only to
    them, as what a level stands for is set at each broker.
    """
    if (delay is not None) + (deliver_at is not None) + (delay_level is not None) > 1:
        raise MessageInvalid("only one of delay, deliver_at and delay_level can be given")
    if delay_level is not None:
        if not isinstance(delay_level, int) or isinstance(delay_level, bool):
            raise MessageInvalid(f"delay_level={delay_level!r}: expected a whole number, 1 or more")
        if not 1 <= delay_level <= LEVEL_MAX:
            raise MessageInvalid(f"delay_level={delay_level}: expected 1 or more")
        return DeliveryTime({names.DELAY: str(delay_level)})
    if deliver_at is not None:
        if not isinstance(deliver_at, datetime.datetime):
            raise MessageInvalid(f"deliver_at={deliver_at!r}: expected a datetime.datetime")
        try:
            deliver_ms = -(-round(deliver_at.timestamp() * 1_000_000) // 1000)  # not before it
        except (ValueError, OverflowError):
            raise MessageInvalid(f"deliver_at={deliver_at!r}: out of what can be told as a time") from None
        return DeliveryTime({names.TIMER_DELIVER_MS: str(deliver_ms)}, True, deliver_ms)
    if not isinstance(delay, datetime.timedelta | None):
        raise MessageInvalid(f"delay={delay!r}: expected a datetime.timedelta")
    if not delay:
        return AT_ONCE
    if delay < datetime.timedelta():
        raise MessageInvalid(f"delay={delay!r}: expected no time before now")
    delay_ms = (delay.days * 86_400 + delay.seconds) * 1000 - (-delay.microseconds // 1000)
    level = 0
    if delay_ms % 1000 == 0 and delay_ms // 1000 in LEVELS_S:
        level = LEVELS_S.index(delay_ms // 1000) + 1
    return DeliveryTime({names.TIMER_DELAY_MS: str(delay_ms)}, True, level=level)
