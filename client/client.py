"""The client as its user sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypedDict, Unpack

from pymq.client.consumer import Consumer
from pymq.client.failures import ClientClosed
from pymq.client.group_member import GroupMember
from pymq.client.handlers import Handler, run_handler
from pymq.client.instance import ClientInstance
from pymq.client.outgoing import Message
from pymq.client.send_result import SendResult
from pymq.client.settings import Settings
from pymq.client.start_offset import Start
from pymq.clock import Clock, SystemClock
from pymq.disk import Disk, SystemDisk
from pymq.network import Network, SystemNetwork
from pymq.protocol.bodies import MessageQueue

SEND_TIMEOUT_S = 3.0
DEFAULT_PRODUCER_GROUP = "PYMQ_PRODUCER"


class ConsumerOptions(TypedDict, total=False):
    """The keyword arguments of `Client.consumer`."""

    tags: str
    broadcast: bool
    start: Start
    max_retries: int
    prefetch: int
    prefetch_bytes: int
    consume_timeout: float


class Client:
    """A RocketMQ client: sends messages and makes consumers. An async context manager.

    It works with pymq's brokers and with Apache's, versions 4.x and 5.x. Nothing is connected before it is
    needed; connections that are lost are opened again. Several clients can live in one process.
    """

    def __init__(
        self,
        name_servers: str | Sequence[str],
        *,
        producer_group: str = DEFAULT_PRODUCER_GROUP,
        instance_name: str | None = None,
        offsets_folder: str | None = None,
        clock: Clock | None = None,
        network: Network | None = None,
        disk: Disk | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Make a client; `start` or `async with` brings it to life.

        Args:
            name_servers: `host:port`, several separated by `;` or as a list.
            producer_group: the group that its messages are sent by.
            instance_name: tells this client, and its broadcast offsets, from others on the machine. Without
                one the client's id is unique, and broadcast offsets are those of the machine.
            offsets_folder: where broadcast offsets are kept, `~/.rocketmq_offsets` unless given.
            clock, network, disk: the outside world, the machine's own unless given.
            settings: periods, limits and time-outs.

        Raises ConfigError, MessageInvalid.
        """
        self._instance = ClientInstance(
            name_servers,
            clock or SystemClock(),
            network or SystemNetwork(),
            disk or SystemDisk(),
            instance_name,
            producer_group,
            settings or Settings(),
        )
        self._offsets_folder = offsets_folder

    @property
    def client_id(self) -> str:
        """The name by which brokers know this client."""
        return self._instance.client_id

    async def start(self) -> None:
        """Bring the client to life in the running loop."""
        self._instance.start()

    async def close(self) -> None:
        """Wait for what is being sent, close its consumers, leave nothing behind."""
        await self._instance.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # -- sending ------------------------------------------------------------------------------------

    async def send(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        tags: str | None = None,
        keys: str | Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        flag: int = 0,
        shard_by: str | None = None,
        queue: MessageQueue | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> SendResult:
        """Send one message and wait until a broker has stored it.

        Tried up to three times, on another broker if there is one, all within `timeout` seconds.

        Args:
            topic: where to.
            body: the content (text is sent as UTF-8), or a Message; then the next five are not looked at.
            tags, keys, properties, flag, shard_by: see Message.
            queue: the very queue to send it to.
            timeout: seconds for all attempts together.

        Raises MessageInvalid, RouteNotFound, NameServersUnreachable, SendFailed, ClientClosed, and ValueError
        for a `timeout` that is not above 0.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = _message(body, tags, keys, properties, flag, shard_by)
        return await self._instance.producer.send(topic, message, timeout, queue)

    def send_nowait(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        tags: str | None = None,
        keys: str | Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        flag: int = 0,
        shard_by: str | None = None,
        queue: MessageQueue | None = None,
        timeout: float = SEND_TIMEOUT_S,
    ) -> asyncio.Future[SendResult]:
        """As `send`, without waiting: the future gives the result, or raises what `send` would have raised.

        Raises BufferFull when 10,000 messages or 64 MiB are under way (see Settings); ClientClosed; and
        ValueError for a `timeout` that is not above 0.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = _message(body, tags, keys, properties, flag, shard_by)
        return self._instance.producer.send_nowait(topic, message, timeout, queue)

    async def flush(self) -> None:
        """Wait until all messages of `send_nowait` are stored or have failed."""
        await self._instance.producer.flush()

    async def send_oneway(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        tags: str | None = None,
        keys: str | Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        flag: int = 0,
        shard_by: str | None = None,
        queue: MessageQueue | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> None:
        """Send one message without asking whether it is stored. Waits while the broker is slow to read.

        Raises as `send`.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = _message(body, tags, keys, properties, flag, shard_by)
        await self._instance.producer.send_oneway(topic, message, timeout, queue)

    async def send_batch(
        self,
        topic: str,
        messages: Sequence[Message],
        *,
        queue: MessageQueue | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[SendResult]:
        """Send many messages together: one request for each queue and 4 MiB. Results in the same order.

        Messages without `shard_by` go together to any queue. Raises as `send`, and BatchFailed when a part
        was not stored.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        return await self._instance.producer.send_batch(topic, messages, timeout, queue)

    async def queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to. Raises RouteNotFound, NameServersUnreachable."""
        self._instance.check_running()
        return list((await self._instance.routes.route(topic)).writable)

    # -- consuming ----------------------------------------------------------------------------------

    def consumer(
        self,
        group: str,
        topic: str | Mapping[str, str],
        *,
        tags: str = "*",
        broadcast: bool = False,
        start: Start = "last",
        max_retries: int = 16,
        prefetch: int = 1000,
        prefetch_bytes: int = 64 * 1024 * 1024,
        consume_timeout: float = 900.0,
    ) -> Consumer:
        """A consumer of `topic` for `group`; it joins with `start` or `async with`.

        The members of a group share the queues of its topics, and have to subscribe to the same.

        Args:
            group: the group.
            topic: the topic, or a tag expression for each of several.
            tags: `a || b`: only messages with one of these tags.
            broadcast: every member gets all messages; offsets are kept on this machine, and a message that
                fails is not retried.
            start: where a group begins that is new to the topic: `first`, `last`, or a datetime.
            max_retries: failures after which a message goes to the dead-letter topic.
            prefetch: messages that may be pulled and not settled, all queues together.
            prefetch_bytes: bytes of their bodies.
            consume_timeout: seconds after which a message that was given out and not settled comes again.

        Raises MessageInvalid, ConfigError, TagExpressionError.
        """
        subscriptions = {topic: tags} if isinstance(topic, str) else dict(topic)
        # Made now, so that what is wrong about it is raised here.
        member = self._instance.member(
            group,
            subscriptions,
            broadcast=broadcast,
            start=start,
            max_retries=max_retries,
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            consume_timeout_s=consume_timeout,
            offsets_folder=self._offsets_folder,
        )
        return Consumer(_Membership(self._instance, member))

    async def consume(
        self,
        group: str,
        topic: str | Mapping[str, str],
        handler: Handler,
        *,
        concurrency: int = 20,
        grace: float = 10.0,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        """Let `handler` have every message, up to `concurrency` at once, until this is cancelled.

        An `async def` handler runs in the loop, a `def` one in threads. When it returns, the message is
        acknowledged; when it raises, that is logged, and the message comes again later.

        Args:
            group, topic, options: as for `consumer`.
            handler: called with a ReceivedMessage.
            concurrency: messages handled at the same time.
            grace: seconds that handlers under way have to end after the cancellation.

        Raises as `consumer`, and GroupTaken, ClientClosed.
        """
        async with self.consumer(group, topic, **options) as consumer:
            await run_handler(consumer, handler, concurrency, grace)


class _Membership:
    def __init__(self, instance: ClientInstance, member: GroupMember) -> None:
        self._instance = instance
        self._member: GroupMember | None = member

    async def join(self) -> GroupMember:
        member, self._member = self._member, None
        if member is None:
            raise ClientClosed("the consumer was closed: make a new one")
        await self._instance.join(member)
        return member

    async def leave(self, member: GroupMember) -> None:
        await self._instance.leave(member)


def _check_timeout(timeout_s: float) -> None:
    if not timeout_s > 0:  # written so that it holds for NaN, too
        raise ValueError(f"timeout={timeout_s!r}: expected seconds above 0")


def _message(
    body: bytes | str | Message,
    tags: str | None,
    keys: str | Sequence[str],
    properties: Mapping[str, str] | None,
    flag: int,
    shard_by: str | None,
) -> Message:
    if isinstance(body, Message):
        return body
    return Message(body, tags, keys, properties or {}, flag, shard_by)
