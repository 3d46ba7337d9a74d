"""Telling the broker how a transaction ended: END_TRANSACTION (semantics.md §6.2).

Java's clients send it oneway and never learn what became of it. Here the broker is asked to answer, as it
does to every request that is not oneway, and a commit that nobody confirmed is an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from pymq.client.failures import Attempt, TransactionUnsettled
from pymq.client.route_cache import RouteCache
from pymq.client.tracing import SendTrace
from pymq.client.transaction_states import Half, TransactionState
from pymq.errors import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ProtocolError,
    PymqError,
    ResponseError,
    TransportError,
)
from pymq.protocol import properties as names
from pymq.protocol import sysflags
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.messaging import EndTransactionRequest, QueryMessageRequest
from pymq.protocol.message import decode_records
from pymq.transport.connection import Connection
from pymq.transport.pool import Pool

log = logging.getLogger("pymq.client.transaction")

_CODES: Final = {
    TransactionState.COMMIT: sysflags.TRANSACTION_COMMIT,
    TransactionState.ROLLBACK: sysflags.TRANSACTION_ROLLBACK,
    TransactionState.UNKNOWN: sysflags.TRANSACTION_NONE,
}
"""States as the request tells them."""

_JAVA_NAMES: Final = {
    TransactionState.COMMIT: "COMMIT_MESSAGE",
    TransactionState.ROLLBACK: "ROLLBACK_MESSAGE",
    TransactionState.UNKNOWN: "UNKNOW",
}
"""States as the message trace tells them."""

_LESS_SAFE: Final = frozenset((ResponseCode.FLUSH_DISK_TIMEOUT, ResponseCode.FLUSH_SLAVE_TIMEOUT))
"""Answers of pymq's brokers that have stored the end, as to a send. Apache's say SUCCESS then."""

_NOT_NOW: Final = frozenset(
    (ResponseCode.SYSTEM_BUSY, ResponseCode.SERVICE_NOT_AVAILABLE, ResponseCode.SLAVE_NOT_AVAILABLE)
)
"""Refusals that may pass: nothing has been stored, and it is tried again. 11 is what a slave says."""

_LONGEST_PAUSE_S: Final = 1.0
_QUERIED: Final = 32
_FOREVER_MS: Final = 2**63 - 1


class TransactionEnds:
    """Ends transactions of one producer group.

    Attributes:
        group: the group, as brokers know it.
    """

    def __init__(
        self, pool: Pool, routes: RouteCache, group: str, pause_s: float, trace: SendTrace | None
    ) -> None:
        """`pause_s`: before the second attempt; doubled before each further one, up to a second.

        `trace` hears of every end that was told.
        """
        self.group = group
        self._pool = pool
        self._routes = routes
        self._pause_s = pause_s
        self._trace = trace

    def address(self, broker_name: str) -> str:
        """The address of a broker's master, empty when it is not known."""
        return self._routes.address(broker_name) or ""

    async def end(self, half: Half, state: TransactionState, timeout_s: float) -> None:
        """Commit or roll back, and wait until the broker has confirmed it.

        Tried for `timeout_s` seconds while the broker cannot be reached or is not ready. After an answer that
        did not come it is tried again only where twice is not once too often: a rollback, and with pymq's
        brokers a commit, too (Apache's store a message that is committed twice two times).

        Raises TransactionUnsettled.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + timeout_s
        attempts: list[Attempt] = []
        while True:
            address = self.address(half.broker_name)
            may_repeat = state is TransactionState.ROLLBACK
            try:
                connection = await self._connection(address, half, deadline - loop.time())
                may_repeat = may_repeat or connection.speaks_msgpack
                await self._tell(connection, half, state, max(0.001, deadline - loop.time()), False)
            except (TransportError, ResponseError) as error:
                attempts.append(Attempt(half.broker_name, address, error))
                if isinstance(error, TransportError):
                    self._routes.refresh_soon()
                pause_s = min(self._pause_s * 2 ** (len(attempts) - 1), _LONGEST_PAUSE_S)
                if not _is_passing(error, may_repeat) or loop.time() + pause_s >= deadline:
                    raise TransactionUnsettled(
                        state, half.topic, half.msg_id, self.group, attempts, loop.time() - started
                    ) from error
                await asyncio.sleep(pause_s)
            else:
                return

    def leave_open(self, half: Half) -> None:
        """Say that nothing is decided yet, as Java's clients do; brokers note it in their logs only."""
        connection = self._pool.connected(self.address(half.broker_name))
        if connection is not None:
            connection.oneway(_header(self.group, half, TransactionState.UNKNOWN, False))
            self._trace_end(connection.address, half, TransactionState.UNKNOWN, False)

    async def answer(
        self, connection: Connection, half: Half, state: TransactionState, timeout_s: float
    ) -> None:
        """Tell a broker that has asked; UNKNOWN it does not confirm. Raises ResponseError, TransportError.

        A broker may ask about a message that it has delivered: the commit met the question, or named another
        copy of the half message. Apache's brokers would deliver it again; so the copy is rolled back instead.
        """
        if state is TransactionState.UNKNOWN:
            connection.oneway(_header(self.group, half, state, True))
            self._trace_end(connection.address, half, state, True)
            return
        if state is TransactionState.COMMIT and await _is_delivered(connection, half, timeout_s):
            log.info("transaction %s is committed already: its other copy is dropped", half.msg_id)
            state = TransactionState.ROLLBACK
        await self._tell(connection, half, state, timeout_s, True)

    async def _tell(
        self,
        connection: Connection,
        half: Half,
        state: TransactionState,
        timeout_s: float,
        from_check: bool,
    ) -> None:
        answer = await connection.call(_header(self.group, half, state, from_check), timeout_s=timeout_s)
        if answer.code in _LESS_SAFE:
            log.warning(
                "%s of transaction %s: broker %s has done it, but %s",
                state, half.msg_id, connection.address, ResponseCode(answer.code).name,
            )  # fmt: skip
        elif answer.code != ResponseCode.SUCCESS:
            raise ResponseError(answer.code, answer.remark or "", connection.address)
        self._trace_end(connection.address, half, state, from_check)

    def _trace_end(self, address: str, half: Half, state: TransactionState, from_check: bool) -> None:
        if self._trace is not None:
            self._trace.transaction_ended(
                half.topic,
                half.msg_id,
                half.properties,
                address,
                half.msg_id,
                _JAVA_NAMES[state],
                from_check=from_check,
            )

    async def _connection(self, address: str, half: Half, within_s: float) -> Connection:
        if not address:
            raise ConnectFailed("", f"the address of the master of {half.broker_name} is not known")
        try:
            async with asyncio.timeout(max(0.001, within_s)):
                return await self._pool.connection(address)
        except TimeoutError:
            raise ConnectFailed(
                address, f"connecting to {address} took longer than {within_s:.1f} s"
            ) from None


