"""Where a group's offsets are kept: at the brokers, or for broadcasting in a file (semantics.md §12.8)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from msgspec import field

from pymq.client.route_cache import RouteCache
from pymq.disk import Disk
from pymq.errors import BodyError, ConnectFailed, PymqError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies import MASTER_ID, MessageQueue
from pymq.protocol.bodies.body import Body
from pymq.protocol.codes import ResponseCode
from pymq.protocol.header import Long
from pymq.protocol.headers.messaging import (
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.offset_store")


class OffsetStore(Protocol):
    """The committed offsets of one group."""

    async def read(self, queue: MessageQueue) -> int | None:
        """The committed offset, None when there is none. Raises PymqError when that cannot be found out."""
        ...

    async def commit(self, offsets: Mapping[MessageQueue, int], *, wait: bool) -> None:
        """Store offsets, also lower ones than before.

        With `wait` it is sure afterwards, or logged that it is not; without, it is soon done.
        """
        ...


class BrokerOffsets:
    """Offsets kept by the brokers: those of clustering groups."""

    def __init__(self, pool: Pool, routes: RouteCache, group: str, timeout_s: float, wait_s: float) -> None:
        """`timeout_s` is for questions, `wait_s` for commits that are waited for."""
        self._pool = pool
        self._routes = routes
        self._group = group
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._sent: dict[MessageQueue, int] = {}  # what was committed last
        self._stored: dict[MessageQueue, int] = {}  # what the broker is known to have

    async def read(self, queue: MessageQueue) -> int | None:
        """As OffsetStore.read."""
        reply = await self._pool.call(
            self._address(queue),
            QueryConsumerOffsetRequest(self._group, queue.topic, queue.queue_id),
            timeout_s=self._timeout_s,
            accept=(ResponseCode.SUCCESS, ResponseCode.QUERY_NOT_FOUND),
        )
        self._sent.pop(queue, None)
        self._stored.pop(queue, None)
        if reply.code == ResponseCode.QUERY_NOT_FOUND:
            return None
        offset = reply.read(QueryConsumerOffsetResponse).offset
        if offset < 0:
            return None
        self._sent[queue] = self._stored[queue] = offset
        return offset

    async def commit(self, offsets: Mapping[MessageQueue, int], *, wait: bool) -> None:
        """As OffsetStore.commit.

        An offset as it was read is not written back: another member may have committed a later one.
        """
        known = self._stored if wait else self._sent
        changed = [(queue, offset) for queue, offset in offsets.items() if known.get(queue) != offset]
        await asyncio.gather(*[self._commit(queue, offset, wait) for queue, offset in changed])

    async def _commit(self, queue: MessageQueue, offset: int, wait: bool) -> None:
        header = UpdateConsumerOffsetRequest(self._group, queue.topic, queue.queue_id, offset)
        try:
            address = self._address(queue)
            if wait:
                await self._pool.call(address, header, timeout_s=self._wait_s)
            else:
                connection = self._pool.connected(address)
                if connection is None:
                    return  # the next commit is for it
                self._stored.pop(queue, None)
                connection.oneway(header)
        except PymqError as error:
            log.warning("committing offset %d of %s for group %s: %s", offset, queue, self._group, error)
        else:
            self._sent[queue] = offset
            if wait:
                self._stored[queue] = offset

    def _address(self, queue: MessageQueue) -> str:
        replicas = self._routes.replicas(queue.broker_name)
        if not replicas:
            raise ConnectFailed("", f"no address of broker {queue.broker_name} is known")
        return replicas.get(MASTER_ID) or replicas[min(replicas)]


class _OffsetsFile(Body):
    """The content of offsets.json: queues are object keys."""

    offset_table: dict[MessageQueue, Long] = field(default_factory=dict)


class LocalOffsets:
    """Offsets in a file of this machine, as Apache's clients write it: those of broadcasting groups."""

    def __init__(self, disk: Disk, folder: str) -> None:
        """`folder` is the group's own; it is made when something is written."""
        self._disk = disk
        self._folder = folder
        self._path = f"{folder}/offsets.json"
        self._table: dict[MessageQueue, int] | None = None
        self._writing = asyncio.Lock()

    async def read(self, queue: MessageQueue) -> int | None:
        """As OffsetStore.read; also from the `.bak` file when the main one is empty or broken."""
        return (await self._load()).get(queue)

    async def commit(self, offsets: Mapping[MessageQueue, int], *, wait: bool) -> None:
        """As OffsetStore.commit."""
        async with self._writing:
            before = await self._load()
            table = {**before, **offsets}
            if table == before:
                return
            self._table = table
            try:
                self._disk.make_folder(self._folder)
                await self._disk.write_text(self._path, _encode(table))
            except PymqError as error:
                self._table = before
                log.warning("committing broadcast offsets: %s", error)

    async def _load(self) -> dict[MessageQueue, int]:
        if self._table is None:
            self._table = await self._decode(self._path) or await self._decode(self._path + ".bak") or {}
        return self._table

    async def _decode(self, path: str) -> dict[MessageQueue, int] | None:
        text = await self._disk.read_text(path)
        if not text or not text.strip():
            return None
        try:
            return _OffsetsFile.decode(text.encode()).offset_table
        except BodyError as error:
            log.warning("%s cannot be read: %s", path, error)
            return None


def _encode(table: dict[MessageQueue, int]) -> str:
    return '{"offsetTable":' + bytes(tolerant_json.encode_map(table)).decode() + "}"
