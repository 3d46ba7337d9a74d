"""The dispatch table: request code → header class and handler. One row serves one code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from pymq.errors import PymqError, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.command import Command
from pymq.protocol.header import Header

if TYPE_CHECKING:
    from pymq.transport.connection import Connection

H = TypeVar("H", bound=Header)
H_co = TypeVar("H_co", bound=Header, covariant=True)

Buffer = bytes | memoryview


class Answer(msgspec.Struct, gc=False):
    """What a handler gives back.

    `body` may be a list of slices: they are joined once, when the answer is written in this very turn of
    the loop, so a slice of a mapping needs no copy of its own.
    """

    code: int = 0
    header: Header | None = None
    body: Buffer | Sequence[Buffer] = b""
    remark: str | None = None


class Request(msgspec.Struct, Generic[H_co], gc=False):
    """One request under way: its connection, its command, its typed header.

    A handler that gives no answer at once keeps the request and calls `reply` later, exactly once.
    """

    connection: Connection
    command: Command
    header: H_co

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.command.body

    @property
    def version(self) -> int:
        """The requester's version (wire.md §1.1)."""
        return self.command.version

    def reply(self, answer: Answer) -> None:
        """Answer later. Nothing is written to a oneway request or a closed connection."""
        self.connection.answer(self.command, answer)


HandlerResult = Answer | Awaitable[Answer | None] | None
Handler = Callable[[Request[Any]], HandlerResult]
"""Gives an Answer at once, an awaitable of one, or None to reply later. May raise ResponseError."""


class Row(msgspec.Struct, frozen=True):
    """How one request code is served."""

    header: type[Header]
    handler: Handler


DispatchTable = dict[int, Row]


def row(header: type[H], handler: Callable[[Request[H]], HandlerResult]) -> tuple[RequestCode, Row]:
    """A row of a table: serve `header`'s code by `handler`."""
    return header.code, Row(header, handler)


def merge(*tables: Iterable[tuple[RequestCode, Row]]) -> DispatchTable:
    """One table out of several. Raises PymqError when two claim one code."""
    merged: DispatchTable = {}
    for table in tables:
        for code, entry in table:
            if code in merged:
                raise PymqError(f"request code {code.name} is claimed twice")
            merged[int(code)] = entry
    return merged


def not_supported(code: int) -> Answer:
    """The answer to a code nobody serves. The leading blank is Apache's (wire.md §2)."""
    return Answer(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, remark=f" request type {code} not supported")


def refused(error: PymqError) -> Answer:
    """The answer that an error of ours becomes."""
    if isinstance(error, ResponseError):
        return Answer(error.code, remark=error.remark)
    return Answer(ResponseCode.SYSTEM_ERROR, remark=str(error))
