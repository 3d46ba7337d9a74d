"""Message trace: what this client sends and handles, told to the trace topic (semantics.md §8.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pymq.client.namespace import Namespace
from pymq.client.outgoing import GROUP_MAX_LENGTH, Outgoing, check_topic_name
from pymq.client.producer import Producer
from pymq.client.received import ReceivedMessage
from pymq.client.send_result import DEFAULT_REGION, SendResult, SendStatus
from pymq.client.settings import Settings
from pymq.client.trace_dispatcher import TraceDispatcher
from pymq.clock import Clock
from pymq.errors import ConfigError
from pymq.protocol import properties as names
from pymq.protocol.message_ids import UniqueKeys
from pymq.protocol.trace_data import (
    TRACE_TOPIC,
    ConsumeReturnType,
    EndTransaction,
    MessageType,
    Pub,
    SubAfter,
    SubBefore,
)

_CLOSE_AT_LEAST_S = 1.0
"""Apache's clients give it half a second."""


class Tracing:
    """What of a client is traced, and where to: one dispatcher for each trace topic."""

    def __init__(
        self,
        producer: Producer,
        trace: bool | str,
        clock: Clock,
        unique_keys: UniqueKeys,
        namespace: Namespace,
        settings: Settings,
    ) -> None:
        """`producer` sends the traces: in no namespace, and not traced itself.

        `trace`: whether the client is traced, or its trace topic. Raises ConfigError, MessageInvalid for what
        is neither.
        """
        self._client_topic = trace_topic(trace)
        self._producer = producer
        self._clock = clock
        self._unique_keys = unique_keys
        self._namespace = namespace
        self._settings = settings
        self._dispatchers: dict[str, TraceDispatcher] = {}
        self._running = False

    def of_sends(self, group: str) -> SendTrace | None:
        """What traces the sends of a producer group, None when the client is not traced."""
        if self._client_topic is None:
            return None
        return SendTrace(self._dispatcher(self._client_topic), self._clock, self._namespace, group)

    def of_consumer(
        self, trace: bool | str | None, group: str, consume_timeout_s: float
    ) -> ConsumeTrace | None:
        """What traces a consumer, None when it is not traced.

        `trace`: whether it is, or its trace topic; None: as the client. Raises as the constructor.
        """
        topic = self._client_topic if trace is None else trace_topic(trace)
        if topic is None:
            return None
        group = self._namespace.unwrap(group)
        dispatcher = self._dispatcher(topic)
        return ConsumeTrace(dispatcher, self._clock, self._unique_keys, group, consume_timeout_s)

    def _dispatcher(self, topic: str) -> TraceDispatcher:
        dispatcher = self._dispatchers.get(topic)
        if dispatcher is None:
            dispatcher = self._dispatchers[topic] = TraceDispatcher(self._producer, topic, self._settings)
            if self._running:
                dispatcher.start()
        return dispatcher

    def start(self) -> None:
        """Begin, in the running loop."""
        self._running = True
        for dispatcher in self._dispatchers.values():
            dispatcher.start()

    async def close(self, since: float) -> None:
        """Send what is waiting, and end: in close_timeout_s from `since` (a time of the loop), or a second.

        So a broker that does not answer holds up a closing client once, not twice.
        """
        self._running = False
        left_s = since + self._settings.close_timeout_s - asyncio.get_running_loop().time()
        within_s = max(_CLOSE_AT_LEAST_S, left_s)
        await asyncio.gather(*[dispatcher.close(within_s) for dispatcher in self._dispatchers.values()])


def trace_topic(trace: bool | str) -> str | None:
    """The topic that an option `trace` means: none, the usual one, or its own.

    Raises ConfigError, MessageInvalid for what is no such option, or no name of a topic.
    """
    if isinstance(trace, bool):
        return TRACE_TOPIC if trace else None
    if not isinstance(trace, str):
        raise ConfigError(f"trace={trace!r}: expected True, False, or the name of a trace topic")
    check_topic_name(trace)
    return trace


def inner_group(producer_group: str) -> str:
    """The producer group that sends the traces of a client; Apache's are named alike."""
    return f"_INNER_TRACE_PRODUCER-{producer_group}"[:GROUP_MAX_LENGTH]


