"""What the name server knows, by whom, and for how long."""

from __future__ import annotations

from dataclasses import replace

from pymq.namesrv.route_table import BrokerIdentity, Registered, RouteTable
from pymq.protocol.bodies import (
    DataVersion,
    RegisterBrokerBody,
    TopicConfig,
    TopicConfigSerializeWrapper,
)
from tests.sim import SimClock

MASTER = BrokerIdentity("c", "a", 0, "h:1")
SLAVE = BrokerIdentity("c", "a", 1, "h:2")
OTHER = BrokerIdentity("c", "b", 0, "h:3")


def body(*topics: TopicConfig | str, version: int = 1, filters: tuple[str, ...] = ()) -> RegisterBrokerBody:
    configs = [TopicConfig(topic, 4, 4) if isinstance(topic, str) else topic for topic in topics]
    table = {config.topic_name: config for config in configs}
    return RegisterBrokerBody(TopicConfigSerializeWrapper(DataVersion(version, 0), table), list(filters))


class World:
    """A route table, and brokers that register with it on connections of their own."""

    def __init__(self) -> None:
        self.clock = SimClock()
        self.table = RouteTable(self.clock)

    def register(
        self, broker: BrokerIdentity, registered: RegisterBrokerBody, connection: str | None = None
    ) -> Registered:
        return self.table.register(broker, f"ha-{broker.address}", registered, connection or broker.address)

    def addresses(self, topic: str) -> dict[str, dict[int, str]]:
        route = self.table.route(topic)
        return {data.broker_name: dict(data.broker_addrs) for data in route.broker_datas} if route else {}

    def perms(self, topic: str) -> dict[str, int]:
        route = self.table.route(topic)
        return {queue.broker_name: queue.perm for queue in route.queue_datas} if route else {}


# -- registration ---------------------------------------------------------------------------------------


def test_a_registered_topic_has_a_route() -> None:
    world = World()
    world.register(OTHER, body("T"))
    world.register(MASTER, body(TopicConfig("T", 8, 6, 4, topic_sys_flag=1), filters=("f:1",)))
    route = world.table.route("T")
    assert route is not None
    assert [data.broker_name for data in route.broker_datas] == ["a", "b"]
    queue = route.queue_datas[0]
    assert (queue.broker_name, queue.read_queue_nums, queue.write_queue_nums) == ("a", 8, 6)
    assert (queue.perm, queue.topic_sys_flag) == (4, 1)
    assert route.filter_server_table == {"h:1": ["f:1"]}


def test_an_unknown_topic_has_no_route() -> None:
    world = World()
    world.register(MASTER, body("T"))
    assert world.table.route("U") is None


def test_a_registration_is_new_once() -> None:
    world = World()
    assert world.register(MASTER, body("T")).is_new
    assert not world.register(MASTER, body("T")).is_new
    assert not world.register(MASTER, body("T", "U", version=2)).is_new


def test_topics_are_taken_again_only_when_the_data_version_differs() -> None:
    world = World()
    world.register(MASTER, body("T"))
    world.register(MASTER, body(TopicConfig("T", 9, 9)))
    route = world.table.route("T")
    assert route is not None
    assert route.queue_datas[0].read_queue_nums == 4
    world.register(MASTER, body(TopicConfig("T", 9, 9), version=2))
    route = world.table.route("T")
    assert route is not None
    assert route.queue_datas[0].read_queue_nums == 9


def test_topics_missing_from_a_registration_stay() -> None:
    """A broker registers a new topic alone."""
    world = World()
    world.register(MASTER, body("T", "U"))
    world.register(MASTER, body("V", version=2))
    assert world.table.topics() == ["T", "U", "V"]


def test_a_slave_registers_its_address_but_not_its_topics() -> None:
    world = World()
    world.register(SLAVE, body("T"))
    assert world.table.topics() == []
    world.register(MASTER, body("T"))
    assert world.addresses("T") == {"a": {0: "h:1", 1: "h:2"}}


