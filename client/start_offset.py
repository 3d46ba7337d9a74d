"""Where a consumer begins in a queue that its group has no offset for (semantics.md §12.5)."""

from __future__ import annotations

import datetime
from typing import Literal

from pymq.client.received import RETRY_TOPIC_PREFIX
from pymq.client.route_cache import RouteCache
from pymq.errors import ConfigError, ConnectFailed
from pymq.protocol.bodies import MASTER_ID, ConsumeFromWhere, MessageQueue
from pymq.protocol.headers.messaging import (
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    OffsetResponse,
    SearchOffsetRequest,
)
from pymq.transport.pool import Pool

Start = Literal["first", "last"] | datetime.datetime
"""`first`: all that is stored; `last`: what comes from now on; a time: what was stored since then, in each
queue from the message nearest to that time on, be it the one before.

A broker keeps Apache's rule for young topics: a group that is new to a queue whose first message is still in
memory begins at 0, whatever it asked for (semantics.md §7).
"""


class StartOffset:
    """Finds the offset to begin at."""

    def __init__(self, pool: Pool, routes: RouteCache, start: Start, timeout_s: float) -> None:
        """Raises ConfigError when `start` is none of the three."""
        if start not in ("first", "last") and not isinstance(start, datetime.datetime):
            raise ConfigError(f"start={start!r}: expected 'first', 'last' or a datetime")
        self._pool = pool
        self._routes = routes
        self._start = start
        self._timeout_s = timeout_s

    @property
    def where(self) -> ConsumeFromWhere:
        """As brokers are told in heartbeats."""
        if self._start == "first":
            return ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
        if self._start == "last":
            return ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET
        return ConsumeFromWhere.CONSUME_FROM_TIMESTAMP

    async def find(self, queue: MessageQueue) -> int:
        """The offset, 0 or more. Raises PymqError when it cannot be found out."""
        is_retry = queue.topic.startswith(RETRY_TOPIC_PREFIX)
        header: GetMinOffsetRequest | GetMaxOffsetRequest | SearchOffsetRequest
        if self._start == "first" or (self._start == "last" and is_retry):
            header = GetMinOffsetRequest(queue.topic, queue.queue_id)
        elif isinstance(self._start, datetime.datetime) and not is_retry:
            timestamp_ms = int(self._start.timestamp() * 1000)
            header = SearchOffsetRequest(queue.topic, queue.queue_id, timestamp_ms)
        else:
            header = GetMaxOffsetRequest(queue.topic, queue.queue_id)
        address = self._routes.address(queue.broker_name, MASTER_ID)
        if address is None:
            raise ConnectFailed("", f"the address of the master of {queue.broker_name} is not known")
        reply = await self._pool.call(address, header, timeout_s=self._timeout_s)
        return max(0, reply.read(OffsetResponse).offset)
