"""Pulling: PULL_MESSAGE with long polling (semantics.md §2).

The way of one pull: group and topic may be read → subscription → `MessageStore.get` → the answer with the
stored bytes as slices; or, with nothing there, held in `Arrivals` and run once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pymq.broker.arrivals import HEARTBEAT, Arrivals, HeldPull
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.figures import Figures
from pymq.broker.live_clients import LiveClients
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.errors import PymqError, ResponseError
from pymq.protocol.bodies.subscription import SubscriptionGroupConfig
from pymq.protocol.bodies.topic_config import PERM_READ
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import PullMessageRequest, PullMessageResponse
from pymq.protocol.sysflags import PullFlag
from pymq.protocol.tag_filter import TagExpressionError, tag_codes
from pymq.store.messagestore import GetStatus, MessageStore
from pymq.transport.dispatch import Answer, Request, Row, refused, row

MASTER_ID = 0
"""Which broker to read from next: always the master, as long as there are no slaves."""

HEARTBEAT_PATIENCE_S = 1.0
"""How long a pull waits for the heartbeat that it has overtaken."""

_HEARTBEAT_MISSING = (ResponseCode.SUBSCRIPTION_NOT_EXIST, ResponseCode.SUBSCRIPTION_NOT_LATEST)

_CODES = {
    GetStatus.FOUND: ResponseCode.SUCCESS,
    GetStatus.MESSAGE_WAS_REMOVING: ResponseCode.PULL_RETRY_IMMEDIATELY,
    GetStatus.NO_MATCHED_MESSAGE: ResponseCode.PULL_RETRY_IMMEDIATELY,
    GetStatus.OFFSET_FOUND_NULL: ResponseCode.PULL_NOT_FOUND,
    GetStatus.OFFSET_OVERFLOW_ONE: ResponseCode.PULL_NOT_FOUND,
    GetStatus.OFFSET_OVERFLOW_BADLY: ResponseCode.PULL_OFFSET_MOVED,
    GetStatus.OFFSET_TOO_SMALL: ResponseCode.PULL_OFFSET_MOVED,
}
"""Store status → response code (wire.md §4.3); two more depend on the offset asked for."""

_EMPTY_QUEUE = (GetStatus.NO_MATCHED_LOGIC_QUEUE, GetStatus.NO_MESSAGE_IN_QUEUE)


class PullProcessor:
    """Serves consumers that read on in a queue."""

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsetTable,
        clients: LiveClients,
        arrivals: Arrivals,
        store: MessageStore,
        figures: Figures,
    ) -> None:
        self._config = config
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._clients = clients
        self._arrivals = arrivals
        self._store = store
        self._figures = figures

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(PullMessageRequest, self.pull)]

    def pull(self, request: Request[PullMessageRequest]) -> Answer | None:
        """Answer a pull, or hold it when nothing is there and the consumer lets us."""
        loop = asyncio.get_running_loop()
        return self._pull(request, loop.time() + HEARTBEAT_PATIENCE_S)

    def _pull(self, request: Request[PullMessageRequest], patient_until: float) -> Answer | None:
        header = request.header
        try:
            codes = self._admit(header)
        except ResponseError as error:
            if error.code not in _HEARTBEAT_MISSING or not self._wait_for_heartbeat(request, patient_until):
                raise
            return None
        if header.sys_flag & PullFlag.COMMIT_OFFSET:
            self._offsets.commit(header.consumer_group, header.topic, header.queue_id, header.commit_offset)
        answer = self._read(header, codes)
        if answer.code != ResponseCode.PULL_NOT_FOUND or not header.sys_flag & PullFlag.SUSPEND:
            return answer
        timeout_ms = (
            header.suspend_timeout_millis
            if self._config.long_polling_enable
            else self._config.short_polling_time_mills
        )
        if timeout_ms <= 0:
            return answer

        def rerun() -> None:
            # Whatever comes out the second time is the answer; the offset is not committed again.
            _reply(request, lambda: self._read(header, self._admit(header)))

        key = (header.topic, header.queue_id)
        self._arrivals.hold(HeldPull(key, header.queue_offset, codes, request.connection, rerun), timeout_ms)
        return None

    def _wait_for_heartbeat(self, request: Request[PullMessageRequest], patient_until: float) -> bool:
        """Hold a pull that has overtaken the heartbeat with its subscription; False when time is up.

        Java consumers raise their subscription's version after the first rebalance, and pull at once:
        refused, they would wait for up to three seconds before the next pull.
        """
        remaining_ms = int((patient_until - asyncio.get_running_loop().time()) * 1000)
        if remaining_ms <= 0:
            return False

        def rerun() -> None:
            _reply(request, lambda: self._pull(request, patient_until))

        key = (request.header.consumer_group, HEARTBEAT)
        self._arrivals.hold(HeldPull(key, 0, None, request.connection, rerun), remaining_ms)
        return True

    def _admit(self, header: PullMessageRequest) -> frozenset[int] | None:
        """Check a pull in Apache's order (semantics.md §2.1); gives the tags codes wanted, None for all."""
        if not self._config.broker_permission & PERM_READ:
            raise ResponseError(
                ResponseCode.NO_PERMISSION,
                f"the broker[{self._config.broker_name}] pulling message is forbidden",
            )
        group = self._groups.get_or_create(header.consumer_group)
        if group is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
                f"subscription group [{header.consumer_group}] does not exist",
            )
        if not group.consume_enable:
            raise ResponseError(
                ResponseCode.NO_PERMISSION, f"subscription group no permission, {header.consumer_group}"
            )
        topic = self._topics.get(header.topic)
        if topic is None:
            raise ResponseError(
                ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist, apply first please!"
            )
        if not topic.perm & PERM_READ:
            raise ResponseError(
                ResponseCode.NO_PERMISSION, f"the topic[{header.topic}] pulling message is forbidden"
            )
        if not 0 <= header.queue_id < topic.read_queue_nums:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"queueId[{header.queue_id}] is illegal, topic:[{header.topic}] "
                f"topicConfig.readQueueNums:[{topic.read_queue_nums}]",
            )
        return self._wanted(header, group)

    def _wanted(self, header: PullMessageRequest, group: SubscriptionGroupConfig) -> frozenset[int] | None:
        if header.sys_flag & PullFlag.SUBSCRIPTION:
            return self._codes_of(header.expression_type, header.subscription, header.topic)
        online = self._clients.consumers(header.consumer_group)
        if online is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_NOT_EXIST,
                f"the consumer's group info not exist: {header.consumer_group} has no member online",
            )
        if online.message_model == "BROADCASTING" and not group.consume_broadcast_enable:
            raise ResponseError(
                ResponseCode.NO_PERMISSION,
                f"the consumer group[{header.consumer_group}] can not consume by broadcast way",
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
        return self._codes_of(subscription.expression_type, subscription.sub_string, header.topic)

    def _codes_of(self, kind: str | None, expression: str | None, topic: str) -> frozenset[int] | None:
        if kind not in (None, "", "TAG"):
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"The broker does not support consumer to filter message by {kind} "
                "(enablePropertyFilter=false)",
            )
        try:
            return tag_codes(expression)
        except TagExpressionError as error:
            raise ResponseError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, f"topic {topic}: {error}") from None

    def _read(self, header: PullMessageRequest, codes: frozenset[int] | None) -> Answer:
        result = self._store.get(
            header.topic, header.queue_id, header.queue_offset, header.max_msg_nums, codes
        )
        status = result.status
        if status in _EMPTY_QUEUE:
            code = ResponseCode.PULL_OFFSET_MOVED if header.queue_offset else ResponseCode.PULL_NOT_FOUND
        else:
            code = _CODES[status]
        answer_header = PullMessageResponse(
            MASTER_ID, result.next_begin_offset, result.min_offset, result.max_offset
        )
        if status is GetStatus.FOUND:
            self._figures.got(result.count, result.size)
            return Answer(0, answer_header, result.records, "FOUND")
        self._figures.missed()
        return Answer(int(code), answer_header, remark=status.name)


def _reply(request: Request[PullMessageRequest], work: Callable[[], Answer | None]) -> None:
    """Answer a pull that was held: whatever error of ours comes up, the consumer hears of it."""
    try:
        answer = work()
    except PymqError as error:
        answer = refused(error)
    if answer is not None:
        request.reply(answer)
