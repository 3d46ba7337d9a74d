"""END_TRANSACTION: a producer commits or rolls back, in its own time or when asked (semantics.md §6.2).

And RESUME_CHECK_HALF_MESSAGE: an operator lets producers be asked again about what was given up (§6.5).

What differs from Apache's broker: the record named must be a half message; its transaction id is compared as
well, since after a power cut another may have got the same offsets; an end of what has ended stores nothing
and is a success; and who wants an answer gets one to "unknown", too.
"""

from __future__ import annotations

from collections.abc import Iterable

from pymq.broker.acknowledgements import Acknowledgements
from pymq.broker.broker_config import BrokerConfig, BrokerRole
from pymq.broker.transactions.halves import Half
from pymq.broker.transactions.transactions import Transactions
from pymq.errors import MessageIllegal, ResponseError, StoreError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import ResumeCheckHalfMessageRequest
from pymq.protocol.headers.messaging import EndTransactionRequest
from pymq.protocol.message_ids import MessageIdError, decode_offset_msg_id
from pymq.protocol.sysflags import TRANSACTION_COMMIT, TRANSACTION_NONE, TRANSACTION_ROLLBACK
from pymq.store.messagestore import MessageStore
from pymq.store.transaction_topics import CHECK_MAX_TOPIC, HALF_TOPIC
from pymq.transport.dispatch import Answer, Request, Row, row


class EndTransactionProcessor:
    """Serves producers that end transactions."""

    def __init__(
        self,
        config: BrokerConfig,
        transactions: Transactions,
        store: MessageStore,
        acknowledgements: Acknowledgements | None = None,
    ) -> None:
        """`acknowledgements`: where answers wait; without it what is copied is stored."""
        self._config = config
        self._transactions = transactions
        self._store = store
        self._acknowledgements = acknowledgements
        self._stopping = False

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [row(EndTransactionRequest, self.end), row(ResumeCheckHalfMessageRequest, self.resume)]

    def stop(self) -> None:
        """Refuse what comes from now on: the broker stops, and first answers those who wait."""
        self._stopping = True

    def end(self, request: Request[EndTransactionRequest]) -> Answer | None:
        """Deliver a half message or not. None: the answer waits until that is safe."""
        header = request.header
        self._check_master()
        if header.commit_or_rollback == TRANSACTION_NONE:
            return Answer()
        if header.commit_or_rollback not in (TRANSACTION_COMMIT, TRANSACTION_ROLLBACK):
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"commitOrRollback={header.commit_or_rollback}: expected {TRANSACTION_COMMIT} (commit), "
                f"{TRANSACTION_ROLLBACK} (roll back) or {TRANSACTION_NONE} (unknown)",
            )
        half = self._named(header)
        is_commit = header.commit_or_rollback == TRANSACTION_COMMIT
        try:
            end = self._transactions.commit(half) if is_commit else self._transactions.roll_back(half)
        except MessageIllegal as error:
            raise ResponseError(ResponseCode.MESSAGE_ILLEGAL, str(error)) from None
        except StoreError as error:
            raise ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, str(error)) from None
        # What ended it before may not be safe yet.
        return self._when_safe(request, end or self._store.commit_log_max_offset)

    def resume(self, request: Request[ResumeCheckHalfMessageRequest]) -> Answer | None:
        """Open a discarded half message again, so that producers are asked about it. None: as with `end`."""
        self._check_master()
        half = self._discarded(request.header.msg_id or "")
        try:
            end = self._transactions.resume(half)
        except (MessageIllegal, StoreError) as error:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"Put message back to {HALF_TOPIC} failed: {error}"
            ) from None
        if not end:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"transaction {half.unique_key} has ended since it was discarded, or is open again",
            )
        return self._when_safe(request, end)

    def _discarded(self, msg_id: str) -> Half:
        """A message of the discard topic. ResponseError."""
        try:
            offset = decode_offset_msg_id(msg_id)[1]
        except MessageIdError as error:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"msgId={msg_id}: {error}") from None
        half = self._transactions.discarded_at(offset)
        if half is None:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"msgId={msg_id}: there is no message of {CHECK_MAX_TOPIC}"
            )
        return half

    def _when_safe(self, request: Request[Header], end: int) -> Answer | None:
        if self._acknowledgements is None:
            return Answer()
        self._acknowledgements.when_safe(end, request, Answer(), tells_slave=False)
        return None

    def _check_master(self) -> None:
        name = self._config.broker_name
        if self._config.broker_role is BrokerRole.SLAVE:
            raise ResponseError(
                ResponseCode.SLAVE_NOT_AVAILABLE, f"this broker is a slave of {name}: tell its master"
            )
        if self._stopping:
            raise ResponseError(ResponseCode.SERVICE_NOT_AVAILABLE, f"the broker[{name}] is stopping")

    def _named(self, header: EndTransactionRequest) -> Half:
        """The half message that is meant. Raises ResponseError, in Apache's order and words."""
        half = self._transactions.half_at(header.commit_log_offset)
        if half is None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, "Find prepared transaction message failed")
        if half.group != header.producer_group:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, "The producer group wrong")
        if half.number != header.tran_state_table_offset:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, "The transaction state table offset wrong")
        told = [each for each in (header.transaction_id, header.msg_id) if each]
        if half.unique_key and told and half.unique_key not in told and header.transaction_id:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR,
                f"The transaction id wrong: at these offsets is {half.unique_key}, not {' or '.join(told)}",
            )
        return half
