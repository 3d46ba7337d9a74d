"""Transactions: a message that nobody sees until its producer has committed it (semantics.md §6, §11.4)."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

from pymq.client.failures import Attempt, ClientClosed, MessageInvalid, SendFailed, TransactionUnsettled
from pymq.client.outgoing import Message
from pymq.client.producer import Producer, is_delayed
from pymq.client.queue_choice import QueueSelector
from pymq.client.repeating import end_tasks
from pymq.client.send_result import CODE_BY_STATUS, SendResult, SendStatus
from pymq.client.transaction_ends import TransactionEnds
from pymq.client.transaction_states import Half, TransactionState, TransactionStates
from pymq.errors import ResponseError
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.message_ids import UniqueKeys, decode_offset_msg_id

log = logging.getLogger("pymq.client.transaction")

_LONGEST_IMMUNITY_S: Final = 2**31 - 1


class Transaction:
    """One message and its transaction, an async context manager.

    Entering it stores the half message. Its end settles it, unless the block has: a commit, or a rollback
    when the block raises. A block that is cancelled is rolled back in the background; of a client with a
    transaction_checker it is left open, and the checker is asked: nobody else can tell how far it came.
    """

    def __init__(
        self,
        producer: TransactionProducer,
        message: Message,
        half: Half,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None,
        own: Mapping[str, str],
    ) -> None:
        """`own`: RocketMQ's own properties of the message; `timeout_s` holds for each of its requests."""
        self._producer = producer
        self._message = message
        self._half = half
        self._timeout_s = timeout_s
        self._queue = queue
        self._own = own
        self._is_begun = False
        self._result: SendResult | None = None
        self._state: TransactionState | None = None
        self._is_confirmed = False

    @property
    def transaction_id(self) -> str:
        """The id of the transaction: that of its message, the `msg_id` of who consumes or checks it."""
        return self._half.msg_id

    @property
    def result(self) -> SendResult:
        """Where the half message is stored: `queue` is where it goes, the offsets are those of the half."""
        if self._result is None:
            raise RuntimeError("the transaction has not begun: enter it by `async with`")
        return self._result

    @property
    def state(self) -> TransactionState | None:
        """How it was ended, UNKNOWN when it was left open; None while nothing was said."""
        return self._state

    async def commit(self) -> None:
        """Let consumers have the message.

        Once begun it goes on, though who waits for it is cancelled. Raises TransactionUnsettled when no
        broker confirmed it: then the broker asks, and is told COMMIT as long as this client lives. Raises
        ClientClosed; RuntimeError when it was rolled back before.
        """
        await self._end(TransactionState.COMMIT)

    async def rollback(self) -> None:
        """Let nobody ever see the message. Raises as `commit`."""
        await self._end(TransactionState.ROLLBACK)

    async def unknown(self) -> None:
        """Leave it open, also at the end of the block: the broker asks later, and the checker decides.

        `commit` and `rollback` still can be called. RuntimeError when one of them was.
        """
        self._leave_open()

    async def __aenter__(self) -> Self:
        """Store the half message. Raises as `Client.send`, and SendFailed when it is not stored safely."""
        if self._is_begun:
            raise RuntimeError("the transaction was begun before: make a new one")
        self._is_begun = True
        self._result = await self._producer.begin(
            self._message, self._half, self._timeout_s, self._queue, self._own
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back when the block has raised. Raises TransactionUnsettled of a commit only."""
        if self._state is not None:
            return
        if error is None:
            await self.commit()
        elif isinstance(error, Exception):
            try:
                await self.rollback()
            except (TransactionUnsettled, ClientClosed) as failure:
                log.warning("%s", failure)
        elif self._producer.has_checker:
            log.info("transaction %s: its block was stopped half-way; left open", self.transaction_id)
            self._leave_open()
        else:
            self._state = TransactionState.ROLLBACK
            self._producer.end_later(self._half, self._state, self._timeout_s)

    def _leave_open(self) -> None:
        self._check_may_be(TransactionState.UNKNOWN)
        self._state = TransactionState.UNKNOWN
        self._producer.leave_open(self._half)

    async def _end(self, state: TransactionState) -> None:
        self._check_may_be(state)
        self._state = state
        if not self._is_confirmed:
            await self._producer.end(self._half, state, self._timeout_s)
            self._is_confirmed = True

    def _check_may_be(self, state: TransactionState) -> None:
        if self._result is None:
            raise RuntimeError("the transaction has not begun: enter it by `async with`")
        if self._state not in (None, TransactionState.UNKNOWN, state):
            raise RuntimeError(f"the transaction has ended already, by {self._state}")


class TransactionProducer:
    """Begins and ends the transactions of a client. What Java calls TransactionMQProducer.

    Attributes:
        has_checker: whether this client can tell later how a transaction ended.
    """

    def __init__(
        self,
        producer: Producer,
        ends: TransactionEnds,
        states: TransactionStates,
        unique_keys: UniqueKeys,
        check_running: Callable[[], None],
        *,
        has_checker: bool,
        close_timeout_s: float,
    ) -> None:
        """`check_running` raises ClientClosed unless the client is started and not closed."""
        self.has_checker = has_checker
        self._producer = producer
        self._ends = ends
        self._states = states
        self._unique_keys = unique_keys
        self._check_running = check_running
        self._close_timeout_s = close_timeout_s
        self._ending: dict[str, asyncio.Task[None]] = {}

    def transaction(
        self,
        topic: str,
        message: Message,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None,
        check_immunity_s: float | None,
    ) -> Transaction:
        """A transaction that is to begin. Raises MessageInvalid."""
        if is_delayed(message):
            raise MessageInvalid(
                "a transactional message cannot be delayed: consumers get it when it is committed"
            )
        half = Half(topic, self._unique_keys.next())
        own = {
            names.UNIQ_KEY: half.msg_id,
            names.TRAN_MSG: "true",
            names.PGROUP: self._ends.group,
            **_immunity(check_immunity_s),
        }
        return Transaction(self, message, half, timeout_s, queue, own)

    async def begin(
        self,
        message: Message,
        half: Half,
        timeout_s: float,
        queue: MessageQueue | QueueSelector | None,
        own: Mapping[str, str],
    ) -> SendResult:
        """Store the half message. Raises as `Producer.send`, and ClientClosed.

        One that is stored less safely than its broker is to store messages is rolled back at once, as Java's
        clients do: SendFailed with the code that says why.
        """
        self._check_running()
        started = asyncio.get_running_loop().time()
        self._states.begin(half)
        try:
            result = await self._producer.send(half.topic, message, timeout_s, queue, own)
            half.commit_log_offset = decode_offset_msg_id(result.offset_msg_id)[1]
        except BaseException:
            # Stored or not: nothing else was done, so that is how it ended if a broker should ask.
            self._states.decide(half, TransactionState.ROLLBACK)
            raise
        half.broker_name = result.queue.broker_name
        half.queue_offset = result.queue_offset
        half.properties = _traced(message, result)
        if result.status is not SendStatus.SEND_OK:
            self.end_later(half, TransactionState.ROLLBACK, timeout_s)
            raise self._not_safe(half, result, asyncio.get_running_loop().time() - started)
        return result

    def _not_safe(self, half: Half, result: SendResult, took_s: float) -> SendFailed:
        address = self._ends.address(half.broker_name)
        remark = f"{result.status}: the half message is stored, but not safely"
        refusal = ResponseError(CODE_BY_STATUS[result.status], remark, address)
        hint = "It is rolled back, and nothing was done: begin the transaction again"
        return SendFailed(
            half.topic, [Attempt(half.broker_name, address, refusal)], took_s, hint, half.msg_id
        )

    async def end(self, half: Half, state: TransactionState, timeout_s: float) -> None:
        """Commit or roll back. Raises TransactionUnsettled, ClientClosed."""
        ending = self._ending.get(half.msg_id) or self._start(half, state, timeout_s)
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if ending.cancelled() and task is not None and not task.cancelling():
                raise ClientClosed(
                    f"the client was closed before the {state} of transaction {half.msg_id} was confirmed: "
                    f"the broker will ask a producer of group {self._ends.group}"
                ) from None
            ending.add_done_callback(_log_failure)
            raise

    def end_later(self, half: Half, state: TransactionState, timeout_s: float) -> None:
        """Commit or roll back in the background; a failure is logged."""
        try:
            self._start(half, state, timeout_s).add_done_callback(_log_failure)
        except ClientClosed as failure:
            log.warning("%s", failure)

    def _start(self, half: Half, state: TransactionState, timeout_s: float) -> asyncio.Task[None]:
        self._states.decide(half, state)
        try:
            self._check_running()
        except ClientClosed:
            raise ClientClosed(
                f"the client is closed: transaction {half.msg_id} stays open, and its broker will ask a "
                f"producer of group {self._ends.group} how it ended"
            ) from None
        ending = asyncio.get_running_loop().create_task(
            self._ends.end(half, state, timeout_s), name=f"pymq {state} {half.msg_id}"
        )
        self._ending[half.msg_id] = ending
        self._states.ending.add(half.msg_id)

        def ended(task: asyncio.Task[None]) -> None:
            del self._ending[half.msg_id]
            self._states.ending.discard(half.msg_id)
            if state is TransactionState.COMMIT and not task.cancelled() and task.exception() is None:
                self._states.confirmed(half.msg_id)

        ending.add_done_callback(ended)
        return ending

    def leave_open(self, half: Half) -> None:
        """Decide nothing. What the broker asks later goes to the checker."""
        self._states.decide(half, TransactionState.UNKNOWN)
        self._ends.leave_open(half)

    async def close(self) -> None:
        """Let what is being ended get to its end, for some seconds."""
        if self._ending:
            await asyncio.wait(list(self._ending.values()), timeout=self._close_timeout_s)
        await end_tasks(*self._ending.values())


def _immunity(seconds: float | None) -> dict[str, str]:
    """How long brokers are not to ask, as a property: whole seconds."""
    if seconds is None:
        return {}
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= _LONGEST_IMMUNITY_S:
        raise MessageInvalid(f"check_immunity={seconds!r}: expected seconds above 0")
    return {names.CHECK_IMMUNITY_TIME_IN_SECONDS: str(math.ceil(seconds))}


def _traced(message: Message, result: SendResult) -> dict[str, str]:
    """What the message trace looks at of a message."""
    keys = message.keys if isinstance(message.keys, str) else names.KEY_SEPARATOR.join(message.keys)
    return {names.TAGS: message.tags or "", names.KEYS: keys, names.MSG_REGION: result.region_id}


def _log_failure(ending: asyncio.Task[None]) -> None:
    if not ending.cancelled() and (error := ending.exception()) is not None:
        log.warning("%s", error)
