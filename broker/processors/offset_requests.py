"""Offsets of groups and bounds of queues: codes 14, 15, 29–32, and a stored message by its offset: 33."""

from __future__ import annotations

from collections.abc import Iterable

from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.broker.name_checks import group_fault, topic_fault
from pymq.broker.resets import Resets
from pymq.errors import ProtocolError, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.messaging import (
    GetEarliestMsgStoretimeRequest,
    GetEarliestMsgStoretimeResponse,
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    OffsetResponse,
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
    ViewMessageRequest,
)
from pymq.protocol.message import decode_record
from pymq.store.messagestore import MessageStore
from pymq.transport.dispatch import Answer, Request, Row, row


class OffsetProcessor:
    """Serves where groups stand and where queues begin and end."""

    def __init__(self, offsets: ConsumerOffsetTable, resets: Resets, store: MessageStore) -> None:
        self._offsets = offsets
        self._resets = resets
        self._store = store

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The codes served here."""
        return [
            row(QueryConsumerOffsetRequest, self.query),
            row(UpdateConsumerOffsetRequest, self.commit),
            row(GetMaxOffsetRequest, self.max_offset),
            row(GetMinOffsetRequest, self.min_offset),
            row(SearchOffsetRequest, self.search),
            row(GetEarliestMsgStoretimeRequest, self.earliest),
            row(ViewMessageRequest, self.view),
        ]

    def query(self, request: Request[QueryConsumerOffsetRequest]) -> Answer:
        """A group's stored offset; 0 on a young queue that it never consumed (semantics.md §7)."""
        header = request.header
        offset = self._offsets.query(header.consumer_group, header.topic, header.queue_id)
        self._resets.begins_at(header.consumer_group, header.topic, header.queue_id, request.connection)
        if offset is not None and offset >= 0:
            return Answer(0, QueryConsumerOffsetResponse(offset))
        if self._store.min_offset(header.topic, header.queue_id) <= 0 and self._store.is_in_memory(
            header.topic, header.queue_id, 0
        ):
            return Answer(0, QueryConsumerOffsetResponse(0))
        raise ResponseError(
            ResponseCode.QUERY_NOT_FOUND, "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        )

    def commit(self, request: Request[UpdateConsumerOffsetRequest]) -> Answer:
        """Store a group's offset, whatever it is, also of a topic or group that is not known.

        Apache stores it under any name as well; but no client may give topic or group such a name. Refused
        is what a member commits that stands where it stood before a reset (see Resets).
        """
        header = request.header
        fault = topic_fault(header.topic) or group_fault(header.consumer_group)
        if fault is None and header.queue_id < 0:
            fault = f"queueId={header.queue_id}: expected 0 or more"
        if fault is not None:
            raise ResponseError(ResponseCode.SYSTEM_ERROR, f"offset not stored: {fault}")
        group, topic, queue_id, offset = (
            header.consumer_group,
            header.topic,
            header.queue_id,
            header.commit_offset,
        )
        if self._resets.is_stale(group, topic, queue_id, offset, request.connection):
            goes_on = self._offsets.query(group, topic, queue_id)
            text = f"offset {offset} of {topic}/{queue_id} not stored: group {group} was reset to {goes_on}"
            raise ResponseError(ResponseCode.SYSTEM_ERROR, text)
        self._offsets.commit(group, topic, queue_id, offset, request.connection.address)
        return Answer()

    def max_offset(self, request: Request[GetMaxOffsetRequest]) -> Answer:
        """The offset of the queue's next message."""
        header = request.header
        return Answer(0, OffsetResponse(self._store.max_offset(header.topic, header.queue_id)))

    def min_offset(self, request: Request[GetMinOffsetRequest]) -> Answer:
        """The offset of the queue's first message."""
        header = request.header
        return Answer(0, OffsetResponse(self._store.min_offset(header.topic, header.queue_id)))

    def search(self, request: Request[SearchOffsetRequest]) -> Answer:
        """The offset nearest to a store time."""
        header = request.header
        offset = self._store.offset_by_time(header.topic, header.queue_id, header.timestamp)
        return Answer(0, OffsetResponse(offset))

    def earliest(self, request: Request[GetEarliestMsgStoretimeRequest]) -> Answer:
        """The store time of the queue's first message."""
        header = request.header
        timestamp = self._store.earliest_store_time(header.topic, header.queue_id)
        return Answer(0, GetEarliestMsgStoretimeResponse(timestamp))

    def view(self, request: Request[ViewMessageRequest]) -> Answer:
        """One stored message."""
        record = self._store.record_at(request.header.offset)
        if record is None:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {request.header.offset}"
            )
        try:
            decode_record(record, check_crc=True)
        except ProtocolError as error:
            raise ResponseError(
                ResponseCode.SYSTEM_ERROR, f"the message at {request.header.offset} is damaged: {error}"
            ) from None
        return Answer(body=record)
