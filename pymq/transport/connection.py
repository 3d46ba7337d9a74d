"""One TCP connection under the remoting protocol: requests and answers in both directions (wire.md §1).

All answers to the requests of one `data_received` go out in one write, as do later ones that become ready
in one turn of the loop. While a client does not read, a server does not read from it, so that a connection
holds a bounded number of bytes. (Clients go on reading: if both sides waited for the other to read, they
would wait for ever.)
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from pymq.errors import CallTimeout, ConnectionLost, ProtocolError, PymqError
from pymq.protocol.codes import ResponseCode
from pymq.protocol.command import AGREE_MSGPACK, FLAG_ONEWAY, FLAG_RESPONSE, Command, Serialization
from pymq.protocol.command import decode as decode_command
from pymq.protocol.command import encode as encode_command
from pymq.protocol.framing import FRAME_MAX_LENGTH, FrameReader
from pymq.protocol.header import Header
from pymq.protocol.message_ids import pack_host
from pymq.transport.dispatch import Answer, Buffer, DispatchTable, Request, not_supported, refused
from pymq.transport.refusals import ROUTINE, Refusals

log = logging.getLogger("pymq.transport")

WRITE_BUFFER_BYTES = 1024 * 1024
"""Past this many unsent bytes a connection is not read from until the peer has caught up."""

UNREAD_LIMIT_BYTES = 64 * 1024 * 1024
"""A client that leaves more than this unread is cut off: what a server tells it unasked, and answers that
were long under way, come on top of `WRITE_BUFFER_BYTES`."""

LINGER_S = 5.0
"""How long a connection that is being closed may take to send what was written before."""

_opaques = itertools.count()


class Connection(asyncio.Protocol):
    """A connection, of either side.

    Attributes:
        address: the peer, `host:port`.
        born_host: the peer as stored in messages: IP and port packed, IPv4 wherever possible.
        attributes: for the owner's use (a broker keeps the client id here).
        closed: nothing can be sent any more; set by `close` and when the connection ends.
        heard: counts the reads; the same number again means that the peer was silent.
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
        tasks: set[asyncio.Future[Any]] | None = None,
    ) -> None:
        """`tasks` is where handlers under way are kept. They outlive the connection, as a request may be
        the last thing a client does before it leaves: their owner ends them."""
        self.address = "?"
        self.born_host = b"\0" * 8
        self.attributes: dict[str, Any] = {}
        self.closed = False
        self.heard = 0
        self._table = table
        self._frames = FrameReader(frame_max_length)
        self._is_server = is_server
        self._on_open = on_open
        self._on_close = on_close
        self._tasks: set[asyncio.Future[Any]] = set() if tasks is None else tasks
        self._calls: dict[int, asyncio.Future[Command]] = {}
        self._transport: asyncio.Transport | None = None
        self._linger: asyncio.TimerHandle | None = None
        # Writing: what waits for the end of this turn, and who waits for the peer to read.
        self._out: list[Buffer] = []
        self._out_bytes = 0
        self._serving = False
        self._flush_due = False
        self._paused = False
        self._writable: list[Callable[[], None]] = []
        self._active = True
        self._unsent = 0
        # msgpack (design: between pymq peers): what is spoken to the peer; the request that offers it; as
        # a server, whether an offer may still come and the request whose answer takes it up.
        self._serialization = int(Serialization.JSON)
        self._offer_msgpack = offer_msgpack
        self._offered: int | None = None
        self._awaits_offer = is_server
        self._accepting: Command | None = None
        self._refusals: Refusals | None = None

    @property
    def speaks_msgpack(self) -> bool:
        """Whether the peer has agreed to msgpack, as only pymq does."""
        return self._serialization == Serialization.MSGPACK

    # -- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
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
        if self._linger is not None:
            self._linger.cancel()
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(ConnectionLost(self.address, f"connection to {self.address} was lost"))
        self._writable.clear()
        self._out.clear()
        if self._refusals is not None:
            self._refusals.close()
        if self._on_close is not None:
            self._on_close(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        self._active = True
        self.heard += 1
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
        self._wake_writers()
        if self._paused or not self._is_server:
            return
        self._serve_frames()
        if not self._paused and not self.closed:
            self._transport.resume_reading()

    def _wake_writers(self) -> None:
        waiting, self._writable = self._writable, []
        for index, wake in enumerate(waiting):
            if self._paused:
                self._writable = waiting[index:] + self._writable
                return
            try:
                wake()
            except Exception:
                log.exception("%s: a held answer failed", self.address)

    # -- requests of the peer -----------------------------------------------------------------------

    def _serve_frames(self) -> None:
        self._serving = True
        broken = False
        try:
            for kind, header, body in self._frames:
                command = decode_command(kind, header, body, not self._awaits_offer)
                if command.flag & FLAG_RESPONSE:
                    self._settle(command)
                else:
                    self._serve(command)
                if self._out_bytes > WRITE_BUFFER_BYTES:
                    self._flush()
                    if self._paused and self._is_server:
                        break
                if self.closed:
                    return
        except ProtocolError as error:
            log.warning("%s: %s; connection closed", self.address, error)
            broken = True
        except Exception:
            log.exception("%s: connection closed", self.address)
            broken = True
        finally:
            self._serving = False
        self._flush()
        if broken:
            self.close()

    def _serve(self, command: Command) -> None:
        if self._awaits_offer and not command.flag & FLAG_ONEWAY:
            self._awaits_offer = False
            if command.field(AGREE_MSGPACK[0]) == AGREE_MSGPACK[1]:
                self._accepting = command
        row = self._table.get(command.code)
        if row is None:
            self.answer(command, not_supported(command.code))
            return
        try:
            answer = row.handler(Request(self, command, command.read(row.header)))
        except PymqError as error:
            self.answer(command, refused(error))
            return
        except Exception as error:
            self._crashed(command, error)
            return
        if type(answer) is Answer:
            self.answer(command, answer)
        elif answer is not None:
            task = asyncio.ensure_future(answer)  # type: ignore[arg-type]
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._finished, command))

    def _finished(self, command: Command, task: asyncio.Future[Answer | None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            answer = task.result()
        elif isinstance(error, PymqError):
            answer = refused(error)
        else:
            self._crashed(command, error)
            return
        if answer is not None:
            self.answer(command, answer)

    def _crashed(self, command: Command, error: BaseException) -> None:
        answer = Answer(ResponseCode.SYSTEM_ERROR, remark=f"{type(error).__name__}: {error}")
        self.answer(command, answer, error)

    def _note_refusal(self, command: Command, answer: Answer, cause: BaseException | None) -> None:
        if self._refusals is None:
            self._refusals = Refusals(self.address)
        now = asyncio.get_running_loop().time()
        self._refusals.note(now, command.code, answer.code, answer.remark, cause)

    def answer(self, command: Command, answer: Answer, cause: BaseException | None = None) -> None:
        """Write the answer to a request, in the serialisation that it came in.

        One that is no success and not routine has a line in the log, too; `cause` is what its handler
        crashed on.
        """
        code = answer.code
        if code and code not in ROUTINE:
            self._note_refusal(command, answer, cause)
        if command.flag & FLAG_ONEWAY or self.closed:
            return
        body = answer.body
        size = 0
        slices: Sequence[Buffer] = ()
        if body:
            slices = (body,) if isinstance(body, (bytes, memoryview)) else body
            size = sum(map(len, slices))
        extra = None
        if command is self._accepting:
            self._accepting = None
            extra = dict([AGREE_MSGPACK])
        self._out.append(
            encode_command(
                code,
                FLAG_RESPONSE,
                command.opaque,
                answer.header,
                answer.remark,
                size,
                command.serialization,
                extra,
            )
        )
        if size:
            self._out += slices
        self._out_bytes += size + 200
        if self._serving:
            return
        if type(body) is not bytes:
            self._flush()  # slices of a mapping are good for this turn only
        elif not self._flush_due or self._out_bytes > WRITE_BUFFER_BYTES:
            self._flush_soon()

    # -- requests of ours ---------------------------------------------------------------------------

    async def call(self, header: Header, body: bytes = b"", *, timeout_s: float = 3.0) -> Command:
        """Ask the peer and wait for its answer, whatever its code.

        Raises CallTimeout after `timeout_s` seconds, ConnectionLost when the connection ends before. When
        cancelled, the answer is dropped as it comes.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Command] = loop.create_future()
        opaque = self.start_call(header, body, future)
        timer = loop.call_later(timeout_s, self._expire, opaque, timeout_s, header.code)
        try:
            return await future
        finally:
            timer.cancel()
            self.forget(opaque)

    def start_call(self, header: Header, body: bytes, future: asyncio.Future[Command]) -> int:
        """Send a request whose answer settles `future`; gives its opaque. No time limit of its own: who
        gives up waiting calls `forget`.

        Raises ConnectionLost when the connection is closed already.
        """
        self._check_open()
        opaque = next(_opaques) & 0x7FFFFFFF
        extra = dict([AGREE_MSGPACK]) if self._offer_msgpack else None
        self._send(header, body, opaque, 0, extra)
        self._calls[opaque] = future
        if extra is not None:
            self._offer_msgpack = False
            self._offered = opaque
        return opaque

    def forget(self, opaque: int) -> None:
        """Stop waiting for the answer to a call. It is dropped when it comes."""
        self._calls.pop(opaque, None)

    def oneway(self, header: Header, body: bytes = b"") -> None:
        """Tell the peer something; no answer comes. Raises ConnectionLost when closed already."""
        self._check_open()
        self._send(header, body, next(_opaques) & 0x7FFFFFFF, FLAG_ONEWAY, None)

    def _check_open(self) -> None:
        if self.closed:
            raise ConnectionLost(self.address, f"connection to {self.address} is closed")

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
        if not self._serving:
            self._flush_soon()

    def _settle(self, command: Command) -> None:
        if command.opaque == self._offered:
            self._offered = None
            if command.field(AGREE_MSGPACK[0]) == AGREE_MSGPACK[1]:
                self._serialization = Serialization.MSGPACK
        future = self._calls.pop(command.opaque, None)
        if future is None:
            log.debug("%s: answer to an unknown request %d", self.address, command.opaque)
        elif not future.done():
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

    def _flush_soon(self) -> None:
        """Write at the end of this turn, so that what comes until then goes out in the same write."""
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_now)
        elif self._out_bytes > WRITE_BUFFER_BYTES:
            self._flush()

    def write_out(self) -> None:
        """Write what waits for the end of this turn now: there may be much to do before it ends."""
        self._flush()

    def _flush_now(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None:
            return
        self._out = []
        self._out_bytes = 0
        if self.closed:
            return
        if not self._paused:
            self._active = True
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._paused and self._is_server:
            unread = self._transport.get_write_buffer_size()
            if unread > UNREAD_LIMIT_BYTES:
                log.warning("%s: does not read, %d bytes wait; connection closed", self.address, unread)
                self.abort()

    @property
    def writing_paused(self) -> bool:
        """Whether the peer lags behind in reading."""
        return self._paused

    def when_writable(self, wake: Callable[[], None]) -> None:
        """Call `wake` once the peer has caught up; at once if it has. Never called if the connection ends."""
        if not self._paused:
            wake()
        elif not self.closed:
            self._writable.append(wake)

    def pending_calls(self) -> int:
        """Requests of ours whose answer has not come."""
        return len(self._calls)

    def stirred(self) -> bool:
        """Whether bytes came or went since this was last asked."""
        unsent = 0 if self._transport is None else self._transport.get_write_buffer_size()
        stirred = self._active or unsent < self._unsent
        self._active = False
        self._unsent = unsent
        return stirred

    def close(self) -> None:
        """Close after what was written has gone out. Waiting calls end with ConnectionLost."""
        if self._transport is None or self.closed:
            return
        self._flush()
        self.closed = True
        if self._transport.get_write_buffer_size():
            self._linger = asyncio.get_running_loop().call_later(LINGER_S, self.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