def test_a_slave_learns_its_master_once_that_is_known() -> None:
    world = World()
    assert world.register(SLAVE, body()) == Registered(True)
    assert world.register(MASTER, body()) == Registered(True)
    assert world.register(SLAVE, body()) == Registered(False, "h:1", "ha-h:1")
    world.table.unregister(MASTER)
    assert world.register(SLAVE, body()) == Registered(False)


def test_a_slave_that_becomes_master_gives_up_its_old_id() -> None:
    world = World()
    world.register(MASTER, body("T"))
    world.register(SLAVE, body("T"))
    world.table.unregister(MASTER)
    promoted = replace(SLAVE, id=0)
    assert world.register(promoted, body("T", "U")).is_new
    assert world.addresses("U") == {"a": {0: "h:2"}}


def test_a_master_that_moves_takes_its_topics_along() -> None:
    world = World()
    world.register(MASTER, body("T"))
    moved = replace(MASTER, address="h:9")
    assert world.register(moved, body("T")).is_new
    assert world.addresses("T") == {"a": {0: "h:9"}}
    world.clock.advance(60_000)
    world.register(moved, body("T"))
    world.clock.advance(61_000)
    assert [live.identity for live in world.table.expire()] == [MASTER]
    assert world.addresses("T") == {"a": {0: "h:9"}}


def test_a_broker_that_changes_its_cluster_leaves_the_old_one() -> None:
    world = World()
    world.register(MASTER, body("T"))
    world.register(replace(MASTER, cluster="d"), body("T"))
    assert world.table.topics_of_cluster("c") == []
    assert world.table.topics_of_cluster("d") == ["T"]
    assert world.table.cluster_info().cluster_addr_table == {"d": ["a"]}


def test_filter_servers_are_replaced_and_removed() -> None:
    world = World()
    for servers in (("f:1", "f:2"), ("f:3",), ()):
        world.register(MASTER, body("T", filters=servers))
        route = world.table.route("T")
        assert route is not None
        assert route.filter_server_table == ({"h:1": list(servers)} if servers else {})


# -- farewell, silence, lost connections ----------------------------------------------------------------


def test_with_the_last_address_of_a_name_go_its_queues() -> None:
    world = World()
    world.register(MASTER, body("T", "U"))
    world.register(SLAVE, body())
    world.register(OTHER, body("T"))
    assert world.table.unregister(MASTER)
    assert world.addresses("T") == {"a": {1: "h:2"}, "b": {0: "h:3"}}
    world.table.unregister(SLAVE)
    assert world.addresses("T") == {"b": {0: "h:3"}}
    assert world.table.topics() == ["T"]
    assert world.table.cluster_info().cluster_addr_table == {"c": ["b"]}


def test_an_unknown_broker_that_leaves_changes_nothing() -> None:
    world = World()
    world.register(MASTER, body("T"))
    assert not world.table.unregister(OTHER)
    assert not world.table.unregister(replace(MASTER, address="h:9"))
    assert world.addresses("T") == {"a": {0: "h:1"}}


def test_a_silent_broker_is_forgotten_after_two_minutes() -> None:
    world = World()
    world.register(MASTER, body("T"))
    world.clock.advance(60_000)
    world.register(OTHER, body("T"))
    world.clock.advance(60_000)
    assert world.table.expire() == []
    world.clock.advance(1)
    assert [(live.identity, live.connection) for live in world.table.expire()] == [(MASTER, "h:1")]
    assert world.addresses("T") == {"b": {0: "h:3"}}


def test_a_broker_that_goes_on_registering_is_never_forgotten() -> None:
    world = World()
    for _ in range(20):
        world.register(MASTER, body("T"))
        world.clock.advance(30_000)
        assert world.table.expire() == []


def test_a_broker_is_forgotten_at_once_when_its_connection_ends() -> None:
    world = World()
    world.register(MASTER, body("T"))
    assert world.table.connection_closed("some client") == []
    assert world.table.connection_closed("h:1") == [MASTER]
    assert world.table.route("T") is None
    assert world.register(MASTER, body("T")).is_new
    assert world.addresses("T") == {"a": {0: "h:1"}}


