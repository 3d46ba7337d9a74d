"""A message that a consumer got, to be settled by who handles it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

from pymq.client.namespace import Namespace
from pymq.client.retry_later import RetryLater, check_delay_level
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import MessageRecord
from pymq.protocol.message_ids import format_host
from pymq.protocol.trace_data import ConsumeReturnType

if TYPE_CHECKING:
    from pymq.client.outgoing import Message
    from pymq.client.send_result import SendResult

log = logging.getLogger("pymq.client.consumer")

REPLY_TIMEOUT_S = 3.0

RETRY_TOPIC_PREFIX = "%RETRY%"


class Recipient(Protocol):
    """The client that messages come to."""

    @property
    def namespace(self) -> Namespace:
        """Names are told without it."""
        ...

    async def reply(
        self, message: ReceivedMessage, reply: bytes | str | Message, timeout_s: float
    ) -> SendResult:
        """Answer a request."""
        ...


class Settling(Protocol):
    """Who hears how the handling of a message ended, and whose messages these are."""

    @property
    def recipient(self) -> Recipient:
        """The client that they came to."""
        ...

    def done(self, message: ReceivedMessage) -> None:
        """It was handled."""
        ...

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        """It could not be handled and is to come again later."""
        ...

    def released(self, message: ReceivedMessage) -> None:
        """Its handling was given up half-way: it is to come again at once."""
        ...


class ReceivedMessage:
    """A message and its place. The first of `ack`, `retry` and the end of `process` settles it.

    Attributes:
        topic: the topic that it was sent to, also when it comes from the group's retry topic.
        queue: the queue that it came from.
        queue_offset: its place there.
        msg_id: the id that its producer gave it; the same whenever it comes again.
        offset_msg_id: the broker's id of this copy.
        tags: its tag, None without one.
        keys: its keys.
        properties: all its properties, those of RocketMQ's own included.
        reconsume_times: how often it has failed before.
        born_timestamp: when it was sent, ms since 1970 by the producer's clock.
        store_timestamp: when this copy was stored, ms since 1970 by the broker's clock.
        flag: the producer's number.
        given_back: how often its handling here was given up half-way since it came or last failed.
        source, source_topic: queue and topic as brokers call them, with the client's namespace.
        when_settled: who hears, for the message trace, how its handling ended; None when nobody does.
    """

    __slots__ = (
        "_record",
        "_settled",
        "_settling",
        "flag",
        "given_back",
        "keys",
        "msg_id",
        "properties",
        "queue",
        "queue_offset",
        "reconsume_times",
        "source",
        "source_topic",
        "tags",
        "topic",
        "when_settled",
    )

    def __init__(
        self,
        record: MessageRecord,
        queue: MessageQueue,
        settling: Settling,
        reconsume_times: int | None = None,
    ) -> None:
        properties = record.read_properties()
        self._record = record
        self._settling = settling
        self._settled = False
        self.given_back = 0
        self.when_settled: Callable[[ConsumeReturnType], None] | None = None
        self.properties = properties
        self.source = self.queue = queue
        self.queue_offset = record.queue_offset
        self.flag = record.flag
        self.tags = properties.get(names.TAGS)
        self.keys = tuple(properties.get(names.KEYS, "").split())
        self.msg_id = properties.get(names.UNIQ_KEY) or record.offset_msg_id
        self.reconsume_times = record.reconsume_times if reconsume_times is None else reconsume_times
        self.topic = record.topic
        if record.topic.startswith(RETRY_TOPIC_PREFIX):
            self.topic = properties.get(names.RETRY_TOPIC, record.topic)
        self.source_topic = self.topic
        namespace = settling.recipient.namespace
        if namespace.name:
            self.topic = namespace.unwrap(self.topic)
            self.queue = namespace.unwrap_queue(queue)

    @property
    def body(self) -> bytes:
        """The content, decompressed. Raises UnreadableBody when that cannot be done."""
        return self._record.read_body()

    @property
    def record(self) -> MessageRecord:
        """The message as it is stored."""
        return self._record

    @property
    def offset_msg_id(self) -> str:
        """The broker's id of this copy."""
        return self._record.offset_msg_id

    @property
    def born_timestamp(self) -> int:
        """When it was sent, ms since 1970 by the producer's clock."""
        return self._record.born_timestamp

    @property
    def store_timestamp(self) -> int:
        """When this copy was stored, ms since 1970 by the broker's clock."""
        return self._record.store_timestamp

    @property
    def born_time(self) -> datetime.datetime:
        """When it was sent, in UTC."""
        return datetime.datetime.fromtimestamp(self._record.born_timestamp / 1000, datetime.UTC)

    @property
    def born_host(self) -> str:
        """The producer's address, `ip:port`."""
        return format_host(self._record.born_host)

    @property
    def store_host(self) -> str:
        """The broker's address, `ip:port`."""
        return format_host(self._record.store_host)

    @property
    def wants_reply(self) -> bool:
        """Whether it is a request: somebody waits for a `reply`."""
        return names.REPLY_TO_CLIENT in self.properties and names.CORRELATION_ID in self.properties

    async def reply(
        self,
        body: bytes | str | Message,
        *,
        timeout: float = REPLY_TIMEOUT_S,  # noqa: ASYNC109
    ) -> SendResult:
        """Answer a request. It has to be settled besides, as every message.

        A handler that lets the errors of this through has its message retried, and so does its work again:
        when who asked is gone, catch SendFailed. A `def` handler cannot wait for this: it returns it.

        Args:
            body: the content (text is sent as UTF-8), or a Message with tags, keys and properties.
            timeout: seconds for all attempts together.

        Raises MessageInvalid when it is no request that can be answered; SendFailed when the reply did not
        reach who asked, who may have given up; and as `Client.send`.
        """
        if not timeout > 0:  # written so that it holds for NaN, too
            raise ValueError(f"timeout={timeout!r}: expected seconds above 0")
        return await self._settling.recipient.reply(self, body, timeout)

    @property
    def is_settled(self) -> bool:
        """Whether it was acknowledged or handed back."""
        return self._settled

    def ack(self) -> None:
        """It was handled: let its group go on behind it."""
        if not self._settled:
            self._settle(ConsumeReturnType.SUCCESS)
            self._settling.done(self)

    async def retry(self, delay_level: int = 0) -> None:
        """It could not be handled: let it come again later.

        `delay_level` 0 lets the broker wait longer each time, 1 to 18 is a fixed level of its table, and -1
        sends it to the dead-letter topic. In broadcasting it does not come again, as with Apache's clients.
        Raises ValueError for another level, and nothing has happened then.
        """
        check_delay_level(delay_level)
        await self.fail(ConsumeReturnType.FAILED, delay_level)

    async def fail(self, how: ConsumeReturnType, delay_level: int = 0) -> None:
        """As `retry`, with a reason for the message trace."""
        if not self._settled:
            self._settle(how)
            await self._settling.failed(self, delay_level)

    def process(self, *, reraise: bool = False) -> AbstractAsyncContextManager[ReceivedMessage]:
        """Handle it in the block: acknowledged at its end, retried later when it raises.

        The exception is logged and ends here, so that the loop around goes on with the next message; with
        `reraise` it goes on to the caller. RetryLater says how long to wait, and always ends here. A block
        that is cancelled gives the message back at once, uncounted; when that happens to the same message
        again, it waits a little longer each time, and the fourth time in a row is a failure: so a time-out
        around this block ends at the dead letters, too. That something it waits for was cancelled is a
        failure.
        """
        return _settling((self,), self, reraise)

    def abandon(self) -> None:
        """Its handling goes on where nothing can be heard of its end: it is never settled."""
        self._settled = True

    def release(self) -> None:
        """Its handling was given up half-way: let it come again at once."""
        if not self._settled:
            self._settle(ConsumeReturnType.RETURNNULL)
            self._settling.released(self)

    def _settle(self, how: ConsumeReturnType) -> None:
        self._settled = True
        if self.when_settled is not None:
            self.when_settled(how)

    def again(self, reconsume_times: int | None = None) -> ReceivedMessage:
        """The same message, unsettled, to be given out once more: after a failure, or else given back."""
        times = self.reconsume_times if reconsume_times is None else reconsume_times
        message = ReceivedMessage(self._record, self.source, self._settling, times)
        message.given_back = self.given_back + 1 if reconsume_times is None else 0
        return message

    def __repr__(self) -> str:
        place = f"{self.queue.broker_name}:{self.queue.queue_id}@{self.queue_offset}"
        return f"<message {self.msg_id} of {self.topic}, {place}>"


