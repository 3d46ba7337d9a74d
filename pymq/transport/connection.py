"""One TCP connection under the remoting protocol: requests and answers in both directions (wire.md §1).

All answers to the requests of one `data_received` go out in one write. While a client does not read, a
server does not read from it, so that a connection holds a bounded number of bytes. (Clients go on reading:
if both sides waited for the other to read, they would wait for ever.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pymq.errors import CallTimeout, ConnectionLost, HeaderError, ProtocolError, PymqError
from pymq.network import pack_host
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import AGREE_MSGPACK, FLAG_ONEWAY, FLAG_RESPONSE, Command, Serialization
from pymq.protocol.command import decode as decode_command
from pymq.protocol.command import encode as encode_command
from pymq.protocol.framing import FRAME_MAX_LENGTH, FrameReader
from pymq.protocol.header import Header
from pymq.transport.dispatch import Answer, Buffer, DispatchTable, Request, not_supported, refused

log = logging.getLogger("pymq.transport")

WRITE_BUFFER_BYTES = 1024 * 1024
"""Past this many unsent bytes a connection is not read from until the peer has caught up."""

_opaques = itertools.count()


class Connection(asyncio.Protocol):
    """A connection, of either side.

    Attributes:
        address: the peer, `host:port`.
        born_host: the peer as stored in messages: IP and port packed, IPv4 wherever possible.
        attributes: for the owner's use (a broker keeps the client id here).
    """

    def __init__(
        self,
        table: DispatchTable,
        *,
        frame_max_length: int = FRAME_MAX_LENGTH,
        offer_msgpack: bool = False,
        is_server: bool = False,
        on_open: Callable[[Connection], None] | None = None,
        on_close: Callable[[Connection], None] | None = None,
    ) -> None:
        self.address = "?"
        self.born_host = b"\0" * 8
        self.attributes: dict[str, Any] = {}
        self.active = True  # traffic since the last idle sweep
        self._table = table
        self._frames = FrameReader(frame_max_length)
        self._is_server = is_server
        self._on_open = on_open
        self._on_close = on_close
        self._offer_msgpack = offer_msgpack
        self._first = True
        self._serialization = int(Serialization.JSON)
        self._calls: dict[int, asyncio.Future[Command]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._serving = False
        self._paused = False
        self._writable: list[Callable[[], None]] = []
        self._transport: asyncio.Transport | None = None
        self.closed = False

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            host, port = peer[0], peer[1]
            self.address = f"{host}:{port}"
            self.born_host = pack_host(host, port)
        if self._on_open is not None:
            self._on_open(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection has ended."""
        self.closed = True
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(ConnectionLost(self.address, f"connection to {self.address} was lost"))
        for task in self._tasks:
            task.cancel()
        self._writable.clear()
        self._out.clear()
        if self._on_close is not None:
            self._on_close(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        self.active = True
        self._frames.feed(data)
        if not (self._paused and self._is_server):
            self._serve_frames()

    def pause_writing(self) -> None:
        """asyncio: the peer does not keep up with reading. A server stops reading from it."""
        self._paused = True
        if self._is_server and self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """asyncio: the peer has caught up."""
        self._paused = False
        if self._transport is None or self.closed:
            return
        if self._is_server:
            self._transport.resume_reading()
        waiting, self._writable = self._writable, []
        for wake in waiting:
            wake()
        self._serve_frames()

    # -- requests of the peer -----------------------------------------------------------------------

    def _serve_frames(self) -> None:
        self._serving = True
        try:
            for kind, header, body in self._frames:
                command = decode_command(kind, header, body)
                if command.flag & FLAG_RESPONSE:
                    self._settle(command)
                else:
                    self._serve(command)
                if self._out_bytes > WRITE_BUFFER_BYTES:
                    self._flush()
                    if self._paused and self._is_server:
                        break
        except ProtocolError as error:
            log.warning("%s: %s; connection closed", self.address, error)
            self._serving = False
            self._flush()
            self.close()
            return
        self._serving = False
        self._flush()

    def _serve(self, command: Command) -> None:
        if self._first:
            self._first = False
            self._accept_msgpack(command)
        row = self._table.get(command.code)
        if row is None:
            self.answer(command, not_supported(command.code))
            return
        try:
            answer = row.handler(Request(self, command, command.read(row.header)))
        except PymqError as error:
            if isinstance(error, HeaderError):
                log.warning("%s: request %d: %s", self.address, command.code, error)
            self.answer(command, refused(error))
            return
        except Exception as error:
            self._crashed(command, error)
            return
        if type(answer) is Answer:
            self.answer(command, answer)
        elif answer is not None:
            task = asyncio.ensure_future(self._answer_later(command, answer))  # type: ignore[arg-type]
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_later(self, command: Command, awaitable: Awaitable[Answer | None]) -> None:
        try:
            answer = await awaitable
        except PymqError as error:
            answer = refused(error)
        except Exception as error:
            self._crashed(command, error)
            return
        if answer is not None:
            self.answer(command, answer)

    def _crashed(self, command: Command, error: Exception) -> None:
        log.exception("%s: request %d failed", self.address, command.code)
        self.answer(command, Answer(ResponseCode.SYSTEM_ERROR, remark=f"{type(error).__name__}: {error}"))

    def answer(self, command: Command, answer: Answer) -> None:
        """Write the answer to a request, in the serialisation that it came in."""
        if command.flag & FLAG_ONEWAY or self.closed:
            return
        body = answer.body
        slices = body if type(body) is list else None
        size = sum(map(len, slices)) if slices is not None else len(body)
        self._out.append(
            encode_command(
                answer.code,
                FLAG_RESPONSE,
                command.opaque,
                header=answer.header,
                remark=answer.remark,
                body_length=size,
                serialization=command.serialization,
                extra=self._agreed(command),
            )
        )
        if slices is not None:
            self._out += slices
        elif size:
            self._out.append(body)  # type: ignore[arg-type]
        self._out_bytes += size + 200
        if not self._serving:
            self._flush()

    def _accept_msgpack(self, command: Command) -> None:
        name, value = AGREE_MSGPACK
        if command.serialization == Serialization.JSON and command.field(name) == value:
            self.attributes[name] = command.opaque
            self._serialization = Serialization.MSGPACK

    def _agreed(self, command: Command) -> dict[str, str] | None:
        if self._serialization and self.attributes.get(AGREE_MSGPACK[0]) == command.opaque:
            del self.attributes[AGREE_MSGPACK[0]]
            return dict([AGREE_MSGPACK])
        return None

    # -- requests of ours ---------------------------------------------------------------------------

    async def call(self, header: Header, body: bytes = b"", *, timeout_s: float = 3.0) -> Command:
        """Ask the peer and wait for its answer, whatever its code.

        Raises CallTimeout after `timeout_s` seconds, ConnectionLost when the connection ends before.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Command] = loop.create_future()
        opaque = self.start_call(header, body, future)
        timer = loop.call_later(timeout_s, self._expire, opaque, timeout_s, header.code)
        try:
            return await future
        finally:
            timer.cancel()
            self._calls.pop(opaque, None)

    def start_call(self, header: Header, body: bytes, future: asyncio.Future[Command]) -> int:
        """Send a request whose answer settles `future`; gives its opaque. No time limit of its own.

        Raises ConnectionLost when the connection is closed already.
        """
        if self.closed:
            raise ConnectionLost(self.address, f"connection to {self.address} is closed")
        opaque = next(_opaques) & 0x7FFFFFFF
        extra = None
        if self._offer_msgpack:
            self._offer_msgpack = False
            extra = dict([AGREE_MSGPACK])
        self._calls[opaque] = future
        self._send(header, body, opaque, 0, extra)
        return opaque

    def oneway(self, header: Header, body: bytes = b"") -> None:
        """Tell the peer something; no answer comes. Raises ConnectionLost when closed already."""
        if self.closed:
            raise ConnectionLost(self.address, f"connection to {self.address} is closed")
        self._send(header, body, next(_opaques) & 0x7FFFFFFF, FLAG_ONEWAY, None)

    def _send(
        self, header: Header, body: bytes, opaque: int, flag: int, extra: dict[str, str] | None
    ) -> None:
        has_fields = bool(header.__struct_fields__)
        self._out.append(
            encode_command(
                header.code,
                flag,
                opaque,
                header=header if has_fields else None,
                body_length=len(body),
                serialization=self._serialization,
                extra=extra,
            )
        )
        if body:
            self._out.append(body)
        self._out_bytes += len(body) + 200
        if self._serving:
            return
        if len(self._out) <= 2:
            # The first request of this turn: others may follow, so that all go out in one write.
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._out_bytes > WRITE_BUFFER_BYTES:
            self._flush()

    def _settle(self, command: Command) -> None:
        future = self._calls.pop(command.opaque, None)
        if future is None:
            log.debug("%s: answer to an unknown request %d", self.address, command.opaque)
            return
        if self._first:
            self._first = False
            if command.field(AGREE_MSGPACK[0]) == AGREE_MSGPACK[1]:
                self._serialization = Serialization.MSGPACK
        if not future.done():
            future.set_result(command)

    def _expire(self, opaque: int, timeout_s: float, code: int) -> None:
        future = self._calls.pop(opaque, None)
        if future is not None and not future.done():
            future.set_exception(
                CallTimeout(
                    self.address, f"{self.address} did not answer request {code} within {timeout_s:g} s"
                )
            )

    # -- writing ------------------------------------------------------------------------------------

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None:
            return
        self._out = []
        self._out_bytes = 0
        self.active = True
        if self.closed:
            return
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    @property
    def writing_paused(self) -> bool:
        """Whether the peer lags behind in reading."""
        return self._paused

    def when_writable(self, wake: Callable[[], None]) -> None:
        """Call `wake` once the peer has caught up; at once if it has. Never called if the connection ends."""
        if self._paused:
            self._writable.append(wake)
        else:
            wake()

    def pending_calls(self) -> int:
        """Requests of ours whose answer has not come."""
        return len(self._calls)

    def close(self) -> None:
        """Close after what was written has gone out. Waiting calls end with ConnectionLost."""
        if self._transport is not None and not self._transport.is_closing():
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
