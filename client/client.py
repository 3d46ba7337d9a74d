"""The client as its user sees it."""

from __future__ import annotations

import asyncio
import datetime
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self, TypedDict, Unpack, overload

from pymq.client.allocation import Allocation
from pymq.client.consumer import Consumer
from pymq.client.delivery import Order
from pymq.client.failures import ClientClosed
from pymq.client.flow_control import FlowControl
from pymq.client.group_member import GroupMember
from pymq.client.group_offsets import GroupLag, ResetTo
from pymq.client.handlers import BatchHandler, Handler, check_handling, run_handler
from pymq.client.instance import ClientInstance
from pymq.client.message_trace import MessageTrace
from pymq.client.outgoing import DelayedMessageOptions, Message, MessageOptions, message_of
from pymq.client.queue_choice import QueueSelector
from pymq.client.received import ReceivedMessage
from pymq.client.request_reply import ReplyMessage
from pymq.client.send_result import SendResult
from pymq.client.settings import Settings
from pymq.client.start_offset import Start
from pymq.client.subscriptions import Sql, filters
from pymq.client.transaction import Transaction
from pymq.client.transaction_checks import Checker
from pymq.clock import Clock, SystemClock
from pymq.disk import Disk
from pymq.errors import ConfigError
from pymq.network import Network, SystemNetwork
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.trace_data import TRACE_TOPIC
from pymq.system_disk import SystemDisk

SEND_TIMEOUT_S = 3.0
DEFAULT_PRODUCER_GROUP = "PYMQ_PRODUCER"


