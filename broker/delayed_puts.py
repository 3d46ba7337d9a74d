"""Who stores a message that may ask for a delay: the levels, the timers, or the store at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from pymq.broker.delays import Delays
from pymq.broker.scheduled import delay_level
from pymq.broker.timed import is_timed, without_times
from pymq.broker.timers import Timers
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.store.messagestore import PutResult


class DelayedPut(msgspec.Struct, gc=False):
    """How a message that asks for a delay is stored."""

    put: Callable[..., PutResult]
    """As `MessageStore.put`, for the message's own topic."""
    properties: str
    deliver_ms: int = 0
    """When it is to come, ms since 1970; 0 with a level."""


class DelayedPuts:
    """Reads from properties whether a message is to come later. A level counts for more than a time."""

    def __init__(self, delays: Delays, timers: Timers, *, timer_wheel_enable: bool) -> None:
        self._delays = delays
        self._timers = timers
        self._timer_wheel_enable = timer_wheel_enable

    def choose(self, properties: str) -> DelayedPut | None:
        """How to store a message with this property text; None: at once.

        `properties` may begin with a separator. MessageIllegal for a delay that cannot be, ResponseError for
        a time of delivery where these are switched off.
        """
        level = delay_level(properties)
        if level > 0:
            if is_timed(properties):
                properties = without_times(properties)
            return DelayedPut(partial(self._delays.put, level), properties)
        deliver_ms = self._timers.delivery_time(properties)
        if deliver_ms is None:
            return None
        if not self._timer_wheel_enable:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, "timerWheelEnable=false: no message is delivered at a given time"
            )
        return DelayedPut(partial(self._timers.put, deliver_ms), properties, deliver_ms)
