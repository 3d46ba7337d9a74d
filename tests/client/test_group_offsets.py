"""Where groups stand, as brokers of all kinds tell it."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator

import pytest

import pymq
from pymq.client import Client, MoveRefused
from pymq.protocol.bodies import (
    ConsumeStats,
    ConsumeTimeSpans,
    MessageModel,
    OffsetWrapper,
    QueueTimeSpan,
    ResetOffsetBody,
)
from pymq.protocol.bodies.connections import ConsumerConnection
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import (
    GetConsumerConnectionListRequest,
    GetConsumeStatsRequest,
    InvokeBrokerToResetOffsetRequest,
    QueryConsumeTimeSpanRequest,
)
from pymq.protocol.headers.messaging import UpdateConsumerOffsetRequest
from pymq.transport.dispatch import Answer, Request, row
from tests.client.fake_cluster import FAST, FakeBroker, FakeCluster, queue
from tests.sim import SimClock

NOW_MS = 1_700_000_000_000
SINCE_1970_MS = NOW_MS + 1
"""What Apache's brokers tell as the age of a message that has expired."""


class Talker:
    """The part of a broker that tools ask.

    Attributes:
        stats: how far the group is.
        spans: how old its next messages are.
        refusals: what resets are answered with, one after the other; then they succeed.
        model: of the group that is online; None: it is not.
    """

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.stats: dict[pymq.MessageQueue, OffsetWrapper] = {}
        self.spans: list[QueueTimeSpan] = []
        self.refusals: list[Answer] = []
        self.model: MessageModel | None = MessageModel.CLUSTERING
        self.asked_about: list[str] = []
        for code, entry in (
            row(GetConsumeStatsRequest, lambda request: Answer(body=ConsumeStats(self.stats).encode())),
            row(QueryConsumeTimeSpanRequest, self._time_spans),
            row(InvokeBrokerToResetOffsetRequest, self._reset),
            row(GetConsumerConnectionListRequest, self._connections),
        ):
            broker._table[int(code)] = entry

    def _time_spans(self, request: Request[QueryConsumeTimeSpanRequest]) -> Answer:
        self.asked_about.append(request.header.topic)
        return Answer(body=ConsumeTimeSpans(self.spans).encode())

    def _reset(self, request: Request[InvokeBrokerToResetOffsetRequest]) -> Answer:
        self.broker.seen.append(request.header)
        if self.refusals:
            return self.refusals.pop(0)
        return Answer(body=ResetOffsetBody({queue(0, self.broker.name): 9}).encode())

    def _connections(self, request: Request[GetConsumerConnectionListRequest]) -> Answer:
        if self.model is None:
            return Answer(ResponseCode.CONSUMER_NOT_ONLINE)
        return Answer(body=ConsumerConnection(message_model=self.model).encode())

    @property
    def steps(self) -> list[str]:
        """What it was told to do, in order."""
        names = {InvokeBrokerToResetOffsetRequest: "reset", UpdateConsumerOffsetRequest: "commit"}
        return [names[type(each)] for each in self.broker.seen if type(each) in names]


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(brokers=2, topics=("orders", "%RETRY%g"), queues=2) as cluster:
        yield cluster


@pytest.fixture
def talkers(cluster: FakeCluster) -> list[Talker]:
    return [Talker(broker) for broker in cluster.brokers]


@pytest.fixture
async def mq(cluster: FakeCluster) -> AsyncIterator[Client]:
    async with Client(cluster.name_servers, settings=FAST, clock=SimClock(NOW_MS)) as client:
        yield client


def spans(queue_id: int, delay_ms: int, first_ms: int = NOW_MS - 60_000) -> QueueTimeSpan:
    return QueueTimeSpan(queue(queue_id), first_ms, NOW_MS, -1, delay_ms)


async def test_the_lag_of_all_brokers_in_order(mq: Client, talkers: list[Talker]) -> None:
    one, other = talkers
    one.stats = {queue(1): OffsetWrapper(7, 5, NOW_MS - 500), queue(0): OffsetWrapper(3, 3, 0)}
    one.spans = [spans(0, 0), spans(1, 2500)]
    other.stats = {queue(0, "broker-b"): OffsetWrapper(10, 0, 0)}
    other.spans = [QueueTimeSpan(queue(0, "broker-b"), NOW_MS - 9000, NOW_MS, NOW_MS, 9000)]
    lag = await mq.lag("g")
    assert [(each.queue, each.messages) for each in lag.queues] == [
        (queue(0), 0),
        (queue(1), 2),
        (queue(0, "broker-b"), 10),
    ]
    assert [each.behind for each in lag.queues] == [
        datetime.timedelta(),
        datetime.timedelta(seconds=2.5),
        datetime.timedelta(seconds=9),
    ]
    at = datetime.datetime.fromtimestamp((NOW_MS - 500) / 1000, datetime.UTC)
    assert [each.last_consumed for each in lag.queues] == [None, at, None]
    assert (lag.group, lag.messages, lag.behind) == ("g", 12, datetime.timedelta(seconds=9))


