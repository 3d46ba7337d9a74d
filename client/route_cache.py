"""What the client knows of topics and brokers, kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import logging
from collections.abc import Callable, Mapping

from pymq.client.failures import NameServersUnreachable, RouteNotFound
from pymq.client.name_servers import NameServers
from pymq.client.repeating import Repeating, end_tasks
from pymq.client.settings import Settings
from pymq.client.topic_route import TopicRoute, borrowed_route, topic_route
from pymq.errors import CallTimeout, PymqError, ResponseError
from pymq.protocol.bodies import MASTER_ID, ClusterInfo, TopicList, TopicRouteData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.naming import (
    GetAllTopicListRequest,
    GetBrokerClusterInfoRequest,
    GetRouteInfoRequest,
)

log = logging.getLogger("pymq.client.route_cache")

AUTO_CREATE_TOPIC = "TBW102"
"""The topic that new ones are made from; it has a route where a broker creates topics by itself."""

DEFAULT_TOPIC_QUEUE_NUMS = 4
"""Queues that a new topic gets on each broker, at most."""

_SIMILAR = 0.75
_REFRESH_PAUSE_S = 0.5


class RouteCache:
    """Routes by topic, asked for when they are first needed and again every 30 s.

    A route that no longer can be learnt is kept: its brokers may be back in a moment.
    """

    def __init__(self, name_servers: NameServers, settings: Settings) -> None:
        self._name_servers = name_servers
        self._routes: dict[str, TopicRoute] = {}
        self._subscribed: dict[str, int] = {}
        self._asking: dict[str, asyncio.Task[TopicRoute | None]] = {}
        self._brokers: dict[str, dict[int, str]] = {}
        self._registered: dict[str, dict[int, str]] = {}
        self._wants_all_brokers = False
        self._listeners: list[Callable[[str], None]] = []
        self._poll = Repeating("route poll", settings.poll_name_server_s, self._refresh_all)
        self._search = Repeating("route search", settings.poll_missing_route_s, self._refresh_missing)

    def start(self) -> None:
        """Begin to keep routes fresh."""
        self._poll.start()
        self._search.start()

    async def close(self) -> None:
        """Stop."""
        await self._poll.close()
        await self._search.close()
        await end_tasks(*self._asking.values())

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Call `listener` with the topic whenever a route turned out to be another one.

        With an empty text when brokers were learnt by `know_all_brokers`.
        """
        self._listeners.append(listener)

    def forget(self, listener: Callable[[str], None]) -> None:
        """End an `on_change`."""
        self._listeners.remove(listener)

    @property
    def name_servers(self) -> tuple[str, ...]:
        """The addresses of the name servers."""
        return self._name_servers.addresses

    # -- topics -------------------------------------------------------------------------------------

    def known(self, topic: str) -> TopicRoute | None:
        """The route as far as it is known; asks nobody."""
        return self._routes.get(topic)

    async def route(self, topic: str) -> TopicRoute:
        """The route of a topic to send to; of one that does not exist, where it would be created.

        Raises RouteNotFound, NameServersUnreachable.
        """
        route = self._routes.get(topic) or await self.refresh(topic)
        if route is not None:
            return route
        template = await self._ask(AUTO_CREATE_TOPIC)
        if template is None:
            raise await self._not_found(topic)
        route = borrowed_route(topic, template, DEFAULT_TOPIC_QUEUE_NUMS)
        self._learn(route)
        return route

    def unanswered(self) -> NameServersUnreachable:
        """The error for a route that was not learnt in the time that there was."""
        text = "no route was learnt in time"
        return NameServersUnreachable(
            {address: CallTimeout(address, f"{address}: {text}") for address in self.name_servers}
        )

    async def refresh(self, topic: str) -> TopicRoute | None:
        """Ask for a route now; those who ask at once share one question.

        None when the name servers do not know the topic, and no earlier route is known. Raises
        NameServersUnreachable, or ResponseError for an answer that makes no sense.
        """
        asking = self._asking.get(topic)
        if asking is None:
            asking = asyncio.ensure_future(self._refresh(topic))
            self._asking[topic] = asking
            asking.add_done_callback(lambda task: self._asked(topic, task))
        return await asyncio.shield(asking)

    async def _refresh(self, topic: str) -> TopicRoute | None:
        data = await self._ask(topic)
        if data is not None:
            self._learn(topic_route(topic, data))
        return self._routes.get(topic)

    def _asked(self, topic: str, task: asyncio.Task[TopicRoute | None]) -> None:
        self._asking.pop(topic, None)
        if not task.cancelled():
            task.exception()  # seen here, so that a waiter that left does not make asyncio complain

    async def _ask(self, topic: str) -> TopicRouteData | None:
        header = GetRouteInfoRequest(topic=topic, accept_standard_json_only=True)
        reply = await self._name_servers.call(
            header, accept=(ResponseCode.SUCCESS, ResponseCode.TOPIC_NOT_EXIST)
        )
        if reply.code == ResponseCode.TOPIC_NOT_EXIST:
            return None
        return TopicRouteData.decode(reply.body)

    def subscribe(self, topic: str) -> None:
        """Keep looking for a topic as long as it does not exist."""
        self._subscribed[topic] = self._subscribed.get(topic, 0) + 1

    def unsubscribe(self, topic: str) -> None:
        """End one `subscribe`."""
        self._subscribed[topic] -= 1
        if not self._subscribed[topic]:
            del self._subscribed[topic]

    # -- brokers ------------------------------------------------------------------------------------

    def address(self, broker_name: str, broker_id: int = MASTER_ID) -> str | None:
        """The address of one broker, the master's by default."""
        return self._brokers.get(broker_name, {}).get(broker_id)

    def replicas(self, broker_name: str) -> Mapping[int, str]:
        """Broker id → address of all brokers of one name."""
        return self._brokers.get(broker_name, {})

    def broker_name(self, address: str) -> str | None:
        """The name of the broker at an address."""
        for name, replicas in self._brokers.items():
            if address in replicas.values():
                return name
        return None

    def know_all_brokers(self) -> None:
        """Learn all brokers that are registered, not only those of the topics that are used here."""
        self._wants_all_brokers = True
        self._search.soon()

    def addresses(self, *, masters_only: bool) -> list[str]:
        """The addresses of all brokers of all routes."""
        found = [
            address
            for replicas in self._brokers.values()
            for broker_id, address in replicas.items()
            if broker_id == MASTER_ID or not masters_only
        ]
        return list(dict.fromkeys(found))

    # -- keeping fresh ------------------------------------------------------------------------------

    def _learn(self, route: TopicRoute) -> None:
        if self._routes.get(route.topic) == route:
            return
        self._routes[route.topic] = route
        brokers = dict(self._registered)
        for known in self._routes.values():
            if known is not route:
                brokers.update(known.brokers)
        brokers.update(route.brokers)  # what was learnt last is what holds
        self._brokers = brokers
        log.debug("route of %s: %s", route.topic, route)
        for listener in self._listeners:
            listener(route.topic)

    def refresh_soon(self) -> None:
        """Ask for all routes in a moment, without waiting for them: something about them seems wrong."""
        self._poll.soon(_REFRESH_PAUSE_S)

    async def _refresh_brokers(self) -> None:
        reply = await self._name_servers.call(GetBrokerClusterInfoRequest())
        table = ClusterInfo.decode(reply.body).broker_addr_table
        registered = {name: dict(broker.broker_addrs) for name, broker in table.items()}
        if registered == self._registered:
            return
        self._registered = registered
        routed = {name for route in self._routes.values() for name in route.brokers}
        self._brokers = {
            name: self._brokers[name] if name in routed else registered[name]
            for name in {**registered, **dict.fromkeys(routed)}
        }
        for listener in self._listeners:
            listener("")

    async def _refresh_all(self) -> None:
        if self._wants_all_brokers:
            try:
                await self._refresh_brokers()
            except ResponseError as error:
                log.warning("the list of all brokers: %s", error)
        for topic in list(dict.fromkeys([*self._routes, *self._subscribed])):
            await self.refresh(topic)

    async def _refresh_missing(self) -> None:
        if self._wants_all_brokers and not self._registered:
            with contextlib.suppress(PymqError):  # the poll speaks of it
                await self._refresh_brokers()
        for topic in list(self._subscribed):
            if topic not in self._routes or self._routes[topic].borrowed:
                with contextlib.suppress(PymqError):  # the poll speaks of them
                    await self.refresh(topic)

    async def nearest(self, topic: str) -> list[str]:
        """Names of topics that exist and look like this one; none when that cannot be found out."""
        try:
            reply = await self._name_servers.call(GetAllTopicListRequest())
            names = sorted(TopicList.decode(reply.body).topic_list)
        except PymqError:
            names = []
        return difflib.get_close_matches(topic, names, n=3, cutoff=_SIMILAR)

    async def _not_found(self, topic: str) -> RouteNotFound:
        hint = (
            "the topic does not exist, and no broker registered there creates topics by itself "
            "(autoCreateTopicEnable); create it, or check the name and the name servers"
        )
        return RouteNotFound(topic, self.name_servers, await self.nearest(topic), hint)
