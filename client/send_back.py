"""Handing a message back to its broker, which brings it again later (semantics.md §4.1)."""

from __future__ import annotations

import logging

from pymq.client.received import ReceivedMessage
from pymq.client.route_cache import RouteCache
from pymq.errors import PymqError
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.consumer")


class SendBack:
    """Sends failed messages of one group back."""

    def __init__(
        self, pool: Pool, routes: RouteCache, group: str, max_retries: int, timeout_s: float
    ) -> None:
        """After `max_retries` failures the broker moves a message to the dead-letter topic."""
        self._pool = pool
        self._routes = routes
        self._group = group
        self._max_retries = max_retries
        self._timeout_s = timeout_s

    async def send(self, message: ReceivedMessage, delay_level: int) -> bool:
        """Whether the broker that stores the message took it back."""
        address = self._routes.address(message.queue.broker_name)
        if address is None:
            return False
        header = ConsumerSendMsgBackRequest(
            offset=message.record.physical_offset,
            group=self._group,
            delay_level=delay_level,
            origin_msg_id=message.msg_id,
            origin_topic=message.topic,
            unit_mode="false",
            max_reconsume_times=self._max_retries,
        )
        try:
            await self._pool.call(address, header, timeout_s=self._timeout_s)
        except PymqError as error:
            log.warning("%s was not taken back: %s", message, error)
            return False
        return True
