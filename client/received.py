"""A message that a consumer got, to be settled by who handles it."""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import MessageRecord
from pymq.protocol.message_ids import format_host

log = logging.getLogger("pymq.client.consumer")

RETRY_TOPIC_PREFIX = "%RETRY%"


class Settling(Protocol):
    """Who hears how the handling of a message ended."""

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
    """

    __slots__ = (
        "_record",
        "_settled",
        "_settling",
        "flag",
        "keys",
        "msg_id",
        "properties",
        "queue",
        "queue_offset",
        "reconsume_times",
        "tags",
        "topic",
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
        self.properties = properties
        self.queue = queue
        self.queue_offset = record.queue_offset
        self.flag = record.flag
        self.tags = properties.get(names.TAGS)
        self.keys = tuple(properties.get(names.KEYS, "").split())
        self.msg_id = properties.get(names.UNIQ_KEY) or record.offset_msg_id
        self.reconsume_times = record.reconsume_times if reconsume_times is None else reconsume_times
        self.topic = record.topic
        if record.topic.startswith(RETRY_TOPIC_PREFIX):
            self.topic = properties.get(names.RETRY_TOPIC, record.topic)

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
    def is_settled(self) -> bool:
        """Whether it was acknowledged or handed back."""
        return self._settled

    def ack(self) -> None:
        """It was handled: let its group go on behind it."""
        if not self._settled:
            self._settled = True
            self._settling.done(self)

    async def retry(self, delay_level: int = 0) -> None:
        """It could not be handled: let it come again later.

        `delay_level` 0 lets the broker wait longer each time, 1 to 18 is a fixed level of its table, and -1
        sends it to the dead-letter topic. In broadcasting it does not come again, as with Apache's clients.
        """
        if not self._settled:
            self._settled = True
            await self._settling.failed(self, delay_level)

    @contextlib.asynccontextmanager
    async def process(self, *, reraise: bool = False) -> AsyncIterator[ReceivedMessage]:
        """Handle it in the block: acknowledged at its end, retried later when it raises.

        The exception is logged and ends here, so that the loop around goes on with the next message; with
        `reraise` it goes on to the caller. A block that is cancelled gives the message back at once.
        """
        try:
            yield self
        except Exception:
            log.exception("%s: handling it failed; it is retried later", self)
            await self.retry()
            if reraise:
                raise
        except BaseException:
            if not self._settled:
                self._settled = True
                self._settling.released(self)
            raise
        else:
            self.ack()

    def __repr__(self) -> str:
        place = f"{self.queue.broker_name}:{self.queue.queue_id}@{self.queue_offset}"
        return f"<message {self.msg_id} of {self.topic}, {place}>"
