"""Finding stored messages by a key, on all brokers of a topic (wire.md §4.4)."""

from __future__ import annotations

import asyncio
import datetime

from pymq.client.received import ReceivedMessage, Recipient
from pymq.client.route_cache import RouteCache
from pymq.errors import PymqError
from pymq.protocol import properties as names
from pymq.protocol.bodies import MASTER_ID, MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import QueryMessageRequest
from pymq.protocol.message import decode_records
from pymq.transport.pool import Pool

_FOREVER_MS = 2**63 - 1
_FOUND_OR_NOT = (ResponseCode.SUCCESS, ResponseCode.QUERY_NOT_FOUND)


class Search:
    """Asks every broker of a topic, and sorts out what Apache's give for another key of the same hash."""

    def __init__(self, pool: Pool, routes: RouteCache, recipient: Recipient) -> None:
        self._pool = pool
        self._routes = routes
        self._namespace = recipient.namespace
        self._found = _Found(recipient)

    async def find(
        self,
        topic: str,
        key: str,
        max_num: int,
        begin: datetime.datetime | None,
        end: datetime.datetime | None,
        timeout_s: float,
        silent: set[str] | None = None,
    ) -> list[ReceivedMessage]:
        """The newest messages, oldest first. Raises as `Client.query`; `silent` as in `find_named`."""
        return await self.find_named(self._namespace.wrap(topic), key, max_num, begin, end, timeout_s, silent)

    async def find_named(
        self,
        topic: str,
        key: str,
        max_num: int,
        begin: datetime.datetime | None,
        end: datetime.datetime | None,
        timeout_s: float,
        silent: set[str] | None = None,
    ) -> list[ReceivedMessage]:
        """As `find`, of a topic as brokers call it.

        With `silent` it does without brokers that fail, or need more than half of the time: their names go
        there. It raises what one of them raised when that are all.
        """
        header = QueryMessageRequest(
            topic, key, max_num, _ms(begin) if begin else 0, _ms(end) if end else _FOREVER_MS
        )
        async with asyncio.timeout(timeout_s):
            route = await self._routes.route(topic)
            # The master has all; where there is none, the replica with the lowest id is asked.
            asked = {
                name: brokers.get(MASTER_ID) or brokers[min(brokers)]
                for name, brokers in route.brokers.items()
            }
            if silent is None:
                asking = (self._ask(name, address, header, timeout_s) for name, address in asked.items())
                parts = await asyncio.gather(*asking)
            else:
                parts = await self._ask_those_that_answer(asked, header, timeout_s / 2, silent)
        found = sorted((each for part in parts for each in part), key=lambda each: each.store_timestamp)
        return found[max(0, len(found) - max_num) :]

    async def _ask_those_that_answer(
        self, asked: dict[str, str], header: QueryMessageRequest, timeout_s: float, silent: set[str]
    ) -> list[list[ReceivedMessage]]:
        parts: list[list[ReceivedMessage]] = []
        failure: PymqError | None = None

        async def ask(name: str, address: str) -> None:
            nonlocal failure
            try:
                parts.append(await self._ask(name, address, header, timeout_s))
            except PymqError as error:
                silent.add(name)
                failure = error

        await asyncio.gather(*(ask(name, address) for name, address in asked.items()))
        if failure is not None and not parts:
            raise failure
        return parts

    async def _ask(
        self, broker_name: str, address: str, header: QueryMessageRequest, timeout_s: float
    ) -> list[ReceivedMessage]:
        reply = await self._pool.call(address, header, timeout_s=timeout_s, accept=_FOUND_OR_NOT)
        if reply.code == ResponseCode.QUERY_NOT_FOUND:
            return []
        found = []
        for record in decode_records(reply.body):
            queue = MessageQueue(record.topic, broker_name, record.queue_id)
            message = ReceivedMessage(record, queue, self._found)
            message.ack()
            is_meant = header.key in message.keys or header.key == message.properties.get(names.UNIQ_KEY)
            if record.topic == header.topic and is_meant:
                found.append(message)
        return found


class _Found:
    """What was found by a search belongs to no consumer: there is nothing to settle."""

    def __init__(self, recipient: Recipient) -> None:
        self.recipient = recipient

    def done(self, message: ReceivedMessage) -> None:
        pass

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        pass

    def released(self, message: ReceivedMessage) -> None:
        pass


def _ms(time: datetime.datetime) -> int:
    return int(time.timestamp() * 1000)
