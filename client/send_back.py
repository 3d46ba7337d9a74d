"""Handing a failed message back: to its broker, else to any broker as a new message (semantics.md §4)."""

from __future__ import annotations

import asyncio
import logging

from pymq.client.received import RETRY_TOPIC_PREFIX, ReceivedMessage
from pymq.client.route_cache import AUTO_CREATE_TOPIC, DEFAULT_TOPIC_QUEUE_NUMS, RouteCache
from pymq.clock import Clock
from pymq.errors import ConfigError, ConnectFailed, PymqError
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.codes import ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import ConsumerSendMsgBackRequest, SendMessageRequestV2
from pymq.protocol.properties import encode_properties
from pymq.protocol.sysflags import COMPRESSED, COMPRESSION_MASK
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.consumer")

INNER_PRODUCER_GROUP = "CLIENT_INNER_PRODUCER"
"""By which consumers send (wire.md §5.2)."""

FIRST_DELAY_LEVEL = 3
"""The level of a first retry; each further attempt waits one level more (semantics.md §4.3)."""

_STORED = (
    ResponseCode.SUCCESS,
    ResponseCode.FLUSH_DISK_TIMEOUT,
    ResponseCode.SLAVE_NOT_AVAILABLE,
    ResponseCode.FLUSH_SLAVE_TIMEOUT,
)
"""The broker has the copy. If it was late to make it safe, another one would only double its work."""

_OF_THE_BROKER = frozenset(
    (names.CLUSTER, names.TRAN_MSG, names.RECONSUME_TIME, names.MAX_RECONSUME_TIMES, names.DELAY)
)
"""Properties that a message sent anew must not bring along; those of timed delivery (TIMER_…) are others."""

_INT_MAX = 2**31 - 1


class SendBack:
    """Hands back the failed messages of one group."""

    def __init__(
        self,
        pool: Pool,
        routes: RouteCache,
        clock: Clock,
        group: str,
        max_retries: int,
        timeout_s: float,
    ) -> None:
        """After `max_retries` failures a message goes to the dead letters. ConfigError below 0."""
        if not 0 <= max_retries <= _INT_MAX:
            raise ConfigError(f"max_retries={max_retries}: expected a number from 0 to {_INT_MAX:,}")
        self._pool = pool
        self._routes = routes
        self._clock = clock
        self._group = group
        self._max_retries = max_retries
        self._timeout_s = timeout_s

    async def send(self, message: ReceivedMessage, delay_level: int) -> bool:
        """Whether a broker has the message now, to bring it again or, with -1, as a dead letter.

        Asked first is the broker that stores it. If that does not take it back, it is sent to the group's
        retry topic, where any broker of the group takes it. Each way has its `timeout_s`.
        """
        header = ConsumerSendMsgBackRequest(
            offset=message.record.physical_offset,
            group=self._group,
            delay_level=delay_level,
            origin_msg_id=message.msg_id,
            origin_topic=message.source_topic,
            unit_mode="false",
            max_reconsume_times=self._max_retries,
        )
        broker = message.queue.broker_name
        try:
            await self._call(broker, header, b"", self._timeout_s)
        except PymqError as error:
            log.warning("%s was not taken back by %s, it is sent anew: %s", message, broker, error)
        else:
            return True
        if delay_level < 0:
            return await self._send_anew(message, message.reconsume_times + 1, None)
        level = delay_level or FIRST_DELAY_LEVEL + message.reconsume_times
        return await self._send_anew(message, message.reconsume_times + 1, level)

    async def bury(self, message: ReceivedMessage) -> bool:
        """Whether a broker has the message among the dead letters, after it failed here again and again.

        As Java's ordered consumers do, whose brokers know nothing of its failures: it is sent to the retry
        topic with a count of attempts that is over the limit.
        """
        return await self._send_anew(message, message.reconsume_times, None)

    async def _send_anew(self, message: ReceivedMessage, reconsume_times: int, level: int | None) -> bool:
        """Send the message to the retry topic of any broker; with no delay level it is a dead letter.

        The brokers compare the count of this failure with the limit here, that of the earlier ones when it is
        handed back. So the limit here is one more: Java's clients give up one attempt early.
        """
        header = SendMessageRequestV2(
            producer_group=INNER_PRODUCER_GROUP,
            topic=RETRY_TOPIC_PREFIX + self._group,
            default_topic=AUTO_CREATE_TOPIC,
            default_topic_queue_nums=DEFAULT_TOPIC_QUEUE_NUMS,
            queue_id=0,
            sys_flag=message.record.sys_flag & (COMPRESSED | COMPRESSION_MASK),
            born_timestamp=message.born_timestamp,
            flag=message.flag,
            properties=encode_properties(self._properties(message, level)),
            reconsume_times=reconsume_times,
            unit_mode="false",
            max_reconsume_times=0 if level is None else min(self._max_retries + 1, _INT_MAX),
            batch="false",
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_to_any(header, message)
        except (PymqError, TimeoutError) as error:
            reason = error if isinstance(error, PymqError) else f"no answer within {self._timeout_s:g} s"
            log.warning("%s was taken by no broker, it stays here: %s", message, reason)
            return False
        return True

    async def _send_to_any(self, header: SendMessageRequestV2, message: ReceivedMessage) -> None:
        """Try one broker after the other, the message's own last. Raises PymqError when none takes it."""
        by_broker: dict[str, list[MessageQueue]] = {}
        for queue in (await self._routes.route(header.topic)).writable:
            by_broker.setdefault(queue.broker_name, []).append(queue)
        brokers = list(by_broker)
        self._clock.random.shuffle(brokers)
        brokers.sort(key=lambda name: name == message.queue.broker_name)
        failure: PymqError = ConnectFailed("", f"no broker has a queue of {header.topic} that can be sent to")
        for left, broker in zip(range(len(brokers), 0, -1), brokers, strict=True):
            header.queue_id = self._clock.random.choice(by_broker[broker]).queue_id
            try:
                # Of the time that there is, one that hangs takes no more than its share.
                await self._call(broker, header, message.record.body, self._timeout_s / left)
            except PymqError as error:
                failure = error
            else:
                return
        raise failure

    def _properties(self, message: ReceivedMessage, level: int | None) -> dict[str, str]:
        properties = {
            name: value
            for name, value in message.record.read_properties().items()
            if name not in _OF_THE_BROKER and not name.startswith("TIMER_")
        }
        properties[names.RETRY_TOPIC] = message.source_topic
        properties.setdefault(names.ORIGIN_MESSAGE_ID, message.offset_msg_id)
        properties[names.WAIT] = "true"
        if level is not None:
            properties[names.DELAY] = str(level)
        return properties

    async def _call(self, broker_name: str, header: Header, body: bytes, timeout_s: float) -> None:
        address = self._routes.address(broker_name)
        if address is None:
            raise ConnectFailed("", f"the address of the master of {broker_name} is not known")
        reply = await self._pool.call(address, header, body, timeout_s=timeout_s, accept=_STORED)
        if reply.code != ResponseCode.SUCCESS:
            log.warning("%s has the copy, but not safely: %s", broker_name, ResponseCode(reply.code).name)
