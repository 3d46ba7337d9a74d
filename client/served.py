"""What brokers ask of a client (wire.md §4.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from pymq.client.group_member import GroupMember
from pymq.client.request_reply import PendingReplies
from pymq.client.transaction_checks import TransactionChecks
from pymq.errors import PymqError, ResponseError
from pymq.protocol.bodies import ConsumerStatusBody, ResetOffsetBody
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import (
    ConsumeMessageDirectlyRequest,
    GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest,
    NotifyConsumerIdsChangedRequest,
    PushReplyMessageToClientRequest,
    ResetConsumerClientOffsetRequest,
)
from pymq.protocol.headers.messaging import CheckTransactionStateRequest
from pymq.protocol.message import decode_record
from pymq.transport.dispatch import Answer, DispatchTable, Request, merge, row

log = logging.getLogger("pymq.client")


class BrokerRequests:
    """Serves brokers' requests about the consumers and transactions of this client, and replies they bring.

    `members` are the consumers by group, `replies` what this client asked others, `checks` hears of
    transactions;
    `run` keeps a coroutine running until the client closes.
    """

    def __init__(
        self,
        members: dict[str, GroupMember],
        replies: PendingReplies,
        checks: TransactionChecks,
        name_servers: Iterable[str],
        run: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self._members = members
        self._name_servers = tuple(name_servers)
        self._run = run
        self.table: DispatchTable = merge(
            [
                row(NotifyConsumerIdsChangedRequest, self._members_changed),
                row(ResetConsumerClientOffsetRequest, self._reset_offset),
                row(GetConsumerStatusFromClientRequest, self._consumer_status),
                row(GetConsumerRunningInfoRequest, self._running_info),
                row(ConsumeMessageDirectlyRequest, self._consume_directly),
                row(PushReplyMessageToClientRequest, replies.arrived),
                row(CheckTransactionStateRequest, checks.asked),
            ]
        )

    def _members_changed(self, request: Request[NotifyConsumerIdsChangedRequest]) -> Answer:
        member = self._members.get(request.header.consumer_group)
        if member is not None:
            member.group_changed()
        return Answer()

    def _reset_offset(self, request: Request[ResetConsumerClientOffsetRequest]) -> Answer:
        member = self._member(request.header.group)
        offsets = ResetOffsetBody.decode(request.body).offsets

        async def reset() -> None:
            try:
                await member.reset(offsets)
            except PymqError as error:
                log.warning("resetting offsets of group %s: %s", member.group, error)

        self._run(reset())
        return Answer()

    def _consumer_status(self, request: Request[GetConsumerStatusFromClientRequest]) -> Answer:
        offsets = self._member(request.header.group).offsets(request.header.topic)
        return Answer(body=ConsumerStatusBody({}, offsets).encode())

    def _running_info(self, request: Request[GetConsumerRunningInfoRequest]) -> Answer:
        member = self._member(request.header.consumer_group)
        return Answer(body=member.running_info(self._name_servers).encode())

    async def _consume_directly(self, request: Request[ConsumeMessageDirectlyRequest]) -> Answer:
        member = self._member(request.header.consumer_group)
        record = decode_record(request.body)
        result = await member.consume_directly(record, request.header.broker_name or "")
        return Answer(body=result.encode())

    def _member(self, group: str) -> GroupMember:
        member = self._members.get(group)
        if member is None:
            remark = f"The Consumer Group <{group}> not exist in this consumer"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, remark)
        return member
