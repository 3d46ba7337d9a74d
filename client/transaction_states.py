"""How transactions stand, as this client knows: those that are open here, and how the last ones ended."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

REMEMBERED: Final = 10_000
"""Ends that are remembered, the oldest ones are forgotten; but no commit before a broker has confirmed it."""


class TransactionState(enum.StrEnum):
    """How a transaction ended, or that this is not known (yet). Java: LocalTransactionState."""

    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    UNKNOWN = "UNKNOWN"
    """Nothing is decided: the broker asks again later."""


class Half(msgspec.Struct):
    """The half message of a transaction, and where its newest copy is that this client has heard of.

    Attributes:
        topic: the topic that it is for, without namespace.
        msg_id: the id of the message, and of the transaction.
        broker_name: who has it; empty while it is being sent, or when that cannot be told.
        queue_offset: its place in the half topic's queue.
        commit_log_offset: its place in the broker's commit log.
        properties: those of the message by which it is traced: tags, keys and region, and maybe others.
    """

    topic: str
    msg_id: str
    broker_name: str = ""
    queue_offset: int = -1
    commit_log_offset: int = -1
    properties: Mapping[str, str] = {}


class _Decision(msgspec.Struct, frozen=True):
    state: TransactionState
    broker_name: str


class TransactionStates:
    """What a broker that asks can be told without asking the application.

    A broker that asks has stored the half message anew, and the end has to name a copy that is not settled
    yet: so what it asks about is what an open transaction will be ended by.

    Attributes:
        ending: ids of those whose end is being told now.
    """

    def __init__(self) -> None:
        self.ending: set[str] = set()
        self._open: dict[str, Half] = {}
        self._decided: dict[str, _Decision] = {}
        self._unconfirmed: dict[str, _Decision] = {}

    def begin(self, half: Half) -> None:
        """A transaction is open from now on: its half message is about to be sent."""
        self._open[half.msg_id] = half

    def decide(self, half: Half, state: TransactionState) -> None:
        """It is not open any more. What was decided is remembered, unless that is UNKNOWN."""
        self._open.pop(half.msg_id, None)
        self._decided.pop(half.msg_id, None)
        self._unconfirmed.pop(half.msg_id, None)
        if state is TransactionState.COMMIT:
            self._unconfirmed[half.msg_id] = _Decision(state, half.broker_name)
        elif state is TransactionState.ROLLBACK:
            self._remember(half.msg_id, _Decision(state, half.broker_name))

    def confirmed(self, msg_id: str) -> None:
        """A broker has confirmed that it is committed."""
        decision = self._unconfirmed.pop(msg_id, None)
        if decision is not None:
            self._remember(msg_id, decision)

    def _remember(self, msg_id: str, decision: _Decision) -> None:
        self._decided[msg_id] = decision
        if len(self._decided) > REMEMBERED:
            del self._decided[next(iter(self._decided))]

    def asked(self, copy: Half) -> TransactionState | None:
        """How the transaction stands whose half message a broker asks about; None when that is not known.

        A send that was tried on two brokers may have left a half message on both: only that of the one which
        confirmed it is the transaction's, and the other is rolled back.
        """
        half = self._open.get(copy.msg_id)
        if half is not None:
            if not half.broker_name:
                return TransactionState.UNKNOWN
            if _is_elsewhere(copy, half.broker_name):
                return TransactionState.ROLLBACK
            if copy.queue_offset > half.queue_offset:
                half.queue_offset = copy.queue_offset
                half.commit_log_offset = copy.commit_log_offset
            return TransactionState.UNKNOWN
        decision = self._unconfirmed.get(copy.msg_id) or self._decided.get(copy.msg_id)
        if copy.msg_id in self.ending:
            return (
                TransactionState.UNKNOWN
            )  # saying it twice may be committing twice; if need be, it asks again
        if decision is None:
            return None
        if _is_elsewhere(copy, decision.broker_name):
            return TransactionState.ROLLBACK
        return decision.state


def _is_elsewhere(copy: Half, broker_name: str) -> bool:
    return bool(copy.broker_name) and copy.broker_name != broker_name
