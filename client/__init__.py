"""The asyncio client of RocketMQ: sends messages, and consumes them in groups."""

from pymq.client.client import Client
from pymq.client.consumer import Consumer
from pymq.client.failures import (
    Attempt,
    BatchFailed,
    BufferFull,
    ClientClosed,
    GroupTaken,
    MessageInvalid,
    NameServersUnreachable,
    RouteNotFound,
    SendFailed,
)
from pymq.client.outgoing import Message
from pymq.client.received import ReceivedMessage
from pymq.client.send_result import SendResult, SendStatus
from pymq.client.settings import Settings
from pymq.protocol.bodies import MessageQueue

__all__ = [
    "Attempt",
    "BatchFailed",
    "BufferFull",
    "Client",
    "ClientClosed",
    "Consumer",
    "GroupTaken",
    "Message",
    "MessageInvalid",
    "MessageQueue",
    "NameServersUnreachable",
    "ReceivedMessage",
    "RouteNotFound",
    "SendFailed",
    "SendResult",
    "SendStatus",
    "Settings",
]
