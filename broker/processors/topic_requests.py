"""Topics by request: create, delete, list, statistics (codes 17, 21, 202, 215, 305, 351)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from pymq.broker.arrivals import Arrivals
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.name_checks import PERM_MAX, queues_fault, topic_fault
from pymq.broker.topics import TopicTable
from pymq.errors import ResponseError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import TopicOffset, TopicStatsTable
from pymq.protocol.bodies.topic_config import TopicConfig, TopicList
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteTopicInBrokerRequest,
    GetAllTopicConfigRequest,
    GetSystemTopicListFromBrokerRequest,
    GetTopicConfigRequest,
    GetTopicStatsInfoRequest,
)
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.topics")

_SETTLE_S = 3.0
"""Tools give up after five seconds."""


class TopicProcessor:
    """Serves those who set up topics and look at them.

    `register_topic` tells the name servers of one topic and returns when they have answered. `save` returns
    when the topics are on the disk; it raises StoreError when they cannot be written.
    """

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        offsets: ConsumerOffsetTable,
        store: MessageStore,
        arrivals: Arrivals,
        register_topic: Callable[[str], Awaitable[None]],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self._config = config
        self._topics = topics
        self._offsets = offsets
        self._store = store
        self._arrivals = arrivals
        self._register_topic = register_topic
        self._save = save

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(CreateTopicRequest, self.create),
            row(DeleteTopicInBrokerRequest, self.delete),
            row(GetAllTopicConfigRequest, self.all_topics),
            row(GetTopicConfigRequest, self.one_topic),
            row(GetSystemTopicListFromBrokerRequest, self.system_topics),
            row(GetTopicStatsInfoRequest, self.stats),
        ]

    async def create(self, request: Request[CreateTopicRequest]) -> Answer:
        """Create or change a topic; answered once it is on the disk and the name servers know of it.

        So a route asked for next is right, and a crash loses no topic that somebody was told of.
        """
        header = request.header
        fault = self._fault(header)
        if fault is not None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, fault)
        known = self._topics.get(header.topic)
        self._topics.put(
            TopicConfig(
                header.topic,
                header.read_queue_nums,
                header.write_queue_nums,
                header.perm,
                header.topic_filter_type,
                header.topic_sys_flag or 0,
                known.order if known else False,
            )
        )
        log.info(
            "topic %s %s by %s: %d read and %d write queues, perm %d",
            header.topic,
            "changed" if known else "created",
            request.connection.address,
            header.read_queue_nums,
            header.write_queue_nums,
            header.perm,
        )
        self._arrivals.wake_topic(header.topic)
        await self._save()
        await self._register_topic(header.topic)
        return Answer()

    def _fault(self, header: CreateTopicRequest) -> str | None:
        """Why a topic cannot be made like this, or None."""
        if self._topics.is_system(header.topic):
            return f"The topic[{header.topic}] is conflict with system topic."
        fault = (
            topic_fault(header.topic)
            or queues_fault("readQueueNums", header.read_queue_nums)
            or queues_fault("writeQueueNums", header.write_queue_nums)
        )
        if fault is None and not 0 <= header.perm <= PERM_MAX:
            fault = f"perm={header.perm}: expected a number from 0 to {PERM_MAX}"
        if fault is None and header.topic_filter_type not in ("SINGLE_TAG", "MULTI_TAG"):
            fault = f"topicFilterType {header.topic_filter_type!r}: expected SINGLE_TAG or MULTI_TAG"
        return fault

    async def delete(self, request: Request[DeleteTopicInBrokerRequest]) -> Answer:
        """Delete a topic, its queues, and the offsets of all groups in it, as 5.x does.

        4.x keeps the offsets; then a group would pass over the first messages of a topic made anew.
        """
        topic = request.header.topic
        if self._topics.is_system(topic):
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"The topic[{topic}] is conflict with system topic."
            )
        if self._topics.delete(topic):
            log.info("topic %s deleted by %s", topic, request.connection.address)
        self._offsets.remove_topic(topic)
        settled = asyncio.Event()
        self._store.delete_topic(topic, lambda _: settled.set())
        self._arrivals.wake_topic(topic)
        await self._save()
        with contextlib.suppress(TimeoutError):  # gone it is; that no crash brings it back may take longer
            async with asyncio.timeout(_SETTLE_S):
                await settled.wait()
        return Answer()

    def all_topics(self, request: Request[GetAllTopicConfigRequest]) -> Answer:
        """The whole table with its data version."""
        return Answer(body=self._topics.snapshot().encode())

    def one_topic(self, request: Request[GetTopicConfigRequest]) -> Answer:
        """One topic's configuration."""
        return Answer(body=self._known(request.header.topic).encode())

    def system_topics(self, request: Request[GetSystemTopicListFromBrokerRequest]) -> Answer:
        """The broker's own topics."""
        return Answer(body=TopicList(self._topics.system_topics).encode())

    def stats(self, request: Request[GetTopicStatsInfoRequest]) -> Answer:
        """Bounds of each write queue, and when its last message was stored (0: none)."""
        topic = request.header.topic
        table = {}
        for queue_id in range(self._known(topic).write_queue_nums):
            low = max(0, self._store.min_offset(topic, queue_id))
            high = max(0, self._store.max_offset(topic, queue_id))
            stored_ms = self._store.store_time(topic, queue_id, high - 1) if high > low else 0
            table[MessageQueue(topic, self._config.broker_name, queue_id)] = TopicOffset(
                low, high, max(0, stored_ms)
            )
        return Answer(body=TopicStatsTable(table).encode())

    def _known(self, topic: str) -> TopicConfig:
        config = self._topics.get(topic)
        if config is None:
            raise ResponseError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic}] not exist")
        return config
