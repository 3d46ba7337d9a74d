"""Tables that follow their memory on disk as JSON files: topics, groups, offsets (store.md §8).

A file is written off the loop's thread and always whole: a crash at any byte leaves the old or the new one.
Changes are gathered for a second, but for those that somebody waits for. Where the file is large and the
table can tell single entries, these go into a file of changes first (`table_changes`), which is folded into
the table's file after some seconds, at the end, and at the start before anybody else reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os.path
from collections.abc import Iterable
from typing import Protocol

from pymq.broker.table_changes import TableChanges
from pymq.disk import Disk
from pymq.errors import PymqError, StoreError
from pymq.protocol.bodies.body import Body
from pymq.protocol.bodies.topic_config import DataVersion
from pymq.protocol.tolerant_json import escape_non_ascii

log = logging.getLogger("pymq.broker.tables")

_WHOLE_BYTES = 64 << 10
"""A file up to this size is written whole each time."""
_FOLD_S = 5.0
"""So long a single change may be missing in a large table's file."""
_FOLD_BYTES_PER_S = 1 << 20
"""Or longer: to write it whole again and again costs no more than this."""


class Table(Protocol):
    """What can be saved."""

    def snapshot(self) -> Body:
        """A copy that may be encoded on another thread."""
        ...

    def load(self, text: str) -> None:
        """Take what a file holds, over what is there. Raises BodyError."""
        ...


class Entries(Protocol):
    """A table whose entries can be saved one by one."""

    data_version: DataVersion

    def get(self, name: str, /) -> object | None:
        """An entry, or None."""
        ...

    def part(self, names: Iterable[str]) -> Body:
        """As `Table.snapshot`, but only of these entries, all of which there are."""
        ...

    def drop(self, names: Iterable[str]) -> None:
        """While loading: these were deleted after what was loaded so far."""
        ...


