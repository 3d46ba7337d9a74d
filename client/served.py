"""What brokers ask of a client (wire.md §4.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from msgspec import field

from pymq.client.group_member import GroupMember
from pymq.errors import PymqError, ResponseError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.bodies.body import Body, Long
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.groups import (
    GetConsumerRunningInfoRequest,
    GetConsumerStatusFromClientRequest,
    NotifyConsumerIdsChangedRequest,
    ResetConsumerClientOffsetRequest,
)
from pymq.transport.dispatch import Answer, DispatchTable, Request, merge, row

log = logging.getLogger("pymq.client")


class ResetOffsetBody(Body):
    """The offsets to go on at (body of 220)."""

    offset_table: dict[MessageQueue, Long] = field(default_factory=dict)


class BrokerRequests:
    """Serves brokers' requests about the consumers of this client.

    `members` are the consumers by group; `run` keeps a coroutine running until the client closes.
    """

    def __init__(
        self,
        members: dict[str, GroupMember],
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
            ]
        )

    def _members_changed(self, request: Request[NotifyConsumerIdsChangedRequest]) -> Answer:
        member = self._members.get(request.header.consumer_group)
        if member is not None:
            member.rebalance_soon()
        return Answer()

    def _reset_offset(self, request: Request[ResetConsumerClientOffsetRequest]) -> Answer:
        member = self._member(request.header.group)
        offsets = ResetOffsetBody.decode(request.body).offset_table

        async def reset() -> None:
            try:
                await member.reset(offsets)
            except PymqError as error:
                log.warning("resetting offsets of group %s: %s", member.group, error)

        self._run(reset())
        return Answer()

    def _consumer_status(self, request: Request[GetConsumerStatusFromClientRequest]) -> Answer:
        offsets = self._member(request.header.group).offsets(request.header.topic)
        table = bytes(tolerant_json.encode_map(offsets))
        return Answer(body=b'{"consumerTable":{},"messageQueueTable":%b}' % table)

    def _running_info(self, request: Request[GetConsumerRunningInfoRequest]) -> Answer:
        member = self._member(request.header.consumer_group)
        return Answer(body=member.running_info(self._name_servers).encode())

    def _member(self, group: str) -> GroupMember:
        member = self._members.get(group)
        if member is None:
            remark = f"The Consumer Group <{group}> not exist in this consumer"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, remark)
        return member
