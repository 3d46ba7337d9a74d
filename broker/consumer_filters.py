"""The SQL92 filters of consumer groups, and what a pull wants by them (semantics.md §2.3, §3.1).

A filter is registered by the group's heartbeats and kept, in consumerFilter.json too, until the group has
been away for filterDataCleanTimeSpan. Pulls use it, or bring an expression of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.live_clients import ConsumerGroup
from pymq.broker.topics import RETRY_PREFIX
from pymq.clock import Clock
from pymq.errors import ResponseError
from pymq.protocol.bloom import BloomFilter
from pymq.protocol.bodies.filter_data import (
    BloomFilterData,
    ConsumerFilterData,
    ConsumerFilters,
    FilterDataMapByTopic,
)
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.protocol.codes import ResponseCode
from pymq.protocol.properties import RETRY_TOPIC, get_property
from pymq.protocol.sql92 import SQL92, Sql92Error, Sql92Filter, compile_sql92
from pymq.protocol.tag_filter import TagExpressionError, tag_codes

log = logging.getLogger("pymq.broker.filters")

LOADED_DEAD_MS = 30_000
"""So long before the start groups are taken to have left that were online when the file was written."""


class Sieve(msgspec.Struct, frozen=True):
    """What a pull wants that the hashes of tags cannot tell.

    `matches` looks at a message's stored property text; `cost` is the number of operations that this takes.
    `codes`: the tags codes wanted as well, None for all.
    """

    matches: Callable[[str], bool]
    cost: int
    codes: frozenset[int] | None = None


def is_by_tags(kind: str | None) -> bool:
    """Whether an expression type means tags: none does."""
    return kind in (None, "", "TAG")


class ConsumerFilterTable:
    """Topic and group → filter. `on_change`: the file should be written."""

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self.on_change: list[Callable[[], None]] = []
        self._is_enabled = config.enable_property_filter
        self._keep_ms = config.filter_data_clean_time_span
        self._clock = clock
        self._bloom = BloomFilter(
            config.max_error_rate_of_bloom_filter, config.expect_consumer_num_use_filter
        )
        self._groups: dict[str, dict[str, ConsumerFilterData]] = {}
        """Group → topic → filter."""
        self._warned: set[tuple[str, str]] = set()
        """Groups and topics whose expression is known to be wrong."""

    # -- what a pull wants

    def check(self, kind: str | None, expression: str | None) -> None:
        """Raise ResponseError when a subscription is none that is served here: it says why."""
        if is_by_tags(kind):
            try:
                tag_codes(expression)
            except TagExpressionError as error:
                raise ResponseError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error)) from None
        else:
            self._compiled(kind, expression)

    def brought(self, kind: str | None, expression: str | None) -> Sieve:
        """By the expression that a pull brings along. Raises ResponseError."""
        compiled = self._compiled(kind, expression)
        return Sieve(compiled.matches_text, compiled.cost)

    def registered(self, group: str, subscription: SubscriptionData, version: int) -> Sieve:
        """By the group's registered filter, which must not be older than `version`. Raises ResponseError."""
        self._check_enabled(subscription.expression_type)
        data = self._groups.get(group, {}).get(subscription.topic)
        if data is None:
            try:
                self._compiled(subscription.expression_type, subscription.sub_string)
                why = "the next heartbeat will bring it"
            except ResponseError as error:
                why = error.remark
            raise ResponseError(
                ResponseCode.FILTER_DATA_NOT_EXIST, f"the consumer's filter data does not exist: {why}"
            )
        if data.client_version < version:
            raise ResponseError(
                ResponseCode.FILTER_DATA_NOT_LATEST, "the consumer's consumer filter data not latest"
            )
        return self.brought(data.expression_type, data.expression)

    def of_retries(self, topic: str, codes: frozenset[int] | None) -> Sieve | None:
        """For a retry topic, with filterSupportRetry: each message by its group's filter on its first topic.

        None when the group filters nothing by SQL92.
        """
        group = topic.removeprefix(RETRY_PREFIX)
        filters = {name: found for name in self._groups.get(group, ()) if (found := self._live(group, name))}
        if not self._is_enabled or not filters:
            return None

        def matches(properties: str) -> bool:
            found = filters.get(get_property(properties, RETRY_TOPIC) or "")
            return found is None or found.matches_text(properties)

        return Sieve(matches, max(found.cost for found in filters.values()), codes)

    def _live(self, group: str, topic: str) -> Sql92Filter | None:
        data = self._groups[group][topic]
        return None if data.is_dead else _try_compile(data.expression)

    def _check_enabled(self, kind: str | None) -> None:
        if not self._is_enabled:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"The broker does not support consumer to filter message by {kind} "
                "(enablePropertyFilter=false)",
            )

    def _compiled(self, kind: str | None, expression: str | None) -> Sql92Filter:
        self._check_enabled(kind)
        if kind != SQL92:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_PARSE_FAILED, f"expression type {kind!r}: expected TAG or SQL92"
            )
        try:
            return compile_sql92(expression or "")
        except Sql92Error as error:
            raise ResponseError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, str(error)) from None

    # -- who has which

    def heartbeat(self, group: ConsumerGroup) -> None:
        """Take the filters that a group subscribes by now; those on other topics are dead."""
        if not self._is_enabled:
            return
        wanted = {
            topic: subscription
            for topic, subscription in group.subscriptions.items()
            if subscription.expression_type == SQL92 and not subscription.class_filter_mode
        }
        changed = False
        for topic, subscription in wanted.items():
            changed |= self._register(group.name, topic, subscription)
        for topic, data in self._groups.get(group.name, {}).items():
            if topic not in wanted:
                changed |= self._let_die(data)
        if changed:
            self._changed()

    def group_left(self, group: str) -> None:
        """The last member of a group has gone."""
        changed = False
        for data in self._groups.get(group, {}).values():
            changed |= self._let_die(data)
        if changed:
            self._changed()

    def _changed(self) -> None:
        for listener in self.on_change:
            listener()

    def _register(self, group: str, topic: str, subscription: SubscriptionData) -> bool:
        """Take one filter, unless one of a later version is known. Says whether anything has changed."""
        filters = self._groups.setdefault(group, {})
        old, version = filters.get(topic), subscription.sub_version
        if old is not None and version <= old.client_version:
            if version < old.client_version or not old.is_dead:
                return False
            old.dead_time = 0
            return True
        if old is not None and old.expression == subscription.sub_string:
            old.client_version = version
            old.dead_time = 0
            return True
        try:
            compile_sql92(subscription.sub_string)
        except Sql92Error as error:
            if (group, topic) not in self._warned:
                self._warned.add((group, topic))
                log.warning("group %s cannot read topic %s: %s", group, topic, error)
            return filters.pop(topic, None) is not None
        self._warned.discard((group, topic))
        filters[topic] = ConsumerFilterData(
            topic,
            group,
            subscription.sub_string,
            SQL92,
            born_time=self._clock.now_ms(),
            client_version=version,
            bloom_filter_data=self._bits(group, topic),
        )
        log.info("group %s filters topic %s by: %s", group, topic, subscription.sub_string)
        return True

    def _bits(self, group: str, topic: str) -> BloomFilterData:
        return BloomFilterData(self._bloom.bits, self._bloom.positions(f"{group}#{topic}"))

    def _let_die(self, data: ConsumerFilterData) -> bool:
        if data.is_dead:
            return False
        data.dead_time = max(self._clock.now_ms(), data.born_time)
        return True

    def clean(self) -> None:
        """Forget the filters of groups that have been away for too long."""
        before = self._clock.now_ms() - self._keep_ms
        changed = False
        for group, filters in list(self._groups.items()):
            for topic in [t for t, data in filters.items() if data.is_dead and data.dead_time <= before]:
                log.info("the filter of group %s on topic %s is forgotten: nobody used it", group, topic)
                del filters[topic]
                changed = True
            if not filters:
                del self._groups[group]
        if changed:
            self._changed()

    # -- the file

    def snapshot(self) -> ConsumerFilters:
        """A copy that may be encoded on another thread."""
        by_topic: dict[str, FilterDataMapByTopic] = {}
        for group, filters in self._groups.items():
            for topic, data in filters.items():
                entry = by_topic.setdefault(topic, FilterDataMapByTopic(topic))
                entry.group_filter_data[group] = msgspec.structs.replace(data, dead=data.is_dead)
        return ConsumerFilters(by_topic)

    def load(self, text: str) -> None:
        """Take what a file holds. Raises BodyError.

        No group is online at the start, so all filters count as dead until their groups are back.
        """
        self._groups = {}
        left_ms = self._clock.now_ms() - LOADED_DEAD_MS
        for topic, entry in ConsumerFilters.decode(text.encode()).filter_data_by_topic.items():
            for group, data in entry.group_filter_data.items():
                if _try_compile(data.expression) is None:
                    log.warning("the filter of group %s on topic %s cannot be used", group, topic)
                if not data.is_dead:
                    data.dead_time = max(left_ms, data.born_time)
                data.bloom_filter_data = self._bits(group, topic)
                self._groups.setdefault(group, {})[topic] = data


def _try_compile(expression: str) -> Sql92Filter | None:
    try:
        return compile_sql92(expression)
    except Sql92Error:
        return None
