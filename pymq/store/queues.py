"""All consume queues of the store, by topic and queue id."""

from __future__ import annotations

import os.path
from collections.abc import Iterator

from pymq.errors import MessageIllegal
from pymq.protocol.message import TOPIC_MAX_LENGTH
from pymq.store.consumequeue import ConsumeQueue, QueueFiles

_QUEUE_ID_MAX = 2**31 - 1


class ConsumeQueues:
    """A table that makes a queue when a message for it is stored."""

    def __init__(self, common: QueueFiles) -> None:
        self._common = common
        self.table: dict[tuple[str, int], ConsumeQueue] = {}

    def __iter__(self) -> Iterator[ConsumeQueue]:
        return iter(self.table.values())

    def load(self) -> None:
        """Find the queues. Folders whose names are no numbers are skipped, as Apache does."""
        for topic in self._common.disk.list_folder(self._common.folder):
            for name in self._common.disk.list_folder(os.path.join(self._common.folder, topic)):
                if name.isdecimal():
                    queue = self.table[topic, int(name)] = ConsumeQueue(topic, int(name), self._common)
                    queue.load()

    def make(self, topic: str, queue_id: int) -> ConsumeQueue:
        """The queue, new if need be. MessageIllegal for a topic that can be no folder, and a bad queue id."""
        queue = self.table.get((topic, queue_id))
        if queue is not None:
            return queue
        if not topic or topic in (".", "..") or "/" in topic or "\0" in topic:
            raise MessageIllegal(f"a topic cannot be called {topic!r}")
        try:
            length = len(topic.encode())
        except UnicodeEncodeError:
            raise MessageIllegal(f"a topic cannot be called {topic!r}") from None
        if length > TOPIC_MAX_LENGTH:
            raise MessageIllegal(f"the topic has {length} bytes, over the limit of {TOPIC_MAX_LENGTH}")
        if not 0 <= queue_id <= _QUEUE_ID_MAX:
            raise MessageIllegal(f"there is no queue {queue_id}")
        queue = self.table[topic, queue_id] = ConsumeQueue(topic, queue_id, self._common)
        return queue

    def delete_topic(self, topic: str) -> int:
        """Delete the files of a topic's queues. Returns how many queues that were."""
        ids = [queue_id for name, queue_id in self.table if name == topic]
        for queue_id in ids:
            self.table.pop((topic, queue_id)).close()
        if ids:
            self._common.disk.remove_folder(os.path.join(self._common.folder, topic))
        return len(ids)

    def last_unit(self) -> tuple[int, int]:
        """Physical offset and size of the newest record that any queue knows of; (0, 0) without one."""
        units = [(unit[0], unit[1]) for queue in self if (unit := queue.last_unit()) is not None]
        return max(units, default=(0, 0))

    def close(self) -> None:
        """Unmap all."""
        for queue in self:
            queue.close()