def process_all(
    messages: Sequence[ReceivedMessage],
) -> AbstractAsyncContextManager[Sequence[ReceivedMessage]]:
    """As `ReceivedMessage.process`, for many in one block; what the block settles itself stays as it is."""
    return _settling(messages, messages, False)


Given = TypeVar("Given")


@contextlib.asynccontextmanager
async def _settling(messages: Sequence[ReceivedMessage], given: Given, reraise: bool) -> AsyncIterator[Given]:
    """Settle messages by how the block ends, which has `given`."""
    try:
        yield given
    except RetryLater as later:
        try:
            again = later.chosen_of(messages)
        except ValueError as error:
            log.error("%s: %s; all of it is retried later", _described(messages), error)
            await _fail_all(messages, ConsumeReturnType.EXCEPTION)
            return
        log.info("%s is to come again later: %s", _described(again), later.reason or "no reason given")
        await _fail_all(again, ConsumeReturnType.FAILED, later.delay_level)
    except asyncio.CancelledError:
        if _is_cancelled():
            _release_all(messages)
            raise
        log.exception(
            "%s: something that its handling waits for was cancelled; it is retried later",
            _described(messages),
        )
        await _fail_all(messages, ConsumeReturnType.EXCEPTION)
        if reraise:
            raise
    except Exception:
        log.exception("%s: handling it failed; it is retried later", _described(messages))
        await _fail_all(messages, ConsumeReturnType.EXCEPTION)
        if reraise:
            raise
    except BaseException:
        _release_all(messages)
        raise
    else:
        for message in messages:
            message.ack()


def _is_cancelled() -> bool:
    """Whether a CancelledError means this task, not another one, or a future, that it waits for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _release_all(messages: Sequence[ReceivedMessage]) -> None:
    for message in messages:
        message.release()


async def _fail_all(
    messages: Sequence[ReceivedMessage], how: ConsumeReturnType, delay_level: int = 0
) -> None:
    if len(messages) == 1:
        await messages[0].fail(how, delay_level)
    else:
        await asyncio.gather(*[message.fail(how, delay_level) for message in messages])


def _described(messages: Sequence[ReceivedMessage]) -> str:
    if len(messages) == 1:
        return str(messages[0])
    unsettled = [message for message in messages if not message.is_settled]
    first = f", the first {unsettled[0]}" if unsettled else ""
    return f"what is left of a batch ({len(unsettled)} of {len(messages)} messages{first})"
