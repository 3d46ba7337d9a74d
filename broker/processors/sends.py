"""Sending: SEND_MESSAGE, SEND_MESSAGE_V2, SEND_BATCH_MESSAGE (semantics.md §1).

The way of one send: topic (made from a template if need be) → queue → properties as 4.9.4 stores them →
`MessageStore.put` → the answer with offset id and queue offset.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.figures import Figures
from pymq.broker.name_checks import NOT_FOR_SENDING, topic_fault
from pymq.broker.subscription_groups import SubscriptionGroups
from pymq.broker.topics import RETRY_PREFIX, TopicTable
from pymq.clock import Clock
from pymq.errors import MessageIllegal, ResponseError, StoreError
from pymq.protocol import properties as names
from pymq.protocol.bodies.topic_config import PERM_WRITE, TopicConfig
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import (
    SendBatchMessageRequest,
    SendFailed,
    SendMessageRequest,
    SendMessageRequestV2,
    SendMessageResponse,
)
from pymq.protocol.message import decode_batch
from pymq.protocol.properties import decode_properties, encode_properties, get_property, join_properties
from pymq.protocol.sysflags import HOST_MASK, MULTI_TAGS, TRANSACTION_MASK
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row

_KEPT_FLAGS = ~(HOST_MASK | TRANSACTION_MASK)
"""A client's sysFlag bits that are believed: hosts are the broker's to say, and a message that its properties
do not call transactional is none (semantics.md §1.6)."""

VERSION_OWN_RETRY_LIMIT = 121
"""From this version (3.4.9) on a client says itself after how many attempts it gives up."""

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
    ) -> None:
        self._config = config
        self._topics = topics
        self._groups = groups
        self._store = store
        self._put = store.put
        self._clock = clock
        self._figures = figures
        self._cluster = f"\x02CLUSTER\x01{config.broker_cluster_name}"
        self._guarded = (
            bool(config.start_accept_send_request_time_stamp) or not config.broker_permission & PERM_WRITE
        )
        self._region = config.region_id
        self._trace_on = "true" if config.trace_on else "false"

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(SendMessageRequest, self.send),
            row(SendMessageRequestV2, self.send),
            row(SendBatchMessageRequest, self.send),
        ]

    def send(self, request: Request[SendHeader]) -> Answer:
        """Store one message, or a batch. Every refusal also carries region and trace switch, as Apache's."""
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
                raise ResponseError(
                    ResponseCode.SYSTEM_ERROR,
                    f"request queueId[{queue_id}] is illegal, topic {header.topic} has "
                    f"{topic.write_queue_nums} write queues and {topic.read_queue_nums} read queues",
                )
            if header.batch == "true" or type(header) is SendBatchMessageRequest:
                return self._store_batch(request, queue_id)
            return self._store_one(request, topic, queue_id)
        except MessageIllegal as error:
            return self._refuse(ResponseCode.MESSAGE_ILLEGAL, str(error))
        except StoreError as error:
            return self._refuse(ResponseCode.SERVICE_NOT_AVAILABLE, str(error))
        except ResponseError as error:
            return self._refuse(error.code, error.remark)

    def _refuse(self, code: int, remark: str) -> Answer:
        self._figures.put_failures += 1
        return Answer(code, SendFailed(self._region, self._trace_on), remark=remark)

    def _admit(self, header: SendHeader) -> TopicConfig:
        """What is checked only when the topic is not one of those known and plain (semantics.md §1.2)."""
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
        group = self._groups.get_or_create(name)
        if group is None:
            raise ResponseError(
                ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group not exist, {name}"
            )
        limit = group.retry_max_times
        if request.version >= VERSION_OWN_RETRY_LIMIT and header.max_reconsume_times is not None:
            limit = header.max_reconsume_times
        if (header.reconsume_times or 0) < limit:
            return request, topic
        topic = self._topics.ensure_dlq_topic(name)
        properties = decode_properties(header.properties or "")
        if names.DELAY in properties:
            properties[names.DELAY] = "0"  # no further attempt to wait for
        header = msgspec.structs.replace(
            header, topic=topic.topic_name, queue_id=0, properties=encode_properties(properties)
        )
        return Request(request.connection, request.command, header), topic

    def _store_one(self, request: Request[SendHeader], topic: TopicConfig, queue_id: int) -> Answer:
        header = request.header
        # A separator in front lets every name be found by one search for `\x02NAME\x01`.
        text = "\x02" + (header.properties or "")
        if "\x02DELAY\x01" in text or "\x02TRAN_MSG\x01" in text or "\x02TIMER_" in text:
            _refuse_not_built(text)
        sys_flag = header.sys_flag & _KEPT_FLAGS
        if topic.topic_filter_type == "MULTI_TAG":
            sys_flag |= MULTI_TAGS
        body = request.command.body
        at = text.find("\x02TAGS\x01") + 6
        tags = tags_code(text[at:].partition("\x02")[0]) if at > 5 else 0
        result = self._put(
            header.topic,
            queue_id,
            body,
            self._stored_properties(text),
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
        return Answer(
            0,
            SendMessageResponse(
                result.offset_msg_id, queue_id, result.queue_offset, None, self._region, self._trace_on
            ),
        )

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

    def _store_batch(self, request: Request[SendHeader], queue_id: int) -> Answer:
        header = request.header
        own = header.properties or ""
        if get_property(own, names.DELAY) or header.sys_flag & TRANSACTION_MASK:
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL, "a batch can be neither delayed nor transactional"
            )
        if len(request.body) > self._config.max_message_size:
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"batch of {len(request.body)} bytes is over maxMessageSize={self._config.max_message_size}",
            )
        entries = decode_batch(request.body)
        batch_properties = self._stored_properties("\x02" + own)
        for entry in entries:
            entry.properties = join_properties(entry.properties, batch_properties)
        results = self._store.put_batch(
            header.topic,
            queue_id,
            entries,
            sys_flag=header.sys_flag & _KEPT_FLAGS,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
        )
        self._figures.put(len(results), len(request.body))
        ids = ",".join(result.offset_msg_id for result in results)
        return Answer(
            0,
            SendMessageResponse(ids, queue_id, results[0].queue_offset, None, self._region, self._trace_on),
        )


def _refuse_not_built(text: str) -> None:
    """Refuse what would otherwise be delivered at the wrong time or before its transaction has ended."""
    for name in (names.DELAY, names.TRAN_MSG, "TIMER_DELIVER_MS", "TIMER_DELAY_SEC", "TIMER_DELAY_MS"):
        value = get_property(text, name)
        if value and value not in ("0", "false"):
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL, f"this version of pymq does not serve {name}={value} yet"
            )
