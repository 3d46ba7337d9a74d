"""Groups, members, offsets, and the tables by which tools set up and look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pymq.broker.app import Broker
from pymq.broker.consumer_offsets import ConsumerOffsetTable
from pymq.errors import ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.bodies.body import MessageQueue
from pymq.protocol.bodies.connections import ConsumerConnection, GroupList
from pymq.protocol.bodies.heartbeat import (
    ConsumerData,
    ConsumerList,
    HeartbeatData,
    MessageModel,
    ProducerData,
)
from pymq.protocol.bodies.offsets import ConsumerOffsets, ConsumeStats, TopicStatsTable
from pymq.protocol.bodies.subscription import (
    SubscriptionData,
    SubscriptionGroupConfig,
    SubscriptionGroupWrapper,
)
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.codes import VERSION, ResponseCode
from pymq.protocol.headers.administration import (
    CreateTopicRequest,
    DeleteSubscriptionGroupRequest,
    DeleteTopicInBrokerRequest,
    GetAllConsumerOffsetRequest,
    GetAllSubscriptionGroupConfigRequest,
    GetAllTopicConfigRequest,
    GetBrokerConfigRequest,
    GetBrokerRuntimeInfoRequest,
    GetConsumerConnectionListRequest,
    GetConsumeStatsRequest,
    GetTopicStatsInfoRequest,
    QueryTopicConsumeByWhoRequest,
    UpdateAndCreateSubscriptionGroupRequest,
)
from pymq.protocol.headers.groups import (
    GetConsumerListByGroupRequest,
    HeartBeatRequest,
    NotifyConsumerIdsChangedRequest,
    UnregisterClientRequest,
)
from pymq.protocol.headers.messaging import (
    GetEarliestMsgStoretimeRequest,
    GetMaxOffsetRequest,
    GetMinOffsetRequest,
    QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse,
    SearchOffsetRequest,
    UpdateConsumerOffsetRequest,
)
from pymq.transport.dispatch import Request, merge, row
from pymq.transport.pool import Pool
from tests.broker.asking import pull, pull_header, records, send
from tests.broker.conftest import StartBroker


class Client:
    """One client process: its connections, and the groups it was told have changed."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.told: list[str] = []
        self.pool = Pool(SystemNetwork(), merge([row(NotifyConsumerIdsChangedRequest, self._changed)]))

    def _changed(self, request: Request[NotifyConsumerIdsChangedRequest]) -> None:
        self.told.append(request.header.consumer_group)

    async def heartbeat(self, address: str, *topics: str, **fields: Any) -> int:
        """Join group `g` with these topics; gives the broker's version."""
        subscriptions = [SubscriptionData(topic, **fields) for topic in topics]
        data = HeartbeatData(
            self.client_id,
            [ProducerData("p")],
            [ConsumerData("g", subscription_data_set=subscriptions)],
        )
        reply = await self.pool.call(address, HeartBeatRequest(), data.encode())
        return reply.command.version


@pytest.fixture
async def clients() -> AsyncIterator[list[Client]]:
    """Three clients."""
    clients = [Client(f"127.0.0.1@{number}") for number in range(3)]
    yield clients
    for client in clients:
        await client.pool.close()


async def members(pool: Pool, address: str) -> list[str]:
    """The client ids of group `g`."""
    reply = await pool.call(address, GetConsumerListByGroupRequest("g"))
    return ConsumerList.decode(reply.body).consumer_id_list


async def topic_table(pool: Pool, address: str) -> TopicConfigSerializeWrapper:
    """All topics of the broker."""
    return TopicConfigSerializeWrapper.decode((await pool.call(address, GetAllTopicConfigRequest())).body)


