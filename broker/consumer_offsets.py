"""Where each group stands in each queue: `consumerOffset.json` (semantics.md §7, store.md §8)."""

from __future__ import annotations

from pymq.protocol.bodies.offsets import ConsumerOffsets


class ConsumerOffsetTable:
    """The table `topic@group` → queue id → next offset to consume. Commits overwrite, also backwards."""

    def __init__(self) -> None:
        self._table: dict[str, dict[int, int]] = {}
        self.changed = False

    def commit(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Store an offset."""
        self._table.setdefault(f"{topic}@{group}", {})[queue_id] = offset
        self.changed = True

    def query(self, group: str, topic: str, queue_id: int) -> int | None:
        """The stored offset, or None."""
        queues = self._table.get(f"{topic}@{group}")
        return None if queues is None else queues.get(queue_id)

    def topics_of(self, group: str) -> list[str]:
        """The topics that a group has offsets for."""
        suffix = f"@{group}"
        return [key[: -len(suffix)] for key in self._table if key.endswith(suffix)]

    def groups_of(self, topic: str) -> list[str]:
        """The groups that have offsets for a topic."""
        prefix = f"{topic}@"
        return [key[len(prefix) :] for key in self._table if key.startswith(prefix)]

    def remove_group(self, group: str) -> None:
        """Forget all offsets of a group."""
        for topic in self.topics_of(group):
            del self._table[f"{topic}@{group}"]
            self.changed = True

    def snapshot(self) -> ConsumerOffsets:
        """A copy that may be encoded on another thread; the table then counts as unchanged."""
        self.changed = False
        return self.body()

    def body(self) -> ConsumerOffsets:
        """A copy that may be encoded on another thread."""
        return ConsumerOffsets({key: dict(queues) for key, queues in self._table.items()})

    def load(self, text: str) -> None:
        """Take what a file holds; integer keys with or without quotes. Raises BodyError."""
        self._table = ConsumerOffsets.decode(text.encode()).offset_table
