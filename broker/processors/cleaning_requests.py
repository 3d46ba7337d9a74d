"""Tidying up by request: codes 306, 316 and 329 (wire.md §4.5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from pymq.broker.arrivals import Arrivals
from pymq.broker.topics import TopicTable
from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import (
    CleanExpiredConsumeQueueRequest,
    CleanUnusedTopicRequest,
    DeleteExpiredCommitLogRequest,
)
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.cleaning")

KEPT_TOPICS = (
    "SCHEDULE_TOPIC_XXXX",
    "rmq_sys_wheel_timer",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
)
"""Delays, timers and transactions count on in their queues, even when all that was in them has expired."""


def _peer(request: Request[Header]) -> str:
    return request.connection.address


class CleaningProcessor:
    """Serves those who want gone what is of no use any more. The loop has its turn after each queue."""

    def __init__(self, topics: TopicTable, store: MessageStore, arrivals: Arrivals) -> None:
        self._topics = topics
        self._store = store
        self._arrivals = arrivals

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(CleanExpiredConsumeQueueRequest, self.clean_expired_queues),
            row(CleanUnusedTopicRequest, self.clean_unused_topics),
            row(DeleteExpiredCommitLogRequest, self.delete_expired),
        ]

    async def clean_expired_queues(self, request: Request[CleanExpiredConsumeQueueRequest]) -> Answer:
        """Delete each queue of whose messages the commit log holds none any more: it restarts at 0."""
        for topic, queue_id in self._store.queues():
            if topic not in KEPT_TOPICS and self._store.delete_expired_queue(topic, queue_id):
                log.info("queue %d of topic %s, all expired, deleted by %s", queue_id, topic, _peer(request))
                self._arrivals.wake_topic(topic)
            await asyncio.sleep(0)
        return Answer()

    async def clean_unused_topics(self, request: Request[CleanUnusedTopicRequest]) -> Answer:
        """Delete the queues of each topic that has no configuration."""
        for topic in dict.fromkeys(topic for topic, _ in self._store.queues()):
            if self._topics.get(topic) is None and not self._topics.is_system(topic):
                log.info("the queues of topic %s, which does not exist, deleted by %s", topic, _peer(request))
                self._store.delete_topic(topic)
                self._arrivals.wake_topic(topic)
            await asyncio.sleep(0)
        return Answer()

    def delete_expired(self, request: Request[DeleteExpiredCommitLogRequest]) -> Answer:
        """Let the next cleaning runs delete what is expired; answered before that."""
        log.info("what is expired is to be deleted now, says %s", _peer(request))
        self._store.clean_soon()
        return Answer()
