"""Check-back: a broker asks how a transaction ended of which it heard nothing (semantics.md §6.5, §11.4)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

import msgspec

from pymq.client.failures import MessageInvalid
from pymq.client.handlers import as_coroutine
from pymq.client.namespace import Namespace
from pymq.client.outgoing import Message
from pymq.client.received import ReceivedMessage
from pymq.client.repeating import end_tasks
from pymq.client.route_cache import RouteCache
from pymq.client.settings import Settings
from pymq.client.transaction_ends import TransactionEnds
from pymq.client.transaction_states import Half, TransactionState, TransactionStates
from pymq.errors import ConfigError, ProtocolError, PymqError
from pymq.protocol import properties as names
from pymq.protocol.bodies import MessageQueue
from pymq.protocol.headers.messaging import CheckTransactionStateRequest
from pymq.protocol.message import decode_record
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request

log = logging.getLogger("pymq.client.transaction")

Checker = Callable[[ReceivedMessage], TransactionState | Awaitable[TransactionState]]
"""Says how a transaction ended, given its message: `async def`, or `def`, which runs in a thread.

It has to know from what the transaction has left behind, a row in a database for example: it may be asked in
another process than the one that began the transaction. When it raises, the answer is UNKNOWN.
ROLLBACK is for good: of a transaction that has left nothing behind yet, and may still be at work in another
process, UNKNOWN is the answer (the message's `born_timestamp` tells its age; see also `check_immunity`).
"""

AT_ONCE: Final = 8
"""Checkers that run at the same time (Java: checkThreadPoolMinSize, 1)."""
WAITING_MAX: Final = 2000
"""Checks that wait for their turn (Java: checkRequestHoldMax). The broker asks again about others."""


class _Check(msgspec.Struct):
    """A question under way: who asked last, and about which copy of the half message."""

    connection: Connection
    copy: Half


class TransactionChecks:
    """Answers brokers: by what this client knows itself, else by what the checker says."""

    def __init__(
        self,
        checker: Checker | None,
        states: TransactionStates,
        ends: TransactionEnds,
        routes: RouteCache,
        namespace: Namespace,
        settings: Settings,
    ) -> None:
        """Raises ConfigError for a checker that is none."""
        if checker is not None and not callable(checker):
            raise ConfigError(f"transaction_checker={checker!r}: expected a function that takes a message")
        self._states = states
        self._ends = ends
        self._routes = routes
        self._group = ends.group
        self._timeout_s = settings.call_timeout_s
        self._check_timeout_s = settings.transaction_check_timeout_s
        self._close_timeout_s = settings.close_timeout_s
        self._call: Callable[[ReceivedMessage], Awaitable[object]] | None = None
        self._threads: ThreadPoolExecutor | None = None
        if checker is not None:
            self._call, self._threads = as_coroutine(checker, AT_ONCE)
        self._settling = _NothingToSettle(namespace)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, _Check] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def has_checker(self) -> bool:
        """Whether there is one."""
        return self._call is not None

    def asked(self, request: Request[CheckTransactionStateRequest]) -> Answer:
        """Serve a broker that asks. It gets no answer to this; END_TRANSACTION follows."""
        if self._closed:
            return Answer()
        try:
            record = decode_record(request.body)
        except ProtocolError as error:
            log.warning("%s asks about a transaction: %s", request.connection.address, error)
            return Answer()
        header = request.header
        properties = record.read_properties()
        group = properties.get(names.PGROUP, "")
        if group != self._group:
            log.warning(
                "%s asks about a transaction of producer group %r, and this client is of %r",
                request.connection.address, group, self._group,
            )  # fmt: skip
            return Answer()
        broker_name = self._routes.broker_name(request.connection.address) or ""
        queue = MessageQueue(record.topic, broker_name, record.queue_id)
        message = ReceivedMessage(record, queue, self._settling)
        copy = Half(
            message.topic,
            message.msg_id,
            broker_name,
            header.tran_state_table_offset,
            header.commit_log_offset,
            properties,
        )
        self._start(_Check(request.connection, copy), message)
        return Answer()

    def _start(self, check: _Check, message: ReceivedMessage) -> None:
        copy = check.copy
        running = self._running.get(copy.msg_id)
        if running is not None:  # the checker is at it: what it says goes to who asked last
            running.connection, running.copy = check.connection, copy
            return
        state = self._states.asked(copy)
        if state is None and self._call is None:
            log.warning(
                "broker %s asks how transaction %s of topic %s ended, and this client cannot tell: give a "
                "transaction_checker to the clients of producer group %s",
                copy.broker_name, copy.msg_id, copy.topic, self._group,
            )  # fmt: skip
            state = TransactionState.UNKNOWN
        if state is not None:
            answering = self._answer(check, state)
        elif len(self._running) < AT_ONCE + WAITING_MAX:
            self._running[copy.msg_id] = check
            answering = self._check_and_answer(check, message)
        else:
            log.warning("%d transactions are being checked: %s has to wait", len(self._running), copy.msg_id)
            return
        task = asyncio.get_running_loop().create_task(answering, name=f"pymq check {copy.msg_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _check_and_answer(self, check: _Check, message: ReceivedMessage) -> None:
        try:
            async with self._turns:
                state = await self._check(message)
        finally:
            del self._running[message.msg_id]
        await self._answer(check, state)

    async def _answer(self, check: _Check, state: TransactionState) -> None:
        copy = check.copy
        log.info("broker %s asked about transaction %s: %s", copy.broker_name, copy.msg_id, state)
        try:
            await self._ends.answer(check.connection, copy, state, self._timeout_s)
        except PymqError as error:
            log.warning(
                "the %s of transaction %s is not confirmed: %s; the broker will ask again",
                state, copy.msg_id, error,
            )  # fmt: skip
        else:
            if state is TransactionState.COMMIT:
                self._states.confirmed(copy.msg_id)

    async def _check(self, message: ReceivedMessage) -> TransactionState:
        assert self._call is not None
        try:
            async with asyncio.timeout(self._check_timeout_s):
                state = await self._call(message)
        except TimeoutError:
            log.error(
                "transaction %s: the checker took longer than %g s, or timed out itself; it is asked again",
                message.msg_id, self._check_timeout_s, exc_info=True,
            )  # fmt: skip
            return TransactionState.UNKNOWN
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            log.exception("transaction %s: what its checker waits for was cancelled", message.msg_id)
            return TransactionState.UNKNOWN
        except Exception:
            log.exception("transaction %s: the checker failed; it is asked again", message.msg_id)
            return TransactionState.UNKNOWN
        if not isinstance(state, TransactionState):
            log.error(
                "transaction %s: the checker said %r, which is no pymq.TransactionState; it is asked again",
                message.msg_id, state,
            )  # fmt: skip
            return TransactionState.UNKNOWN
        return state

    async def close(self) -> None:
        """Take no more questions; let checkers under way get to their end, for some seconds."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._close_timeout_s)
        await end_tasks(*self._tasks)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _NothingToSettle:
    """A message that a checker looks at was not consumed: nothing is to be settled, and nobody answered."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    @property
    def recipient(self) -> _NothingToSettle:
        return self

    def done(self, message: ReceivedMessage) -> None:
        pass

    async def failed(self, message: ReceivedMessage, delay_level: int) -> None:
        pass

    def released(self, message: ReceivedMessage) -> None:
        pass

    async def reply(
        self, message: ReceivedMessage, reply: bytes | str | Message, timeout_s: float
    ) -> NoReturn:
        raise MessageInvalid(f"{message} is not delivered yet: it cannot be replied to")
