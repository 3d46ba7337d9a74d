"""The broker's subscription groups: `subscriptionGroup.json` (semantics.md §3.2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.name_checks import QUEUES_MAX, group_fault, within
from pymq.clock import Clock
from pymq.errors import ResponseError
from pymq.protocol import tolerant_json
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig, SubscriptionGroupWrapper
from pymq.protocol.bodies.topic_config import DataVersion
from pymq.protocol.codes import ResponseCode

log = logging.getLogger("pymq.broker.groups")

BUILT_IN_GROUPS = (
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
)

SYSTEM_GROUP_PREFIX = "CID_RMQ_SYS_"


class SubscriptionGroups:
    """Group name → configuration. Configurations are replaced, never changed in place.

    `on_change` is called with the group's name after each change.
    """

    def __init__(self, config: BrokerConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.on_change: list[Callable[[str], None]] = []
        self._table = {name: SubscriptionGroupConfig(group_name=name) for name in BUILT_IN_GROUPS}
        self.data_version = DataVersion(counter=0, timestamp=clock.now_ms())

    def get(self, group: str) -> SubscriptionGroupConfig | None:
        """A group's configuration, or None."""
        return self._table.get(group)

    def get_or_create(self, group: str) -> SubscriptionGroupConfig | None:
        """A group's configuration, made with defaults on first use where that is allowed; else None.

        Raises ResponseError SYSTEM_ERROR for a new group whose name breaks the rules.
        """
        config = self._table.get(group)
        if config is None and (
            self._config.auto_create_subscription_group or group.startswith(SYSTEM_GROUP_PREFIX)
        ):
            fault = group_fault(group)
            if fault is not None:
                raise ResponseError(ResponseCode.SYSTEM_ERROR, fault)
            config = SubscriptionGroupConfig(group_name=group)
            log.info("subscription group %s created on first use", group)
            self.put(config)
        return config

    def put(self, config: SubscriptionGroupConfig) -> None:
        """Create or replace a group."""
        self._table[config.group_name] = config
        self._advance(config.group_name)

    def delete(self, group: str) -> bool:
        """Forget a group; says whether there was one."""
        if self._table.pop(group, None) is None:
            return False
        self._advance(group)
        return True

    def _advance(self, changed: str) -> None:
        self.data_version = self.data_version.next(self._clock.now_ms())
        for listener in self.on_change:
            listener(changed)

    def snapshot(self) -> SubscriptionGroupWrapper:
        """A copy with its data version, which may be encoded on another thread."""
        return SubscriptionGroupWrapper(self.data_version, dict(self._table))

    def part(self, names: Iterable[str]) -> SubscriptionGroupWrapper:
        """As `snapshot`, but only of these groups."""
        return SubscriptionGroupWrapper(self.data_version, {name: self._table[name] for name in names})

    def drop(self, names: Iterable[str]) -> None:
        """While loading: these were deleted after what was loaded so far."""
        for name in names:
            self._table.pop(name, None)

    def load(self, text: str) -> None:
        """Overlay the built-in groups by what a file holds. Raises BodyError."""
        body = tolerant_json.decode(text.encode(), SubscriptionGroupWrapper)
        for name, group in body.subscription_group_table.items():
            queues = within(group.retry_queue_nums, QUEUES_MAX)
            if queues != group.retry_queue_nums:
                log.warning("group %s: retryQueueNums=%d taken as %d", name, group.retry_queue_nums, queues)
                group = msgspec.structs.replace(group, retry_queue_nums=queues)
            self._table[name] = group
        self.data_version = body.data_version
