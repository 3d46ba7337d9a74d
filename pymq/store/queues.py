"""All consume queues of the store, by topic and queue id."""

from __future__ import annotations

import logging
import os.path
from collections.abc import Callable, Iterator

from pymq.errors import MessageIllegal, StoreError
from pymq.protocol.message import TOPIC_MAX_LENGTH
from pymq.store.consumequeue import ConsumeQueue, QueueFiles
from pymq.store.deleted_queues import DELETED, DeletedQueues
from pymq.store.segments import WrongFile

log = logging.getLogger("pymq.store")

_QUEUE_ID_MAX = 2**31 - 1


class Census:
    """How much the queues hold, without a look at each of them: they are counted as they are flushed.

    Attributes:
        units: the sum of all max offsets.
        queues: how many queues had a message.
        first_units: the sum of the numbers with which the queues' first files begin.
    """

    def __init__(self) -> None:
        self.units = self.queues = self.first_units = 0

    def count_units(self, queue: ConsumeQueue) -> None:
        """Take the messages that a queue has now, in place of what it had when it was counted last."""
        units, before = queue.max_offset, queue.counted_units
        if units != before:
            self.units += units - before
            self.queues += (units > 0) - (before > 0)
            queue.counted_units = units

    def count(self, queue: ConsumeQueue) -> None:
        """The same for its files, too: some of them have gone, or nothing is known yet."""
        self.count_units(queue)
        first = queue.first_number
        if first != queue.counted_first:
            self.first_units += first - queue.counted_first
            queue.counted_first = first

    def forget(self, queue: ConsumeQueue) -> None:
        """The queue is no more."""
        self.units -= queue.counted_units
        self.queues -= queue.counted_units > 0
        self.first_units -= queue.counted_first
        queue.counted_units = queue.counted_first = 0


class ConsumeQueues:
    """A table that makes a queue when a message for it is stored."""

    def __init__(self, common: QueueFiles, on_broken: Callable[[StoreError], None]) -> None:
        """`on_broken`: told when the deletion of files finds the disk broken."""
        self._common = common
        self.deleted = DeletedQueues(common.folder, common.disk, on_broken)
        self.census = Census()
        self.table: dict[tuple[str, int], ConsumeQueue] = {}
        self._ids: dict[str, list[int]] = {}
        """Topic → ids of its queues."""

    def __iter__(self) -> Iterator[ConsumeQueue]:
        return iter(self.table.values())

    def load(self, written_bytes: int) -> int:
        """Find the queues. Folders whose names are no numbers are skipped, as Apache does.

        A queue whose files are not as they must be is removed, for it can be built again from the log:
        returns how many those were. `written_bytes`: the size that the files are known to have been made
        with, 0 when that is unknown. StoreCorrupt when it is the configured size that must be wrong.
        """
        wrong: list[tuple[ConsumeQueue, WrongFile]] = []
        for topic in self._common.disk.list_folder(self._common.folder):
            for name in self._common.disk.list_folder(os.path.join(self._common.folder, topic)):
                if not name.isdecimal():
                    continue
                queue = ConsumeQueue(topic, int(name), self._common)
                try:
                    queue.load(written_bytes)
                except WrongFile as e:
                    wrong.append((queue, e))
                else:
                    self._add(queue)
        if wrong and not self.table and not any(error.is_size_sure for _, error in wrong):
            raise wrong[0][1]
        for queue, error in wrong:
            log.error("queue %s/%d is built again: %s", queue.topic, queue.queue_id, error)
            queue.remove()
        return len(wrong)

    def sync_folders(self) -> None:
        """Bring the names of all files to the disk: who made or removed some may have been killed before.

        Later syncs of the files would not do that. StoreBroken.
        """
        folders = {self.folder: None}
        for queue in self:
            folders[queue.folder] = folders[os.path.dirname(queue.folder)] = None
        self._common.disk.sync_folders(list(folders))

    def size(self) -> tuple[int, int, int]:
        """The sum of all max offsets, how many queues had a message, the sum of the files' first numbers."""
        queues = self.table.values()
        offsets = [queue.max_offset for queue in queues]
        return sum(offsets), sum(map(bool, offsets)), sum([queue.first_number for queue in queues])

    def make(self, topic: str, queue_id: int) -> ConsumeQueue:
        """The queue, new if need be. MessageIllegal for a topic that can be no folder, and a bad queue id."""
        queue = self.table.get((topic, queue_id))
        if queue is not None:
            return queue
        if not topic or topic in (".", "..", DELETED) or "/" in topic or "\0" in topic:
            raise MessageIllegal(f"a topic cannot be called {topic!r}")
        try:
            length = len(topic.encode())
        except UnicodeEncodeError:
            raise MessageIllegal(f"a topic cannot be called {topic!r}") from None
        if length > TOPIC_MAX_LENGTH:
            raise MessageIllegal(f"the topic has {length} bytes, over the limit of {TOPIC_MAX_LENGTH}")
        if not 0 <= queue_id <= _QUEUE_ID_MAX:
            raise MessageIllegal(f"there is no queue {queue_id}")
        return self._add(ConsumeQueue(topic, queue_id, self._common))

    def _add(self, queue: ConsumeQueue) -> ConsumeQueue:
        self.table[queue.topic, queue.queue_id] = queue
        self._ids.setdefault(queue.topic, []).append(queue.queue_id)
        return queue

    def count_all(self) -> None:
        """Take all queues into the census as they are now."""
        for queue in self:
            self.census.count(queue)

    def has_topic(self, topic: str) -> bool:
        """Whether there is a queue of this topic."""
        return topic in self._ids

    def delete_topic(self, topic: str) -> int:
        """Have a topic's queues no more; a sync of `folder` brings that to the disk. Their files go soon.

        Returns how many queues that were. StoreError, StoreBroken.
        """
        ids = self._ids.pop(topic, [])
        for queue_id in ids:
            queue = self.table.pop((topic, queue_id))
            self.census.forget(queue)
            queue.leave()
        if ids:
            self.deleted.take(os.path.join(self._common.folder, topic))
        return len(ids)

    def delete(self, queue: ConsumeQueue) -> None:
        """Have one queue no more, as `delete_topic`; a sync of its topic's folder brings that to the disk."""
        del self.table[queue.topic, queue.queue_id]
        ids = self._ids[queue.topic]
        ids.remove(queue.queue_id)
        if not ids:
            del self._ids[queue.topic]
        self.census.forget(queue)
        queue.leave()
        self.deleted.take(queue.folder)

    @property
    def folder(self) -> str:
        """Where the topics' folders lie."""
        return self._common.folder

    def last_unit(self) -> tuple[int, int]:
        """Physical offset and size of the newest record that any queue knows of; (0, 0) without one."""
        units = [(unit[0], unit[1]) for queue in self if (unit := queue.last_unit()) is not None]
        return max(units, default=(0, 0))

    def close(self) -> None:
        """Unmap all."""
        self._common.mappings.close_writer()
        for queue in self:
            queue.close()
