"""How a group's members share the queues: the same rule in every client of the group (semantics.md §12.3)."""

from __future__ import annotations

from collections.abc import Collection

from pymq.protocol.bodies import MessageQueue


def allocate_averagely(
    client_id: str, queues: Collection[MessageQueue], client_ids: Collection[str]
) -> list[MessageQueue]:
    """The queues of one member: runs of neighbouring queues, the longer ones to the first members.

    As Apache's AllocateMessageQueueAveragely, the sorting of queues and ids included (a client id that is
    listed twice counts twice there, so it does here). Nothing for who is no member.
    """
    members = sorted(client_ids)
    ordered = sorted(queues)
    if client_id not in members:
        return []
    index = members.index(client_id)
    share, left_over = divmod(len(ordered), len(members))
    if index < left_over:
        start = index * (share + 1)
        return ordered[start : start + share + 1]
    start = index * share + left_over
    return ordered[start : start + share]