async def _is_delivered(connection: Connection, half: Half, timeout_s: float) -> bool:
    """Whether a broker has the message where consumers see it, as far as its index tells."""
    topic = half.properties.get(names.REAL_TOPIC, "")
    header = QueryMessageRequest(topic, half.msg_id, _QUERIED, 0, _FOREVER_MS)
    try:
        answer = await connection.call(header, timeout_s=timeout_s)
        found = decode_records(answer.body) if answer.code == ResponseCode.SUCCESS else []
    except (TransportError, ProtocolError):
        return False
    return any(
        each.topic == topic and names.get_property(each.properties, names.UNIQ_KEY) == half.msg_id
        for each in found
    )


def _header(group: str, half: Half, state: TransactionState, from_check: bool) -> EndTransactionRequest:
    return EndTransactionRequest(
        producer_group=group,
        tran_state_table_offset=half.queue_offset,
        commit_log_offset=half.commit_log_offset,
        commit_or_rollback=_CODES[state],
        msg_id=half.msg_id,
        from_transaction_check=from_check,
        transaction_id=half.msg_id,
    )


def _is_passing(error: PymqError, may_repeat: bool) -> bool:
    if isinstance(error, ResponseError):
        return error.code in _NOT_NOW
    return may_repeat or not isinstance(error, CallTimeout | ConnectionLost)
