"""The two ends of a connection, and a third that speaks raw bytes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from pymq.network import SystemNetwork
from pymq.protocol import command as remoting
from pymq.protocol.command import Command
from pymq.protocol.framing import FrameReader
from pymq.protocol.header import Header
from pymq.protocol.headers.messaging import (
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    OffsetResponse,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.dispatch import Answer, DispatchTable, HandlerResult, Request, merge, row
from pymq.transport.pool import Pool
from pymq.transport.server import Server

SOON_S = 30.0
"""Longer than anything here takes, even on a loaded machine."""

ASK = GetMaxOffsetRequest(topic="T", queue_id=7)


def echo(request: Request[GetMaxOffsetRequest]) -> HandlerResult:
    """The queue id as the offset, and the body back."""
    return Answer(header=OffsetResponse(offset=request.header.queue_id), body=request.body)


def nothing(request: Request[UpdateConsumerOffsetRequest]) -> HandlerResult:
    """Success."""
    return Answer()


ECHO: DispatchTable = merge([row(GetMaxOffsetRequest, echo), row(UpdateConsumerOffsetRequest, nothing)])
"""A table: 30 answers its queue id and its body, 15 just answers."""


def serving(handler: Any) -> DispatchTable:
    """A table in which `handler` serves 31, beside `ECHO`."""
    return {**ECHO, **merge([row(GetMinOffsetRequest, handler)])}


ASK_HANDLER = GetMinOffsetRequest(topic="T", queue_id=7)
"""What the handler given to `serving` serves."""


def ask(
    queue_id: int = 7,
    *,
    opaque: int = 1,
    flag: int = 0,
    body: bytes = b"",
    serialization: int = 0,
    header: Header | None = None,
    extra: dict[str, str] | None = None,
) -> bytes:
    """A whole request as raw bytes: 30, or the code of `header`."""
    header = header or GetMaxOffsetRequest(topic="T", queue_id=queue_id)
    head = remoting.encode(
        header.code,
        flag,
        opaque,
        header=header,
        body_length=len(body),
        serialization=serialization,
        extra=extra,
    )
    return head + body


class Wire(asyncio.Transport):
    """A transport that keeps what is written, one entry a write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.1.2.3", 4567)})
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...


class RawPeer:
    """A peer that writes and reads bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._waiting: list[Command] = []

    def send(self, *frames: bytes) -> None:
        """Write all at once."""
        self._writer.write(b"".join(frames))

    async def command(self) -> Command | None:
        """The next command; None when the connection was closed instead."""
        async with asyncio.timeout(SOON_S):
            while not self._waiting:
                try:
                    data = await self._reader.read(1 << 20)
                except ConnectionError:
                    return None
                if not data:
                    return None
                self._frames.feed(data)
                self._waiting += (remoting.decode(*frame) for frame in self._frames)
        return self._waiting.pop(0)

    async def expect(self) -> Command:
        """The next command."""
        command = await self.command()
        assert command is not None, "the connection was closed"
        return command

    async def is_silent(self, for_s: float = 0.05) -> bool:
        """Whether nothing comes, and the connection stays open, for this long."""
        assert not self._waiting
        try:
            async with asyncio.timeout(for_s):
                await self._reader.read(1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        """Leave."""
        self._writer.close()


class Peers:
    """Makes peers. They end with the stack."""

    def __init__(self, running: AsyncExitStack) -> None:
        self._running = running
        self.network = SystemNetwork()

    async def server(self, table: DispatchTable = ECHO, **options: Any) -> tuple[Server, int]:
        """A server on a free port."""
        server = Server(self.network, **options)
        port = await server.listen("127.0.0.1", 0, table)
        self._running.push_async_callback(server.close)
        return server, port

    def pool(self, table: DispatchTable | None = None, **options: Any) -> Pool:
        """A pool of connections."""
        pool = Pool(self.network, table or {}, **options)
        self._running.push_async_callback(pool.close)
        return pool

    async def raw(self, port: int, *, read_limit: int = 1 << 16) -> RawPeer:
        """A raw client of `port`."""
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", port, limit=read_limit))
        self._running.callback(peer.close)
        return peer

    async def raw_server(self) -> tuple[asyncio.Queue[RawPeer], int]:
        """A raw server: a queue of those who connected, and its port."""
        accepted: asyncio.Queue[RawPeer] = asyncio.Queue()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = RawPeer(reader, writer)
            self._running.callback(peer.close)
            await accepted.put(peer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self._running.callback(server.close)
        return accepted, server.sockets[0].getsockname()[1]


async def until(condition: Any) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(SOON_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
