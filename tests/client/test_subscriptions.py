"""What a consumer subscribes to, and that a filter which a broker will not do is an error at its start."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from pymq.client import Client, FilterRefused, Sql
from pymq.errors import ConfigError, ResponseError
from pymq.protocol.codes import RequestCode, ResponseCode
from pymq.protocol.headers.groups import CheckClientConfigRequest, HeartBeatRequest
from pymq.protocol.headers.messaging import PullMessageRequest
from tests.client.fake_cluster import FakeCluster, tagged, until

CHECK = RequestCode.CHECK_CLIENT_CONFIG


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(brokers=2, topics=("orders", "bills"), queues=1) as cluster:
        yield cluster


async def test_brokers_are_asked_about_sql_before_the_consumer_joins(
    cluster: FakeCluster, mq: Client
) -> None:
    topics: dict[str, str | Sql] = {"orders": Sql("a > 5"), "bills": "x || y"}
    async with mq.consumer("g", topics, start="first") as consumer:
        for broker in cluster.brokers:
            broker.put("orders", 0, b"o", tagged("anything"))
            broker.put("bills", 0, b"b", tagged("x"))
            broker.put("bills", 0, b"n", tagged("z"))
        got: list[tuple[str, bytes]] = []
        while len(got) < 4:
            got += [(m.topic, m.body) for m in await consumer.fetch()]
    assert sorted(got) == [("bills", b"b")] * 2 + [("orders", b"o")] * 2
    for broker in cluster.brokers:
        kinds = [type(header) for header in broker.seen]
        assert kinds.count(CheckClientConfigRequest) == 1
        assert kinds.index(CheckClientConfigRequest) < kinds.index(HeartBeatRequest)
        pulls = {(p.topic, p.subscription, p.expression_type) for p in broker.requests(PullMessageRequest)}
        assert {("orders", "a > 5", "SQL92"), ("bills", "x || y", "TAG")} <= pulls
        told = {s.topic: s for s in broker.heartbeats[-1].consumer_data_set[0].subscription_data_set}
        assert (told["orders"].expression_type, told["orders"].sub_string) == ("SQL92", "a > 5")
        assert (told["orders"].tags_set, told["orders"].code_set) == (set(), set())
        assert told["%RETRY%g"].expression_type == "TAG"


async def test_nobody_is_asked_about_tags(cluster: FakeCluster, mq: Client) -> None:
    async with mq.consumer("g", "orders", tags="a"):
        pass
    assert not cluster.brokers[0].requests(CheckClientConfigRequest)


@pytest.mark.parametrize(
    ("code", "remark", "hint"),
    [
        (ResponseCode.SUBSCRIPTION_PARSE_FAILED, "character 5:\n  wrong", "character 5: wrong"),
        (ResponseCode.SYSTEM_ERROR, "does not support", "does not support. Set enablePropertyFilter=true in"),
        (ResponseCode.REQUEST_CODE_NOT_SUPPORTED, "what?", "It is of a version that has no SQL92 filters"),
    ],
)
async def test_a_filter_that_one_broker_refuses_is_an_error_at_the_start(
    cluster: FakeCluster, mq: Client, code: ResponseCode, remark: str, hint: str
) -> None:
    broker = cluster.brokers[1]
    broker.refusals[CHECK].append(ResponseError(code, remark))
    with pytest.raises(FilterRefused) as refused:
        await mq.consumer("g", "orders", sql="a > > 5").start()
    error = refused.value
    assert (error.topic, error.expression, error.broker) == ("orders", "a > > 5", "broker-b")
    assert (error.code, error.remark, error.address) == (code, remark, broker.address)
    assert hint in str(error)
    assert "\n" not in str(error)
    assert not any(broker.heartbeats for broker in cluster.brokers)
    async with mq.consumer("g", "orders", sql="a > 5"):  # the group is free for a right one
        pass


async def test_a_broker_that_does_not_answer_keeps_no_consumer_from_starting(
    cluster: FakeCluster, mq: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.brokers[1].stop()
    cluster.brokers[0].put("orders", 0, b"m")
    with caplog.at_level(logging.WARNING, "pymq.client"):
        async with mq.consumer("g", "orders", sql="a > 5", start="first") as consumer:
            assert [m.body for m in await consumer.fetch()] == [b"m"]
    assert "whether broker broker-b filters by SQL92 is not known" in caplog.text


async def test_a_topic_that_does_not_exist_yet_is_waited_for(cluster: FakeCluster, mq: Client) -> None:
    async with mq.consumer("g", "later", sql="a > 5", start="first") as consumer:
        cluster.topics.append("later")
        cluster.brokers[0].put("later", 0, b"m")
        await until(lambda: bool(consumer.queues()))
        assert [m.body for m in await consumer.fetch()] == [b"m"]


def test_a_topic_has_tags_or_sql_and_several_topics_have_their_own() -> None:
    mq = Client("127.0.0.1:1")
    with pytest.raises(ConfigError, match="a topic has one of them"):
        mq.consumer("g", "orders", tags="a", sql="b = 1")
    for options in ({"sql": "b = 1"}, {"tags": "a"}):
        with pytest.raises(ConfigError, match="each has its own in the mapping"):
            mq.consumer("g", {"orders": "*"}, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="topic orders: the SQL expression is empty"):
        mq.consumer("g", "orders", sql=" ")
