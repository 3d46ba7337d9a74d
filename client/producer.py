"""The ways to send: one message and wait, many under way, a batch, oneway (semantics.md §11.3)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable, Mapping, Sequence

import msgspec

from pymq.client.failures import BatchFailed, BufferFull, MessageInvalid
from pymq.client.namespace import NO_NAMESPACE, Namespace
from pymq.client.outgoing import (
    NO_PROPERTIES,
    Message,
    Outgoing,
    check_topic,
    compress,
    encode_message,
)
from pymq.client.queue_choice import QueueSelector, shard_queue
from pymq.client.received import RETRY_TOPIC_PREFIX
from pymq.client.send_result import SendResult
from pymq.client.sender import Sender
from pymq.client.sending import Sending
from pymq.client.settings import Settings
from pymq.client.topic_route import TopicRoute
from pymq.client.turns import Turns
from pymq.errors import PymqError
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message import RECORD_FIXED_SIZE, BatchEntry, encode_batch
from pymq.protocol.message_ids import UniqueKeys

_ADDED_BY_BROKER = 128
"""Bytes that a broker may add to a record's properties (CLUSTER)."""

_WAITING = "WAIT\x01true"
_NOT_WAITING = "WAIT\x01false"
"""The properties of a whole batch."""


class Producer:
    """Sends messages. One for each client."""

    def __init__(
        self, sender: Sender, unique_keys: UniqueKeys, settings: Settings, namespace: Namespace = NO_NAMESPACE
    ) -> None:
        """Topics and queues are given and told without the `namespace`, which brokers see."""
        self._sender = sender
        self._namespace = namespace
        self._in_namespace = {names.INSTANCE_ID: namespace.name} if namespace.name else NO_PROPERTIES
        self._unique_keys = unique_keys
        self._settings = settings
        self._turns = Turns()
        self._in_flight: dict[asyncio.Task[SendResult], int] = {}
        self._in_flight_bytes = 0

    async def send(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None = None,
        own: Mapping[str, str] = NO_PROPERTIES,
        *,
        is_async: bool = False,
    ) -> SendResult:
        """Send one message; all attempts together take `timeout_s` at most.

        `own`: RocketMQ's own properties; `is_async`: it is tried as often as `send_nowait` tries.
        Raises MessageInvalid, RouteNotFound, NameServersUnreachable, SendFailed, and what a selector raises.
        """
        topic = self._namespace.wrap(topic)
        started = asyncio.get_running_loop().time()
        lane = _lane(topic, message, queue)
        turn = None if lane is None else self._turns.next(lane, started + timeout_s)
        async with turn or contextlib.nullcontext():
            sending = await self._prepare(topic, message, timeout_s, queue, own)
            sending.started, sending.deadline = started, started + timeout_s
            sending.is_async, sending.turn = is_async, turn
            return self._told((await self._sender.deliver(sending))[0])

    async def reply(
        self, topic: str, message: Message, timeout_s: float, own: Mapping[str, str], near: str
    ) -> SendResult:
        """Send a reply to a reply topic, which is in no namespace; the broker `near` is tried first.

        Raises as `send`; SendFailed also when the reply did not reach who waits for it.
        """
        if is_delayed(message):
            raise MessageInvalid("a reply cannot be delayed: somebody waits for it")
        sending = await self._prepare(topic, message, timeout_s, None, own)
        sending.near = near
        return (await self._sender.deliver(sending))[0]

    async def find(self, topic: str, timeout_s: float) -> None:
        """Learn where a topic is, before anything is sent there. Raises as `send`."""
        await self._sender.find(self._namespace.wrap(topic), timeout_s)

    def _told(self, result: SendResult) -> SendResult:
        """A result as the user is told it."""
        if not self._namespace.name:
            return result
        return msgspec.structs.replace(result, queue=self._namespace.unwrap_queue(result.queue))

    def send_nowait(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None = None,
    ) -> asyncio.Task[SendResult]:
        """As `send`, in the background. Raises BufferFull when too much is under way already."""
        size = len(message.body)
        if (
            len(self._in_flight) >= self._settings.in_flight_messages
            or self._in_flight_bytes + size > self._settings.in_flight_bytes
        ):
            raise BufferFull(
                f"{len(self._in_flight)} messages of {self._in_flight_bytes} bytes are under way already"
            )
        task = asyncio.ensure_future(self.send(topic, message, timeout_s, queue, is_async=True))
        self._in_flight[task] = size
        self._in_flight_bytes += size
        task.add_done_callback(self._sent)
        return task

    def _sent(self, task: asyncio.Task[SendResult]) -> None:
        self._in_flight_bytes -= self._in_flight.pop(task)

    async def flush(self) -> None:
        """Wait until nothing of `send_nowait` is under way. Raises nothing: the futures tell how it went."""
        while self._in_flight:
            await asyncio.wait(list(self._in_flight))

    async def send_oneway(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None = None,
    ) -> None:
        """Send one message and expect no answer: one attempt, and nobody says whether it was stored.

        Raises as `send`; no error of the broker's.
        """
        topic = self._namespace.wrap(topic)
        await self._sender.hand_over(await self._prepare(topic, message, timeout_s, queue))

    async def send_batch(
        self,
        topic: str,
        messages: Sequence[Message],
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None = None,
    ) -> list[SendResult]:
        """Send many messages, one request for each queue and 4 MiB; their results in the same order.

        Without an explicit queue, those with `shard_by` go where it says and the others together to any.
        Raises as `send`, and BatchFailed when some requests failed.
        """
        topic = self._namespace.wrap(topic)
        if topic.startswith(RETRY_TOPIC_PREFIX):
            raise MessageInvalid(f"{topic}: messages to a retry topic cannot be sent as a batch")
        queue, select = self._chosen(queue)
        encoded = [self._encode(topic, message, queue) for message in messages]
        if any(map(is_delayed, messages)):
            raise MessageInvalid("the messages of a batch cannot be delayed: send them one by one")
        if len({message.wait_store_msg_ok for message in messages}) > 1:
            raise MessageInvalid("wait_store_msg_ok holds for the whole of a batch: its messages differ")
        if not encoded:
            return []
        started = asyncio.get_running_loop().time()
        deadline = started + timeout_s
        route = await self._sender.route(Sending(topic, encoded[0], deadline, started))
        if select is not None:
            queue = select(route.writable)
        results: dict[int, SendResult | PymqError] = {}

        async def send_in_order(shard_by: str | None, indices: list[int]) -> None:
            for part in self._parts(topic, encoded, indices):
                together = await self._together([encoded[index] for index in part])
                try:
                    answers = await self._sender.deliver(
                        Sending(topic, together, deadline, started, shard_by, queue)
                    )
                except PymqError as error:
                    results.update(dict.fromkeys(part, error))
                else:
                    results.update(zip(part, map(self._told, answers), strict=True))

        async with asyncio.TaskGroup() as group:
            for shard_by, indices in _by_queue(route, messages, queue).items():
                group.create_task(send_in_order(shard_by, indices))
        in_order = [results[index] for index in range(len(encoded))]
        stored = [result for result in in_order if isinstance(result, SendResult)]
        if len(stored) < len(in_order):
            raise BatchFailed(in_order)
        return stored

    async def _prepare(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None,
        own: Mapping[str, str] = NO_PROPERTIES,
    ) -> Sending:
        started = asyncio.get_running_loop().time()
        queue, select = self._chosen(queue)
        outgoing = self._encode(topic, message, queue, own)
        if len(outgoing.body) >= self._settings.compress_from_bytes:
            outgoing = await compress(outgoing)
        shard_by = message.shard_by if select is None else None
        return Sending(topic, outgoing, started + timeout_s, started, shard_by, queue, select=select)

    def _chosen(
        self, queue: MessageQueue | QueueSelector | None
    ) -> tuple[MessageQueue | None, QueueSelector | None]:
        """The queue that a user gave, or what picks it, as brokers call queues. Raises MessageInvalid."""
        if queue is None:
            return None, None
        if isinstance(queue, MessageQueue):
            return self._namespace.wrap_queue(queue), None
        if not callable(queue):
            raise MessageInvalid(f"queue={queue!r}: expected a MessageQueue, or a function that picks one")
        selector = queue

        def select(queues: Sequence[MessageQueue]) -> MessageQueue:
            given = [self._namespace.unwrap_queue(each) for each in queues]
            picked = selector(given)
            if picked not in given:
                raise MessageInvalid(f"the queue selector picked {picked!r}, which is no queue of the topic")
            return self._namespace.wrap_queue(picked)

        return None, select

    def _encode(
        self,
        topic: str,
        message: Message,
        queue: MessageQueue | None,
        own: Mapping[str, str] = NO_PROPERTIES,
    ) -> Outgoing:
        check_topic(topic)
        if self._in_namespace:
            own = {**own, **self._in_namespace}
        if queue is not None and queue.topic != topic:
            raise MessageInvalid(f"queue {queue} is none of topic {topic}")
        msg_id = own.get(names.UNIQ_KEY) or self._unique_keys.next()
        return encode_message(message, msg_id, self._settings.max_message_bytes, own)

    async def _together(self, parts: list[Outgoing]) -> Outgoing:
        """Some messages as one; a single one stays what it is, and may be compressed."""
        if len(parts) > 1:
            block = encode_batch(BatchEntry(part.body, part.properties, part.flag) for part in parts)
            msg_ids = ",".join(part.msg_id for part in parts)
            waits = names.get_property(parts[0].properties, names.WAIT) == "true"
            properties = _WAITING if waits else _NOT_WAITING
            return Outgoing(block, properties, 0, 0, msg_ids, is_batch=True, parts=tuple(parts))
        is_long = len(parts[0].body) >= self._settings.compress_from_bytes
        return await compress(parts[0]) if is_long else parts[0]

    def _parts(self, topic: str, encoded: Sequence[Outgoing], indices: Sequence[int]) -> list[list[int]]:
        """Cut a batch so that what a broker makes of each part stays below its limit."""
        parts: list[list[int]] = [[]]
        filled = 0
        for index in indices:
            size = RECORD_FIXED_SIZE + _ADDED_BY_BROKER + len(topic) + len(encoded[index].body)
            size += len(encoded[index].properties.encode())
            if parts[-1] and filled + size > self._settings.max_message_bytes:
                parts.append([])
                filled = 0
            parts[-1].append(index)
            filled += size
        return parts


def _lane(topic: str, message: Message, queue: MessageQueue | QueueSelector | None) -> Hashable:
    """What messages have in common that are to keep their order; None for one that may go anywhere."""
    if queue is None:
        return None if message.shard_by is None else (topic, message.shard_by)
    return queue if isinstance(queue, MessageQueue) else (topic, None)


def is_delayed(message: Message) -> bool:
    """Whether a message is to wait at its broker."""
    return bool(message.delay) or message.deliver_at is not None or message.delay_level is not None


def _by_queue(
    route: TopicRoute, messages: Sequence[Message], queue: MessageQueue | None
) -> dict[str | None, list[int]]:
    """Indices of the messages of a batch that go to one queue together, by a `shard_by` that leads there."""
    leads: dict[MessageQueue | None, str | None] = {}
    together: dict[str | None, list[int]] = {}
    for index, message in enumerate(messages):
        shard_by = None if queue is not None else message.shard_by
        target = None if shard_by is None else shard_queue(route.writable, shard_by)
        together.setdefault(leads.setdefault(target, shard_by), []).append(index)
    return together
