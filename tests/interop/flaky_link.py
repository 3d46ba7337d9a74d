"""A TCP proxy between a slave and its master that can be slow, and break in the middle of a block."""

from __future__ import annotations

import asyncio
import contextlib

from tests.interop.processes import HOST

_PIECE = 4096


class FlakyLink:
    """Passes on what comes at `port` to the master's replication port.

    Attributes:
        bytes_per_s: how fast what the master sends goes through; 0: as it comes.
        carried: bytes of the master that went through.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.bytes_per_s = 0
        self.carried = 0
        self._target_port = target_port
        self._is_parted = False
        self._cut_at: int | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut_after(self, size: int) -> None:
        """Break the connection when so many more bytes of the master's have gone through."""
        self._cut_at = self.carried + size

    @property
    def was_cut(self) -> bool:
        """Whether that has happened."""
        return self._cut_at is None

    def part(self) -> None:
        """Break the connection, and let none come about until `mend`."""
        self._is_parted = True
        self._break()

    def mend(self) -> None:
        """Let the slave come to its master again."""
        self._is_parted = False

    def close(self) -> None:
        """End all."""
        if self._server is not None:
            self._server.close()
        self._break()

    def _break(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_master = await asyncio.open_connection(HOST, self._target_port)
            if self._is_parted:
                to_master[1].transport.abort()
                raise ConnectionAbortedError
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_master[1]}
        await asyncio.gather(self._up(reader, to_master[1]), self._down(to_master[0], writer))
        for each in (writer, to_master[1]):
            each.transport.abort()
            self._writers.discard(each)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE):
                if self._cut_at is not None and self.carried + len(data) >= self._cut_at:
                    data = data[: self._cut_at - self.carried]
                    writer.write(data)
                    await writer.drain()
                    self.carried += len(data)
                    self._cut_at = None
                    await asyncio.sleep(0.05)  # what was written goes out
                    self._break()
                    return
                self.carried += len(data)
                writer.write(data)
                await writer.drain()
                if self.bytes_per_s:
                    await asyncio.sleep(len(data) / self.bytes_per_s)
        writer.transport.abort()
