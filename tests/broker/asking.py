"""Requests as clients make them, with the fields that do not matter filled in."""

from __future__ import annotations

from typing import Any

from pymq.protocol.headers.messaging import (
    PullMessageRequest,
    PullMessageResponse,
    SendMessageRequestV2,
    SendMessageResponse,
)
from pymq.protocol.message import MessageRecord, decode_records
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool, Reply

PROPERTIES = "KEYS\x01k1\x02UNIQ_KEY\x017F0000010001000000000000000000AB\x02WAIT\x01true\x02TAGS\x01a\x02"

ANY_PULL_ANSWER = (0, 19, 20, 21)
PATIENCE_S = 60.0
"""A server that stands still for a moment, with its machine, is waited for."""


def send_header(topic: str, queue_id: int = 0, **fields: Any) -> SendMessageRequestV2:
    """A send of one message."""
    return SendMessageRequestV2(
        **{
            "producer_group": "producers",
            "topic": topic,
            "queue_id": queue_id,
            "sys_flag": 0,
            "born_timestamp": 1_700_000_000_000,
            "flag": 0,
            "properties": PROPERTIES,
            **fields,
        }
    )


async def send(pool: Pool, address: str, topic: str, body: bytes, **fields: Any) -> SendMessageResponse:
    """Send one message; gives where it is."""
    return (await pool.call(address, send_header(topic, **fields), body, timeout_s=PATIENCE_S)).read(
        SendMessageResponse
    )


def pull_header(topic: str, queue_id: int = 0, offset: int = 0, **fields: Any) -> PullMessageRequest:
    """A pull with its own subscription, which needs no heartbeat."""
    return PullMessageRequest(
        **{
            "consumer_group": "consumers",
            "topic": topic,
            "queue_id": queue_id,
            "queue_offset": offset,
            "max_msg_nums": 32,
            "sys_flag": PullFlag.SUBSCRIPTION,
            "subscription": "*",
            **fields,
        }
    )


async def pull(
    pool: Pool, address: str, topic: str, *, timeout_s: float = PATIENCE_S, **fields: Any
) -> Reply:
    """Pull once; gives the answer, whatever pull code it has."""
    header = pull_header(topic, **fields)
    return await pool.call(address, header, timeout_s=timeout_s, accept=ANY_PULL_ANSWER)


def records(reply: Reply) -> list[MessageRecord]:
    """The messages in a pull's answer."""
    return decode_records(reply.body)


def bounds(reply: Reply) -> PullMessageResponse:
    """The header of a pull's answer."""
    return reply.read(PullMessageResponse)
