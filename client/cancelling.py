"""Cancelling a timed message by another one, for the same time, that names it (Apache 5.x's HookUtils)."""

from __future__ import annotations

import asyncio

from pymq.client.failures import MessageInvalid, TooLateToCancel
from pymq.client.route_cache import AUTO_CREATE_TOPIC, DEFAULT_TOPIC_QUEUE_NUMS, RouteCache
from pymq.client.send_result import STATUS_BY_CODE, SendResult
from pymq.client.timer_support import TimerSupport
from pymq.clock import Clock
from pymq.errors import ConnectFailed, ResponseError
from pymq.protocol import properties as names
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import SendMessageRequestV2
from pymq.protocol.message_ids import UniqueKeys
from pymq.protocol.properties import encode_properties
from pymq.protocol.recall_handles import read_recall_handle
from pymq.transport.pool import Pool

_BODY = b"0"


class Cancelling:
    """Tells brokers which timed messages are not to be delivered."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        support: TimerSupport,
        clock: Clock,
        unique_keys: UniqueKeys,
        group: str,
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._support = support
        self._clock = clock
        self._unique_keys = unique_keys
        self._group = group

    async def cancel(self, receipt: SendResult | str, timeout_s: float) -> None:
        """Have the broker drop a message, by the result of its send or the `recall_handle` in it.

        Raises MessageInvalid, TooLateToCancel, RouteNotFound, NameServersUnreachable, TimersMissing,
        ResponseError, TransportError, TimeoutError.
        """
        if not isinstance(receipt, str | SendResult):
            kind = type(receipt).__name__
            raise MessageInvalid(
                f"a {kind} names no message: give the result of its send, or the recall_handle"
            )
        text = receipt if isinstance(receipt, str) else receipt.recall_handle
        if text is None:
            raise MessageInvalid(
                "the message cannot be cancelled: it has no delay, or one of a level (deliver_at has none), "
                "or the broker is too old to tell when it is due"
            )
        handle = read_recall_handle(text)
        if handle is None:
            raise MessageInvalid(f"{text!r} is no recall handle of a timed message")
        async with asyncio.timeout(timeout_s):
            await self._routes.route(handle.topic)
            address = self._routes.address(handle.broker_name)
            if address is None:
                raise ConnectFailed("", f"the address of the master of {handle.broker_name} is not known")
            connection = await self._pool.connection(address)
            key = await self._support.cancelled_key(connection, handle.topic, handle.unique_key, timeout_s)
            properties = {
                names.UNIQ_KEY: self._unique_keys.next(),
                names.WAIT: "true",
                names.TIMER_DELIVER_MS: str(handle.deliver_ms),
                names.TIMER_DEL_UNIQKEY: key,
            }
            header = SendMessageRequestV2(
                producer_group=self._group,
                topic=handle.topic,
                default_topic=AUTO_CREATE_TOPIC,
                default_topic_queue_nums=DEFAULT_TOPIC_QUEUE_NUMS,
                queue_id=0,
                sys_flag=0,
                born_timestamp=self._clock.now_ms(),
                flag=0,
                properties=encode_properties(properties),
                reconsume_times=0,
                unit_mode="false",
                batch="false",
            )
            command = await connection.call(header, _BODY, timeout_s=timeout_s)
        if command.code == ResponseCode.MESSAGE_ILLEGAL:
            raise TooLateToCancel(handle.unique_key, command.remark or "")
        if command.code not in STATUS_BY_CODE:
            raise ResponseError(command.code, command.remark or "", address)
