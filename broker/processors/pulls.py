"""Pulling: PULL_MESSAGE with long polling (semantics.md §2).

The way of one pull: group and topic may be read → subscription → `MessageStore.get` → the answer with the
stored bytes as slices; or, with nothing there, held in `Arrivals` and run once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from pymq.broker.arrivals import HEARTBEAT, Arrivals, HeldPull
from pymq.broker.broker_config import BrokerConfig, BrokerRole
from pymq.broker.consumer_filters import ConsumerFilterTable, Sieve
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.figures import Figures
from pymq.broker.filtered_reads import FilteredReads
from pymq.broker.live_clients import LiveClients
from pymq.broker.moved_offsets import MovedOffsets
from pymq.broker.resets import Resets
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.broker.wanted import Subscriptions, Wanted
from pymq.errors import PymqError, ResponseError, StoreBroken, StoreError
from pymq.protocol.bodies.topic_config import PERM_READ
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import LitePullMessageRequest, PullMessageRequest, PullMessageResponse
from pymq.protocol.sysflags import PullFlag
from pymq.store.messagestore import GetResult, GetStatus, MessageStore
from pymq.transport.dispatch import Answer, Request, Row, refused, row

MASTER_ID = 0
"""Which broker to read from next, unless slaveReadEnable=true (semantics.md §2.6)."""

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

PULL_CODES = frozenset((RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE))
"""What the VIP channel does not serve (wire.md §1.5)."""

_EMPTY_QUEUE = (GetStatus.NO_MATCHED_LOGIC_QUEUE, GetStatus.NO_MESSAGE_IN_QUEUE)


class PullProcessor:
    """Serves consumers that read on in a queue."""

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsetTable,
        resets: Resets,
        clients: LiveClients,
        filters: ConsumerFilterTable,
        arrivals: Arrivals,
        store: MessageStore,
        figures: Figures,
        moved: MovedOffsets,
    ) -> None:
        self._config = config
        self._topics = topics
        self._groups = groups
        self._offsets = offsets
        self._resets = resets
        self._clients = clients
        self._arrivals = arrivals
        self._store = store
        self._figures = figures
        self._moved = moved
        self._subscriptions = Subscriptions(config, clients, filters)
        self._filtered = FilteredReads(config, store)
        self._is_slave = config.broker_role is BrokerRole.SLAVE

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(PullMessageRequest, self.pull), row(LitePullMessageRequest, self.pull)]

    def pull(self, request: Request[PullMessageRequest]) -> Answer | None:
        """Answer a pull, or hold it when nothing is there and the consumer lets us."""
        loop = asyncio.get_running_loop()
        return self._pull(request, loop.time() + HEARTBEAT_PATIENCE_S)

    def _pull(self, request: Request[PullMessageRequest], patient_until: float) -> Answer | None:
        header = request.header
        try:
            wanted = self._admit(header)
        except ResponseError as error:
            if error.code not in _HEARTBEAT_MISSING or not self._wait_for_heartbeat(request, patient_until):
                raise
            return None
        if header.sys_flag & PullFlag.COMMIT_OFFSET and not self._is_slave:
            self._commit(request)
        answer = self._read(request, wanted)
        if answer is None or answer.code != ResponseCode.PULL_NOT_FOUND:
            return answer
        if not header.sys_flag & PullFlag.SUSPEND:
            return answer
        timeout_ms = (
            header.suspend_timeout_millis
            if self._config.long_polling_enable
            else self._config.short_polling_time_mills
        )
        if timeout_ms <= 0:
            return answer
        if isinstance(wanted, Sieve):
            until = asyncio.get_running_loop().time() + timeout_ms / 1000
            is_held = self._hold_sifted(request, wanted, header.queue_offset, until)
            return None if is_held else answer

        def rerun() -> None:
            # Whatever comes out the second time is the answer; the offset is not committed again.
            _reply(request, lambda: self._read(request, self._admit(header)))

        key = (header.topic, header.queue_id)
        self._arrivals.hold(HeldPull(key, header.queue_offset, wanted, request.connection, rerun), timeout_ms)
        return None

    def _commit(self, request: Request[PullMessageRequest]) -> None:
        """Store the offset that a pull brings along, unless it is of before a reset."""
        h = request.header
        group, topic, queue_id, offset = h.consumer_group, h.topic, h.queue_id, h.commit_offset
        if not self._resets.is_stale(group, topic, queue_id, offset, request.connection):
            self._offsets.commit(group, topic, queue_id, offset, request.connection.address)

    def _hold_sifted(
        self, request: Request[PullMessageRequest], sieve: Sieve, offset: int, until: float
    ) -> bool:
        """Hold a pull that has a sieve until the loop's time `until`; False when that is over.

        What arrives has to be looked at. When the sieve lets nothing of it through, the pull is held on,
        from behind it: at its end the consumer is told to go on there.
        """
        remaining_ms = int((until - asyncio.get_running_loop().time()) * 1000)
        if remaining_ms <= 0 or request.connection.closed:
            return False

        def again() -> Answer | None:
            wanted = self._admit(request.header)
            if not isinstance(wanted, Sieve):
                return self._read(request, wanted, offset)
            result = self._sift(request, wanted, offset)
            if result is None:
                return None
            is_all_seen = result.next_begin_offset >= result.max_offset
            if result.status is GetStatus.NO_MATCHED_MESSAGE and is_all_seen:
                if self._hold_sifted(request, wanted, result.next_begin_offset, until):
                    return None
                bounds = self._bounds(request.header, result)
                return Answer(int(ResponseCode.PULL_NOT_FOUND), bounds, remark=result.status.name)
            return self._answer(request, result)

        def rerun() -> None:
            _reply(request, again)

        key = (request.header.topic, request.header.queue_id)
        self._arrivals.hold(HeldPull(key, offset, sieve.codes, request.connection, rerun), remaining_ms)
        return True

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

    def _admit(self, header: PullMessageRequest) -> Wanted:
        """Check a pull in Apache's order (semantics.md §2.1); gives what it wants."""
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
        if not group.consume_broadcast_enable:
            self._refuse_broadcast(header.consumer_group)
        return self._subscriptions.wanted(header)

    def _refuse_broadcast(self, group: str) -> None:
        """Of a group that may not broadcast; Apache lets pulls through that bring a subscription."""
        online = self._clients.consumers(group)
        if online is not None and online.message_model == "BROADCASTING":
            raise ResponseError(
                ResponseCode.NO_PERMISSION, f"the consumer group[{group}] can not consume by broadcast way"
            )

    def _read(
        self,
        request: Request[PullMessageRequest],
        wanted: Wanted,
        offset: int | None = None,
        lazily: bool = True,
    ) -> Answer | None:
        """What the store has; None, and the answer later, when that has to be fetched from the disk.

        From the offset asked for, unless another one is given.
        """
        header = request.header
        if offset is None:
            offset = header.queue_offset
        if isinstance(wanted, Sieve):
            sifted = self._sift(request, wanted, offset)
            return None if sifted is None else self._answer(request, sifted)
        result = self._store.get(header.topic, header.queue_id, offset, header.max_msg_nums, wanted, lazily)
        if result.unread is not None:
            self._fetch(request, wanted, result)
            return None
        return self._answer(request, result)

    def _sift(self, request: Request[PullMessageRequest], sieve: Sieve, offset: int) -> GetResult | None:
        """What passes the sieve; None, and the answer later, when some of it has to be fetched."""

        def done(result: GetResult | StoreError) -> None:
            def answer() -> Answer:
                if isinstance(result, StoreError):
                    raise result
                return self._answer(request, result)

            _reply(request, answer)

        header = request.header
        return self._filtered.read(header.topic, header.queue_id, offset, header.max_msg_nums, sieve, done)

    def _answer(self, request: Request[PullMessageRequest], result: GetResult) -> Answer:
        header = request.header
        if result.status is GetStatus.FOUND:
            return self._found(header, result)
        self._figures.missed()
        if result.status in _EMPTY_QUEUE:
            code = ResponseCode.PULL_OFFSET_MOVED if header.queue_offset else ResponseCode.PULL_NOT_FOUND
        else:
            code = _CODES[result.status]
        if code == ResponseCode.PULL_OFFSET_MOVED and self._is_slave:
            return self._not_moved(header, result)
        if code == ResponseCode.PULL_OFFSET_MOVED:
            self._moved.note(
                header.consumer_group,
                header.topic,
                header.queue_id,
                header.queue_offset,
                result.next_begin_offset,
            )
        return Answer(int(code), self._bounds(header, result), remark=result.status.name)

    def _not_moved(self, header: PullMessageRequest, result: GetResult) -> Answer:
        """A slave may be behind its master, or begin later, and so moves no consumer (semantics.md §9).

        What it does not have yet is waited for, where Apache lets the consumer ask again and again; what it
        has no more, the master may have.
        """
        is_behind = header.queue_offset >= result.max_offset
        code = ResponseCode.PULL_NOT_FOUND if is_behind else ResponseCode.PULL_RETRY_IMMEDIATELY
        bounds = self._bounds(header, result)
        bounds.next_begin_offset = header.queue_offset
        return Answer(int(code), bounds, remark=result.status.name)

    def _found(self, header: PullMessageRequest, result: GetResult) -> Answer:
        self._figures.got(result.count, result.size)
        return Answer(0, self._bounds(header, result), result.records, "FOUND")

    def _bounds(self, header: PullMessageRequest, result: GetResult) -> PullMessageResponse:
        suggested = MASTER_ID
        if self._config.slave_read_enable and (group := self._groups.get(header.consumer_group)) is not None:
            slow = group.which_broker_when_consume_slowly
            suggested = slow if result.is_far_behind else group.broker_id
        return PullMessageResponse(suggested, result.next_begin_offset, result.min_offset, result.max_offset)

    def _fetch(
        self, request: Request[PullMessageRequest], wanted: frozenset[int] | None, result: GetResult
    ) -> None:
        """Answer once the messages are read. If they were deleted meanwhile: with where the queue begins."""

        def work(error: StoreError | None) -> Answer | None:
            if error is None:
                return self._found(request.header, result)
            if isinstance(error, StoreBroken):
                raise error
            return self._read(request, wanted, lazily=False)

        self._store.fetch(result, lambda error: _reply(request, lambda: work(error)))


def _reply(request: Request[PullMessageRequest], work: Callable[[], Answer | None]) -> None:
    """Answer a pull that was held: whatever error of ours comes up, the consumer hears of it."""
    try:
        answer = work()
    except PymqError as error:
        answer = refused(error)
    if answer is not None:
        request.reply(answer)