async def test_a_member_is_listed_once_its_heartbeat_is_answered_and_the_others_are_told(
    broker: Broker, pool: Pool, clients: list[Client]
) -> None:
    one, two, _ = clients
    with pytest.raises(ResponseError, match="no consumer for this group, g"):
        await members(pool, broker.address)
    assert await one.heartbeat(broker.address, "orders") == VERSION
    await two.heartbeat(broker.address, "orders")
    assert sorted(await members(pool, broker.address)) == [one.client_id, two.client_id]
    await asyncio.sleep(0.05)
    assert (one.told, two.told) == (["g", "g"], ["g"])

    await one.heartbeat(broker.address, "orders")  # nothing new
    await one.pool.call(broker.address, UnregisterClientRequest(one.client_id, "p", "g"))
    await asyncio.sleep(0.05)
    assert two.told == ["g", "g"]
    assert await members(pool, broker.address) == [two.client_id]


async def test_a_closed_connection_leaves_at_once(broker: Broker, pool: Pool, clients: list[Client]) -> None:
    one, two, _ = clients
    await one.heartbeat(broker.address, "orders")
    await two.heartbeat(broker.address, "orders")
    await one.pool.close()
    await asyncio.sleep(0.05)
    assert await members(pool, broker.address) == [two.client_id]
    assert two.told == ["g", "g"]


async def test_a_pull_without_its_own_subscription_uses_the_heartbeats(
    broker: Broker, pool: Pool, clients: list[Client]
) -> None:
    await send(pool, broker.address, "orders", b"a", properties="TAGS\x01a")
    await send(pool, broker.address, "orders", b"b", properties="TAGS\x01b")
    await clients[0].heartbeat(broker.address, "orders", sub_string="b", sub_version=5)
    fields: dict[str, Any] = {"consumer_group": "g", "sys_flag": 0, "subscription": None}
    reply = await pull(pool, broker.address, "orders", sub_version=5, **fields)
    assert [record.body for record in records(reply)] == [b"b"]


async def test_a_pull_that_overtakes_its_heartbeat_waits_for_it(
    broker: Broker, pool: Pool, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.broker.processors.pulls.HEARTBEAT_PATIENCE_S", 30.0)
    await send(pool, broker.address, "orders", b"a")
    fields: dict[str, Any] = {"consumer_group": "g", "sys_flag": 0, "subscription": None}
    early = asyncio.ensure_future(pull(pool, broker.address, "orders", sub_version=6, **fields))
    await asyncio.sleep(0.05)
    await clients[0].heartbeat(broker.address, "orders", sub_version=5)
    await asyncio.sleep(0.05)
    assert not early.done()
    await clients[0].heartbeat(broker.address, "orders", sub_version=6)
    assert [record.body for record in records(await asyncio.wait_for(early, 10))] == [b"a"]


async def test_a_pull_whose_heartbeat_never_comes_is_refused(
    broker: Broker, pool: Pool, clients: list[Client]
) -> None:
    await clients[0].heartbeat(broker.address, "BenchmarkTest", sub_version=5)
    fields: dict[str, Any] = {"consumer_group": "g", "sys_flag": 0, "subscription": None}
    for version, topic, code in (
        (6, "BenchmarkTest", ResponseCode.SUBSCRIPTION_NOT_LATEST),
        (5, "SELF_TEST_TOPIC", ResponseCode.SUBSCRIPTION_NOT_EXIST),
    ):
        with pytest.raises(ResponseError) as refused:
            await pool.call(broker.address, pull_header(topic, sub_version=version, **fields))
        assert refused.value.code == code


async def test_a_heartbeat_makes_the_retry_topic_and_the_group(
    broker: Broker, pool: Pool, clients: list[Client]
) -> None:
    await clients[0].heartbeat(broker.address, "orders")
    topics = TopicConfigSerializeWrapper.decode(
        (await pool.call(broker.address, GetAllTopicConfigRequest())).body
    )
    retry = topics.topic_config_table["%RETRY%g"]
    assert (retry.read_queue_nums, retry.write_queue_nums, retry.perm) == (1, 1, 6)
    groups = SubscriptionGroupWrapper.decode(
        (await pool.call(broker.address, GetAllSubscriptionGroupConfigRequest())).body
    )
    assert groups.subscription_group_table["g"].retry_max_times == 16


async def test_the_connections_of_a_group(broker: Broker, pool: Pool, clients: list[Client]) -> None:
    await clients[0].heartbeat(broker.address, "orders", sub_string="x")
    reply = await pool.call(broker.address, GetConsumerConnectionListRequest("g"))
    body = ConsumerConnection.decode(reply.body)
    assert [(c.client_id, c.language, c.version) for c in body.connection_set] == [
        (clients[0].client_id, "PYTHON", VERSION)
    ]
    assert body.subscription_table["orders"].sub_string == "x"
    assert body.message_model is MessageModel.CLUSTERING
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, GetConsumerConnectionListRequest("nobody"))
    assert refused.value.code == ResponseCode.CONSUMER_NOT_ONLINE


