"""Messages that consumers hand back: CONSUMER_SEND_MSG_BACK (semantics.md §4).

The way of one: group → its retry topic → the stored message, by its commit-log offset → a copy of it, which
waits at its delay level and then comes to the retry topic; or, after too many attempts, goes to the group's
dead letters at once. The unique id stays; each copy has an offset id of its own.

What differs from Apache: a copy names this broker as its store host, since its offset id has to lead here; a
retry topic that has fewer queues than its group wants is widened; a damaged body is not copied under a fresh
checksum; and with SYNC_FLUSH the answer waits until the disk has the copy, where Apache answers at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.broker_config import BrokerConfig, BrokerRole
from pymq.broker.delays import Delays
from pymq.broker.renewal import renew
from pymq.broker.retries import is_dead_letter, retried_group
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import TopicTable
from pymq.clock import Clock
from pymq.errors import MessageIllegal, ProtocolError, ResponseError, StoreError
from pymq.protocol import properties as names
from pymq.protocol.bodies.topic_config import PERM_WRITE, TopicConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest
from pymq.protocol.message import MessageRecord, decode_record
from pymq.protocol.properties import encode_properties
from pymq.protocol.sysflags import TRANSACTION_PREPARED
from pymq.store.messagestore import MessageStore, PutResult
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.send_back")

FIRST_DELAY_LEVEL = 3
"""The level of a first retry, 10 s in the default table; each further attempt waits one level more (§4.3)."""

_NEVER_PREPARED = ~TRANSACTION_PREPARED
"""What a consumer got is no half message: nobody would see a copy that says so."""


class SendBackProcessor:
    """Serves consumers that could not handle a message."""

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        groups: SubscriptionGroups,
        store: MessageStore,
        clock: Clock,
        delays: Delays,
        acknowledgements: Acknowledgements | None = None,
    ) -> None:
        """`acknowledgements`: where answers wait; without it a message counts as stored when it is copied."""
        self._config = config
        self._topics = topics
        self._groups = groups
        self._store = store
        self._clock = clock
        self._delays = delays
        self._acknowledgements = acknowledgements
        self._stopping = False
        self._not_retrying: set[str] = set()

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(ConsumerSendMsgBackRequest, self.send_back)]

    def stop(self) -> None:
        """Refuse what comes from now on: the broker stops, and first answers those who wait."""
        self._stopping = True

    def send_back(self, request: Request[ConsumerSendMsgBackRequest]) -> Answer | None:
        """Let a message come again later, or put it among the dead letters.

        None: the answer waits until the copy is safe.
        """
        header = request.header
        self._check_writable()
        group = retried_group(self._groups, header.group)
        if group.retry_queue_nums <= 0:
            self._say_dropped(group.group_name)
            return Answer()
        retry_topic = self._topics.ensure_retry_topic(
            group.group_name, group.retry_queue_nums, header.unit_mode == "true"
        )
        if not retry_topic.perm & PERM_WRITE:
            raise ResponseError(
                ResponseCode.NO_PERMISSION,
                f"the topic[{retry_topic.topic_name}] sending message is forbidden",
            )
        record = self._look_up(header.offset)
        is_dead = header.delay_level < 0 or is_dead_letter(
            group, record.reconsume_times, header.max_reconsume_times, request.version
        )
        try:
            if is_dead:
                result = self._bury(record, self._topics.ensure_dlq_topic(group.group_name))
            else:
                queue_id = self._clock.random.randrange(group.retry_queue_nums)
                result = self._delay(record, header.delay_level, retry_topic, queue_id)
        except (MessageIllegal, StoreError) as error:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"the message at {header.offset} is not taken back: {error}"
            ) from None
        if self._acknowledgements is None:
            return Answer()
        self._acknowledgements.when_safe(result.end_offset, request, Answer(), tells_slave=False)
        return None

    def _check_writable(self) -> None:
        name = self._config.broker_name
        if self._config.broker_role is BrokerRole.SLAVE:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"SERVICE_NOT_AVAILABLE: a slave of {name}")
        if self._stopping:
            raise ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, f"the broker[{name}] is stopping")
        if not self._config.broker_permission & PERM_WRITE:
            raise ResponseError(
                ResponseCode.NO_PERMISSION, f"the broker[{name}] sending message is forbidden"
            )

    def _say_dropped(self, group: str) -> None:
        """A group without retry queues wants no retries, and its failures vanish: said once."""
        if group not in self._not_retrying:
            self._not_retrying.add(group)
            log.warning("group %s has retryQueueNums=0: what its consumers hand back is dropped", group)

    def _look_up(self, offset: int) -> MessageRecord:
        data = self._store.record_at(offset)
        if data is None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {offset}")
        try:
            return decode_record(data, check_crc=True)
        except ProtocolError as error:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"look message by offset failed, {offset}: {error}"
            ) from None

    def _delay(self, record: MessageRecord, level: int, retry_topic: TopicConfig, queue_id: int) -> PutResult:
        """Store the copy that comes to the retry topic when it is due; `level` 0 grows with the attempts."""
        level = level or FIRST_DELAY_LEVEL + record.reconsume_times
        put = partial(self._delays.put, level)
        return self._copy(put, record, retry_topic, queue_id, _copied_properties(record))

    def _bury(self, record: MessageRecord, topic: TopicConfig) -> PutResult:
        """Store the copy among the dead letters, which nobody has to wait for."""
        properties = _copied_properties(record)
        properties[names.DELAY] = "0"
        return self._copy(self._store.put, record, topic, 0, properties)

    @staticmethod
    def _copy(
        put: Callable[..., PutResult],
        record: MessageRecord,
        topic: TopicConfig,
        queue_id: int,
        properties: dict[str, str],
    ) -> PutResult:
        return renew(
            put,
            record,
            topic.topic_name,
            queue_id,
            encode_properties(properties),
            sys_flag=record.sys_flag & _NEVER_PREPARED,
            reconsume_times=record.reconsume_times + 1,
            prepared_transaction_offset=0,
        )


def _copied_properties(record: MessageRecord) -> dict[str, str]:
    """The message's properties, with where it was sent to and what its id was the first time (§4.2)."""
    properties = record.read_properties()
    properties.setdefault(names.RETRY_TOPIC, record.topic)
    properties.setdefault(names.ORIGIN_MESSAGE_ID, record.offset_msg_id)
    properties[names.WAIT] = "false"
    return properties
