"""RocketMQ without the JVM: a client, and the parts of the name server and the broker.

What stands here is loaded when it is first used, so that a broker does not load the client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymq.client import Client, Message, MessageQueue, SendResult, SendStatus
    from pymq.errors import (
        CallTimeout,
        ConfigError,
        ConnectFailed,
        ConnectionLost,
        PymqError,
        ResponseError,
        TransportError,
    )

__all__ = [
    "CallTimeout",
    "Client",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "Message",
    "MessageQueue",
    "PymqError",
    "ResponseError",
    "SendResult",
    "SendStatus",
    "TransportError",
]

_FROM_CLIENT = frozenset({"Client", "Message", "MessageQueue", "SendResult", "SendStatus"})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pymq' has no attribute {name!r}")
    value: object = getattr(
        importlib.import_module("pymq.client" if name in _FROM_CLIENT else "pymq.errors"), name
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
