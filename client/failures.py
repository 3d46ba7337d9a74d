"""What can go wrong in the client, in words that a user can act on. All are `PymqError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from pymq.errors import PymqError, ResponseError
from pymq.protocol.codes import ResponseCode

if TYPE_CHECKING:
    from pymq.client.send_result import SendResult
    from pymq.client.transaction_states import TransactionState


class ClientClosed(PymqError):
    """The client or consumer is not started, or closed."""


class MessageInvalid(PymqError):
    """A message that no broker would take: nothing was sent. The text says what is wrong with it."""


class TimersMissing(PymqError):
    """A broker before 5.0 would deliver a timed message at once: it knows delay levels only. Nothing is sent.

    Attributes:
        address: the broker's.
        version: the number by which it tells its version.
    """

    def __init__(self, address: str, version: int, version_name: str) -> None:
        super().__init__(
            f"broker {address} is of version {version_name}, which knows delay levels but no times of "
            "delivery: it would deliver the message at once"
        )
        self.address = address
        self.version = version


class TooLateToCancel(PymqError):
    """The time of the message has come: it has been delivered.

    Attributes:
        msg_id: the message's id.
    """

    def __init__(self, msg_id: str, remark: str) -> None:
        super().__init__(f"message {msg_id} cannot be cancelled any more: {remark}")
        self.msg_id = msg_id


class BufferFull(PymqError):
    """Too many messages of `send_nowait` are under way: await some of them, or `flush()`."""


class GroupTaken(PymqError):
    """This client has a consumer in that group already."""


class GroupNotFound(PymqError):
    """No broker knows a consumer group: none of its consumers has ever run, or it was deleted.

    Attributes:
        group: the group.
    """

    def __init__(self, group: str, name_servers: Sequence[str]) -> None:
        super().__init__(
            f"no consumer group {group!r} (name servers asked: {', '.join(name_servers)}): "
            "a group is made by its first consumer; of one that has cloned offsets only, name the topic"
        )
        self.group = group


class MoveRefused(PymqError):
    """The offsets of a group cannot be changed as asked for; none was. The text says what to do."""


class FilterRefused(PymqError):
    """A broker does not filter as a consumer wants it: the expression is wrong, or filtering is off.

    Attributes:
        topic: the topic.
        expression: the SQL92 expression.
        broker: the broker's name.
        address: its address, `host:port`.
        code: its response code.
        remark: its explanation.
    """

    def __init__(self, topic: str, expression: str, broker: str, refusal: ResponseError) -> None:
        remark = " ".join(refusal.remark.split())
        text = f"broker {broker} ({refusal.address}) refuses the filter of topic {topic!r}: {remark}"
        if refusal.code == ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
            text += ". It is of a version that has no SQL92 filters"
        elif refusal.code == ResponseCode.SYSTEM_ERROR and "enablePropertyFilter" not in remark:
            text += ". Set enablePropertyFilter=true in the broker's conf file"
        super().__init__(text)
        self.topic = topic
        self.expression = expression
        self.broker = broker
        self.address = refusal.address
        self.code = refusal.code
        self.remark = refusal.remark


class NameServersUnreachable(PymqError):
    """None of the name servers gave an answer.

    Attributes:
        failures: what each of them did, by address.
    """

    def __init__(self, failures: dict[str, PymqError]) -> None:
        why = "; ".join(str(error) for error in failures.values())
        super().__init__(
            f"no name server answered: {why}. See whether they run, and can be reached from here by these "
            "addresses"
        )
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
        msg_id: the id of the message, of a batch those of all, joined by commas.
    """

    def __init__(
        self, topic: str, attempts: Sequence[Attempt], took_s: float, hint: str = "", msg_id: str = ""
    ) -> None:
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
        self.msg_id = msg_id


class TransactionUnsettled(PymqError):
    """No broker confirmed the end of a transaction. The half message stays, and its broker asks how it ended.

    Attributes:
        state: what was decided: COMMIT or ROLLBACK. This client gives it as the answer when it is asked.
        topic: where the message is to go.
        msg_id: the id of the message, and of the transaction.
        attempts: all tries, in order; at least one.
        broker: name of the broker that has the half message.
        address: its address, `host:port`; empty when unknown.
        code: the response code of the last attempt, None when no answer came.
        remark: the broker's explanation, may be empty.
    """

    def __init__(
        self,
        state: TransactionState,
        topic: str,
        msg_id: str,
        group: str,
        attempts: Sequence[Attempt],
        took_s: float,
    ) -> None:
        last = attempts[-1]
        refusal = last.error if isinstance(last.error, ResponseError) else None
        tries = "1 attempt" if len(attempts) == 1 else f"{len(attempts)} attempts"
        why = " ".join(str(last.error).split()).rstrip(".")
        if refusal is None:
            hint = (
                f"Nothing is lost: the broker will ask a producer of group {group} how it ended, and is told "
                f"{state} as long as this client lives, then what the transaction_checker of another one says"
            )
        elif refusal.code == ResponseCode.SYSTEM_ERROR:
            hint = (
                "If the broker has no such half message, it was settled before or given up after "
                "transactionCheckMax checks (see topic TRANS_CHECK_MAX_TIME_TOPIC); else it will ask again"
            )
        else:
            hint = f"The broker asks a producer of group {group} how it ended, once it takes messages again"
        super().__init__(
            f"the {state} of transaction {msg_id} of topic {topic!r} is not confirmed after {tries} in "
            f"{took_s:.2f} s (broker {last.broker}): {why}. {hint}"
        )
        self.state = state
        self.topic = topic
        self.msg_id = msg_id
        self.attempts = tuple(attempts)
        self.broker = last.broker
        self.address = last.address
        self.code = None if refusal is None else refusal.code
        self.remark = "" if refusal is None else refusal.remark


class RequestTimeout(PymqError):
    """A request is stored, and no reply to it came in time: nobody consumes its topic, or too slowly.

    Attributes:
        topic: where the request was sent to.
        timeout: how long it waited, s.
        sent: where the request is stored.
    """

    def __init__(self, topic: str, timeout_s: float, sent: SendResult) -> None:
        super().__init__(
            f"no reply to request {sent.msg_id} of topic {topic!r} within {timeout_s:g} s: it is stored in "
            f"{sent.queue.broker_name}:{sent.queue.queue_id}@{sent.queue_offset}; see whether a consumer of "
            "that topic is running and replies"
        )
        self.topic = topic
        self.timeout = timeout_s
        self.sent = sent


class BatchFailed(PymqError):
    """A part of a batch was not confirmed.

    Attributes:
        results: for each message in order, its result or the error of the request that it was in.
    """

    def __init__(self, results: Sequence[SendResult | PymqError]) -> None:
        errors = [result for result in results if isinstance(result, PymqError)]
        super().__init__(f"{len(errors)} of {len(results)} messages of a batch failed: {errors[0]}")
        self.results = tuple(results)
