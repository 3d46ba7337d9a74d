"""How a group's members share the queues: the same rule in every client of the group (semantics.md §12.3).

Each is Apache's strategy of that name and gives what the Java class gives, so that Java and Python members of
one group agree. A client id that is listed twice counts twice there, so it does here.
"""

from __future__ import annotations

import bisect
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from pymq.errors import ConfigError
from pymq.protocol.bodies import MessageQueue

VIRTUAL_NODES = 10
"""Of each member on the ring of ConsistentHash, as Java's default."""


class Allocation(Protocol):
    """A rule by which the queues of one topic are shared."""

    @property
    def name(self) -> str:
        """Apache's name of it."""
        ...

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """The queues of `client_id`, which is among `client_ids`. Both lists are sorted, neither is empty."""
        ...


def allocate(
    allocation: Allocation, client_id: str, queues: Collection[MessageQueue], client_ids: Collection[str]
) -> list[MessageQueue]:
    """One member's share of a topic's queues. Nothing for who is no member."""
    if not queues or client_id not in client_ids:
        return []
    share = allocation.allocate(client_id, sorted(queues), sorted(client_ids))
    there = set(queues)
    return [queue for queue in share if queue in there]


class Averagely:
    """Runs of neighbouring queues, the longer ones to the first members. The default, in Java as well."""

    name = "AVG"

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        index = client_ids.index(client_id)
        share, left_over = divmod(len(queues), len(client_ids))
        if index < left_over:
            start = index * (share + 1)
            return list(queues[start : start + share + 1])
        start = index * share + left_over
        return list(queues[start : start + share])


class AveragelyByCircle:
    """Queues are dealt out like cards, so that each member gets some of every broker."""

    name = "AVG_BY_CIRCLE"

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        return list(queues[client_ids.index(client_id) :: len(client_ids)])


class ConsistentHash:
    """By a ring of MD5 hashes: few queues change hands when members come and go; shares are less even."""

    name = "CONSISTENT_HASH"

    def __init__(self, virtual_nodes: int = VIRTUAL_NODES) -> None:
        """`virtual_nodes`: places of each member on the ring; must be the same in the whole group."""
        if virtual_nodes < 1:
            raise ConfigError(f"virtual_nodes={virtual_nodes!r}: expected 1 or more")
        self._virtual_nodes = virtual_nodes

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        ring: dict[int, str] = {}
        for member in client_ids:
            taken = sum(owner == member for owner in ring.values())  # not 0 for an id that is listed twice
            for number in range(taken, taken + self._virtual_nodes):
                ring[_md5_hash(f"{member}-{number}")] = member
        places = sorted(ring)

        def owner_of(queue: MessageQueue) -> str:
            place = bisect.bisect_left(places, _md5_hash(_java_text(queue)))
            return ring[places[place % len(places)]]

        return [queue for queue in queues if owner_of(queue) == client_id]


class ByConfig:
    """Each member says itself which queues are its own, whatever the others have.

    Topics of which it names no queue, such as the group's retry topic, are shared averagely: Java's class
    leaves them without a consumer.
    """

    name = "CONFIG"

    def __init__(self, queues: Collection[MessageQueue]) -> None:
        """`queues`: this member's."""
        self._queues = list(queues)

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        own = [queue for queue in self._queues if queue.topic == queues[0].topic]
        return own or Averagely().allocate(client_id, queues, client_ids)


def machine_room(broker_name: str) -> str | None:
    """The machine room of a broker that is called `room@name`, None of any other."""
    parts = broker_name.split("@")
    while parts and not parts[-1]:  # as Java's split, which drops empty parts at the end
        parts.pop()
    return parts[0] if len(parts) == 2 else None


class ByMachineRoom:
    """The queues of brokers that are called `room@name`, room being one of the given ones; no others."""

    name = "MACHINE_ROOM"

    def __init__(self, rooms: Collection[str]) -> None:
        """`rooms`: those whose brokers this group consumes from."""
        self._rooms = frozenset(rooms)

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        near = [queue for queue in queues if machine_room(queue.broker_name) in self._rooms]
        index = client_ids.index(client_id)
        share, left_over = divmod(len(near), len(client_ids))
        own = near[share * index : share * (index + 1)]
        if index < left_over:
            own.append(near[share * len(client_ids) + index])
        return own


class MachineRoomNearby:
    """Queues go to members in their own machine room; those of a room without members are shared by all."""

    def __init__(
        self,
        room_of_broker: Callable[[MessageQueue], str],
        room_of_client: Callable[[str], str],
        inner: Allocation | None = None,
    ) -> None:
        """The two functions name the room of a queue's broker and of a client id; `inner` shares within."""
        self._room_of_broker = room_of_broker
        self._room_of_client = room_of_client
        self._inner = inner or Averagely()

    @property
    def name(self) -> str:
        """Apache's name of it, the inner rule's behind a dash."""
        return f"MACHINE_ROOM_NEARBY-{self._inner.name}"

    def allocate(
        self, client_id: str, queues: Sequence[MessageQueue], client_ids: Sequence[str]
    ) -> list[MessageQueue]:
        """As Allocation.allocate."""
        queues_in: defaultdict[str, list[MessageQueue]] = defaultdict(list)
        for queue in queues:
            queues_in[self._room_of_broker(queue)].append(queue)
        members_in: defaultdict[str, list[str]] = defaultdict(list)
        for member in client_ids:
            members_in[self._room_of_client(member)].append(member)
        own_room = self._room_of_client(client_id)
        share: list[MessageQueue] = []
        if near := queues_in.pop(own_room, None):
            share += self._inner.allocate(client_id, near, members_in[own_room])
        for room in sorted(queues_in):
            if room not in members_in:
                share += self._inner.allocate(client_id, queues_in[room], client_ids)
        return share


_BY_NAME: dict[str, Callable[[], Allocation]] = {
    "AVG": Averagely,
    "AVG_BY_CIRCLE": AveragelyByCircle,
    "CONSISTENT_HASH": ConsistentHash,
}
_NEED_MORE = {
    "CONFIG": "ByConfig(queues)",
    "MACHINE_ROOM": "ByMachineRoom(rooms)",
    "MACHINE_ROOM_NEARBY": "MachineRoomNearby(room_of_broker, room_of_client)",
}


def allocation_named(allocation: str | Allocation) -> Allocation:
    """The rule of that name; a rule is given back as it is. Raises ConfigError."""
    if not isinstance(allocation, str):
        return allocation
    if allocation in _BY_NAME:
        return _BY_NAME[allocation]()
    if allocation in _NEED_MORE:
        rule = f"pymq.client.allocation.{_NEED_MORE[allocation]}"
        raise ConfigError(f"allocation={allocation!r} has to be told more: give {rule}")
    raise ConfigError(
        f"allocation={allocation!r}: expected one of {', '.join([*_BY_NAME, *_NEED_MORE])}, or such a rule"
    )


def _md5_hash(text: str) -> int:
    """A place on the ring: the first 4 bytes of the MD5, unsigned and big-endian."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4])


def _java_text(queue: MessageQueue) -> str:
    """What MessageQueue.toString gives in Java."""
    return f"MessageQueue [topic={queue.topic}, brokerName={queue.broker_name}, queueId={queue.queue_id}]"
