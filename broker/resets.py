"""Resets under way: what a running group was told, and who stands at its old place still (semantics.md §7).

A reset is pushed to the members of a group. One of its queues may be between two members just then, and a
member cut off for a moment: each could go on at the old place, and commit it. So a reset is remembered for a
while, and a commit of one who cannot know of it does not count.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

import msgspec

from pymq.broker.live_clients import ConsumerGroup, LiveClients, Member
from pymq.clock import Clock
from pymq.errors import ConnectionLost
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.offsets import ResetOffsetBody
from pymq.protocol.headers.groups import ResetConsumerClientOffsetRequest
from pymq.transport.connection import Connection

log = logging.getLogger("pymq.broker.offsets")

REMEMBERED_S = 120.0
"""As long as a silent member counts as one: until then it may come back to its old place. Java's members
need ten seconds, in which they go on committing that."""

REMEMBERED_MAX = 65_536
"""So many queues at most; beyond, the oldest are forgotten."""

Place = tuple[str, str, int]
"""Group, topic and queue id."""


class Reset(msgspec.Struct, eq=False):
    """One queue of a group that was reset.

    Attributes:
        header: what its members were told.
        queue, offset: where it is to go on.
        until_s: when it is forgotten, monotonic.
        told: the connections that it went out by.
        known_by: who has begun at the new offset or committed it: client ids, and addresses of connections
            that belong to no member (Java's 4.3 clients ask and commit on a second port).
    """

    header: ResetConsumerClientOffsetRequest
    queue: MessageQueue
    offset: int
    until_s: float
    told: set[Connection] = msgspec.field(default_factory=set)
    known_by: set[str] = msgspec.field(default_factory=set)


class Resets:
    """The resets of running groups that some member may not know of yet."""

    def __init__(self, clients: LiveClients, clock: Clock) -> None:
        self._clients = clients
        self._clock = clock
        self._resets: dict[Place, Reset] = {}
        self._seen: dict[str, set[Connection]] = {}  # members that were told what is to be told, by group

    def __len__(self) -> int:
        """How many queues are remembered; some may be among them whose time has ended since `expire`."""
        return len(self._resets)

    def begin(
        self,
        group: ConsumerGroup,
        header: ResetConsumerClientOffsetRequest,
        targets: Mapping[MessageQueue, int],
        *,
        as_list: bool,
    ) -> None:
        """Tell all members of a group to go on at these offsets, which are stored for it already.

        `as_list`: in the form for C++, also to clients in other languages than C++, but never to Java's.
        """
        until_s = self._clock.monotonic() + REMEMBERED_S
        resets = [Reset(header, queue, offset, until_s) for queue, offset in targets.items()]
        for reset in resets:
            place = (group.name, reset.queue.topic, reset.queue.queue_id)
            self._resets.pop(place, None)  # so that the newest stand last
            self._resets[place] = reset
        self.expire()
        for member in list(group.members.values()):
            _tell(group.name, member, resets, as_list=as_list)
        self._seen[group.name] = set(group.members)

    def begins_at(self, group: str, topic: str, queue_id: int, connection: Connection) -> None:
        """Who asks by this connection is told the stored offset, and begins there."""
        reset = self._find((group, topic, queue_id))
        if reset is not None:
            reset.known_by.add(self._name(group, connection))

    def is_stale(self, group: str, topic: str, queue_id: int, offset: int, connection: Connection) -> bool:
        """Whether a commit is about the place of before a reset. A member that was not told is told now."""
        reset = self._find((group, topic, queue_id))
        if reset is None:
            return False
        online = self._clients.consumers(group)
        if online is None:
            return False  # whoever moves a group that is away means it
        name = self._name(group, connection)
        if offset == reset.offset:
            reset.known_by.add(name)
        if name in reset.known_by:
            return False
        member = online.members.get(connection)
        if member is not None and connection not in reset.told:
            self._tell_untold(group, member)
        return True

    def members_changed(self, group: ConsumerGroup) -> None:
        """A member that came back after its connection was cut may still own its queues.

        Clients in Python are told at once: they pass over what they do not own. Java's would stand still for
        ten seconds; they commit every few seconds what they own, which tells those that have to be told.
        """
        seen = self._seen.get(group.name)
        if seen is not None:
            new = [member for connection, member in group.members.items() if connection not in seen]
            self._seen[group.name] = set(group.members)
            for member in new:
                if member.language == "PYTHON":
                    self._tell_untold(group.name, member)

    def _tell_untold(self, group: str, member: Member) -> None:
        untold = [
            reset
            for place in list(self._resets)
            if place[0] == group and (reset := self._find(place)) is not None
            if member.connection not in reset.told and member.client_id not in reset.known_by
        ]
        if untold:
            _tell(group, member, untold, as_list=member.language == "CPP")

    def _name(self, group: str, connection: Connection) -> str:
        online = self._clients.consumers(group)
        member = None if online is None else online.members.get(connection)
        return connection.address if member is None else member.client_id

    def _find(self, place: Place) -> Reset | None:
        reset = self._resets.get(place)
        if reset is not None and reset.until_s <= self._clock.monotonic():
            del self._resets[place]
            return None
        return reset

    def expire(self) -> None:
        """Forget those whose time is over, and the oldest of too many."""
        now = self._clock.monotonic()
        for place, reset in list(self._resets.items()):
            if reset.until_s > now and len(self._resets) <= REMEMBERED_MAX:
                break
            del self._resets[place]
        for group in self._seen.keys() - {place[0] for place in self._resets}:
            del self._seen[group]


def _tell(group: str, member: Member, resets: list[Reset], *, as_list: bool) -> None:
    """Push resets to one member: a request for each topic."""
    by_topic: defaultdict[str, list[Reset]] = defaultdict(list)
    for reset in resets:
        by_topic[reset.queue.topic].append(reset)
    for topic, some in by_topic.items():
        body = ResetOffsetBody({reset.queue: reset.offset for reset in some})
        if member.language == "CPP" or (as_list and member.language != "JAVA"):
            body = body.as_list()
        try:
            member.connection.oneway(some[-1].header, body.encode())
        except ConnectionLost:
            return  # its own leaving is on the way
        for reset in some:
            reset.told.add(member.connection)
        log.info(
            "%s of group %s is told to go on in topic %s at %s",
            member.client_id,
            group,
            topic,
            {reset.queue.queue_id: reset.offset for reset in some},
        )
