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
        GroupTaken,
        Message,
        MessageInvalid,
        MessageQueue,
        NameServersUnreachable,
        ReceivedMessage,
        RouteNotFound,
        SendFailed,
        SendResult,
        SendStatus,
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
    "GroupTaken",
    "Message",
    "MessageInvalid",
    "MessageQueue",
    "NameServersUnreachable",
    "ProtocolError",
    "PymqError",
    "ReceivedMessage",
    "ResponseError",
    "RouteNotFound",
    "SendFailed",
    "SendResult",
    "SendStatus",
    "TransportError",
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
