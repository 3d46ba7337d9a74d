"""The asyncio client of RocketMQ: sends messages, and consumes them in groups."""

from pymq.client.client import Client
from pymq.client.consumer import Consumer
from pymq.client.failures import (
    Attempt,
    BatchFailed,
    BufferFull,
    ClientClosed,
    FilterRefused,
    GroupNotFound,
    GroupTaken,
    MessageInvalid,
    MoveRefused,
    NameServersUnreachable,
    RequestTimeout,
    RouteNotFound,
    SendFailed,
    TimersMissing,
    TooLateToCancel,
    TransactionUnsettled,
)
from pymq.client.flow_control import FlowControl
from pymq.client.group_offsets import GroupLag, QueueLag
from pymq.client.message_trace import MessageTrace, StoredCopy, TraceEvent, TraceResult, TraceStep
from pymq.client.outgoing import Message
from pymq.client.received import ReceivedMessage
from pymq.client.request_reply import ReplyMessage
from pymq.client.retry_later import RetryLater
from pymq.client.send_result import SendResult, SendStatus
from pymq.client.settings import Settings
from pymq.client.subscriptions import Sql
from pymq.client.transaction import Transaction
from pymq.client.transaction_states import TransactionState
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import UnreadableBody

__all__ = [
    "Attempt",
    "BatchFailed",
    "BufferFull",
    "Client",
    "ClientClosed",
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
    "QueueLag",
    "ReceivedMessage",
    "ReplyMessage",
    "RequestTimeout",
    "RetryLater",
    "RouteNotFound",
    "SendFailed",
    "SendResult",
    "SendStatus",
    "Settings",
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
    "UnreadableBody",
]
