"""Sending: SEND_MESSAGE, SEND_MESSAGE_V2, SEND_BATCH_MESSAGE (semantics.md §1).

The way of one send: topic (made from a template if need be) → queue → properties as 4.9.4 stores them →
`MessageStore.put` → the answer with offset id and queue offset, at once or when the message is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.broker_config import BrokerConfig, BrokerRole
from pymq.broker.delayed_puts import DelayedPuts
from pymq.broker.figures import Figures
from pymq.broker.name_checks import NOT_FOR_SENDING, topic_fault
from pymq.broker.processors.batch_sends import BatchSends
from pymq.broker.retries import is_dead_letter, retried_group
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.timed import without_times
from pymq.broker.topics import DLQ_PREFIX, RETRY_PREFIX, TopicTable
from pymq.broker.transactions.transactions import Transactions
from pymq.clock import Clock
from pymq.errors import MessageIllegal, PymqError, ResponseError, StoreError
from pymq.protocol import properties as names
from pymq.protocol.bodies.topic_config import PERM_WRITE, TopicConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import (
    SendBatchMessageRequest,
    SendFailed,
    SendMessageRequest,
    SendMessageRequestV2,
    SendMessageResponse,
    SendTimedMessageResponse,
)
from pymq.protocol.properties import decode_properties, encode_properties, get_property
from pymq.protocol.recall_handles import recall_handle
from pymq.protocol.sysflags import HOST_MASK, MULTI_TAGS, TRANSACTION_MASK
from pymq.protocol.tag_filter import tags_code
from pymq.store.batches import BatchResult
from pymq.store.messagestore import MessageStore, PutResult
from pymq.transport.dispatch import Answer, HandlerResult, Request, Row, row

KEPT_FLAGS = ~(HOST_MASK | TRANSACTION_MASK)
"""A client's sysFlag bits that are believed: hosts are the broker's to say, and a message that its properties
do not call transactional is none (semantics.md §1.6)."""

SendHeader = SendMessageRequest | SendMessageRequestV2


class SendProcessor:
    """Serves what stores new messages."""

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        groups: SubscriptionGroups,
        store: MessageStore,
        clock: Clock,
        figures: Figures,
        delayed: DelayedPuts,
        transactions: Transactions,
        acknowledgements: Acknowledgements | None = None,
    ) -> None:
        """`acknowledgements`: where answers wait; without it a message counts as stored when it is copied."""
        self._config = config
        self._topics = topics
        self._groups = groups
        self._store = store
        self._put = store.put
        self._delayed = delayed
        self._transactions = transactions
        self._clock = clock
        self._figures = figures
        self._acknowledgements = acknowledgements
        self._stopping = False
        self._cluster = f"\x02CLUSTER\x01{config.broker_cluster_name}"
        self._is_slave = config.broker_role is BrokerRole.SLAVE
        self._guarded = (
            self._is_slave
            or bool(config.start_accept_send_request_time_stamp)
            or not config.broker_permission & PERM_WRITE
        )
        self._region = config.region_id
        self._trace_on = "true" if config.trace_on else "false"
        self._batches = BatchSends(
            config,
            store,
            figures,
            stored_properties=self._stored_properties,
            admit=lambda request: self.admit_to_queue(request.header),
            answer=self._answer_batch,
            refusal=self._refusal,
        )

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(SendMessageRequest, self.send),
            row(SendMessageRequestV2, self.send),
            row(SendBatchMessageRequest, self.send),
        ]

    def stop(self) -> None:
        """Refuse what comes from now on: the broker stops, and first answers those who wait."""
        self._stopping = self._guarded = True

    def send(self, request: Request[SendHeader]) -> HandlerResult:
        """Store one message, or a batch. Every refusal also carries region and trace switch, as Apache's.

        None: the answer waits until the message is safe.
        """
        header = request.header
        try:
            topic = self._topics.get(header.topic)
            if topic is None or self._guarded or header.topic[:1] == "%" or header.topic in NOT_FOR_SENDING:
                topic = self._admit(header)
                if header.topic.startswith(RETRY_PREFIX):
                    request, topic = self._retried(request, topic)
                    header = request.header
            queue_id = header.queue_id
            if queue_id < 0:
                queue_id = self._clock.random.randrange(max(1, topic.write_queue_nums))
            elif queue_id >= topic.write_queue_nums and queue_id >= topic.read_queue_nums:
                raise _illegal_queue(header, topic)
            if header.batch == "true" or type(header) is SendBatchMessageRequest:
                return self._batches.send(request, queue_id, header.sys_flag & KEPT_FLAGS)
            return self._store_one(request, topic, queue_id)
        except (MessageIllegal, StoreError, ResponseError) as error:
            return self._refusal(error)

    def _refusal(self, error: PymqError) -> Answer:
        """The answer that an error becomes."""
        self._figures.put_failures += 1
        if isinstance(error, ResponseError):
            code, remark = error.code, error.remark
        elif isinstance(error, MessageIllegal):
            code, remark = int(ResponseCode.MESSAGE_ILLEGAL), str(error)
        else:
            code, remark = int(ResponseCode.SERVICE_NOT_AVAILABLE), str(error)
        return Answer(code, SendFailed(self._region, self._trace_on), remark=remark)

    def _admit(self, header: SendHeader) -> TopicConfig:
        """What is checked only when the topic is not one of those known and plain (semantics.md §1.2)."""
        if self._is_slave:
            raise ResponseError(
                ResponseCode.SERVICE_NOT_AVAILABLE,
                f"this broker is a slave of {self._config.broker_name}: send to its master",
            )
        if self._stopping:
            raise ResponseError(
                ResponseCode.SERVICE_NOT_AVAILABLE, f"the broker[{self._config.broker_name}] is stopping"
            )
        if self._clock.now_ms() < self._config.start_accept_send_request_time_stamp:
            until = self._clock.local_time(self._config.start_accept_send_request_time_stamp)
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"broker unable to service, until {until:%Y-%m-%d %H:%M:%S}"
            )
        fault = topic_fault(header.topic)
        if fault:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, fault)
        if header.topic in NOT_FOR_SENDING:
            raise ResponseError(
                ResponseCode.NO_PERMISSION, f"Sending message to topic[{header.topic}] is forbidden."
            )
        topic = self._topics.get(header.topic) or self._topics.create_for_send(
            header.topic, header.default_topic, header.default_topic_queue_nums, header.unit_mode == "true"
        )
        if topic is None:
            raise ResponseError(
                ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] not exist, apply first please!"
            )
        if topic.order and not self._config.broker_permission & PERM_WRITE:
            raise ResponseError(
                ResponseCode.NO_PERMISSION,
                f"the broker[{self._config.broker_name}] sending message is forbidden",
            )
        return topic

    def admit_to_queue(self, header: SendHeader) -> int:
        """The queue of a message that is not stored here but would be admitted. Raises ResponseError."""
        topic = self._admit(header)
        if header.queue_id < 0:
            return self._clock.random.randrange(max(1, topic.write_queue_nums))
        if header.queue_id >= max(topic.write_queue_nums, topic.read_queue_nums):
            raise _illegal_queue(header, topic)
        return header.queue_id

    def _retried(
        self, request: Request[SendHeader], topic: TopicConfig
    ) -> tuple[Request[SendHeader], TopicConfig]:
        """A message for a group's retry topic, or for its dead letters (semantics.md §1.4).

        Ordered consumers send so, and others whose CONSUMER_SEND_MSG_BACK has failed.
        """
        header = request.header
        if header.batch == "true" or type(header) is SendBatchMessageRequest:
            raise ResponseError(ResponseCode.MESSAGE_ILLEGAL, "batch request does not support retry group")
        name = header.topic.removeprefix(RETRY_PREFIX)
        group = retried_group(self._groups, name)
        if not is_dead_letter(
            group, header.reconsume_times or 0, header.max_reconsume_times, request.version
        ):
            return request, topic
        topic = self._topics.ensure_dlq_topic(name)
        # No time of delivery either, which a message that was timed at first may bring along.
        properties = decode_properties(without_times(header.properties or ""))
        if names.DELAY in properties:
            properties[names.DELAY] = "0"  # no further attempt to wait for
        header = msgspec.structs.replace(
            header, topic=topic.topic_name, queue_id=0, properties=encode_properties(properties)
        )
        return Request(request.connection, request.command, header), topic

    def _store_one(self, request: Request[SendHeader], topic: TopicConfig, queue_id: int) -> Answer | None:
        header = request.header
        # A separator in front lets every name be found by one search for `\x02NAME\x01`.
        text = "\x02" + (header.properties or "")
        put, stored, deliver_ms = self._put, None, 0
        if "\x02DELAY\x01" in text or "\x02TRAN_MSG\x01" in text or "\x02TIMER_" in text:
            put, stored, deliver_ms = self._held_back(text, header.topic)
        sys_flag = header.sys_flag & KEPT_FLAGS
        if topic.topic_filter_type == "MULTI_TAG":
            sys_flag |= MULTI_TAGS
        body = request.command.body
        at = text.find("\x02TAGS\x01") + 6
        tags = tags_code(text[at:].partition("\x02")[0]) if at > 5 else 0
        result = put(
            header.topic,
            queue_id,
            body,
            stored or self._stored_properties(text),
            flag=header.flag,
            sys_flag=sys_flag,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
            reconsume_times=header.reconsume_times or 0,
            tags_code=tags,
        )
        figures = self._figures
        figures.put_messages += 1
        figures.put_bytes += len(body)
        answer = Answer(
            0,
            SendMessageResponse(
                result.offset_msg_id, queue_id, result.queue_offset, None, self._region, self._trace_on
            ),
        )
        if deliver_ms:
            answer.header = self._recallable(result, header.topic, queue_id, text, deliver_ms)
        if self._acknowledgements is None:
            return answer
        return self._acknowledged(self._acknowledgements, request, text, result.end_offset, answer)

    def _held_back(self, text: str, topic: str) -> tuple[Callable[..., PutResult], str | None, int]:
        """Who stores a message that may wait, with which properties, and for when (0: no such time).

        `text`: its properties with a separator in front. What goes to a retry topic or the dead letters is no
        half message any more, though its properties may still say so.
        """
        is_half = (get_property(text, names.TRAN_MSG) or "").lower() == "true"
        if is_half and not topic.startswith((RETRY_PREFIX, DLQ_PREFIX)):
            if self._config.reject_transaction_message:
                raise ResponseError(
                    ResponseCode.NO_PERMISSION,
                    f"the broker[{self._config.broker_name}] sending transaction message is forbidden",
                )
            return self._transactions.put, text + self._cluster, 0
        delayed = self._delayed.choose(text)
        if delayed is None:
            return self._put, None, 0
        return delayed.put, delayed.properties + self._cluster, delayed.deliver_ms

    def _recallable(
        self, result: PutResult, topic: str, queue_id: int, text: str, deliver_ms: int
    ) -> SendTimedMessageResponse:
        unique_key = get_property(text, names.UNIQ_KEY)
        handle = None
        if unique_key and not topic.startswith(RETRY_PREFIX):
            handle = recall_handle(topic, self._config.broker_name, deliver_ms, unique_key)
        return SendTimedMessageResponse(
            result.offset_msg_id, queue_id, result.queue_offset, handle, self._region, self._trace_on
        )

    def _acknowledged(
        self,
        acknowledgements: Acknowledgements,
        request: Request[SendHeader],
        text: str,
        end_offset: int,
        answer: Answer,
    ) -> Answer | None:
        """The answer now if the producer does not want to wait (WAIT=false), else None and the answer later.

        `text`: the message's properties as the producer sent them, with a separator in front.
        """
        at = text.find("\x02WAIT\x01") + 6
        if at > 5 and text[at : at + 1] in "fF" and text[at : at + 6].rstrip("\x02").lower() == "false":
            acknowledgements.flush_soon()
            return answer
        acknowledgements.when_safe(end_offset, request, answer)
        return None

    def _stored_properties(self, text: str) -> str:
        """Property text as 4.9.4 stores it: without WAIT, with CLUSTER (semantics.md §1.2).

        `text` begins with a separator.
        """
        at = text.find("\x02WAIT\x01")
        if at >= 0:
            end = text.find("\x02", at + 1)
            text = text[:at] if end < 0 else text[:at] + text[end:]
        if text[-1:] == "\x02":
            text = text[:-1]
        return (text + self._cluster)[1:]

    def _answer_batch(
        self, request: Request[SendHeader], result: BatchResult, queue_id: int
    ) -> Answer | None:
        """The answer for a batch that was stored, now or when it is safe."""
        header = SendMessageResponse(
            result.offset_msg_ids, queue_id, result.queue_offset, None, self._region, self._trace_on
        )
        answer = Answer(0, header)
        if self._acknowledgements is None:
            return answer
        own = "\x02" + (request.header.properties or "")
        return self._acknowledged(self._acknowledgements, request, own, result.end_offset, answer)


def _illegal_queue(header: SendHeader, topic: TopicConfig) -> ResponseError:
    return ResponseError(
        ResponseCode.SYSTEM_ERROR,
        f"request queueId[{header.queue_id}] is illegal, topic {header.topic} has "
        f"{topic.write_queue_nums} write queues and {topic.read_queue_nums} read queues",
    )
