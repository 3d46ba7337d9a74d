"""Answers that wait until their messages are safe (store.md §6, §9; semantics.md §1.7).

A send is stored at once, its answer stands at a gate: "flushed" for SYNC_FLUSH, then "a slave has it" for
SYNC_MASTER. A gate opens as its watermark grows, for all who stand before the new position at once, and
sends each on to the next gate or to the client, in one write for each connection. Times count from the send,
so that disk and slave are waited for side by side. The first of a turn of the loop to come asks for a flush
at the turn's end, so that those who come in one turn share it; who comes while the disk works shares the
next. To the slaves goes what there is at the turn's end, and before that each whole block, so that they work
beside the master and not after it. No message has a task, a future or a timer of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from pymq.clock import Clock
from pymq.errors import StoreError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import Command
from pymq.store.messagestore import MessageStore
from pymq.store.watermark import Watermark
from pymq.transport.connection import Connection
from pymq.transport.dispatch import Answer, Request


class Held(msgspec.Struct, gc=False):
    """An answer that waits."""

    end_offset: int
    """Physical offset behind the message's record, the last one's of a batch."""
    since: float
    """When it was stored, s of the clock's monotonic scale."""
    connection: Connection
    command: Command
    """What is answered; what was asked with it has gone already."""
    answer: Answer
    needs_slave: bool = True
    """A slave's word is still to come."""
    tells_slave: bool = True
    """That no slave has it, or not in time, is said by the answer's code."""


def reply(held: Held) -> None:
    """Behind the last gate: answer the client. Nothing happens if it has gone."""
    held.connection.answer(held.command, held.answer)


class Gate:
    """Where answers wait for one watermark, each up to the same time.

    Both offsets and deadlines grow from one to the next, so a queue is all the order that is needed. Answers
    whose client has gone leave it as the others do.
    """

    def __init__(
        self,
        watermark: Watermark,
        clock: Clock,
        *,
        timeout_ms: int,
        late: ResponseCode,
        onward: Callable[[Held], None] = reply,
        is_last_word: bool = True,
    ) -> None:
        """`late`: what an answer becomes that waits longer than `timeout_ms`; its data stay.

        `onward` takes the answers that have passed, and those that are late. Without `is_last_word` an answer
        that has another code than success keeps it; with it, one that does not tell of slaves does.
        """
        self._watermark = watermark
        self._clock = clock
        self._timeout_s = timeout_ms / 1000
        self._late = late
        self._onward = onward
        self._is_last_word = is_last_word
        self._held: deque[Held] = deque()
        watermark.on_change.append(self._changed)

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, held: Held) -> None:
        """Let an answer wait; those before it had lower offsets."""
        self._held.append(held)
        if held.end_offset <= self._watermark.position or self._watermark.failure is not None:
            self._changed()

    def _changed(self) -> None:
        """The watermark has moved, or never will again."""
        held, position, onward = self._held, self._watermark.position, self._onward
        if onward is reply:  # written out: every send passes here
            answered: list[Connection] = []
            connection = None
            while held and held[0].end_offset <= position:
                first = held.popleft()
                if first.connection is not connection:
                    connection = first.connection
                    answered.append(connection)
                connection.answer(first.command, first.answer)
            for connection in answered:
                connection.write_out()
        while held and held[0].end_offset <= position:
            onward(held.popleft())
        if self._watermark.failure is not None:
            self._refuse_all(self._watermark.failure)

    def _refuse_all(self, error: StoreError) -> None:
        """Nobody knows what became of their bytes: the producers had better send them elsewhere."""
        while self._held:
            held = self._held.popleft()
            held.answer.code = ResponseCode.SERVICE_NOT_AVAILABLE
            held.answer.remark = str(error)
            reply(held)

    def expire(self) -> None:
        """Send those on whose time is over: their messages are stored, but not known to be safe."""
        stored_before = self._clock.monotonic() - self._timeout_s
        while self._held and self._held[0].since <= stored_before:
            held = self._held.popleft()
            if held.tells_slave if self._is_last_word else held.answer.code == ResponseCode.SUCCESS:
                held.answer.code = self._late
            self._onward(held)

    def next_deadline(self) -> float | None:
        """When `expire` has something to do, on the clock's monotonic scale; None when nobody waits."""
        return self._held[0].since + self._timeout_s if self._held else None


class Slaves(Protocol):
    """What is asked of replication."""

    @property
    def acknowledged(self) -> Watermark:
        """Physical offset up to which a slave has the log."""
        ...

    @property
    def reach(self) -> int:
        """A record that ends before this physical offset, a slave may acknowledge in time."""
        ...

    @property
    def block_due(self) -> int:
        """Once the log goes to this physical offset, a whole block waits to be sent."""
        ...

    def send(self) -> None:
        """Send what was appended, at once."""
        ...


