"""Folders of consume queues that are no more: out of the way at once, off the disk a little later.

To delete the files of many queues takes seconds. So a folder is first moved, which is one step: below
`.deleted`, under a name that is no number, so that neither pymq nor Apache takes it for a queue. A topic of
the same name may be made in the same moment. What a crash leaves there, the next start deletes.
"""

from __future__ import annotations

import itertools
import logging
import os.path
from collections.abc import Callable
from typing import Final

from pymq.disk import Disk
from pymq.errors import StoreBroken, StoreError

log = logging.getLogger("pymq.store")

DELETED: Final = ".deleted"
"""The folder's name, beside the topics' folders: no topic may have it."""


class DeletedQueues:
    """Takes folders away, and deletes them in the disk's deleting thread."""

    def __init__(self, folder: str, disk: Disk, on_broken: Callable[[StoreError], None]) -> None:
        """`folder`: that of the consume queues."""
        self._folder = os.path.join(folder, DELETED)
        self._disk = disk
        self._on_broken = on_broken
        self._numbers = itertools.count()

    def start(self) -> None:
        """Delete what the last run could not any more. No `take` may come before."""
        names = self._disk.list_folder(self._folder)
        numbers = [int(number) for name in names if (number := name.rpartition("-")[2]).isdecimal()]
        self._numbers = itertools.count(max(numbers, default=0) + 1)
        for name in names:
            self._delete_soon(os.path.join(self._folder, name))

    def take(self, folder: str) -> None:
        """Let a folder be no more, where it was; a sync of the one above brings that to the disk.

        None there is fine. StoreError, StoreBroken: it cannot be deleted.
        """
        if not self._disk.exists(folder):
            return
        path = os.path.join(self._folder, f"queues-{next(self._numbers)}")
        try:
            self._disk.make_folder(self._folder)
            self._disk.rename_folder(folder, path)
        except StoreBroken:
            raise
        except StoreError:  # a full disk may have no room for another name
            self._disk.remove_folder(folder, sync=False)
        else:
            self._delete_soon(path)

    def finish(self) -> None:
        """Leave nothing; no background job runs any more. What cannot be deleted is the next start's."""
        try:
            self._disk.remove_folder(self._folder, sync=False)
        except StoreError as e:
            self._report(e)

    def _delete_soon(self, path: str) -> None:
        self._disk.delete_soon(lambda: self._disk.remove_folder(path, sync=False), self._deleted)

    def _deleted(self, error: StoreError | None) -> None:
        if error is not None:
            self._report(error)
            if isinstance(error, StoreBroken):
                self._on_broken(error)

    def _report(self, error: StoreError) -> None:
        log.error(
            "files of deleted queues are left in %s, the next start deletes them: %s", self._folder, error
        )
