"""Headers of what carries messages: send, pull, offsets, look-ups (wire.md §4.1–4.4).

A field is required only where Apache's handler fails without it: Go and Node clients leave others out.
"""

from __future__ import annotations

import functools

import msgspec
from msgspec import field

from pymq.protocol.codes import RequestCode
from pymq.protocol.header import Flag, Header, Int, Long


@functools.lru_cache(maxsize=64)
def _quote(text: str) -> str:
    return msgspec.json.encode(text).decode()


@functools.lru_cache(maxsize=64)
def _send_answer_end(transaction_id: str | None, region: str, trace_on: str) -> str:
    extra = "" if transaction_id is None else f',"transactionId":{_quote(transaction_id)}'
    return f',"MSG_REGION":{_quote(region)},"TRACE_ON":{_quote(trace_on)}{extra}}}'


class SendMessageResponse(Header):
    """Where the message is. `msg_id` is the offset id; for a batch the ids joined by commas."""

    msg_id: str
    queue_id: Int
    queue_offset: Long
    transaction_id: str | None = None
    msg_region: str = field(default="DefaultRegion", name="MSG_REGION")
    trace_on: str = field(default="true", name="TRACE_ON")

    def to_json(self) -> str:
        """As `Header.to_json`, written out: an answer to every send."""
        return (
            f'{{"queueId":"{self.queue_id}","msgId":"{self.msg_id}","queueOffset":"{self.queue_offset}"'
            f"{_send_answer_end(self.transaction_id, self.msg_region, self.trace_on)}"
        )


class SendTimedMessageResponse(Header):
    """As `SendMessageResponse`, for a message that waits for its time (5.3).

    `recall_handle`: base64 of `v1 topic broker time id`, by which the message can be cancelled.
    """

    msg_id: str
    queue_id: Int
    queue_offset: Long
    recall_handle: str | None = None
    msg_region: str = field(default="DefaultRegion", name="MSG_REGION")
    trace_on: str = field(default="true", name="TRACE_ON")


class RecallMessageResponse(Header):
    """`msg_id`: the unique id of the message that will not be delivered."""

    msg_id: str | None = None


class RecallMessageRequest(Header):
    """Cancel a timed message that has not been delivered yet (code 370, 5.3)."""

    code = RequestCode.RECALL_MESSAGE
    answer = RecallMessageResponse
    topic: str
    recall_handle: str
    producer_group: str | None = None


class SendFailed(Header):
    """What a refused send carries (semantics.md §1.7)."""

    msg_region: str = field(name="MSG_REGION")
    trace_on: str = field(name="TRACE_ON")


class SendMessageRequest(Header):
    """Send one message; the long spelling (code 10)."""

    code = RequestCode.SEND_MESSAGE
    answer = SendMessageResponse
    producer_group: str
    topic: str
    queue_id: Int
    sys_flag: Int
    born_timestamp: Long
    flag: Int
    default_topic: str = "TBW102"
    default_topic_queue_nums: Int = 4
    properties: str | None = None
    reconsume_times: Int | None = None
    unit_mode: Flag | None = None
    batch: Flag | None = None
    max_reconsume_times: Int | None = None


class SendMessageRequestV2(Header):
    """Send one message; names of one letter (code 310), what all Java clients send."""

    code = RequestCode.SEND_MESSAGE_V2
    answer = SendMessageResponse
    producer_group: str = field(name="a")
    topic: str = field(name="b")
    queue_id: Int = field(name="e")
    sys_flag: Int = field(name="f")
    born_timestamp: Long = field(name="g")
    flag: Int = field(name="h")
    default_topic: str = field(default="TBW102", name="c")
    default_topic_queue_nums: Int = field(default=4, name="d")
    properties: str | None = field(default=None, name="i")
    reconsume_times: Int | None = field(default=None, name="j")
    unit_mode: Flag | None = field(default=None, name="k")
    max_reconsume_times: Int | None = field(default=None, name="l")
    batch: Flag | None = field(default=None, name="m")


class SendBatchMessageRequest(SendMessageRequestV2):
    """Send a batch block (code 320, wire.md §4.2); `properties` are the batch's own."""

    code = RequestCode.SEND_BATCH_MESSAGE


class SendReplyMessageRequest(SendMessageRequest):
    """Answer another client's request; the long spelling (code 324, wire.md §4.1)."""

    code = RequestCode.SEND_REPLY_MESSAGE


class SendReplyMessageRequestV2(SendMessageRequestV2):
    """Answer another client's request; names of one letter (code 325, wire.md §4.1)."""

    code = RequestCode.SEND_REPLY_MESSAGE_V2


