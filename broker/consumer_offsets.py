"""Where each group stands in each queue: `consumerOffset.json` (semantics.md §7, store.md §8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

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

    def commit(self, group: str, topic: str, queue_id: int, offset: int, client: str = "") -> None:
        """Store an offset. One that is lower than before has a line in the log, which names the client."""
        queues = self._table.get((topic, group))
        if queues is None:
            self._table[topic, group] = {queue_id: offset}
        else:
            before = queues.get(queue_id, offset)
            queues[queue_id] = offset
            if offset < before:
                text = "group %s goes back from %d to %d in %s/%d (committed by %s)"
                log.warning(text, group, before, offset, topic, queue_id, client or "the broker")
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

    def lowest(self, topic: str, but_for: Iterable[str], min_offset: Callable[[int], int]) -> dict[int, int]:
        """The lowest offset of each queue that any group has, but for some groups.

        Offsets below `min_offset` of their queue do not count.
        """
        left_out = set(but_for)
        lowest: dict[int, int] = {}
        for (other, group), queues in self._table.items():
            if other != topic or group in left_out:
                continue
            for queue_id, offset in queues.items():
                if offset >= min_offset(queue_id):
                    lowest[queue_id] = min(offset, lowest.get(queue_id, offset))
        return lowest

    def clone(self, source: str, target: str, topic: str) -> None:
        """Give `target` the offsets of `source` in a topic instead of its own, if there are any."""
        queues = self._table.get((topic, source))
        if queues is not None:
            self._table[topic, target] = dict(queues)
            self.changed = True

    def merge(self, body: ConsumerOffsets) -> None:
        """Put the offsets that a master has over those of here; without a line in the log for each."""
        for key, queues in body.offset_table.items():
            topic, at, group = key.partition("@")
            known = self._table.setdefault((topic, group), {}) if at else {}
            if queues.items() - known.items():
                known.update(queues)
                self.changed |= bool(at)

    def remove_group(self, group: str) -> None:
        """Forget all offsets of a group."""
        for topic in self.topics_of(group):
            self._remove(topic, group)

    def remove_topic(self, topic: str) -> None:
        """Forget all offsets in a topic: they mean nothing in one of the same name that is made later."""
        for group in self.groups_of(topic):
            self._remove(topic, group)

    def remove_queue(self, topic: str, queue_id: int) -> None:
        """Forget all offsets in a queue: it starts anew."""
        for group in self.groups_of(topic):
            offset = self._table[topic, group].pop(queue_id, None)
            if offset is not None:
                log.info("offset of group %s in %s/%d is forgotten: %d", group, topic, queue_id, offset)
                self.changed = True

    def _remove(self, topic: str, group: str) -> None:
        queues = self._table.pop((topic, group))
        log.info("offsets of group %s in topic %s are forgotten: %s", group, topic, queues)
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
