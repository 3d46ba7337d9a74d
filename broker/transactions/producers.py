"""Asks a producer of a group how its transaction ended: CHECK_TRANSACTION_STATE (§6.5, wire.md §4.4)."""

from __future__ import annotations

from pymq.broker.live_clients import LiveClients
from pymq.broker.transactions.halves import Half
from pymq.errors import ConnectionLost
from pymq.protocol.headers.messaging import CheckTransactionStateRequest
from pymq.protocol.message import encode_record
from pymq.transport.connection import Connection


class Producers:
    """The producers that are connected."""

    def __init__(self, clients: LiveClients) -> None:
        self._clients = clients

    def one_of(self, group: str, turn: int) -> Connection | None:
        """A connection of any producer of the group that reads what it gets; None without one.

        `turn`: one more asks the next producer. With a turn for each half message all get to be asked about
        it; with one for all of them, some might be asked about the same ones each time.
        """
        members = self._clients.producers(group)
        for index in range(len(members)):
            connection = members[(turn + index) % len(members)].connection
            if not connection.closed and not connection.writing_paused:
                return connection
        return None

    @staticmethod
    def ask(connection: Connection, half: Half) -> None:
        """Ask, by the offsets of `half`, the newest copy; nothing happens if the connection has gone."""
        record = half.record
        question = CheckTransactionStateRequest(
            half.number,
            record.physical_offset,
            half.unique_key or None,
            half.unique_key or None,
            record.offset_msg_id,
        )
        body = encode_record(
            half.topic.encode(),
            record.body,
            record.properties.encode("utf-8", "surrogatepass"),
            half.queue_id,
            record.queue_offset,
            record.physical_offset,
            record.flag,
            record.sys_flag,
            record.born_timestamp,
            record.born_host,
            record.store_timestamp,
            record.store_host,
            record.reconsume_times,
            record.prepared_transaction_offset,
        )
        try:
            connection.oneway(question, body)
        except ConnectionLost:
            return  # the next check asks another
