"""RECALL_MESSAGE: a timed message is cancelled by the handle that its send was answered with (Apache 5.3).

What is stored is the same as when a producer sends a message with TIMER_DEL_UNIQKEY.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.timers import Timers
from pymq.broker.topics import TopicTable
from pymq.clock import Clock
from pymq.errors import MessageIllegal, ResponseError, StoreError
from pymq.protocol import properties as names
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import RecallMessageRequest, RecallMessageResponse
from pymq.protocol.properties import encode_properties
from pymq.protocol.recall_handles import RecallHandle, read_recall_handle
from pymq.transport.dispatch import Answer, Request, Row, row

_TAG = "_RECALL_TAG_"
_BODY = b"0"


class RecallProcessor:
    """Serves those who want a timed message not to come."""

    def __init__(
        self,
        config: BrokerConfig,
        topics: TopicTable,
        timers: Timers,
        clock: Clock,
        acknowledgements: Acknowledgements | None,
    ) -> None:
        """`acknowledgements`: where answers wait until the cancellation is safe."""
        self._config = config
        self._topics = topics
        self._timers = timers
        self._clock = clock
        self._acknowledgements = acknowledgements

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(RecallMessageRequest, self.recall)]

    def recall(self, request: Request[RecallMessageRequest]) -> Answer | None:
        """Store the cancellation; whether there is such a message is not looked at, as by Apache.

        None: the answer waits until it is safe.
        """
        handle = self._checked(request.header)
        now_ms = self._clock.now_ms()
        properties = {
            names.TAGS: _TAG,
            names.TIMER_DEL_UNIQKEY: f"{handle.topic}+{handle.unique_key}",
            names.UNIQ_KEY: handle.unique_key,
            names.TIMER_DELIVER_MS: str(handle.deliver_ms),
            names.PGROUP: request.header.producer_group or "",
            names.CLUSTER: self._config.broker_cluster_name,
        }
        try:
            result = self._timers.put(
                handle.deliver_ms,
                handle.topic,
                0,
                _BODY,
                encode_properties(properties),
                born_host=request.connection.born_host,
                born_timestamp=now_ms,
            )
        except MessageIllegal as error:
            raise ResponseError(ResponseCode.ILLEGAL_OPERATION, str(error)) from None
        except StoreError as error:
            raise ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, str(error)) from None
        answer = Answer(0, RecallMessageResponse(handle.unique_key))
        if self._acknowledgements is None:
            return answer
        self._acknowledgements.when_safe(result.end_offset, request, answer, tells_slave=False)
        return None

    def _checked(self, header: RecallMessageRequest) -> RecallHandle:
        config = self._config
        if not config.recall_message_enable:
            raise ResponseError(ResponseCode.NO_PERMISSION, "recallMessageEnable=false")
        if self._topics.get(header.topic) is None:
            raise ResponseError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{header.topic}] does not exist")
        handle = read_recall_handle(header.recall_handle)
        if handle is None or not names.is_encodable(handle.unique_key):
            raise ResponseError(ResponseCode.ILLEGAL_OPERATION, "recall handle is invalid")
        if handle.topic != header.topic:
            fault = f"the handle is of a message of topic[{handle.topic}], not of topic[{header.topic}]"
        elif handle.broker_name != config.broker_name:
            fault = f"the handle is of broker[{handle.broker_name}], this is broker[{config.broker_name}]"
        else:
            ahead_ms = handle.deliver_ms - self._clock.now_ms()
            if 0 < ahead_ms <= config.timer_max_delay_sec * 1000:
                return handle
            fault = "the message's time of delivery is over, or too far ahead"
        raise ResponseError(ResponseCode.ILLEGAL_OPERATION, f"recall failed: {fault}")
