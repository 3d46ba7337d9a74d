"""Replies to requests: SEND_REPLY_MESSAGE and its V2, pushed to who asked (semantics.md §8.3).

A reply names the client that waits for it. It is passed to that client's connection as
PUSH_REPLY_MESSAGE_TO_CLIENT, and the responder hears whether it arrived there. A copy is stored in the reply
topic, if storeReplyMessageEnable says so: a record of what was said, which nobody waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.broker_config import BrokerConfig
from pymq.broker.figures import Figures
from pymq.broker.live_clients import LiveClients
from pymq.broker.processors.sends import KEPT_FLAGS, SendProcessor
from pymq.clock import Clock
from pymq.errors import PymqError, ResponseError, TransportError
from pymq.protocol import properties as names
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.groups import PushReplyMessageToClientRequest
from pymq.protocol.headers.messaging import (
    SendFailed,
    SendMessageResponse,
    SendReplyMessageRequest,
    SendReplyMessageRequestV2,
)
from pymq.protocol.properties import decode_properties, encode_properties, get_property
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore, PutResult
from pymq.transport.dispatch import Answer, Request, Row, row

log = logging.getLogger("pymq.broker.replies")

PUSH_TIMEOUT_S = 10.0
"""How long a client may take to confirm a reply. Source: Broker2Client.callClient."""

ReplyHeader = SendReplyMessageRequest | SendReplyMessageRequestV2


class ReplyProcessor:
    """Serves those who answer other clients' requests. `address` is how clients reach this broker."""

    def __init__(
        self,
        config: BrokerConfig,
        sends: SendProcessor,
        clients: LiveClients,
        store: MessageStore,
        clock: Clock,
        figures: Figures,
        acknowledgements: Acknowledgements | None,
        address: str,
    ) -> None:
        self._config = config
        self._sends = sends
        self._clients = clients
        self._store = store
        self._clock = clock
        self._figures = figures
        self._acknowledgements = acknowledgements
        self._address = address
        self._pushing = 0
        self._region = config.region_id
        self._trace_on = "true" if config.trace_on else "false"

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(SendReplyMessageRequest, self.reply), row(SendReplyMessageRequestV2, self.reply)]

    async def reply(self, request: Request[ReplyHeader]) -> Answer | None:
        """Pass a reply on. SYSTEM_ERROR when it did not arrive, also where it is stored all the same.

        None: the answer waits until the stored copy is safe.
        """
        header = request.header
        try:
            queue_id = self._sends.admit_to_queue(header)
            if self._pushing >= self._config.reply_thread_pool_queue_capacity:
                raise ResponseError(
                    ResponseCode.SYSTEM_BUSY,
                    f"{self._pushing} replies wait for their clients already (replyThreadPoolQueueCapacity)",
                )
        except ResponseError as error:
            return Answer(error.code, SendFailed(self._region, self._trace_on), remark=error.remark)
        self._pushing += 1
        try:
            failure = await self._push(request)
        finally:
            self._pushing -= 1
        return self._store_copy(request, queue_id, failure)

    async def _push(self, request: Request[ReplyHeader]) -> str | None:
        """Give a reply to the client that waits for it; why it did not arrive, None when it did."""
        properties = decode_properties(request.header.properties or "")
        client_id = properties.get(names.REPLY_TO_CLIENT)
        if client_id is None:
            return f"reply message properties[{names.REPLY_TO_CLIENT}] is null"
        connection = self._clients.producer_connection(client_id)
        if connection is None:
            return f"push reply message fail, channel of <{client_id}> not found."
        try:
            answer = await connection.call(
                self._pushed(request, properties), request.body, timeout_s=PUSH_TIMEOUT_S
            )
        except TransportError as error:
            return f"push reply message to {client_id} fail: {error}"
        if answer.code != ResponseCode.SUCCESS:
            return f"push reply message to {client_id} fail: it answered {answer.code} {answer.remark or ''}"
        return None

    def _pushed(
        self, request: Request[ReplyHeader], properties: dict[str, str]
    ) -> PushReplyMessageToClientRequest:
        header, now_ms = request.header, self._clock.now_ms()
        return PushReplyMessageToClientRequest(
            producer_group=header.producer_group,
            topic=header.topic,
            default_topic=header.default_topic,
            default_topic_queue_nums=header.default_topic_queue_nums,
            queue_id=header.queue_id,
            sys_flag=header.sys_flag,
            born_timestamp=header.born_timestamp,
            flag=header.flag,
            born_host=request.connection.address,
            store_host=self._address,
            store_timestamp=now_ms,
            properties=encode_properties({**properties, names.PUSH_REPLY_TIME: str(now_ms)}),
            reconsume_times=header.reconsume_times,
            unit_mode=header.unit_mode == "true",
        )

    def _store_copy(self, request: Request[ReplyHeader], queue_id: int, failure: str | None) -> Answer | None:
        """The answer, once the copy is stored; a store that refuses it changes nothing for the responder."""
        stored = None
        if self._config.store_reply_message_enable:
            try:
                stored = self._put(request, queue_id)
            except PymqError as error:
                log.warning("a reply of %s is not stored: %s", request.connection.address, error)
        offset_id, queue_offset = (stored.offset_msg_id, stored.queue_offset) if stored else ("0", 0)
        header = SendMessageResponse(offset_id, queue_id, queue_offset, None, self._region, self._trace_on)
        if failure is not None:
            return Answer(ResponseCode.SYSTEM_ERROR, header, remark=failure)
        answer = Answer(ResponseCode.SUCCESS, header)
        if stored is None or self._acknowledgements is None:
            return answer
        self._acknowledgements.when_safe(stored.end_offset, request, answer, tells_slave=False)
        return None

    def _put(self, request: Request[ReplyHeader], queue_id: int) -> PutResult:
        """Store it as it came. Raises MessageIllegal, StoreError."""
        header = request.header
        properties = header.properties or ""
        stored = self._store.put(
            header.topic,
            queue_id,
            request.body,
            properties,
            flag=header.flag,
            sys_flag=header.sys_flag & KEPT_FLAGS,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
            reconsume_times=header.reconsume_times or 0,
            tags_code=tags_code(get_property(properties, names.TAGS) or ""),
        )
        self._figures.put(1, len(request.body))
        return stored
