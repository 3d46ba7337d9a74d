"""Which queues of a topic a member of a group should own now (semantics.md §12.3)."""

from __future__ import annotations

import logging

from pymq.client.allocation import Allocation, allocate
from pymq.client.heartbeats import Heartbeats
from pymq.client.route_cache import RouteCache
from pymq.clock import Clock
from pymq.errors import PymqError
from pymq.protocol.bodies import MASTER_ID, ConsumerList, MessageQueue
from pymq.protocol.headers.groups import GetConsumerListByGroupRequest
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.rebalance")


class Rebalance:
    """Asks who the group's members are and works out this one's share, as all the others do."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        heartbeats: Heartbeats,
        clock: Clock,
        group: str,
        client_id: str,
        allocation: Allocation,
        timeout_s: float,
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._heartbeats = heartbeats
        self._clock = clock
        self._group = group
        self._client_id = client_id
        self._allocation = allocation
        self._timeout_s = timeout_s

    async def share(self, topic: str, *, of_all: bool) -> list[MessageQueue] | None:
        """The queues to own; None when that cannot be found out now, so that all stays as it is.

        With `of_all` (broadcasting) every member owns every queue.
        """
        route = self._routes.known(topic)
        if route is None or route.borrowed:
            return None
        if of_all:
            return list(route.readable)
        members = await self._members(topic, sorted(route.brokers))
        if members is None:
            return None
        # A broker names an id twice while it holds a connection that died unseen: the rules would then leave
        # the share of the second one to nobody. The order is Apache's.
        return allocate(self._allocation, self._client_id, route.readable, sorted(set(members)))

    async def _members(self, topic: str, broker_names: list[str]) -> list[str] | None:
        """Client ids of the group, from one broker of the topic; another is asked when the first fails."""
        self._clock.random.shuffle(broker_names)
        for name in broker_names:
            replicas = self._routes.replicas(name)
            address = replicas.get(MASTER_ID) or next(iter(replicas.values()), None)
            if address is None:
                continue
            try:
                members = await self._ask(address)
                if self._client_id not in members:
                    # It may have lost us with a connection: else everything would be given up for nothing.
                    await self._heartbeats.send(address)
                    members = await self._ask(address)
            except PymqError as error:
                log.info("members of group %s for topic %s: %s", self._group, topic, error)
            else:
                return members
        return None

    async def _ask(self, address: str) -> list[str]:
        header = GetConsumerListByGroupRequest(self._group)
        reply = await self._pool.call(address, header, timeout_s=self._timeout_s, accept=(0, 1))
        if reply.code != 0 or not reply.body:  # 1: the group has no member there
            return []
        return ConsumerList.decode(reply.body).consumer_id_list
