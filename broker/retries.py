"""For which group a failed message comes again, and when it is a dead letter (semantics.md §1.4, §4.1)."""

from __future__ import annotations

from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.errors import ResponseError
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.codes import ResponseCode

VERSION_OWN_RETRY_LIMIT = 121
"""From this version (3.4.9) on a client says itself after how many attempts it gives up."""


def retried_group(groups: SubscriptionGroups, name: str) -> SubscriptionGroupConfig:
    """The group that a message is to come again for, made on first use where that is allowed.

    Raises ResponseError SUBSCRIPTION_GROUP_NOT_EXIST, or SYSTEM_ERROR for a new group of an illegal name.
    """
    group = groups.get_or_create(name)
    if group is None:
        raise ResponseError(
            ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {name}"
        )
    return group


def is_dead_letter(
    group: SubscriptionGroupConfig, reconsume_times: int, client_limit: int | None, client_version: int
) -> bool:
    """Whether a message that has come again so often is not to do so once more.

    `client_limit`: the maxReconsumeTimes of the request, which goes before the group's retryMaxTimes when the
    client is new enough to mean it.
    """
    limit = group.retry_max_times
    if client_limit is not None and client_version >= VERSION_OWN_RETRY_LIMIT:
        limit = client_limit
    return reconsume_times >= limit
