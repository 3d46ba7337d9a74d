"""What a consumer subscribes to: topics with tags or SQL92 expressions (semantics.md §2.3, §12.2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

import msgspec

from pymq.client.failures import FilterRefused
from pymq.client.namespace import Namespace
from pymq.client.route_cache import RouteCache
from pymq.errors import ConfigError, PymqError, ResponseError, TransportError
from pymq.protocol.bodies import MASTER_ID, ConsumerData, SubscriptionData
from pymq.protocol.bodies.connections import CheckClientConfigBody
from pymq.protocol.headers.groups import CheckClientConfigRequest
from pymq.protocol.sql92 import SQL92
from pymq.protocol.tag_filter import ALL_TAGS, java_hash, parse_tags
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.consumer")


class Sql(msgspec.Struct, frozen=True):
    """An SQL92 expression on the properties of messages: `Sql("a > 5 AND region IS NOT NULL")`.

    The broker evaluates it, and takes it only with enablePropertyFilter=true.
    """

    expression: str


def filters(
    topic: str | Mapping[str, str | Sql], tags: str = ALL_TAGS, sql: str | None = None
) -> dict[str, str | Sql]:
    """The filter of each topic: a tag expression, or Sql. Raises ConfigError when two are given for one."""
    if isinstance(topic, str):
        if sql is None:
            return {topic: tags}
        if tags != ALL_TAGS:
            raise ConfigError(
                "tags and sql: a topic has one of them; in SQL tags are a property (TAGS = 'a')"
            )
        return {topic: Sql(sql)}
    if not isinstance(topic, Mapping):
        raise ConfigError(f"topic={topic!r}: expected a topic's name, or a mapping from names to expressions")
    if sql is not None or tags != ALL_TAGS:
        raise ConfigError("tags and sql are for one topic: of several, each has its own in the mapping")
    return dict(topic)


def subscription(topic: str, wanted: str | Sql, version_ms: int) -> SubscriptionData:
    """A subscription as brokers know it. Raises TagExpressionError; ConfigError for an empty expression."""
    if isinstance(wanted, Sql):
        if not wanted.expression.strip():
            raise ConfigError(f"topic {topic}: the SQL expression is empty")
        return SubscriptionData(topic, wanted.expression, sub_version=version_ms, expression_type=SQL92)
    if not isinstance(wanted, str):
        raise ConfigError(f"topic {topic}: {wanted!r} is no tag expression (a text), nor Sql")
    tags = parse_tags(wanted)
    if tags is None:
        return SubscriptionData(topic, ALL_TAGS, sub_version=version_ms)
    codes = {java_hash(tag) for tag in tags}
    return SubscriptionData(topic, " || ".join(sorted(tags)), set(tags), codes, version_ms)


class FilterCheck:
    """Asks brokers beforehand whether they will filter as a consumer wants it.

    Otherwise a wrong expression would show only as pulls that fail, or with Apache's brokers not at all: they
    give everything to a pull whose expression they cannot read.
    """

    def __init__(
        self, pool: Pool, routes: RouteCache, client_id: str, namespace: Namespace, timeout_s: float
    ) -> None:
        self._pool = pool
        self._routes = routes
        self._client_id = client_id
        self._namespace = namespace
        self._timeout_s = timeout_s

    async def check(self, consumer: ConsumerData) -> None:
        """Ask every broker of the topics that are not filtered by tags. Raises FilterRefused.

        Brokers that cannot be reached, and topics that do not exist yet, are passed over.
        """
        for each in consumer.subscription_data_set:
            if each.expression_type != SQL92:
                continue
            body = CheckClientConfigBody(each, self._client_id, consumer.group_name).encode()
            brokers = await self._brokers(each.topic)
            await asyncio.gather(*[self._ask(name, brokers[name], each, body) for name in sorted(brokers)])

    async def _brokers(self, topic: str) -> dict[str, str]:
        """The masters of a topic: name → address."""
        route = None
        with contextlib.suppress(PymqError):  # joining will say so
            route = await self._routes.refresh(topic)
        replicas = route.brokers if route is not None else {}
        return {name: ids[MASTER_ID] for name, ids in replicas.items() if MASTER_ID in ids}

    async def _ask(self, broker: str, address: str, wanted: SubscriptionData, body: bytes) -> None:
        try:
            await self._pool.call(address, CheckClientConfigRequest(), body, timeout_s=self._timeout_s)
        except ResponseError as error:
            topic = self._namespace.unwrap(wanted.topic)
            raise FilterRefused(topic, wanted.sub_string, broker, error) from None
        except TransportError as error:
            log.warning("whether broker %s filters by SQL92 is not known: %s", broker, error)
