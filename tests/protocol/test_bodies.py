"""Bodies against those recorded from Apache programs, and against what each kind of peer expects."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import pytest
from msgspec.structs import replace

from pymq.errors import BodyError
from pymq.protocol import bodies
from pymq.protocol.bodies import (
    BrokerData,
    ClusterInfo,
    ConsumerData,
    ConsumeStats,
    ConsumeType,
    DataVersion,
    HeartbeatData,
    MessageModel,
    MessageQueue,
    ProducerData,
    QueueData,
    RegisterBrokerBody,
    SubscriptionData,
    TopicConfig,
    TopicConfigSerializeWrapper,
    TopicList,
    TopicRouteData,
    body_crc32,
    register,
)
from pymq.protocol.tolerant_json import parse

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "golden" / "bodies.jsonl").read_text("utf-8").splitlines()
]
TYPED = [row for row in RECORDED if row["body"]]
UNTYPED = [row for row in RECORDED if not row["body"]]


def name(row: dict[str, str]) -> str:
    return f"{row['code']}-{row['peer']}"


def data_of(row: dict[str, str]) -> bytes:
    return bytes.fromhex(row["hex"]) if "hex" in row else row["text"].encode()


@pytest.mark.parametrize("row", TYPED, ids=name)
def test_recorded_bodies_are_read_and_written_to_the_same_meaning(row: dict[str, str]) -> None:
    kind: type[bodies.Body] = getattr(bodies, row["body"])
    body = kind.decode(data_of(row))
    assert kind.decode(body.encode()) == body


@pytest.mark.parametrize("row", UNTYPED, ids=name)
def test_recorded_bodies_without_a_class_yet_are_read(row: dict[str, str]) -> None:
    assert parse(data_of(row))


@pytest.mark.parametrize(
    "row",
    [row for row in TYPED if row["peer"] != "5.3.3" and ":null" not in row.get("text", ":null")],
    ids=name,
)
def test_what_4_x_peers_write_is_written_member_for_member(row: dict[str, str]) -> None:
    kind: type[bodies.Body] = getattr(bodies, row["body"])
    written = kind.decode(data_of(row)).encode()
    # Two liberties: queue ids of offset tables are quoted, the route's flag has both its names.
    written = re.sub(rb'"topicSy[ns]Flag":0,"topicSysFlag":0', b'"topicSysFlag":0', written)
    ours = parse(re.sub(rb'"(\d+)":', rb"\1:", written))
    theirs = parse(re.sub(r'"(\d+)":', r"\1:", row["text"].replace("topicSynFlag", "topicSysFlag")).encode())
    assert ours == theirs


ROUTE = TopicRouteData(
    queue_datas=[QueueData("broker-a", 8, 4, 6, topic_sys_flag=1)],
    broker_datas=[BrokerData("broker-a", "c", {10: "h:3", 1: "h:2", 0: "h:1"})],
)


def test_a_route_for_old_askers_has_integer_keys() -> None:
    assert ROUTE.encode() == (
        b'{"brokerDatas":[{"brokerAddrs":{0:"h:1",1:"h:2",10:"h:3"},"brokerName":"broker-a","cluster":"c"}],'
        b'"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":8,'
        b'"topicSynFlag":1,"topicSysFlag":1,"writeQueueNums":4}]}'
    )


def test_a_route_for_askers_from_4_9_4_on_is_strict_json_in_ascii() -> None:
    brokers = [BrokerData("brökér", "c", {1: "h:2", 0: "h:1"})]
    route = replace(ROUTE, broker_datas=brokers, order_topic_conf="b:4")
    written = route.encode(standard_json=True)
    assert b'"brokerAddrs":{"0":"h:1","1":"h:2"},"brokerName":"br\\u00F6k\\u00E9r"' in written
    assert b'"orderTopicConf":"b:4"' in written
    assert json.loads(written)["brokerDatas"][0]["brokerName"] == "brökér"
    assert TopicRouteData.decode(written) == route


@pytest.mark.parametrize("standard_json", [False, True])
def test_the_go_client_can_take_broker_addresses_apart_by_comma_and_colon(standard_json: bool) -> None:
    text = ROUTE.encode(standard_json=standard_json).decode()
    addresses = text[text.index('"brokerAddrs":{') + len('"brokerAddrs":{') :].partition("}")[0]
    found = {}
    for part in addresses.split(","):
        broker_id, _, address = part.partition(":")
        found[int(broker_id.replace('"', ""))] = address.replace('"', "")
    assert found == ROUTE.broker_datas[0].broker_addrs


@pytest.mark.parametrize("flag", ["topicSynFlag", "topicSysFlag"])
def test_the_topic_flag_is_read_by_either_name(flag: str) -> None:
    data = f'{{"queueDatas":[{{"brokerName":"b","perm":6,"readQueueNums":1,"{flag}":3,"writeQueueNums":1}}]}}'
    assert TopicRouteData.decode(data.encode()).queue_datas[0].topic_sys_flag == 3


def test_cluster_info_has_integer_keys() -> None:
    info = ClusterInfo({"b": BrokerData("b", "c", {1: "h:2", 0: "h:1"})}, {"c": ["b"]})
    assert info.encode() == (
        b'{"brokerAddrTable":{"b":{"brokerAddrs":{0:"h:1",1:"h:2"},"brokerName":"b","cluster":"c"}},'
        b'"clusterAddrTable":{"c":["b"]}}'
    )
    assert ClusterInfo.decode(info.encode()) == info


REGISTERED = RegisterBrokerBody(
    TopicConfigSerializeWrapper(
        DataVersion(3, 1_700_000_000_000),
        {"T": TopicConfig("T", 4, 2, 6, "MULTI_TAG"), "%RETRY%G": TopicConfig("%RETRY%G", 1, 1)},
    ),
    ["h:30000"],
)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_register_body_is_read_in_either_form(compressed: bool) -> None:
    data = REGISTERED.encode(compressed=compressed)
    assert (data[:1] == b"{") is not compressed
    assert RegisterBrokerBody.decode(data) == REGISTERED


def test_a_registration_without_a_body_has_no_topics() -> None:
    body = RegisterBrokerBody.decode(b"")
    assert (body.topics, body.data_version) == ({}, DataVersion(0, 0))


def test_very_old_brokers_register_the_bare_wrapper() -> None:
    bare = REGISTERED.topic_config_serialize_wrapper
    assert RegisterBrokerBody.decode(bare.encode()) == RegisterBrokerBody(bare)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x\xda\x00", "its end is missing"),
        (b"x\x00\x00\x00", "compressed body"),
        (zlib.compress(b"\0\0"), "within a length"),
        (zlib.compress(b"\x7f\xff\xff\xff"), "a length of 2147483647 at byte 0, 0 bytes left"),
        (zlib.compress(b"\xff\xff\xff\xff"), "a length of -1"),
        (zlib.compress(b"\0\0\0\2{}"), "`counter`"),
        (zlib.compress(b'\0\0\0\x1b{"counter":1,"timestamp":2}\0\0\0\1\0\0\0\3T 1'), "b'T 1' is no topic"),
        (b"{", "the end"),
    ],
)
def test_a_broken_register_body_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(BodyError, match=re.escape(text)):
        RegisterBrokerBody.decode(data)


def test_a_register_body_that_unfolds_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MAX_INFLATED_BYTES", 100_000)
    with pytest.raises(BodyError, match="unfolds to more than 100000 bytes"):
        RegisterBrokerBody.decode(zlib.compress(bytes(100_001)))


def test_the_crc_of_a_register_body_is_a_positive_java_int() -> None:
    assert body_crc32(b"x" * 5) == zlib.crc32(b"x" * 5) & 0x7FFFFFFF
    assert body_crc32(b"") == 0


def test_a_heartbeat_of_a_client_that_writes_nulls_and_numbers_as_text_is_read() -> None:
    data = (
        b'{"clientID":"c","producerDataSet":null,"consumerDataSet":[{"groupName":"G",'
        b'"consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","unitMode":false,'
        b'"subscriptionDataSet":[{"topic":"T","subString":"a || b",'
        b'"tagsSet":["a","b"],"codeSet":["97","98"],"subVersion":"7","expressionType":null}]}]}'
    )
    subscription = SubscriptionData("T", "a || b", {"a", "b"}, {97, 98}, 7)
    assert HeartbeatData.decode(data) == HeartbeatData(
        "c", [], [ConsumerData("G", subscription_data_set=[subscription])]
    )


def test_a_heartbeat_is_written_as_java_writes_it() -> None:
    consumer = ConsumerData("G", ConsumeType.CONSUME_ACTIVELY, MessageModel.BROADCASTING)
    assert HeartbeatData("c@1", [ProducerData("P")], [consumer]).encode() == (
        b'{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
        b'"consumeType":"CONSUME_ACTIVELY","groupName":"G","messageModel":"BROADCASTING",'
        b'"subscriptionDataSet":[],"unitMode":false}],"producerDataSet":[{"groupName":"P"}]}'
    )


def test_consume_stats_of_a_group_at_rest_are_read() -> None:
    """Apache writes `null` where its rate is 0/0."""
    assert ConsumeStats.decode(b'{"consumeTps":null,"offsetTable":{}}') == ConsumeStats()


def test_message_queues_sort_as_in_java() -> None:
    falling = [("B", "a", 0), ("A", "b", 0), ("A", "a", 10), ("A", "a", 9)]
    queues = [MessageQueue(*row) for row in falling]
    assert sorted(queues) == queues[::-1]


def test_a_topic_list_names_a_broker_only_where_it_has_one() -> None:
    assert TopicList(["a"]).encode() == b'{"topicList":["a"]}'
    assert TopicList([], "h:1").encode() == b'{"brokerAddr":"h:1","topicList":[]}'


def test_a_data_version_hides_what_only_5_x_knows() -> None:
    assert DataVersion(0, 5).next(9).encode() == b'{"counter":1,"timestamp":9}'


@pytest.mark.parametrize("number", ["2147483648", "-2147483649", "1.5", '"many"'])
def test_a_number_that_is_no_java_int_is_refused(number: str) -> None:
    with pytest.raises(BodyError, match="readQueueNums"):
        TopicConfig.decode(f'{{"topicName":"T","readQueueNums":{number}}}'.encode())


def test_numbers_in_bodies_are_read_as_fastjson_reads_them() -> None:
    config = TopicConfig.decode(b'{"topicName":"T","readQueueNums":8.0,"writeQueueNums":"4"}')
    assert (config.read_queue_nums, config.write_queue_nums) == (8, 4)
