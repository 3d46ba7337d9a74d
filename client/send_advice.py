"""What a user can do about a send that failed."""

from __future__ import annotations

from collections.abc import Sequence

from pymq.client.delivery_time import LEVELS_S
from pymq.client.failures import Attempt, TimersMissing
from pymq.client.outgoing import Outgoing
from pymq.errors import ConnectFailed, PymqError, ResponseError, TransportError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.sysflags import TRANSACTION_PREPARED


def advice(attempts: Sequence[Attempt], outgoing: Outgoing) -> str:
    """What helps after these attempts; and whether the message may be stored although they failed."""
    parts = [_about(attempts[-1].error, is_half=bool(outgoing.sys_flag & TRANSACTION_PREPARED))]
    if any(_is_unsure(attempt.error) for attempt in attempts):
        parts.append(_where_it_may_be(outgoing))
    return ". ".join(filter(None, parts))


def _where_it_may_be(outgoing: Outgoing) -> str:
    if outgoing.sys_flag & TRANSACTION_PREPARED:
        return (
            f"Half message {outgoing.msg_id} may be stored all the same: no consumer gets it, and it is "
            "rolled back when the broker asks"
        )
    what = "It" if outgoing.is_batch else f"Message {outgoing.msg_id}"
    return f"{what} may be stored all the same: Client.query finds it by its topic and id"


def _is_unsure(error: PymqError) -> bool:
    """Whether what failed by this may have been done all the same."""
    return isinstance(error, TransportError) and not isinstance(error, ConnectFailed)


def _about(error: PymqError, *, is_half: bool) -> str:
    """What its user can do about a send that failed by this."""
    if isinstance(error, TimersMissing):
        return f"Give a delay of one of the levels ({', '.join(map(str, LEVELS_S))} s), which it knows"
    if isinstance(error, ConnectFailed):
        return "See whether the broker runs, and whether its address can be reached from here (brokerIP1)"
    if not isinstance(error, ResponseError):
        return ""
    match error.code:
        case ResponseCode.TOPIC_NOT_EXIST:
            return (
                "The broker does not create topics by itself (autoCreateTopicEnable): create the topic first"
            )
        case ResponseCode.NO_PERMISSION:
            half = "takes no transactional messages (rejectTransactionMessage), or " if is_half else ""
            return (
                f"The broker {half}does not let the topic be written to: see brokerPermission and the "
                "topic's perm"
            )
        case ResponseCode.SERVICE_NOT_AVAILABLE:
            return "The broker takes no messages at present: a slave, a full disk, or shutting down"
        case ResponseCode.SYSTEM_BUSY:
            return "The broker is overloaded: send more slowly, or try again later"
        case ResponseCode.MESSAGE_ILLEGAL:
            return (
                "It is of no use to send it again as it is: see the broker's maxMessageSize, for a delay its "
                "timerMaxDelaySec, and its log"
            )
        case ResponseCode.REQUEST_CODE_NOT_SUPPORTED:
            return "The broker is of a version that knows no such messages"
        case _:
            return "See the broker's log"
