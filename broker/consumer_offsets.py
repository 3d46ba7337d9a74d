"""Where each group stands in each queue: `consumerOffset.json` (semantics.md §7, store.md §8)."""

from __future__ import annotations

import logging

from pymq.protocol.bodies.offsets import ConsumerOffsets

log = logging.getLogger("pymq.broker.offsets")


class ConsumerOffsetTable:
    """(topic, group) → queue id → next offset to consume. Commits overwrite, also backwards.

    Topic and group are joined by an `@` in the file and in answers only: the callers let no `@` into a
    topic's name, so the first one separates.
    """

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], dict[int, int]] = {}
        self.changed = False

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Store an offset."""
        self._table.setdefault((topic, group), {})[queue_id] = offset
        self.changed = True

    def query(self, group: str, topic: str, queue_id: int) -> int | None:
        """The stored offset, or None."""
        queues = self._table.get((topic, group))
        return None if queues is None else queues.get(queue_id)

    def topics_of(self, group: str) -> list[str]:
        """The topics that a group has offsets for."""
        return [topic for topic, other in self._table if other == group]

    def groups_of(self, topic: str) -> list[str]:
        """The groups that have offsets for a topic."""
        return [group for other, group in self._table if other == topic]

    def remove_group(self, group: str) -> None:
        """Forget all offsets of a group."""
        for topic in self.topics_of(group):
            del self._table[topic, group]
            self.changed = True

    def snapshot(self) -> ConsumerOffsets:
        """A copy that may be encoded on another thread; the table then counts as unchanged."""
        self.changed = False
        return self.body()

    def body(self) -> ConsumerOffsets:
        """A copy that may be encoded on another thread."""
        return ConsumerOffsets(
            {f"{topic}@{group}": dict(queues) for (topic, group), queues in self._table.items()}
        )

    def load(self, text: str) -> None:
        """Take what a file holds; integer keys with or without quotes. Raises BodyError."""
        self._table = {}
        for key, queues in ConsumerOffsets.decode(text.encode()).offset_table.items():
            topic, at, group = key.partition("@")
            if at:
                self._table[topic, group] = queues
            else:
                log.warning("offsets of %r are left out: expected topic@group", key)
