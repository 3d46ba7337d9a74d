"""What a pull wants of its queue: by its group's subscription, or the one it brings (semantics.md §2.1)."""

from __future__ import annotations

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_filters import ConsumerFilterTable, Sieve, is_by_tags
from pymq.broker.live_clients import LiveClients
from pymq.broker.topics import RETRY_PREFIX
from pymq.errors import ResponseError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import PullMessageRequest
from pymq.protocol.sysflags import PullFlag
from pymq.protocol.tag_filter import TagExpressionError, tag_codes

Wanted = frozenset[int] | Sieve | None
"""Messages with one of these tags codes, those that pass the sieve, or all."""


class Subscriptions:
    """The subscriptions that pulls are served by."""

    def __init__(self, config: BrokerConfig, clients: LiveClients, filters: ConsumerFilterTable) -> None:
        self._clients = clients
        self._filters = filters
        self._retries_too = config.filter_support_retry

    def wanted(self, header: PullMessageRequest) -> Wanted:
        """What a pull wants. Raises ResponseError: no subscription, an old one, or one that is wrong."""
        wanted = self._wanted(header)
        if self._retries_too and header.topic.startswith(RETRY_PREFIX):
            codes = wanted.codes if isinstance(wanted, Sieve) else wanted
            return self._filters.of_retries(header.topic, codes) or wanted
        return wanted

    def _wanted(self, header: PullMessageRequest) -> Wanted:
        if header.sys_flag & PullFlag.SUBSCRIPTION:
            if not is_by_tags(header.expression_type):
                return self._filters.brought(header.expression_type, header.subscription)
            return _codes_of(header.subscription, header.topic)
        online = self._clients.consumers(header.consumer_group)
        if online is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_NOT_EXIST,
                f"the consumer's group info not exist: {header.consumer_group} has no member online",
            )
        subscription = online.subscriptions.get(header.topic)
        if subscription is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_NOT_EXIST,
                f"the consumer's subscription not exist: {header.consumer_group} to {header.topic}",
            )
        if subscription.sub_version < header.sub_version:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest"
            )
        if subscription.class_filter_mode:
            return None
        if not is_by_tags(subscription.expression_type):
            return self._filters.registered(header.consumer_group, subscription, header.sub_version)
        return _codes_of(subscription.sub_string, header.topic)


def _codes_of(expression: str | None, topic: str) -> frozenset[int] | None:
    try:
        return tag_codes(expression)
    except TagExpressionError as error:
        raise ResponseError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, f"topic {topic}: {error}") from None