async def test_a_heartbeat_that_cannot_be_read_is_an_error_and_the_connection_stays(
    broker: Broker, pool: Pool
) -> None:
    for body in (b"", b"not json", b"[]", b'{"consumerDataSet":[]}'):
        with pytest.raises(ResponseError) as refused:
            await pool.call(broker.address, HeartBeatRequest(), body)
        assert refused.value.code == ResponseCode.SYSTEM_ERROR
    await pool.call(broker.address, GetBrokerRuntimeInfoRequest())


async def offset_of(pool: Pool, address: str, group: str, topic: str) -> int:
    """The stored offset of a group in queue 0."""
    reply = await pool.call(address, QueryConsumerOffsetRequest(group, topic, 0))
    return reply.read(QueryConsumerOffsetResponse).offset


async def test_offsets_are_kept_over_a_restart(start_broker: StartBroker, pool: Pool) -> None:
    first = await start_broker()
    await pool.call(first.address, UpdateConsumerOffsetRequest("g", "orders", 0, 42))
    assert await offset_of(pool, first.address, "g", "orders") == 42
    await pool.call(first.address, UpdateConsumerOffsetRequest("g", "orders", 0, 7))  # backwards too
    await first.__aexit__(None, None, None)
    second = await start_broker()
    assert await offset_of(pool, second.address, "g", "orders") == 7
    table = ConsumerOffsets.decode((await pool.call(second.address, GetAllConsumerOffsetRequest())).body)
    assert table.offset_table == {"orders@g": {0: 7}}


async def test_a_pull_commits_when_its_bit_says_so(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"x")
    await pull(pool, broker.address, "orders", sys_flag=4, commit_offset=5)
    assert await offset_of(pool, broker.address, "consumers", "orders") == 0  # young queue: from its head
    await pull(pool, broker.address, "orders", sys_flag=5, commit_offset=5)
    assert await offset_of(pool, broker.address, "consumers", "orders") == 5


async def test_bounds_and_times_of_a_queue(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"1")
    (record,) = records(await pull(pool, broker.address, "orders"))
    await asyncio.sleep(0.02)
    await send(pool, broker.address, "orders", b"2")

    async def ask(header: Any) -> Any:
        return (await pool.call(broker.address, header)).read(header.answer)

    assert (await ask(GetMaxOffsetRequest("orders", 0))).offset == 2
    assert (await ask(GetMinOffsetRequest("orders", 0))).offset == 0
    assert (await ask(GetMaxOffsetRequest("orders", 3))).offset == 0
    assert (await ask(GetMaxOffsetRequest("nowhere", 0))).offset == 0
    assert (await ask(SearchOffsetRequest("orders", 0, record.store_timestamp))).offset == 0
    assert (await ask(SearchOffsetRequest("orders", 0, record.store_timestamp + 60_000))).offset == 1
    assert (await ask(GetEarliestMsgStoretimeRequest("orders", 0))).timestamp == record.store_timestamp
    assert (await ask(GetEarliestMsgStoretimeRequest("nowhere", 0))).timestamp == -1


async def test_a_topic_is_made_changed_and_deleted_by_request(broker: Broker, pool: Pool) -> None:
    await pool.call(broker.address, CreateTopicRequest("made", 8, 6, 6, "TBW102"))
    await send(pool, broker.address, "made", b"x", queue_id=5)
    stats = TopicStatsTable.decode((await pool.call(broker.address, GetTopicStatsInfoRequest("made"))).body)
    assert len(stats.offset_table) == 6
    assert stats.offset_table[MessageQueue("made", "broker-a", 5)].max_offset == 1
    await pool.call(broker.address, CreateTopicRequest("made", 8, 8, 2))
    with pytest.raises(ResponseError, match="pulling message is forbidden"):
        await pool.call(broker.address, pull_header("made"))
    await pool.call(broker.address, DeleteTopicInBrokerRequest("made"))
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, GetTopicStatsInfoRequest("made"))
    assert refused.value.code == ResponseCode.TOPIC_NOT_EXIST
    await pool.call(broker.address, CreateTopicRequest("made", 1, 1, 6))
    assert (await send(pool, broker.address, "made", b"y")).queue_offset == 0


