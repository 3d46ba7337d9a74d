"""Saying that a message is to come again later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymq.client.received import ReceivedMessage

DEAD_LETTER = -1
"""The delay level that sends a message to its group's dead letters instead."""


class RetryLater(Exception):
    """Raised, or returned by a handler: this message is to come again later, and that is no error.

    Attributes:
        reason: why, for the log.
        delay_level: as for `ReceivedMessage.retry`.
        messages: which ones of a batch; the others are acknowledged. None: all. When one is named that
            the handler was not given, that is logged, and all of the batch come again.
    """

    def __init__(
        self,
        reason: str = "",
        *,
        delay_level: int = 0,
        messages: Iterable[ReceivedMessage] | None = None,
    ) -> None:
        """ValueError for a level that there cannot be."""
        check_delay_level(delay_level)
        super().__init__(reason)
        self.reason = reason
        self.delay_level = delay_level
        self.messages = None if messages is None else tuple(messages)

    def chosen_of(self, messages: Sequence[ReceivedMessage]) -> Sequence[ReceivedMessage]:
        """Those of a batch that are to come again; the others are acknowledged here.

        ValueError when one is named that is not of the batch: it may mean any of them.
        """
        if self.messages is None:
            return messages
        given = {id(message) for message in messages}
        chosen = {id(message) for message in self.messages}
        if not chosen <= given:
            stranger = next(message for message in self.messages if id(message) not in given)
            raise ValueError(
                f"RetryLater names {stranger!r}, which is none of the messages that the handler was given"
            )
        for message in messages:
            if id(message) not in chosen:
                message.ack()
        return [message for message in messages if id(message) in chosen]


def check_delay_level(level: int) -> None:
    """Raise ValueError unless a message may be retried with this delay level."""
    if not DEAD_LETTER <= level < 2**31:
        raise ValueError(
            f"delay_level={level!r}: expected 0 (longer each time), a level of the broker's table (1 to 18), "
            "or -1 (to the dead letters)"
        )