class SendTrace:
    """Traces what one producer group sends: each attempt whose end is known.

    Apache traces those only that a broker confirmed. Oneway sends are traced by neither.
    """

    def __init__(self, dispatcher: TraceDispatcher, clock: Clock, namespace: Namespace, group: str) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._namespace = namespace
        self._group = namespace.unwrap(group)

    def stored(
        self, topic: str, outgoing: Outgoing, address: str, results: Sequence[SendResult], took_s: float
    ) -> None:
        """The broker at `address` has stored a message, or a batch. `topic` as brokers call it."""
        if not results[0].trace_on:
            return
        for part, result in zip(outgoing.parts or (outgoing,), results, strict=True):
            is_safe = result.status is SendStatus.SEND_OK
            self._sent(topic, part, address, took_s, result.region_id, result.offset_msg_id or None, is_safe)

    def failed(self, topic: str, outgoing: Outgoing, address: str, took_s: float) -> None:
        """An attempt has failed, at a broker whose `address` is empty when it is not known."""
        for part in outgoing.parts or (outgoing,):
            self._sent(topic, part, address or None, took_s, None, None, False)

    def _sent(
        self,
        topic: str,
        outgoing: Outgoing,
        address: str | None,
        took_s: float,
        region: str | None,
        offset_msg_id: str | None,
        success: bool,
    ) -> None:
        if topic == self._dispatcher.topic:
            return  # or the trace of each trace message would be the next one
        cost_ms = round(took_s * 1000)
        properties = names.decode_properties(outgoing.properties)
        self._dispatcher.append(
            Pub(
                self._clock.now_ms() - cost_ms,
                region,
                self._group,
                self._namespace.unwrap(topic),
                outgoing.msg_id,
                properties.get(names.TAGS),
                properties.get(names.KEYS),
                address,
                len(outgoing.body),
                cost_ms,
                _message_type(outgoing, properties),
                offset_msg_id,
                success,
            )
        )

    def transaction_ended(
        self,
        topic: str,
        msg_id: str,
        properties: Mapping[str, str],
        address: str,
        transaction_id: str,
        state: str,
        *,
        from_check: bool,
    ) -> None:
        """A producer has told the broker at `address` how a transaction ends.

        `topic` is the message's own as brokers call it, `state` COMMIT_MESSAGE, ROLLBACK_MESSAGE or UNKNOW,
        `from_check` whether the broker had asked.
        """
        if topic == self._dispatcher.topic:
            return
        self._dispatcher.append(
            EndTransaction(
                self._clock.now_ms(),
                properties.get(names.MSG_REGION) or DEFAULT_REGION,
                self._group,
                self._namespace.unwrap(topic),
                msg_id,
                properties.get(names.TAGS),
                properties.get(names.KEYS),
                address,
                MessageType.COMMIT,
                transaction_id,
                state,
                from_check,
            )
        )


def _message_type(outgoing: Outgoing, properties: Mapping[str, str]) -> MessageType:
    if outgoing.is_timed or names.DELAY in properties:
        return MessageType.DELAY
    if properties.get(names.TRAN_MSG) == "true":
        return MessageType.HALF
    return MessageType.NORMAL


class ConsumeTrace:
    """Traces what one consumer handles."""

    def __init__(
        self,
        dispatcher: TraceDispatcher,
        clock: Clock,
        unique_keys: UniqueKeys,
        group: str,
        consume_timeout_s: float,
    ) -> None:
        """`group` without namespace."""
        self._dispatcher = dispatcher
        self._clock = clock
        self._unique_keys = unique_keys
        self._group = group
        self._consume_timeout_s = consume_timeout_s

    def begin(self, message: ReceivedMessage, began_s: float) -> None:
        """Somebody began to handle this message at `began_s` (s, monotonic); it will tell how that ends.

        That is to be no later than where its consume time-out counts from, or one that exceeds it by little
        would be told as failed.
        """
        if (
            message.source_topic == self._dispatcher.topic
            or message.properties.get(names.TRACE_ON) == "false"
        ):
            return
        request_id = self._unique_keys.next()
        msg_id = message.msg_id  # the message itself must not be held by what it holds
        keys = message.properties.get(names.KEYS)
        self._dispatcher.append(
            SubBefore(
                self._clock.now_ms(),
                message.properties.get(names.MSG_REGION),
                self._group,
                request_id,
                msg_id,
                message.reconsume_times,
                keys,
            )
        )

        def ended(how: ConsumeReturnType) -> None:
            took_s = self._clock.monotonic() - began_s
            code = ConsumeReturnType.TIME_OUT if took_s >= self._consume_timeout_s else how
            success = how is ConsumeReturnType.SUCCESS
            cost_ms = round(took_s * 1000)
            now_ms = self._clock.now_ms()
            self._dispatcher.append(
                SubAfter(request_id, msg_id, cost_ms, success, keys, code, now_ms, self._group)
            )

        message.when_settled = ended
