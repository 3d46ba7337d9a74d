"""Finding messages by topic and key: QUERY_MESSAGE (wire.md §4.4, store.md §4)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from pymq.broker.broker_config import BrokerConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.framing import FRAME_MAX_LENGTH
from pymq.protocol.headers.messaging import QueryMessageRequest, QueryMessageResponse
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

NOT_FOUND = "can not find message, maybe time range not correct"
BYTES_MAX = FRAME_MAX_LENGTH - (64 << 10)
"""Of the records in an answer: with its header it must fit into a frame that clients take."""


class QueryProcessor:
    """Serves those who look for messages by what they are called."""

    def __init__(self, config: BrokerConfig, store: MessageStore) -> None:
        self._config = config
        self._store = store

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(QueryMessageRequest, self.query)]

    async def query(self, request: Request[QueryMessageRequest]) -> Answer:
        """The newest messages with a key, oldest first, as stored bytes: as many as one frame can hold.

        Apache's broker goes by the key's hash alone, and its clients drop the rest; not so here.
        """
        header = request.header
        wanted = self._config.default_query_max_num if header.unique_key_query else header.max_num
        found = await self._find(header, min(wanted, self._config.max_msgs_num_batch))
        if not found:
            return Answer(ResponseCode.QUERY_NOT_FOUND, QueryMessageResponse(0, 0), remark=NOT_FOUND)
        return Answer(0, QueryMessageResponse(*self._store.index_last_update), found[::-1])

    async def _find(self, header: QueryMessageRequest, wanted: int) -> list[bytes]:
        """Up to so many records, newest first, and at least one if there is any, however large.

        Others are served meanwhile when there is much to look at.
        """
        found: list[bytes] = []
        size = 0
        search = self._store.search(header.topic, header.key, header.begin_timestamp, header.end_timestamp)
        while len(found) < wanted:
            try:
                record = next(search)
            except StopIteration:
                break
            if record is None:
                await asyncio.sleep(0)
                continue
            size += len(record)
            if found and size > BYTES_MAX:
                break
            found.append(record)
        return found