class PullMessageResponse(Header):
    """Bounds of the queue and where to read on; the body holds the records (wire.md §4.3)."""

    suggest_which_broker_id: Long
    next_begin_offset: Long
    min_offset: Long
    max_offset: Long

    def to_json(self) -> str:
        """As `Header.to_json`, written out: an answer to every pull."""
        return (
            f'{{"suggestWhichBrokerId":"{self.suggest_which_broker_id}"'
            f',"nextBeginOffset":"{self.next_begin_offset}"'
            f',"minOffset":"{self.min_offset}","maxOffset":"{self.max_offset}"}}'
        )


class PullMessageRequest(Header):
    """Read on in a queue from `queue_offset` (code 11). Times in ms; `sys_flag`: sysflags.PullFlag."""

    code = RequestCode.PULL_MESSAGE
    answer = PullMessageResponse
    consumer_group: str
    topic: str
    queue_id: Int
    queue_offset: Long
    max_msg_nums: Int
    sys_flag: Int
    commit_offset: Long = 0
    suspend_timeout_millis: Long = 0
    subscription: str | None = None
    sub_version: Long = 0
    expression_type: str | None = None


class LitePullMessageRequest(PullMessageRequest):
    """The same from a 5.x client's lite pull consumer (code 361); those of 4.9 send code 11."""

    code = RequestCode.LITE_PULL_MESSAGE


class QueryConsumerOffsetResponse(Header):
    """A stored queue offset."""

    offset: Long


class QueryConsumerOffsetRequest(Header):
    """Where a group stands in a queue (code 14)."""

    code = RequestCode.QUERY_CONSUMER_OFFSET
    answer = QueryConsumerOffsetResponse
    consumer_group: str
    topic: str
    queue_id: Int


class UpdateConsumerOffsetRequest(Header):
    """Commit where a group stands in a queue (code 15)."""

    code = RequestCode.UPDATE_CONSUMER_OFFSET
    consumer_group: str
    topic: str
    queue_id: Int
    commit_offset: Long


class OffsetResponse(Header):
    """A queue offset."""

    offset: Long


class SearchOffsetRequest(Header):
    """The queue offset nearest to a store time in ms (code 29)."""

    code = RequestCode.SEARCH_OFFSET_BY_TIMESTAMP
    answer = OffsetResponse
    topic: str
    queue_id: Int
    timestamp: Long


class GetMaxOffsetRequest(Header):
    """The offset that the queue's next message will get (code 30)."""

    code = RequestCode.GET_MAX_OFFSET
    answer = OffsetResponse
    topic: str
    queue_id: Int


class GetMinOffsetRequest(Header):
    """The first offset that can be read (code 31)."""

    code = RequestCode.GET_MIN_OFFSET
    answer = OffsetResponse
    topic: str
    queue_id: Int


class GetEarliestMsgStoretimeResponse(Header):
    """A store time in ms, −1 if there is none."""

    timestamp: Long


class GetEarliestMsgStoretimeRequest(Header):
    """The store time of a queue's first message (code 32)."""

    code = RequestCode.GET_EARLIEST_MSG_STORETIME
    answer = GetEarliestMsgStoretimeResponse
    topic: str
    queue_id: Int


class ViewMessageRequest(Header):
    """The stored message at a commit-log offset (code 33); the body of the answer is the record."""

    code = RequestCode.VIEW_MESSAGE_BY_ID
    offset: Long


class QueryMessageResponse(Header):
    """How far the index reaches."""

    index_last_update_timestamp: Long
    index_last_update_phyoffset: Long


class QueryMessageRequest(Header):
    """Messages by topic and key (code 12). Times in ms; `unique_key_query`: `key` is a UNIQ_KEY."""

    code = RequestCode.QUERY_MESSAGE
    answer = QueryMessageResponse
    topic: str
    key: str
    max_num: Int
    begin_timestamp: Long
    end_timestamp: Long
    unique_key_query: bool | None = field(default=None, name="_UNIQUE_KEY_QUERY")


class ConsumerSendMsgBackRequest(Header):
    """Hand a message back for a later retry (code 36). `offset` is its commit-log offset."""

    code = RequestCode.CONSUMER_SEND_MSG_BACK
    offset: Long
    group: str
    delay_level: Int
    origin_msg_id: str | None = None
    origin_topic: str | None = None
    unit_mode: Flag | None = None
    max_reconsume_times: Int | None = None


class EndTransactionRequest(Header):
    """Commit (8), roll back (12) or leave open (0) a half message (code 37)."""

    code = RequestCode.END_TRANSACTION
    producer_group: str
    tran_state_table_offset: Long
    commit_log_offset: Long
    commit_or_rollback: Int
    msg_id: str
    from_transaction_check: bool | None = None
    transaction_id: str | None = None


class CheckTransactionStateRequest(Header):
    """The broker asks a producer how its transaction ended (code 39, oneway)."""

    code = RequestCode.CHECK_TRANSACTION_STATE
    tran_state_table_offset: Long
    commit_log_offset: Long
    msg_id: str | None = None
    transaction_id: str | None = None
    offset_msg_id: str | None = None
