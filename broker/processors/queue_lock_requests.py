"""Locking queues for ordered consumption (LOCK_BATCH_MQ 41, UNLOCK_BATCH_MQ 42; wire.md §4.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from pymq.broker.live_clients import ConsumerGroup, LiveClients
from pymq.broker.queue_locks import QueueLocks, Refused
from pymq.protocol.bodies.heartbeat import LockBatchRequestBody, LockBatchResponseBody
from pymq.protocol.codes import RequestCode
from pymq.protocol.headers.groups import LockBatchMqRequest, UnlockBatchMqRequest
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.locks")


class QueueLockProcessor:
    """Serves the members of groups that consume in order.

    `notify` tells members of a group, given by their client ids, to rebalance.
    """

    def __init__(
        self,
        locks: QueueLocks,
        clients: LiveClients,
        notify: Callable[[ConsumerGroup, Collection[str]], None],
    ) -> None:
        self._locks = locks
        self._clients = clients
        self._notify = notify

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(LockBatchMqRequest, self.lock), row(UnlockBatchMqRequest, self.unlock)]

    def lock(self, request: Request[LockBatchMqRequest]) -> Answer:
        """Take or renew locks. The answer names the queues that the asker holds now, of those asked for."""
        body = LockBatchRequestBody.decode(request.body)
        held = self._locks.lock(body.consumer_group, body.client_id, body.mq_set)
        return Answer(body=LockBatchResponseBody(held).encode())

    def unlock(self, request: Request[UnlockBatchMqRequest]) -> Answer:
        """Give up locks: only the asker's own."""
        body = LockBatchRequestBody.decode(request.body)
        self._tell(self._locks.unlock(body.consumer_group, body.client_id, body.mq_set))
        return Answer()

    def expire(self) -> None:
        """End the locks of holders that are gone; to be called every second."""
        self._tell(self._locks.expire())

    def _tell(self, refused: Refused) -> None:
        for name, client_ids in refused.items():
            group = self._clients.consumers(name)
            if group is not None:
                log.debug("group %s: locks have ended that %s wait for", name, ", ".join(sorted(client_ids)))
                self._notify(group, client_ids)