class ConsumerOptions(TypedDict, total=False):
    """The keyword arguments of `Client.consumer`."""

    tags: str
    sql: str | None
    order: Order
    suspend: float
    allocation: str | Allocation
    broadcast: bool
    start: Start
    max_retries: int | None
    prefetch: int
    prefetch_bytes: int
    flow: FlowControl
    consume_timeout: float
    trace: bool | str | None


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
        namespace: str = "",
        instance_name: str | None = None,
        offsets_folder: str | None = None,
        trace: bool | str = False,
        transaction_checker: Checker | None = None,
        clock: Clock | None = None,
        network: Network | None = None,
        disk: Disk | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Make a client; `start` or `async with` brings it to life.

        Args:
            name_servers: `host:port`, several separated by `;` or as a list.
            producer_group: the group that its messages are sent by.
            namespace: `N` lets brokers see `N%orders` for the topic `orders`, and groups likewise; everything
                here is called by its name without that. Java's clients have the same.
            instance_name: tells this client, and its broadcast offsets, from others on the machine. Without
                one the client's id is unique, and broadcast offsets are those of the machine.
            offsets_folder: where broadcast offsets are kept, `~/.rocketmq_offsets` unless given.
            trace: whether what it sends, and what its consumers handle, is told to the trace topic
                RMQ_SYS_TRACE_TOPIC, where `pymq trace` and mqadmin find it; or the name of another topic for
                that, which is in no namespace. Nothing waits for it: what finds no room is dropped.
            transaction_checker: says how a transaction ended, given its message, when a broker asks: a
                TransactionState. A broker asks any client of the producer group, so this needs a group of its
                own: an application that takes part in no transactions of it must not be in it.
            clock, network, disk: the outside world, the machine's own unless given.
            settings: periods, limits and time-outs.

        Raises ConfigError, MessageInvalid.
        """
        if transaction_checker is not None and producer_group == DEFAULT_PRODUCER_GROUP:
            raise ConfigError(
                f"transaction_checker: give a producer_group, too, as all clients without one are in "
                f"{DEFAULT_PRODUCER_GROUP}: a broker would ask them about each other's transactions"
            )
        self._instance = ClientInstance(
            name_servers,
            clock or SystemClock(),
            network or SystemNetwork(),
            disk or SystemDisk(),
            instance_name,
            producer_group,
            settings or Settings(),
            namespace,
            trace,
            transaction_checker,
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
        queue: MessageQueue | QueueSelector | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
        **options: Unpack[DelayedMessageOptions],
    ) -> SendResult:
        """Send one message and wait until a broker has stored it.

        Tried up to three times, on another broker if there is one, all within `timeout` seconds.

        Args:
            topic: where to.
            body: the content (text is sent as UTF-8), or a Message, which has its own options.
            queue: the very queue to send it to, or a function that picks it out of a list of them, such as
                `random.choice` or those of `pymq.client.queue_choice`.
            timeout: seconds for all attempts together.
            options: tags, keys, properties, flag, shard_by, wait_store_msg_ok, and when consumers get it
                (at once unless delay, deliver_at or delay_level is given), see Message.

        Raises MessageInvalid, RouteNotFound, NameServersUnreachable, SendFailed (also when the broker would
        not keep the time of a message, caused by TimersMissing), ClientClosed, and ValueError for a `timeout`
        that is not above 0.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = message_of(body, options)
        return await self._instance.producer.send(topic, message, timeout, queue)

    def send_nowait(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        queue: MessageQueue | QueueSelector | None = None,
        timeout: float = SEND_TIMEOUT_S,
        **options: Unpack[DelayedMessageOptions],
    ) -> asyncio.Future[SendResult]:
        """As `send`, without waiting: the future gives the result, or raises what `send` would have raised.

        Raises BufferFull when 10,000 messages or 64 MiB are under way (see Settings); ClientClosed; and
        ValueError for a `timeout` that is not above 0.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = message_of(body, options)
        return self._instance.producer.send_nowait(topic, message, timeout, queue)

    async def flush(self) -> None:
        """Wait until all messages of `send_nowait` are stored or have failed."""
        await self._instance.producer.flush()

    async def send_oneway(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        queue: MessageQueue | QueueSelector | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
        **options: Unpack[DelayedMessageOptions],
    ) -> None:
        """Send one message without asking whether it is stored. Waits while the broker is slow to read.

        Raises as `send`.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        message = message_of(body, options)
        await self._instance.producer.send_oneway(topic, message, timeout, queue)

    async def send_batch(
        self,
        topic: str,
        messages: Sequence[Message],
        *,
        queue: MessageQueue | QueueSelector | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[SendResult]:
        """Send many messages together: one request for each queue and 4 MiB. Results in the same order.

        Messages without `shard_by` go together to any queue. Raises as `send`, and BatchFailed when a part
        was not stored.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        return await self._instance.producer.send_batch(topic, messages, timeout, queue)

    def transaction(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        queue: MessageQueue | QueueSelector | None = None,
        check_immunity: float | None = None,
        timeout: float = SEND_TIMEOUT_S,
        **options: Unpack[MessageOptions],
    ) -> Transaction:
        """A message that consumers get if a block of work succeeds: `async with mq.transaction(…) as tx:`.

        It is stored at the beginning, where nobody sees it. The end of the block commits it, an exception
        rolls it back; `tx.commit()`, `tx.rollback()` and `tx.unknown()` do so earlier, or leave it open. One
        whose block is cancelled is left to the transaction_checker, and without one rolled back.
        What a broker has not heard of after its transactionTimeOut (6 s) it asks about, every
        transactionCheckInterval (60 s), up to transactionCheckMax times (15): a client of the producer group.
        This one knows what it has decided, and that a block is still running; else the transaction_checker
        of the client that is asked decides. Consumers may get a message more than once, as always.

        Args:
            topic, body, queue, options: as for `send`; it cannot be delayed.
            check_immunity: seconds in which brokers are not to ask.
            timeout: seconds for storing it, all attempts together, and again for its end.

        Raises MessageInvalid. Entering it raises as `send`, with SendFailed also when the message was stored
        less safely than the broker is set to; leaving it TransactionUnsettled when no broker confirmed the
        commit.
        """
        _check_timeout(timeout)
        message = message_of(body, options)
        return self._instance.transactions.transaction(topic, message, timeout, queue, check_immunity)

    async def cancel(
        self,
        message: SendResult | str,
        *,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> None:
        """Keep a message from being delivered whose time (`deliver_at`, `delay`) has not come yet.

        One that waits for a delay level cannot be cancelled. Safe as a sent message when this returns.

        Args:
            message: the result of its send, or the `recall_handle` in it.
            timeout: seconds for all of it.

        Raises MessageInvalid when there is nothing to cancel it by; TooLateToCancel when its time has come;
        TimersMissing, RouteNotFound, NameServersUnreachable, ResponseError, TransportError, TimeoutError,
        ClientClosed, and ValueError for a `timeout` that is not above 0.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        await self._instance.cancelling.cancel(message, timeout)

    async def queues(self, topic: str) -> list[MessageQueue]:
        """The queues of a topic that can be sent to. Raises RouteNotFound, NameServersUnreachable."""
        self._instance.check_running()
        namespace = self._instance.namespace
        route = await self._instance.routes.route(namespace.wrap(topic))
        return list(map(namespace.unwrap_queue, route.writable))

    async def request(
        self,
        topic: str,
        body: bytes | str | Message,
        *,
        queue: MessageQueue | QueueSelector | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
        **options: Unpack[MessageOptions],
    ) -> ReplyMessage:
        """Send a message and wait until one of its consumers has replied to it (`ReceivedMessage.reply`).

        The brokers have to be of version 4.6 or later.

        Args:
            topic, body, queue, options: as for `send`.
            timeout: seconds for all together: until the request is stored and the reply is here.

        Raises RequestTimeout when the request was stored and no reply came; UnreadableBody when the reply is
        compressed in a way that cannot be undone here; and as `send`.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        if timeout == math.inf:
            raise ValueError(f"timeout={timeout!r}: a request waits for a number of seconds")
        message = message_of(body, options)
        return await self._instance.request_reply.request(topic, message, timeout, queue)

    async def query(
        self,
        topic: str,
        key: str,
        *,
        max: int = 64,
        begin: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[ReceivedMessage]:
        """Look up stored messages by one of their keys, or by the `msg_id` that they were sent with.

        A broker gives at most 64 (its maxMsgsNumBatch). They belong to no consumer: `ack` does nothing.

        Args:
            topic: where they were sent to.
            key: one of their keys, or their id.
            max: how many at most; the newest ones are given, oldest first.
            begin, end: only what was stored between these times.
            timeout: seconds for all brokers together.

        Raises RouteNotFound, NameServersUnreachable, ResponseError, TransportError when one of the topic's
        brokers does not answer, TimeoutError, ClientClosed.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        return await self._instance.search.find(topic, key, max, begin, end, timeout)

    async def traces(
        self,
        key: str,
        *,
        topic: str = TRACE_TOPIC,
        timeout: float = SEND_TIMEOUT_S,  # noqa: ASYNC109
    ) -> list[MessageTrace]:
        """What clients that are traced, Java's too, told of a message: its sends, and who consumed it how.

        Args:
            key: the message's id; or one of its keys, for all messages that have it.
            topic: the trace topic.
            timeout: seconds for all together.

        Gives [] when nothing was traced; about a second may pass until it can be found. Raises as `query`;
        but as long as one broker answers, those that do not are only named in what it gives.
        """
        self._instance.check_running()
        _check_timeout(timeout)
        return await self._instance.message_traces.find(key, topic, timeout)

    # -- consuming ----------------------------------------------------------------------------------

    def consumer(
        self,
        group: str,
        topic: str | Mapping[str, str | Sql],
        *,
        tags: str = "*",
        sql: str | None = None,
        order: Order = "concurrent",
        suspend: float = 1.0,
        allocation: str | Allocation = "AVG",
        broadcast: bool = False,
        start: Start = "last",
        max_retries: int | None = None,
        prefetch: int = 1000,
        prefetch_bytes: int = 64 * 1024 * 1024,
        flow: FlowControl | None = None,
        consume_timeout: float = 900.0,
        trace: bool | str | None = None,
    ) -> Consumer:
        """A consumer of `topic` for `group`; it joins with `start` or `async with`.

        The members of a group share the queues of its topics, and have to subscribe to the same.

        Args:
            group: the group.
            topic: the topic, or for each of several a tag expression or Sql.
            tags: `a || b`: only messages with one of these tags.
            sql: `a > 5 AND region IS NOT NULL`: only messages whose properties are like that. The brokers
                need enablePropertyFilter=true; whether they take it is asked when the consumer starts.
            order: `ordered` gives out one message of a queue at a time, in the order of the queue, and no
                other member gets any of it meanwhile. One that fails is given out again after `suspend`, and
                its queue waits for it, whatever delay level is asked for; one that is never settled holds it
                up.
            suspend: seconds that an ordered queue stands still after a failure, 0.01 to 30.
            allocation: how the members share the queues, the same in all: `AVG`, `AVG_BY_CIRCLE`,
                `CONSISTENT_HASH`, or a rule of `pymq.client.allocation`.
            broadcast: every member gets all messages; offsets are kept on this machine, and a message that
                fails is not retried.
            start: where a group begins that is new to the topic: `first`, `last`, or a datetime.
            max_retries: failures after which a message goes to the dead-letter topic; unless given 16, and
                with `ordered` no number.
            prefetch: messages that may be pulled and not settled, all queues together.
            prefetch_bytes: bytes of their bodies.
            flow: bounds for each queue and each topic besides, by Java's names, with its defaults.
            consume_timeout: seconds after which a message that was given out and not settled comes again,
                which counts as a failure. They begin when it is given out, be it to a handler, by `receive`
                or with others by `fetch`, whether `process` has begun or not. With `ordered` it is only
                told: nothing of its queue may go on without it.
            trace: whether it is traced, or its trace topic, see Client; as the client unless given.

        Raises MessageInvalid, ConfigError, TagExpressionError.
        """
        subscriptions = filters(topic, tags, sql)
        # Made now, so that what is wrong about it is raised here.
        member = self._instance.member(
            group,
            subscriptions,
            order=order,
            suspend_s=suspend,
            allocation=allocation,
            broadcast=broadcast,
            start=start,
            max_retries=max_retries,
            prefetch=prefetch,
            prefetch_bytes=prefetch_bytes,
            flow=FlowControl() if flow is None else flow,
            consume_timeout_s=consume_timeout,
            trace=trace,
            offsets_folder=self._offsets_folder,
        )
        return Consumer(_Membership(self._instance, member))

    @overload
    async def consume(
        self,
        group: str,
        topic: str | Mapping[str, str | Sql],
        handler: Handler,
        *,
        batch: None = None,
        concurrency: int = 20,
        grace: float = 10.0,
        **options: Unpack[ConsumerOptions],
    ) -> None: ...

    @overload
    async def consume(
        self,
        group: str,
        topic: str | Mapping[str, str | Sql],
        handler: BatchHandler,
        *,
        batch: int,
        concurrency: int = 20,
        grace: float = 10.0,
        **options: Unpack[ConsumerOptions],
    ) -> None: ...

    async def consume(
        self,
        group: str,
        topic: str | Mapping[str, str | Sql],
        handler: Handler | BatchHandler,
        *,
        batch: int | None = None,
        concurrency: int = 20,
        grace: float = 10.0,
        **options: Unpack[ConsumerOptions],
    ) -> None:
        """Let `handler` have every message, up to `concurrency` at once, until this is cancelled.

        An `async def` handler runs in the loop, a `def` one in threads. When it returns, the message is
        acknowledged; when it raises, that is logged, and the message comes again later. With RetryLater,
        raised or returned, it says how much later.

        Args:
            group, topic, options: as for `consumer`.
            handler: called with a ReceivedMessage; with `batch` with a list of them. Then what is said above
                goes for those of the list that it has not settled itself, and RetryLater may name some.
            batch: up to so many messages at once, 1 to 1024: what is there, none is waited for. With
                order="ordered" they are of one queue, in its order, and those that fail come again together
                before any that stand behind them.
            concurrency: messages, or batches, handled at the same time.
            grace: seconds that handlers under way have to end after the cancellation.

        Raises as `consumer`, and GroupTaken, FilterRefused, ClientClosed; ConfigError for a handler that is
        no function or a generator, for a `concurrency` below 1, and for a `batch` out of bounds; RuntimeError
        when the task that a handler runs in is cancelled by anybody else than this.
        """
        check_handling(handler, concurrency, batch)
        async with self.consumer(group, topic, **options) as consumer:
            await run_handler(consumer, handler, concurrency, grace, batch)

    # -- where groups stand -------------------------------------------------------------------------

    async def lag(self, group: str, topic: str | None = None) -> GroupLag:
        """How many messages a group has not consumed and how old they are, by queue and in all.

        Of all topics that it has consumed (with consumers running: that these subscribe), or of one. Those of
        a broadcasting group are known to its consumers only.

        Raises GroupNotFound, NameServersUnreachable, ResponseError, TransportError, ClientClosed.
        """
        self._instance.check_running()
        return await self._instance.group_offsets.lag(group, topic)

    async def reset_offsets(self, group: str, topic: str, to: ResetTo) -> dict[MessageQueue, int]:
        """Let a group go on elsewhere in a topic, ahead or back; gives the new offset of each queue.

        Running consumers are told to: Python's do so at once, Java's after ten seconds; what they are
        handling they still finish. Without any the offsets are committed for them. A queue that goes from one
        consumer to another just then goes on at its new offset as well; with Apache's brokers it may miss it.
        These reset running consumers by time only, to which `first` and `last` belong.

        Args:
            group, topic: who, and where.
            to: `first`: all that is stored comes again; `last`: only what is sent from now on comes; a
                datetime: what was stored since then, in each queue from the message nearest to that time on,
                be it the one before; an offset for every queue; or offsets by queue.

        Raises ValueError for a `to` that is none of these, or that a queue does not hold; MoveRefused,
        RouteNotFound, NameServersUnreachable, ResponseError, TransportError, ClientClosed.
        """
        self._instance.check_running()
        return await self._instance.group_offsets.reset(group, topic, to)

    async def clone_offsets(self, source: str, target: str, topic: str | None = None) -> list[str]:
        """Let group `target` begin where `source` stands, in a topic or in all; gives the topics.

        Raises GroupNotFound; MoveRefused when `source` has no offsets there, or consumers of `target` are
        running; RouteNotFound, NameServersUnreachable, ResponseError, TransportError, ClientClosed.
        """
        self._instance.check_running()
        return await self._instance.group_offsets.clone(source, target, topic)


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
    try:
        is_right = timeout_s > 0  # not so for NaN
    except TypeError:
        is_right = False
    if not is_right:
        raise ValueError(f"timeout={timeout_s!r}: expected seconds above 0")
