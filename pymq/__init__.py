"""RocketMQ without the JVM: a client, and the parts of the name server and the broker.

What stands here is loaded when it is first used, so that a broker does not load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymq.client import (
        BatchFailed,
        BufferFull,
        Client,
        ClientClosed,
        Consumer,
        FilterRefused,
        FlowControl,
        GroupLag,
        GroupNotFound,
        GroupTaken,
        Message,
        MessageInvalid,
        MessageQueue,
        MessageTrace,
        MoveRefused,
        NameServersUnreachable,
        QueueLag,
        ReceivedMessage,
        ReplyMessage,
        RequestTimeout,
        RetryLater,
        RouteNotFound,
        SendFailed,
        SendResult,
        SendStatus,
        Sql,
        StoredCopy,
        TimersMissing,
        TooLateToCancel,
        TraceEvent,
        TraceResult,
        TraceStep,
        Transaction,
        TransactionState,
        TransactionUnsettled,
        UnreadableBody,
    )
    from pymq.errors import (
        CallTimeout,
        ConfigError,
        ConnectFailed,
        ConnectionLost,
        ProtocolError,
        PymqError,
        ResponseError,
        TransportError,
    )

__all__ = [
    "BatchFailed",
    "BufferFull",
    "CallTimeout",
    "Client",
    "ClientClosed",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "Consumer",
    "FilterRefused",
    "FlowControl",
    "GroupLag",
    "GroupNotFound",
    "GroupTaken",
    "Message",
    "MessageInvalid",
    "MessageQueue",
    "MessageTrace",
    "MoveRefused",
    "NameServersUnreachable",
    "ProtocolError",
    "PymqError",
    "QueueLag",
    "ReceivedMessage",
    "ReplyMessage",
    "RequestTimeout",
    "ResponseError",
    "RetryLater",
    "RouteNotFound",
    "SendFailed",
    "SendResult",
    "SendStatus",
    "Sql",
    "StoredCopy",
    "TimersMissing",
    "TooLateToCancel",
    "TraceEvent",
    "TraceResult",
    "TraceStep",
    "Transaction",
    "TransactionState",
    "TransactionUnsettled",
    "TransportError",
    "UnreadableBody",
]

_ERRORS = frozenset(
    {
        "CallTimeout",
        "ConfigError",
        "ConnectFailed",
        "ConnectionLost",
        "ProtocolError",
        "PymqError",
        "ResponseError",
        "TransportError",
    }
)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pymq' has no attribute {name!r}")
    value: object = getattr(
        importlib.import_module("pymq.errors" if name in _ERRORS else "pymq.client"), name
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
