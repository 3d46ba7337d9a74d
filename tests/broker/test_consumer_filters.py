"""The registered filters themselves: versions, death and revival, forgetting, and Apache's file."""

from __future__ import annotations

import json
import logging

import pytest

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.consumer_filters import ConsumerFilterTable, Sieve
from pymq.broker.live_clients import ConsumerGroup
from pymq.errors import BodyError, ResponseError
from pymq.protocol.bodies.filter_data import ConsumerFilterData
from pymq.protocol.bodies.heartbeat import ConsumeFromWhere, ConsumeType, MessageModel
from pymq.protocol.bodies.subscription import SubscriptionData
from pymq.protocol.codes import ResponseCode
from tests.sim import SimClock

DAY_MS = 86_400_000


class World:
    """A table and its clock; `changes` counts how often the file was to be written."""

    def __init__(self, *, enable_property_filter: bool = True) -> None:
        self.clock = SimClock()
        config = BrokerConfig(broker_name="b", enable_property_filter=enable_property_filter)
        self.table = ConsumerFilterTable(config, self.clock)
        self.changes = 0
        self.table.on_change.append(self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def heartbeat(self, version: int, group: str = "g", kind: str = "SQL92", **expressions: str) -> None:
        """A heartbeat of a group that wants these topics."""
        wanted = {
            topic: SubscriptionData(topic, expression, sub_version=version, expression_type=kind)
            for topic, expression in expressions.items()
        }
        self.table.heartbeat(
            ConsumerGroup(
                group,
                ConsumeType.CONSUME_PASSIVELY,
                MessageModel.CLUSTERING,
                ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
                wanted,
                {},
            )
        )

    def data(self, topic: str = "t", group: str = "g") -> ConsumerFilterData | None:
        """What the file would say."""
        entry = self.table.snapshot().filter_data_by_topic.get(topic)
        return entry.group_filter_data.get(group) if entry else None

    def sieve(self, version: int = 0, topic: str = "t", expression: str = "a = 1") -> Sieve:
        """What a pull of the group wants."""
        subscription = SubscriptionData(topic, expression, expression_type="SQL92")
        return self.table.registered("g", subscription, version)


def dead(world: World) -> bool | None:
    data = world.data()
    return None if data is None else data.dead


def test_a_newer_version_replaces_a_filter_and_an_older_one_does_not() -> None:
    world = World()
    world.heartbeat(5, t="a = 1")
    world.heartbeat(4, t="a = 2")
    world.heartbeat(5, t="a = 3")
    assert world.sieve(5).matches("a\x011")
    with pytest.raises(ResponseError) as old:
        world.sieve(6)
    assert old.value.code == ResponseCode.FILTER_DATA_NOT_LATEST
    world.heartbeat(6, t="a = 2")
    assert not world.sieve(6).matches("a\x011")
    assert world.sieve(6).matches("a\x012")


def test_the_same_expression_in_a_newer_version_stays_the_same_filter() -> None:
    world = World()
    world.heartbeat(5, t="a = 1")
    born = world.clock.now_ms()
    world.clock.advance(1000)
    world.heartbeat(7, t="a = 1")
    data = world.data()
    assert data is not None
    assert (data.born_time, data.client_version) == (born, 7)


def test_a_wrong_expression_takes_the_old_filter_away_and_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.heartbeat(5, t="a = 1")
    with caplog.at_level(logging.WARNING, "pymq.broker.filters"):
        for version in (6, 7, 8):
            world.heartbeat(version, t="a = = 1")
    assert [record.getMessage()[:55] for record in caplog.records] == [
        "group g cannot read topic t: SQL92 filter, character 5:"
    ]
    with pytest.raises(ResponseError) as gone:
        world.sieve(expression="a = = 1")
    assert gone.value.code == ResponseCode.FILTER_DATA_NOT_EXIST
    assert "character 5" in gone.value.remark


def test_a_filter_dies_with_its_group_or_its_topic_and_lives_again() -> None:
    world = World()
    world.heartbeat(5, t="a = 1", u="b = 1")
    assert (dead(world), world.changes) == (False, 1)
    world.heartbeat(5, t="a = 1", u="b = 1")
    assert world.changes == 1  # a heartbeat that says nothing new writes no file
    world.heartbeat(6, u="b = 1")
    assert dead(world) is True
    world.heartbeat(6, t="a = 1", u="b = 1")
    assert dead(world) is False
    world.table.group_left("g")
    assert dead(world) is True
    u = world.data("u")
    assert u is not None
    assert u.dead
    world.heartbeat(6, t="a = 1", u="b = 1")
    assert dead(world) is False
    world.heartbeat(7, kind="TAG", t="x", u="y")
    assert dead(world) is True


def test_a_dead_filter_is_kept_for_its_time_and_a_living_one_for_ever() -> None:
    world = World()
    world.heartbeat(5, t="a = 1")
    world.heartbeat(5, group="h", t="b = 1")
    world.table.group_left("g")
    world.clock.advance(DAY_MS - 1)
    world.table.clean()
    assert dead(world) is True
    changes = world.changes
    world.clock.advance(1)
    world.table.clean()
    assert (world.data(), world.changes) == (None, changes + 1)
    assert world.data("t", "h") is not None


APACHE_FILE = """{
\t"filterDataByTopic":{
\t\t"t":{
\t\t\t"groupFilterData":{
\t\t\t\t"g":{
\t\t\t\t\t"bloomFilterData":{"bitNum":112,"bitPos":[1,2,3]},
\t\t\t\t\t"bornTime":1600000000000,"clientVersion":5,"consumerGroup":"g","dead":false,"deadTime":0,
\t\t\t\t\t"expression":"a = 1","expressionType":"SQL92","topic":"t"
\t\t\t\t},
\t\t\t\t"h":{"bornTime":1600000000000,"clientVersion":5,"consumerGroup":"h","dead":true,
\t\t\t\t\t"deadTime":1600000000001,"expression":"a = 1 b","expressionType":"SQL92","topic":"t"}
\t\t\t},
\t\t\t"topic":"t"
\t\t}
\t}
}"""


def test_loaded_filters_are_dead_until_their_groups_are_back(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.table.load(APACHE_FILE)
    data = world.data()
    assert data is not None
    assert (data.dead, data.dead_time) == (True, world.clock.now_ms() - 30_000)
    other = world.data("t", "h")
    assert other is not None
    assert other.dead_time == 1600000000001
    assert "the filter of group h on topic t cannot be used" in caplog.text
    world.heartbeat(5, t="a = 1")
    assert dead(world) is False
    assert world.sieve(5).matches("a\x011")


def test_the_file_is_read_back_as_it_was_written() -> None:
    world = World()
    world.heartbeat(5, t="a = 1 AND b <> 'ü'", u="b = 1")
    world.heartbeat(9, group="h", t="c = 1")
    world.table.group_left("g")
    world.table.group_left("h")
    text = world.table.snapshot().encode().decode()
    again = World()
    again.table.load(text)
    assert again.table.snapshot().encode().decode() == text
    assert set(json.loads(text)["filterDataByTopic"]["t"]["groupFilterData"]) == {"g", "h"}
    with pytest.raises(BodyError):
        again.table.load('{"filterDataByTopic":{"t":{"topic":"t","groupFilterData":{"g":{}}}}}')


def test_retries_are_sifted_by_living_filters_only() -> None:
    world = World()
    world.heartbeat(5, t="a = 1", u="b = 1")
    sieve = world.table.of_retries("%RETRY%g", None)
    assert sieve is not None
    wants = [
        sieve.matches(f"a\x01{a}\x02RETRY_TOPIC\x01{topic}") for a in (1, 2) for topic in ("t", "u", "v")
    ]
    assert wants == [True, False, True, False, False, True]
    assert world.table.of_retries("%RETRY%h", None) is None
    world.table.group_left("g")
    assert world.table.of_retries("%RETRY%g", None) is None


def test_nothing_is_registered_while_filtering_is_off() -> None:
    world = World(enable_property_filter=False)
    world.heartbeat(5, t="a = 1")
    assert world.data() is None
    with pytest.raises(ResponseError, match="enablePropertyFilter=false"):
        world.sieve()
