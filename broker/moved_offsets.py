"""Notes which consumers were sent elsewhere, as messages of topic OFFSET_MOVED_EVENT (store.md §7)."""

from __future__ import annotations

import logging

from pymq.clock import Clock
from pymq.errors import StoreError
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import OffsetMovedEvent
from pymq.protocol.properties import KEYS, TAGS, encode_properties
from pymq.protocol.tag_filter import tags_code
from pymq.store.messagestore import MessageStore

log = logging.getLogger("pymq.broker.offsets")

OFFSET_MOVED_TOPIC = "OFFSET_MOVED_EVENT"
_AGAIN_S = 60.0
_KNOWN_MAX = 10_000


class MovedOffsets:
    """Stores an event, and logs a line, when a pull asks for an offset that its queue does not have.

    A consumer that asks for the same again and again is noted once a minute: it must not fill the disk.
    """

    def __init__(self, broker_name: str, own_host: bytes, store: MessageStore, clock: Clock) -> None:
        """`own_host`: the broker's address as it is stamped into records."""
        self._broker_name = broker_name
        self._own_host = own_host
        self._store = store
        self._clock = clock
        self._noted: dict[tuple[str, str, int], tuple[int, int, float]] = {}

    def note(self, group: str, topic: str, queue_id: int, asked: int, new: int) -> None:
        """`group` asked for message number `asked` and is to go on at `new`. What cannot be stored is not."""
        now = self._clock.monotonic()
        key = (group, topic, queue_id)
        before = self._noted.get(key)
        if before is not None and before[:2] == (asked, new) and now - before[2] < _AGAIN_S:
            return
        if len(self._noted) >= _KNOWN_MAX:
            self._noted.clear()
        self._noted[key] = (asked, new, now)
        log.warning("group %s asked for %d of %s/%d, it goes on at %d", group, asked, topic, queue_id, new)
        event = OffsetMovedEvent(group, MessageQueue(topic, self._broker_name, queue_id), asked, new)
        try:
            self._store.put(
                OFFSET_MOVED_TOPIC,
                0,
                event.encode(),
                encode_properties({KEYS: group, TAGS: group}),
                born_host=self._own_host,
                born_timestamp=self._clock.now_ms(),
                tags_code=tags_code(group),
                keys=group,
            )
        except StoreError as error:
            log.warning("the event of this was not stored: %s", error)
