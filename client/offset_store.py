"""Where a group's offsets are kept: at the brokers, or for broadcasting in a file (semantics.md §12.8)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Protocol

from msgspec import field

from pymq.client.route_cache import RouteCache
from pymq.disk import Disk
from pymq.errors import BodyError, ConnectFailed, PymqError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies import MASTER_ID, MessageQueue
from pymq.protocol.bodies.body import Body, Long
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import (
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.offset_store")


class OffsetStore(Protocol):
    """The committed offsets of one group."""

    async def read(self, queue: MessageQueue) -> int | None:
        """The committed offset, None when there is none. Raises PymqError when that cannot be found out."""
        ...

    async def commit(
        self,
        offsets: Mapping[MessageQueue, int],
        *,
        wait: bool,
        anew: bool = False,
        unless_silent: bool = False,
    ) -> None:
        """Store offsets, also lower ones than before; what cannot be stored is logged.

        With `wait` all is tried; without, what cannot be reached at once is left to the next commit. With
        `anew` those are said again that are stored already. With `unless_silent` brokers that did not answer
        lately are passed over.
        """
        ...

    def confirm(self, queues: Iterable[MessageQueue]) -> None:
        """These are this member's, as it was told just now.

        What was committed of them may have been forgotten or set back: the next commit says it again.
        """
        ...


class BrokerOffsets:
    """Offsets kept by the brokers: those of clustering groups.

    One commit follows the other, each answered before the next: Apache's brokers work off what arrives with
    many threads, so that of two commits under way the older one may win — one that a pull carries along, too.
    Nor may the very first commits of a group and topic come together: two threads would each make the
    table of its queues, and one replace the other. (Both seen with 4.3.2 and 4.9.4.)
    """

    def __init__(self, pool: Pool, routes: RouteCache, group: str, timeout_s: float, wait_s: float) -> None:
        """`timeout_s` is for questions, `wait_s` for commits."""
        self._pool = pool
        self._routes = routes
        self._group = group
        self._timeout_s = timeout_s
        self._wait_s = wait_s
        self._stored: dict[MessageQueue, int] = {}  # what the broker is known to have
        self._told: set[MessageQueue] = set()  # those whose offset it has from this member
        self._begun: set[tuple[str, str]] = set()  # topic and broker that have some offset of the group
        self._last: asyncio.Future[None] | None = None

    async def read(self, queue: MessageQueue) -> int | None:
        """As OffsetStore.read."""
        reply = await self._pool.call(
            self._address(queue),
            QueryConsumerOffsetRequest(self._group, queue.topic, queue.queue_id),
            timeout_s=self._timeout_s,
            accept=(ResponseCode.SUCCESS, ResponseCode.QUERY_NOT_FOUND),
        )
        self._stored.pop(queue, None)
        self._told.discard(queue)
        if reply.code == ResponseCode.QUERY_NOT_FOUND:
            return None
        offset = reply.read(QueryConsumerOffsetResponse).offset
        if offset < 0:
            return None
        if offset > 0:  # 0 may be a broker's word for a young queue, which it forgets as the queue grows
            self._stored[queue] = offset
        return offset

    async def commit(
        self,
        offsets: Mapping[MessageQueue, int],
        *,
        wait: bool,
        anew: bool = False,
        unless_silent: bool = False,
    ) -> None:
        """As OffsetStore.commit. A commit under way goes on when this is cancelled.

        An offset as it was read is not written back: another member may have committed a later one. But 0 is:
        a group that has got nothing of a queue yet must not begin behind messages that come later.
        """
        self._last = asyncio.ensure_future(
            self._commit_after(self._last, dict(offsets), wait, anew, unless_silent)
        )
        await asyncio.shield(self._last)

    def confirm(self, queues: Iterable[MessageQueue]) -> None:
        """As OffsetStore.confirm, for what was committed by this member.

        A broker that was killed has forgotten its last seconds, a master never heard what its slave was told,
        and a former owner that was stuck may have given its queue up late, and set the offset back. That is
        not said again before it is known whose a queue is: while this member was cut off, another one may
        have had it and come further.
        """
        for queue in queues:
            if queue in self._told and self._connected(queue) is not None:
                del self._stored[queue]
                self._told.remove(queue)

    def _connected(self, queue: MessageQueue) -> Connection | None:
        with contextlib.suppress(ConnectFailed):
            return self._pool.connected(self._address(queue))
        return None

    async def _commit_after(
        self,
        last: asyncio.Future[None] | None,
        offsets: Mapping[MessageQueue, int],
        wait: bool,
        anew: bool,
        unless_silent: bool,
    ) -> None:
        if last is not None:
            await asyncio.wait([last])
        changed = {
            queue: offset for queue, offset in offsets.items() if anew or self._stored.get(queue) != offset
        }
        by_broker: defaultdict[str, dict[MessageQueue, int]] = defaultdict(dict)
        for queue, offset in changed.items():
            by_broker[queue.broker_name][queue] = offset
        parts = by_broker.values()
        await asyncio.gather(*[self._commit_at_one(some, wait, unless_silent) for some in parts])

    async def _commit_at_one(self, offsets: dict[MessageQueue, int], wait: bool, unless_silent: bool) -> None:
        """Commit the queues of one broker: of each topic that is new to it one first."""
        first = {(queue.topic, queue.broker_name): queue for queue in offsets}
        alone = [queue for place, queue in first.items() if place not in self._begun]
        for some in ({queue: offsets.pop(queue) for queue in alone}, offsets):
            if not some:
                continue
            if unless_silent and self._is_silent(next(iter(some))):
                text = "offsets of group %s are not committed, broker %s is silent: %s"
                log.warning(text, self._group, next(iter(some)).broker_name, {**some, **offsets})
                return
            await asyncio.gather(*[self._commit(queue, offset, wait) for queue, offset in some.items()])
            unless_silent = wait  # once is enough

    def _is_silent(self, queue: MessageQueue) -> bool:
        with contextlib.suppress(ConnectFailed):
            return self._pool.is_silent(self._address(queue))
        return False

    async def _commit(self, queue: MessageQueue, offset: int, wait: bool) -> None:
        header = UpdateConsumerOffsetRequest(self._group, queue.topic, queue.queue_id, offset)
        try:
            address = self._address(queue)
            if not wait and self._pool.connected(address) is None:
                return
            await self._pool.call(address, header, timeout_s=self._wait_s)
        except PymqError as error:
            log.warning("committing offset %d of %s for group %s: %s", offset, queue, self._group, error)
        else:
            self._begun.add((queue.topic, queue.broker_name))
            if self._pool.connected(address) is not None:
                self._stored[queue] = offset
                self._told.add(queue)

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

    async def commit(
        self,
        offsets: Mapping[MessageQueue, int],
        *,
        wait: bool,
        anew: bool = False,
        unless_silent: bool = False,
    ) -> None:
        """As OffsetStore.commit; the file holds what was stored, so that nothing is said again."""
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

    def confirm(self, queues: Iterable[MessageQueue]) -> None:
        """As OffsetStore.confirm; the file forgets nothing."""

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