def test_the_end_of_an_older_connection_is_nothing() -> None:
    world = World()
    world.register(MASTER, body("T"), "old")
    world.register(MASTER, body("T"), "new")
    assert world.table.connection_closed("old") == []
    assert world.table.connection_closed("new") == [MASTER]


def test_all_brokers_on_one_connection_end_with_it() -> None:
    world = World()
    world.register(MASTER, body("T"), "shared")
    world.register(OTHER, body("T"), "shared")
    assert world.table.connection_closed("shared") == [MASTER, OTHER]
    assert world.table.topics() == []


# -- data versions --------------------------------------------------------------------------------------


def test_a_broker_asks_whether_it_has_to_register_again() -> None:
    world = World()
    assert world.table.query_data_version(MASTER, DataVersion(1, 0), "x") == (True, None)
    world.register(MASTER, body("T"))
    assert world.table.query_data_version(MASTER, DataVersion(1, 0), "x") == (False, DataVersion(1, 0))
    assert world.table.query_data_version(MASTER, DataVersion(2, 0), "x") == (True, DataVersion(1, 0))


def test_an_unchanged_data_version_keeps_a_broker_alive_on_its_present_connection() -> None:
    world = World()
    world.register(MASTER, body("T"), "old")
    for _ in range(5):
        world.clock.advance(100_000)
        world.table.query_data_version(MASTER, DataVersion(1, 0), "new")
        assert world.table.expire() == []
    assert world.table.connection_closed("old") == []
    assert world.table.connection_closed("new") == [MASTER]


# -- lists ----------------------------------------------------------------------------------------------


def test_topics_are_listed_by_cluster_and_by_flag() -> None:
    world = World()
    flagged = [TopicConfig(f"flag{flag}", topic_sys_flag=flag) for flag in range(4)]
    world.register(MASTER, body(*flagged))
    world.register(BrokerIdentity("d", "z", 0, "h:7"), body("T", "flag0"))
    assert world.table.topics_of_cluster("c") == ["flag0", "flag1", "flag2", "flag3"]
    assert world.table.topics_of_cluster("d") == ["T", "flag0"]
    assert world.table.topics_of_cluster("none") == []
    assert world.table.topics_by_flag(lambda flag: bool(flag & 1)) == ["flag1", "flag3"]


def test_system_names_are_clusters_and_brokers() -> None:
    world = World()
    assert (world.table.system_names(), world.table.some_broker()) == ([], None)
    world.register(SLAVE, body())
    assert (world.table.system_names(), world.table.some_broker()) == (["a", "c"], "h:2")
    world.register(MASTER, body())
    assert world.table.some_broker() == "h:1"


# -- administrators -------------------------------------------------------------------------------------


def test_write_permission_is_wiped_until_a_changed_registration() -> None:
    world = World()
    world.register(MASTER, body("T", TopicConfig("TBW102", perm=7)))
    world.register(OTHER, body("T"))
    assert world.table.wipe_write_perm("a") == 2
    assert world.table.wipe_write_perm("unknown") == 0
    world.register(MASTER, body("T", TopicConfig("TBW102", perm=7)))
    assert world.perms("T") == {"a": 4, "b": 6}
    assert world.perms("TBW102") == {"a": 5}
    world.register(MASTER, body("T", version=2))
    assert world.perms("T") == {"a": 6, "b": 6}


def test_write_permission_given_back_leaves_auto_creation_working() -> None:
    world = World()
    world.register(MASTER, body("T", TopicConfig("TBW102", perm=7)))
    world.table.wipe_write_perm("a")
    assert world.table.add_write_perm("a") == 2
    assert (world.perms("T"), world.perms("TBW102")) == ({"a": 6}, {"a": 7})


def test_a_topic_is_deleted_everywhere_or_in_one_cluster() -> None:
    world = World()
    world.register(MASTER, body("T", "U"))
    world.register(BrokerIdentity("d", "z", 0, "h:7"), body("T", "U"))
    world.table.delete_topic("T", "d")
    assert list(world.addresses("T")) == ["a"]
    world.table.delete_topic("T", "c")
    world.table.delete_topic("U")
    world.table.delete_topic("U", "c")
    assert world.table.topics() == []