class SavedTable:
    """One table and its file."""

    def __init__(
        self,
        path: str,
        table: Table,
        disk: Disk,
        *,
        entries: Entries | None = None,
        interval_s: float = 1.0,
        fold_s: float = _FOLD_S,
    ) -> None:
        """`entries`: the same table, where it can be saved by the entry.

        `interval_s`: what changed is written within that; `fold_s`: and is in the table's file within that.
        """
        self._path = path
        self._table = table
        self._entries = entries
        self._disk = disk
        self._interval_s = interval_s
        self._fold_s = fold_s
        self._changed: dict[str, None] = {}
        self._is_whole_due = False
        self._is_failing = False
        self._is_closing = False
        self._size = 0
        """Bytes of the file."""
        self._base = DataVersion(0, 0)
        """The data version in the file."""
        self._changes = TableChanges(path + ".changes", disk)
        self._fold_at = 0.0
        self._hurry = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._writing: asyncio.Task[None] | None = None

    # -- reading

    def load(self) -> None:
        """Read the file, or `.bak` when the file is missing, empty or torn; neither there is an empty table.

        Then what changed since. Raises StoreError when what is there cannot be read.
        """
        torn, text = None, ""
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
            self._size = len(data)
            text = data.decode()
            torn = None
            break
        if torn is not None:
            raise StoreError(
                f"neither {self._path} nor its .bak can be read ({torn}); mend one of them, or remove both "
                "to start with an empty table"
            )
        if self._entries is not None:
            self._load_changes(self._entries, text)

    def _load_changes(self, entries: Entries, text: str) -> None:
        """Take the changes that are not in the file yet, whose text was loaded, and write it."""
        # A killed process may have renamed it and no more: until that lasts, older changes must not go.
        self._disk.sync_folder(os.path.dirname(self._path))
        self._base = entries.data_version
        changes, is_own = self._changes.read(self._base)
        try:
            for change in changes:
                self._table.load(change.entries)
                entries.drop(change.deleted)
            if changes and not is_own and text:
                self._table.load(text)  # what somebody else wrote since counts for more
                entries.data_version = self._base.next(self._base.timestamp)
        except PymqError as error:
            raise StoreError(
                f"{self._changes.path} cannot be read ({error}); remove it to start without what changed in "
                f"the last seconds before the broker ended"
            ) from None
        if not changes:
            return
        if is_own:
            path = self._changes.path
            log.info("%s: took %d changes that %s did not have yet", path, len(changes), self._path)
        else:
            log.warning(
                "%s is not the one that was saved here last: what it lacks is taken from %s",
                self._path, self._changes.path,
            )  # fmt: skip
        try:
            text = _encode(self._table.snapshot())
            self._fold(entries.data_version)
            self._disk.write_atomically(self._path, text)
        except StoreError as error:
            log.error("%s was not written, trying on until it is: %s", self._path, error)
            self.changed()
        else:
            self._is_written_whole(text, entries.data_version)

    # -- writing

    def changed(self, name: str | None = None) -> None:
        """The table is not what the file says any more: write it within the interval.

        `name`: the entry that changed, if it is only one.
        """
        if name is None or self._entries is None:
            self._is_whole_due = True
        else:
            self._changed[name] = None
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_soon())

    async def save(self) -> None:
        """Write what changed now, together with all who ask while another writing is under way.

        Raises StoreError when it cannot be written; it is tried again in the background nevertheless.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self._hurry.set()
        if self._entries is None:
            self.changed()
        elif self._writing is None:
            self._writing = asyncio.ensure_future(self._write_soon())
        await waiting

    async def _write_soon(self) -> None:
        try:
            while not self._is_closing and (pause_s := self._pause_s()) is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._hurry.wait()
                await self._write()
        finally:
            self._writing = None

    @property
    def _is_dirty(self) -> bool:
        return self._is_whole_due or bool(self._changed)

    def _pause_s(self) -> float | None:
        """How long to wait before the next writing; None when there is nothing to write."""
        if self._is_dirty or self._waiting:
            return self._interval_s
        if self._changes.size:
            return max(0.0, self._fold_at - asyncio.get_running_loop().time())
        return None

    async def _write(self, *, is_last: bool = False) -> None:
        """Write what is due, and tell those who wait."""
        self._hurry.clear()
        waiting, self._waiting = self._waiting, []
        failure: StoreError | None = None
        was_dirty = self._is_dirty
        try:
            if self._must_be_whole(is_last=is_last):
                await self._write_whole()
            elif self._entries is not None and self._changed:
                await self._write_changes(self._entries)
        except StoreError as error:
            failure = error
            self._is_whole_due = True
            self._tell_failure(error, is_last=is_last, is_lost=was_dirty)
        except BaseException:
            self._is_whole_due = True
            self._waiting = waiting + self._waiting
            raise
        else:
            if self._is_failing:
                log.warning("%s is saved again", self._path)
            self._is_failing = False
        for future in waiting:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)

    def _must_be_whole(self, *, is_last: bool) -> bool:
        if self._is_whole_due:
            return True
        if self._changes.size and (is_last or asyncio.get_running_loop().time() >= self._fold_at):
            return True
        return bool(self._changed) and (is_last or self._size <= _WHOLE_BYTES)

    async def _write_whole(self) -> None:
        self._changed, self._is_whole_due = {}, False
        snapshot = self._table.snapshot()
        version = self._base if self._entries is None else self._entries.data_version
        text = await asyncio.to_thread(_encode, snapshot)
        is_told = self._entries is None or await asyncio.to_thread(self._fold, version)
        await self._disk.write_text(self._path, text)
        if not is_told:
            await asyncio.to_thread(self._changes.remove)
        self._is_written_whole(text, version)

    def _fold(self, version: DataVersion) -> bool:
        """Let the changes tell that they are in the table's file. It is written even if that fails."""
        try:
            self._changes.fold(version)
        except StoreError:
            return False
        return True

    def _is_written_whole(self, text: str, version: DataVersion) -> None:
        """The file of changes stays until there are new ones: together with `.bak` it is this table, too."""
        self._size, self._base = len(text), version
        self._changes.size = 0

    async def _write_changes(self, entries: Entries) -> None:
        changed, self._changed = self._changed, {}
        kept = [name for name in changed if entries.get(name) is not None]
        if not self._changes.size:
            pause_s = max(self._fold_s, self._size / _FOLD_BYTES_PER_S)
            self._fold_at = asyncio.get_running_loop().time() + pause_s
        part = entries.part(kept)
        await asyncio.to_thread(self._changes.append, self._base, part, changed.keys() - kept)

    def _tell_failure(self, error: StoreError, *, is_last: bool, is_lost: bool) -> None:
        if is_last and is_lost:
            log.error(
                "%s was not saved at the end, what changed since it last was is lost: %s", self._path, error
            )
        elif is_last:
            log.error(
                "%s was not written at the end, the next start takes what is missing from %s: %s",
                self._path, self._changes.path, error,
            )  # fmt: skip
        elif not self._is_failing:
            log.error("%s was not saved, trying on until it is: %s", self._path, error)
        self._is_failing = True

    async def close(self) -> None:
        """Write what is not saved yet. When that fails it is lost, and the log says so."""
        self._is_closing = True
        self._hurry.set()
        if self._writing is not None:  # not cancelled: what it has under way in a thread would go on
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._is_dirty or self._changes.size or self._waiting:
            await self._write(is_last=True)
        if self._entries is not None and not self._changes.size:
            with contextlib.suppress(StoreError):
                self._changes.remove()


def _encode(snapshot: Body) -> str:
    """Pure ASCII: 4.x reads these files with the JVM's default charset."""
    return escape_non_ascii(snapshot.encode()).decode("ascii")
