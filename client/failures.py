"""What can go wrong in the client, in words that a user can act on. All are `PymqError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pymq.errors import PymqError, ResponseError

if TYPE_CHECKING:
    from pymq.client.send_result import SendResult


class ClientClosed(PymqError):
    """The client or consumer is not started, or closed."""


class MessageInvalid(PymqError):
    """A message that no broker would take: nothing was sent. The text says what is wrong with it."""


class BufferFull(PymqError):
    """Too many messages of `send_nowait` are under way: await some of them, or `flush()`."""


class GroupTaken(PymqError):
    """This client has a consumer in that group already."""


class NameServersUnreachable(PymqError):
    """None of the name servers gave an answer.

    Attributes:
        failures: what each of them did, by address.
    """

    def __init__(self, failures: dict[str, PymqError]) -> None:
        super().__init__("no name server answered: " + "; ".join(str(error) for error in failures.values()))
        self.failures = failures


class RouteNotFound(PymqError):
    """The name servers do not know where a topic is.

    Attributes:
        topic: the topic.
        name_servers: the addresses of all the client's name servers.
        nearest: names of topics that exist and look like it.
        hint: what may help.
    """

    def __init__(self, topic: str, name_servers: Sequence[str], nearest: Sequence[str], hint: str) -> None:
        text = f"no route to topic {topic!r} (name servers asked: {', '.join(name_servers)}): {hint}"
        if nearest:
            text += f". {similar(nearest)}"
        super().__init__(text)
        self.topic = topic
        self.name_servers = tuple(name_servers)
        self.nearest = tuple(nearest)
        self.hint = hint


def similar(names: Sequence[str]) -> str:
    """A hint at topics whose names are like the one that was not found, empty when there are none."""
    return f"Topics with a similar name: {', '.join(names)}" if names else ""


class Attempt(msgspec.Struct, frozen=True):
    """One try to send a message: the broker's name and address (empty when unknown), and how it failed."""

    broker: str
    address: str
    error: PymqError


class SendFailed(PymqError):
    """No broker confirmed the message. After a time-out or a lost connection it may be stored all the same.

    Attributes:
        topic: where it was to go.
        attempts: all tries, in order; at least one.
        broker: name of the broker that was tried last.
        address: its address, `host:port`.
        code: the response code of the last attempt, None when no answer came.
        remark: the broker's explanation, may be empty.
        hint: what may help, may be empty.
    """

    def __init__(self, topic: str, attempts: Sequence[Attempt], took_s: float, hint: str = "") -> None:
        last = attempts[-1]
        tries = "1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
        brokers = ", ".join(attempt.broker for attempt in attempts)
        why = " ".join(str(last.error).split()).rstrip(".")
        text = f"sending to topic {topic!r} failed after {tries} in {took_s:.2f} s ({brokers}): {why}"
        super().__init__(f"{text}. {hint}" if hint else text)
        self.topic = topic
        self.attempts = tuple(attempts)
        self.broker = last.broker
        self.address = last.address
        refusal = last.error if isinstance(last.error, ResponseError) else None
        self.code = None if refusal is None else refusal.code
        self.remark = "" if refusal is None else refusal.remark
        self.hint = hint


class BatchFailed(PymqError):
    """A part of a batch was not confirmed.

    Attributes:
        results: for each message in order, its result or the error of the request that it was in.
    """

    def __init__(self, results: Sequence[SendResult | PymqError]) -> None:
        errors = [result for result in results if isinstance(result, PymqError)]
        super().__init__(f"{len(errors)} of {len(results)} messages of a batch failed: {errors[0]}")
        self.results = tuple(results)