class Acknowledgements:
    """What sends wait for before they are answered: the disk, a slave, or both."""

    def __init__(
        self,
        store: MessageStore,
        clock: Clock,
        *,
        sync_flush_timeout_ms: int | None = None,
        slaves: Slaves | None = None,
        slave_timeout_ms: int = 3000,
    ) -> None:
        """`sync_flush_timeout_ms` with SYNC_FLUSH, `slaves` with SYNC_MASTER; at least one of them."""
        self._store = store
        self._clock = clock
        self._slaves = slaves
        self._gates: list[Gate] = []
        self._copied: Gate | None = None
        self._flushed: Gate | None = None
        if slaves is not None:
            self._copied = Gate(
                slaves.acknowledged, clock, timeout_ms=slave_timeout_ms, late=ResponseCode.FLUSH_SLAVE_TIMEOUT
            )
            slaves.acknowledged.on_change.append(self._look_if_empty)
            self._gates.append(self._copied)
        if sync_flush_timeout_ms is not None:
            self._flushed = Gate(
                store.flushed,
                clock,
                timeout_ms=sync_flush_timeout_ms,
                late=ResponseCode.FLUSH_DISK_TIMEOUT,
                onward=reply if slaves is None else self._on_disk,
                is_last_word=False,
            )
            store.flushed.on_change.append(self._look_if_empty)
            self._gates.insert(0, self._flushed)
        self._slave_timeout_s = slave_timeout_ms / 1000
        self._now = 0.0
        self._is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        """How many answers wait."""
        return sum(len(gate) for gate in self._gates)

    def when_safe(
        self, end_offset: int, request: Request[Any], answer: Answer, *, tells_slave: bool = True
    ) -> None:
        """Answer once all before the physical offset `end_offset` is safe, or with a lesser code when late.

        The answer is written by then, also when the store fails meanwhile: no one waits for ever. Where no
        slave can acknowledge it, the answer says so, and does not wait for one. Without `tells_slave` it
        waits as long, and says nothing of slaves: for requests whose senders take any code but success for
        a refusal, and would have the same stored again.
        """
        if not self._is_due:
            self.flush_soon()
        slaves = self._slaves
        needs_slave = slaves is not None and end_offset < slaves.reach
        if not needs_slave and slaves is not None and tells_slave:
            answer.code = ResponseCode.SLAVE_NOT_AVAILABLE
        command = request.command
        command.let_go()
        held = Held(end_offset, self._now, request.connection, command, answer, needs_slave, tells_slave)
        if self._flushed is not None:
            self._flushed.hold(held)
        elif needs_slave and self._copied is not None:
            self._copied.hold(held)
        else:
            reply(held)
        if slaves is not None and end_offset >= slaves.block_due:
            slaves.send()

    def _on_disk(self, held: Held) -> None:
        """The disk has it, or is late: a slave's word is still to come, unless there is none to be had."""
        if self._copied is None or not held.needs_slave:
            reply(held)
        else:
            self._copied.hold(held)
            if self._timer is not None and held.since + self._slave_timeout_s < self._rings_at:
                self._timer.cancel()
                self._watch()

    def flush_soon(self) -> None:
        """Have what was stored in this turn of the loop flushed, and sent to the slaves, at its end."""
        if not self._is_due:
            self._is_due = True
            self._now = self._clock.monotonic()
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        if self._flushed is not None:
            self._store.flush_now()
        if self._slaves is not None:
            self._slaves.send()
        if self._timer is None:
            self._watch()

    def _watch(self) -> None:
        """Be there when the first who waits is late: one timer for all, set anew only when it has rung."""
        self._timer = None
        deadlines = [deadline for gate in self._gates if (deadline := gate.next_deadline()) is not None]
        if deadlines:
            self._rings_at = min(deadlines)
            pause_s = max(0.0, self._rings_at - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.expire()
        self._watch()

    def expire(self) -> None:
        """Answer those who have waited too long."""
        for gate in self._gates:
            gate.expire()
        self._look_if_empty()

    def _look_if_empty(self) -> None:
        if self._emptied is not None and not len(self):
            self._emptied.set()

    async def close(self) -> None:
        """Flush, and return when all who wait have been answered, however that is."""
        self._emptied = asyncio.Event()
        if self._flushed is not None:
            self._store.flush_now()
        self._look_if_empty()
        await self._emptied.wait()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
