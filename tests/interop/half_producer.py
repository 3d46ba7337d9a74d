"""A transaction producer made of bare requests, which decides what it sends and how it answers checks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple

from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.bodies import HeartbeatData, ProducerData
from pymq.protocol.headers.groups import HeartBeatRequest
from pymq.protocol.headers.messaging import (
    CheckTransactionStateRequest,
    EndTransactionRequest,
    SendMessageResponse,
)
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.message_ids import decode_offset_msg_id
from pymq.protocol.properties import encode_properties
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_PREPARED, TRANSACTION_ROLLBACK
from pymq.transport.dispatch import Request, merge, row
from pymq.transport.pool import Pool
from tests.broker.asking import pull, records, send_header

HALF_TOPIC = "RMQ_SYS_TRANS_HALF_TOPIC"
OP_TOPIC = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
DISCARDED = "TRANS_CHECK_MAX_TIME_TOPIC"
COMMIT, ROLLBACK = TRANSACTION_COMMIT, TRANSACTION_ROLLBACK

_PATIENCE_S = 60.0
_names = itertools.count(1)


class Half(NamedTuple):
    """Where a half message is stored."""

    unique_key: str
    queue_offset: int
    physical_offset: int


class Check(NamedTuple):
    """A check as it came."""

    header: CheckTransactionStateRequest
    record: MessageRecord
    """As it is on the wire: not quite what is stored."""


class HalfProducer:
    """A member of a producer group with a connection of its own; close it, or use `async with`."""

    def __init__(self, address: str, group: str) -> None:
        self.address = address
        self.group = group
        self.checks: list[Check] = []
        self.answers: dict[bytes, int] = {}
        """Body → how a check of that message is answered; others are left open."""
        self.pool = Pool(SystemNetwork(), merge([row(CheckTransactionStateRequest, self._checked)]))
        self._client_id = f"127.0.0.1@half-producer-{next(_names)}"
        self._answering: set[asyncio.Task[int]] = set()

    async def __aenter__(self) -> HalfProducer:
        await self.heartbeat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.close()

    async def heartbeat(self) -> None:
        """Let the broker know that there is a producer."""
        body = HeartbeatData(self._client_id, [ProducerData(self.group)], []).encode()
        await self.pool.call(self.address, HeartBeatRequest(), body, timeout_s=_PATIENCE_S)

    def _checked(self, request: Request[CheckTransactionStateRequest]) -> None:
        record = decode_record(request.body)
        self.checks.append(Check(request.header, record))
        if how := self.answers.get(record.body):
            header = request.header
            half = Half(
                record.read_properties()["UNIQ_KEY"], header.tran_state_table_offset, header.commit_log_offset
            )
            answering = asyncio.ensure_future(self.end(half, how, from_transaction_check=True))
            self._answering.add(answering)
            answering.add_done_callback(self._answering.discard)

    async def half(
        self, topic: str, body: bytes, *, unique_key: str = "", sys_flag: int = 0, **fields: Any
    ) -> Half:
        """Store a half message; `properties` are added to those that make it one."""
        unique_key = unique_key or f"{next(_names):032X}"
        table = {"TRAN_MSG": "true", "PGROUP": self.group, "UNIQ_KEY": unique_key} | fields.pop(
            "properties", {}
        )
        header = send_header(
            topic,
            producer_group=self.group,
            properties=encode_properties(table),
            sys_flag=sys_flag | TRANSACTION_PREPARED,
            born_timestamp=time.time_ns() // 1_000_000,  # what is older than files are kept is given up
            **fields,
        )
        answer = await self.pool.call(self.address, header, body, timeout_s=_PATIENCE_S)
        stored = answer.read(SendMessageResponse)
        return Half(unique_key, stored.queue_offset, decode_offset_msg_id(stored.msg_id)[1])

    async def end(self, half: Half, how: int, **fields: Any) -> int:
        """Commit or roll back; the answer's code."""
        try:
            header = self._ending(half, how, **fields)
            return (await self.pool.call(self.address, header, timeout_s=_PATIENCE_S)).code
        except ResponseError as error:
            return error.code

    async def end_all(self, halves: Iterable[Half], how: int) -> None:
        """Commit or roll back many, as Java's clients do: without waiting for an answer."""
        connection = await self.pool.connection(self.address)
        for half in halves:
            connection.oneway(self._ending(half, how))

    def _ending(self, half: Half, how: int, **fields: Any) -> EndTransactionRequest:
        place = half.queue_offset, half.physical_offset
        return EndTransactionRequest(self.group, *place, how, half.unique_key, **fields)

    async def read(self, topic: str, queue_id: int = 0) -> list[MessageRecord]:
        """All that a queue holds."""
        found: list[MessageRecord] = []
        try:
            while True:
                answer = await pull(
                    self.pool,
                    self.address,
                    topic,
                    queue_id=queue_id,
                    offset=len(found),
                    timeout_s=_PATIENCE_S,
                )
                if not (got := records(answer)):
                    return found
                found += got
        except ResponseError:  # there is no such topic yet
            return found