async def test_a_message_that_has_expired_is_not_late_since_1970(mq: Client, talkers: list[Talker]) -> None:
    """As Apache's brokers say; what is left in the queue is a minute old."""
    talkers[0].stats = {queue(0): OffsetWrapper(7, 5)}
    talkers[0].spans = [spans(0, SINCE_1970_MS)]
    assert (await mq.lag("g")).behind == datetime.timedelta(minutes=1)


async def test_how_old_messages_are_is_asked_only_where_there_are_some(
    mq: Client, talkers: list[Talker]
) -> None:
    retry = pymq.MessageQueue("%RETRY%g", "broker-a", 0)
    talkers[0].stats = {queue(0): OffsetWrapper(7, 9), retry: OffsetWrapper(1, 0)}
    lag = await mq.lag("g")
    assert talkers[0].asked_about == ["%RETRY%g"]
    # A queue behind its end, for it was made anew; and one of which the broker told nothing.
    assert [(each.messages, each.behind) for each in lag.queues] == [(1, None), (0, datetime.timedelta())]
    assert lag.behind == datetime.timedelta()


NOT_EXIST = Answer(ResponseCode.SYSTEM_ERROR, remark="THe consumer group <g> not exist")
NOT_ONLINE = Answer(ResponseCode.CONSUMER_NOT_ONLINE, remark="Consumer not online")


async def test_each_broker_is_asked_to_move_the_group_and_is_believed(
    mq: Client, talkers: list[Talker]
) -> None:
    at = datetime.datetime.fromtimestamp(1_600_000_000, datetime.UTC)
    assert await mq.reset_offsets("g", "orders", at) == {queue(0): 9, queue(0, "broker-b"): 9}
    for talker in talkers:
        [asked] = talker.broker.requests(InvokeBrokerToResetOffsetRequest)
        assert (asked.topic, asked.group, asked.timestamp, asked.is_force) == (
            "orders",
            "g",
            1_600_000_000_000,
            True,
        )
        assert talker.steps == ["reset"]


async def test_offsets_of_a_group_that_is_away_are_committed_broker_by_broker(
    mq: Client, talkers: list[Talker]
) -> None:
    one, other = talkers
    one.refusals = [NOT_ONLINE]
    other.model, other.refusals = None, [NOT_EXIST]
    for _ in range(3):
        one.broker.put("orders", 1, b"x")
    assert await mq.reset_offsets("g", "orders", "last") == {
        queue(0): 0,
        queue(1): 3,
        queue(0, "broker-b"): 0,
        queue(1, "broker-b"): 0,
    }
    assert one.steps == other.steps == ["reset", "commit", "commit"]
    assert one.broker.offsets["g", "orders", 1] == 3


async def test_a_running_group_without_an_offset_gets_one_and_is_told_then(
    mq: Client, talkers: list[Talker]
) -> None:
    talkers[0].refusals = [NOT_EXIST]
    await mq.reset_offsets("g", "orders", "last")
    assert talkers[0].steps == ["reset", "commit", "commit", "reset"]


async def test_nothing_is_committed_for_a_broadcasting_group(mq: Client, talkers: list[Talker]) -> None:
    talkers[0].refusals, talkers[0].model = [NOT_EXIST], MessageModel.BROADCASTING
    with pytest.raises(MoveRefused, match="broadcasting"):
        await mq.reset_offsets("g", "orders", "last")
    assert talkers[0].steps == ["reset"]


async def test_what_a_broker_refuses_for_other_reasons_is_an_error(mq: Client, talkers: list[Talker]) -> None:
    talkers[1].refusals = [Answer(ResponseCode.SYSTEM_ERROR, remark="the client does not support this")]
    with pytest.raises(pymq.ResponseError, match="the client does not support this") as refused:
        await mq.reset_offsets("g", "orders", "last")
    assert refused.value.address == talkers[1].broker.address


async def test_a_closed_client_moves_nobody(cluster: FakeCluster) -> None:
    client = Client(cluster.name_servers)
    with pytest.raises(pymq.ClientClosed):
        await client.lag("g")
    with pytest.raises(pymq.ClientClosed):
        await client.reset_offsets("g", "orders", "last")
    with pytest.raises(pymq.ClientClosed):
        await client.clone_offsets("g", "h")
