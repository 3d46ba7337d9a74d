"""Pulling one queue: one request at a time, held by the broker while there is nothing.

Source: semantics.md §12.4.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from pymq.client.process_queue import ProcessQueue
from pymq.client.route_cache import RouteCache
from pymq.client.settings import Settings
from pymq.clock import Clock
from pymq.errors import CallTimeout, ConnectFailed, PymqError
from pymq.protocol.bodies import MASTER_ID, SubscriptionData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import PullMessageRequest, PullMessageResponse
from pymq.protocol.message import MessageRecord, decode_records
from pymq.protocol.properties import TAGS, get_property
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool, Reply

log = logging.getLogger("pymq.client.pull_loop")

_ANSWERS = (
    ResponseCode.SUCCESS,
    ResponseCode.PULL_NOT_FOUND,
    ResponseCode.PULL_RETRY_IMMEDIATELY,
    ResponseCode.PULL_OFFSET_MOVED,
)


class Puller(Protocol):
    """The consumer that a queue is pulled for."""

    def room(self, process_queue: ProcessQueue) -> int:
        """How many messages may be pulled now; 0 while enough are held."""
        ...

    def arrived(self, process_queue: ProcessQueue, records: list[MessageRecord]) -> None:
        """These were pulled."""
        ...

    def offset_moved(self, process_queue: ProcessQueue, offset: int) -> None:
        """The broker has not what was asked for: drop the queue and let it begin anew at `offset`."""
        ...

    def troubled(self, address: str, error: PymqError) -> None:
        """A pull failed."""
        ...


class PullLoop:
    """Pulls one queue until it is dropped or the task is cancelled."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        clock: Clock,
        settings: Settings,
        group: str,
        subscription: SubscriptionData,
        process_queue: ProcessQueue,
        puller: Puller,
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._clock = clock
        self._settings = settings
        self._group = group
        self._subscription = subscription
        self._process_queue = process_queue
        self._puller = puller
        self._broker_id = MASTER_ID
        self._is_failing = False

    async def run(self, delay_s: float = 0.0) -> None:
        """Pull, from `delay_s` seconds on. Errors are logged, the first of a row as a warning."""
        await asyncio.sleep(delay_s)
        while not self._process_queue.is_dropped:
            room = self._puller.room(self._process_queue)
            if room <= 0:
                await self._process_queue.changed()
                continue
            address = ""
            try:
                address = self._broker()
                self._take(await self._pull(address, room))
                self._is_failing = False
            except PymqError as error:
                self._failed(address, error)
                await asyncio.sleep(self._settings.pull_retry_s)
            except Exception:  # whatever it is: a queue that nobody pulls would stand still unseen
                queue = self._process_queue.queue
                log.exception(
                    "pulling %s:%d of %s failed; trying again", queue.broker_name, queue.queue_id, queue.topic
                )
                self._broker_id = MASTER_ID
                await asyncio.sleep(self._settings.pull_retry_s)

    def _failed(self, address: str, error: PymqError) -> None:
        queue = self._process_queue.queue
        level = logging.DEBUG if self._is_failing else logging.WARNING
        log.log(level, "pulling %s:%d of %s: %s", queue.broker_name, queue.queue_id, queue.topic, error)
        self._is_failing = True
        self._broker_id = MASTER_ID
        self._puller.troubled(address, error)

    def _broker(self) -> str:
        """The broker to ask: the one that the last answer suggested, else the next higher id, else any."""
        name = self._process_queue.queue.broker_name
        replicas = self._routes.replicas(name)
        for broker_id in (self._broker_id, self._broker_id + 1, *replicas):
            if broker_id in replicas:
                return replicas[broker_id]
        raise ConnectFailed("", f"no address of broker {name} is known")

    async def _pull(self, address: str, room: int) -> Reply:
        process_queue = self._process_queue
        queue = process_queue.queue
        flags = PullFlag.SUSPEND | PullFlag.SUBSCRIPTION
        process_queue.last_pull_ms = self._clock.now_ms()
        header = PullMessageRequest(
            consumer_group=self._group,
            topic=queue.topic,
            queue_id=queue.queue_id,
            queue_offset=process_queue.next_offset,
            max_msg_nums=min(room, self._settings.pull_batch),
            sys_flag=flags,
            commit_offset=0,  # not along with pulls: see BrokerOffsets
            suspend_timeout_millis=int(self._settings.suspend_s * 1000),
            subscription=self._subscription.sub_string,
            sub_version=self._subscription.sub_version,
            expression_type=self._subscription.expression_type,
        )
        try:
            return await self._pool.call(
                address, header, timeout_s=self._settings.pull_timeout_s, accept=_ANSWERS
            )
        except CallTimeout:
            self._pool.drop(address)  # a broker answers held pulls in time, so this connection is dead
            raise

    def _take(self, reply: Reply) -> None:
        process_queue = self._process_queue
        header = reply.read(PullMessageResponse)
        records = decode_records(reply.body) if reply.code == ResponseCode.SUCCESS else []
        if process_queue.is_dropped:
            return
        self._broker_id = header.suggest_which_broker_id
        if reply.code == ResponseCode.PULL_OFFSET_MOVED:
            queue = process_queue.queue
            log.warning(
                "%s:%d of %s has no offset %d (it holds %d to %d); going on at %d",
                queue.broker_name,
                queue.queue_id,
                queue.topic,
                process_queue.next_offset,
                header.min_offset,
                header.max_offset,
                header.next_begin_offset,
            )
            self._puller.offset_moved(process_queue, header.next_begin_offset)
            return
        wanted = [record for record in records if self._wants(record)]
        if wanted:
            self._puller.arrived(process_queue, wanted)
        # Last: what is pulled is not passed over, even if something went wrong with it here.
        process_queue.next_offset = max(process_queue.next_offset, header.next_begin_offset)

    def _wants(self, record: MessageRecord) -> bool:
        """The exact check: a broker filters by the hash of the tag, which different tags may share."""
        tags = self._subscription.tags_set
        return not tags or get_property(record.properties, TAGS) in tags
