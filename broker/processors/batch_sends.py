"""Batches: one request, many messages, in the log whole or not at all (semantics.md §1.5, store.md §2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.figures import Figures
from pymq.broker.timed import is_timed
from pymq.errors import MessageIllegal, PymqError, ResponseError, StoreError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import SendMessageRequest, SendMessageRequestV2
from pymq.protocol.properties import DELAY, TRAN_MSG, get_property
from pymq.protocol.sysflags import TRANSACTION_MASK
from pymq.store.batches import Batch, BatchResult
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request

AT_ONCE_BYTES: Final = 128 << 10
"""A request up to this size, which is what Java's clients suggest, is stored in one turn of the loop."""
_MAKING_MAX: Final = 8
"""With so many large ones under way the next is stored in one turn, too: their requests wait in memory."""
_TIMER: Final = b"TIMER_DEL"
"""Begins the names of the properties that tell a time of delivery."""

BatchRequest = Request[SendMessageRequest | SendMessageRequestV2]


class BatchSends:
    """The part of the sends that batches have of their own.

    The messages of a large batch become records a slice at a time, while others have their turns. Batches are
    put in the order in which they came, and only one of them is in the making: its records take memory.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: MessageStore,
        figures: Figures,
        *,
        stored_properties: Callable[[str], str],
        admit: Callable[[BatchRequest], object],
        answer: Callable[[BatchRequest, BatchResult, int], Answer | None],
        refusal: Callable[[PymqError], Answer],
    ) -> None:
        """Steps that all sends share.

        Args:
            stored_properties: turns property text with a separator in front into what is stored.
            admit: raises ResponseError for what is not to be stored, or not any more.
            answer: the answer now or, None, later, for what was stored in a queue.
            refusal: the answer that an error becomes.
        """
        self._config = config
        self._store = store
        self._figures = figures
        self._stored_properties = stored_properties
        self._admit = admit
        self._answer = answer
        self._refusal = refusal
        self._turn = asyncio.Lock()
        self._making = 0

    def send(
        self, request: BatchRequest, queue_id: int, sys_flag: int
    ) -> Answer | Coroutine[None, None, Answer | None] | None:
        """Store a batch. MessageIllegal, StoreError, ResponseError."""
        header = request.header
        own = header.properties or ""
        is_half = header.sys_flag & TRANSACTION_MASK or (get_property(own, TRAN_MSG) or "").lower() == "true"
        if is_half or get_property(own, DELAY) or is_timed(own):
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL, "a batch can be neither delayed nor transactional"
            )
        if len(request.body) > self._config.max_message_size:
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL,
                f"batch of {len(request.body)} bytes is over maxMessageSize={self._config.max_message_size}",
            )
        batch = self._store.new_batch(
            header.topic,
            queue_id,
            sys_flag=sys_flag,
            born_timestamp=header.born_timestamp,
            born_host=request.connection.born_host,
        )
        making = batch.add(request.body, self._stored_properties("\x02" + own))
        if len(request.body) > AT_ONCE_BYTES and self._making < _MAKING_MAX:
            return self._send_large(request, batch, making)
        for _ in making:
            pass
        return self._put(request, batch)

    async def _send_large(self, request: BatchRequest, batch: Batch, making: Iterator[None]) -> Answer | None:
        self._making += 1
        try:
            async with self._turn:
                for _ in making:
                    await asyncio.sleep(0)
                self._admit(request)  # the topic may have gone meanwhile, or the broker is stopping
                return self._put(request, batch)
        except (MessageIllegal, StoreError, ResponseError) as error:
            return self._refusal(error)
        finally:
            self._making -= 1

    def _put(self, request: BatchRequest, batch: Batch) -> Answer | None:
        if _TIMER in request.body and any(
            _TIMER in text and is_timed(text.decode()) for text in batch.properties
        ):
            raise ResponseError(
                ResponseCode.MESSAGE_ILLEGAL, "a message of a batch can have no time of delivery"
            )
        result = self._store.put_batch(batch)
        self._figures.put(len(batch), len(request.body))
        return self._answer(request, result, batch.queue_id)