@pytest.mark.parametrize(
    "header",
    [
        CreateTopicRequest("TBW102", 1, 1, 6),
        CreateTopicRequest("rmq_sys_x", 1, 1, 6),
        CreateTopicRequest("a b", 1, 1, 6),
        CreateTopicRequest("x", -1, 1, 6),
        CreateTopicRequest("x", 2**31 - 1, 1, 6),
        CreateTopicRequest("x", 1, 65_536, 6),
        CreateTopicRequest("x", 1, 1, -1),
        CreateTopicRequest("x", 1, 1, 8),
        CreateTopicRequest("x", 1, 1, 6, topic_filter_type="NONE"),
        DeleteTopicInBrokerRequest("SELF_TEST_TOPIC"),
    ],
)
async def test_topics_that_cannot_be_set_up(broker: Broker, pool: Pool, header: Any) -> None:
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, header)
    assert refused.value.code == ResponseCode.SYSTEM_ERROR


@pytest.mark.parametrize(
    "group",
    [
        SubscriptionGroupConfig(""),
        SubscriptionGroupConfig("a b"),
        SubscriptionGroupConfig("g" * 256),
        SubscriptionGroupConfig("g", retry_queue_nums=2**31 - 1),
        SubscriptionGroupConfig("g", retry_queue_nums=-1),
    ],
)
async def test_groups_that_cannot_be_set_up(
    broker: Broker, pool: Pool, group: SubscriptionGroupConfig
) -> None:
    with pytest.raises(ResponseError) as refused:
        await pool.call(broker.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
    assert refused.value.code == ResponseCode.SYSTEM_ERROR


@pytest.mark.parametrize("name", ["", "組@\x01", "g@h"])
async def test_no_pull_heartbeat_or_offset_makes_a_group_of_an_illegal_name(
    broker: Broker, pool: Pool, name: str
) -> None:
    await send(pool, broker.address, "orders", b"x")
    heartbeat = HeartbeatData("c", [], [ConsumerData("good"), ConsumerData(name)])
    for header, body in (
        (pull_header("orders", consumer_group=name), b""),
        (HeartBeatRequest(), heartbeat.encode()),
        (UpdateConsumerOffsetRequest(name, "orders", 0, 1), b""),
    ):
        with pytest.raises(ResponseError, match="The specified group") as refused:
            await pool.call(broker.address, header, body)
        assert refused.value.code == ResponseCode.SYSTEM_ERROR
    groups = SubscriptionGroupWrapper.decode(
        (await pool.call(broker.address, GetAllSubscriptionGroupConfigRequest())).body
    )
    assert name not in groups.subscription_group_table
    table = ConsumerOffsets.decode((await pool.call(broker.address, GetAllConsumerOffsetRequest())).body)
    assert table.offset_table == {}
    with pytest.raises(ResponseError, match="no consumer for this group"):
        await pool.call(broker.address, GetConsumerListByGroupRequest("good"))


@pytest.mark.parametrize(("topic", "queue_id"), [("", 0), ("a@b", 0), ("orders", -1)])
async def test_offsets_of_no_queue_are_refused(broker: Broker, pool: Pool, topic: str, queue_id: int) -> None:
    with pytest.raises(ResponseError, match="offset not stored"):
        await pool.call(broker.address, UpdateConsumerOffsetRequest("g", topic, queue_id, 1))


def test_offsets_of_groups_with_an_at_in_their_name_are_told_apart() -> None:
    table = ConsumerOffsetTable()
    table.load('{"offsetTable":{"t@h":{0:1},"t@g@h":{0:2},"no group":{0:3}}}')
    assert (table.topics_of("h"), table.topics_of("g@h")) == (["t"], ["t"])
    assert sorted(table.groups_of("t")) == ["g@h", "h"]
    table.remove_group("h")
    assert table.body().offset_table == {"t@g@h": {0: 2}}


async def test_tables_are_kept_over_a_restart(start_broker: StartBroker, pool: Pool) -> None:
    first = await start_broker()
    await pool.call(first.address, CreateTopicRequest("made", 3, 2, 6))
    group = SubscriptionGroupConfig("g", consume_enable=False, retry_max_times=3)
    await pool.call(first.address, UpdateAndCreateSubscriptionGroupRequest(), group.encode())
    await first.__aexit__(None, None, None)
    second = await start_broker()
    topics = TopicConfigSerializeWrapper.decode(
        (await pool.call(second.address, GetAllTopicConfigRequest())).body
    )
    assert topics.topic_config_table["made"].read_queue_nums == 3
    assert topics.data_version.counter >= 1
    groups = SubscriptionGroupWrapper.decode(
        (await pool.call(second.address, GetAllSubscriptionGroupConfigRequest())).body
    )
    assert groups.subscription_group_table["g"] == group
    with pytest.raises(ResponseError, match="subscription group no permission"):
        await pool.call(second.address, pull_header("made", consumer_group="g"))
    await pool.call(second.address, DeleteSubscriptionGroupRequest("g", remove_offset=True))
    groups = SubscriptionGroupWrapper.decode(
        (await pool.call(second.address, GetAllSubscriptionGroupConfigRequest())).body
    )
    assert "g" not in groups.subscription_group_table


async def test_a_torn_table_is_read_from_its_backup(
    start_broker: StartBroker, pool: Pool, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start_broker()
    await pool.call(first.address, CreateTopicRequest("one", 1, 1, 6))
    table = tmp_path / "store/config/topics.json"
    async with asyncio.timeout(60):  # it is written a second later
        while not (table.exists() and '"one"' in table.read_text()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await pool.call(first.address, CreateTopicRequest("two", 1, 1, 6))
    await first.__aexit__(None, None, None)
    table.write_text('{"topicConf')
    second = await start_broker()
    topics = TopicConfigSerializeWrapper.decode(
        (await pool.call(second.address, GetAllTopicConfigRequest())).body
    )
    assert "one" in topics.topic_config_table
    assert "started from" in caplog.text


async def test_progress_of_a_group(broker: Broker, pool: Pool) -> None:
    for _ in range(3):
        await send(pool, broker.address, "orders", b"x")
    await pool.call(broker.address, UpdateConsumerOffsetRequest("g", "orders", 0, 1))
    reply = await pool.call(broker.address, GetConsumeStatsRequest("g"))
    progress = ConsumeStats.decode(reply.body).offset_table[MessageQueue("orders", "broker-a", 0)]
    assert (progress.broker_offset, progress.consumer_offset) == (3, 1)
    assert progress.last_timestamp > 1_600_000_000_000
    reply = await pool.call(broker.address, QueryTopicConsumeByWhoRequest("orders"))
    assert GroupList.decode(reply.body).group_list == ["g"]


async def test_runtime_info_has_what_tools_read(broker: Broker, pool: Pool) -> None:
    await send(pool, broker.address, "orders", b"12345")
    table = KVTable.decode((await pool.call(broker.address, GetBrokerRuntimeInfoRequest())).body).table
    assert table["brokerVersionDesc"] == "V4_9_4"
    assert table["putMessageTimesTotal"] == "1"
    for name in ("putTps", "getTransferedTps", "getTransferredTps", "getTotalTps"):
        assert [float(number) >= 0 for number in table[name].split(" ")] == [True] * 3
    for name in (
        "msgPutTotalTodayNow",
        "commitLogMaxOffset",
        "earliestMessageTimeStamp",
        "commitLogDiskRatio",
    ):
        assert float(table[name]) > 0
    settings = (await pool.call(broker.address, GetBrokerConfigRequest())).body.decode()
    assert "brokerName=broker-a" in settings
