"""Tables that follow their memory on disk as JSON files: topics, groups, offsets (store.md §8).

A file is written off the loop's thread and always whole: a crash at any byte leaves the old or the new one.
Changes are gathered for a second, but for those that somebody waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from pymq.disk import Disk
from pymq.errors import PymqError, StoreError
from pymq.protocol.bodies.body import Body
from pymq.protocol.tolerant_json import escape_non_ascii

log = logging.getLogger("pymq.broker.tables")


class Table(Protocol):
    """What can be saved."""

    def snapshot(self) -> Body:
        """A copy that may be encoded on another thread."""
        ...

    def load(self, text: str) -> None:
        """Take what a file holds. Raises BodyError."""
        ...


class SavedTable:
    """One table and its file."""

    def __init__(self, path: str, table: Table, disk: Disk, *, interval_s: float = 1.0) -> None:
        self._path = path
        self._table = table
        self._disk = disk
        self._interval_s = interval_s
        self._dirty = False
        self._hurry = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._writing: asyncio.Task[None] | None = None

    def load(self) -> None:
        """Read the file, or `.bak` when the file is missing, empty or torn; neither there is an empty table.

        Raises StoreError when what is there cannot be read.
        """
        torn = None
        for path in (self._path, self._path + ".bak"):
            data = self._disk.read_bytes(path)
            if not data or not data.strip(b"\0 \r\n\t"):
                continue
            try:
                self._table.load(data.decode())
            except (PymqError, UnicodeDecodeError) as error:
                log.error("%s cannot be read (%s); trying its backup", path, error)
                torn = error
                continue
            if path != self._path:
                log.error("%s was missing or torn: started from %s", self._path, path)
                self.changed()
            return
        if torn is not None:
            raise StoreError(
                f"neither {self._path} nor its .bak can be read ({torn}); mend one of them, or remove both "
                "to start with an empty table"
            )

    def changed(self) -> None:
        """The table is not what the file says any more: write it within the interval."""
        self._dirty = True
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_soon())

    async def save(self) -> None:
        """Write the table now, together with all who ask while another writing is under way.

        Raises StoreError when it cannot be written; it is tried again in the background nevertheless.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._hurry.set()
        self.changed()
        await waiting

    async def _write_soon(self) -> None:
        try:
            while self._dirty:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._hurry.wait()
                await self._write()
        finally:
            self._writing = None

    async def _write(self) -> None:
        self._dirty = False
        self._hurry.clear()
        waiting, self._waiting = self._waiting, []
        snapshot = self._table.snapshot()
        failure: StoreError | None = None
        try:
            await self._disk.write_text(self._path, await asyncio.to_thread(_encode, snapshot))
        except StoreError as error:
            self._dirty = True
            failure = error
            log.error("%s was not saved, trying again: %s", self._path, error)
        except asyncio.CancelledError:
            self._waiting = waiting + self._waiting
            raise
        for future in waiting:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)

    async def close(self) -> None:
        """Write what is not saved yet."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
            self._dirty = True
        if self._dirty:
            await self._write()


def _encode(snapshot: Body) -> str:
    """Pure ASCII: 4.x reads these files with the JVM's default charset."""
    return escape_non_ascii(snapshot.encode()).decode("ascii")
