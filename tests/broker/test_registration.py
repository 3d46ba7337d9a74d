"""A broker and its name servers: registering with all, going on without some, being back at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from pymq.broker.app import Broker
from pymq.broker.ports import take_ports
from pymq.clock import SystemClock
from pymq.errors import PortInUse, ResponseError, StoreLocked
from pymq.namesrv.app import NameServer
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.network import SystemNetwork
from pymq.protocol.bodies.route import ClusterInfo, TopicRouteData
from pymq.protocol.bodies.topic_config import TopicConfigSerializeWrapper
from pymq.protocol.header import Header
from pymq.protocol.headers.administration import CreateTopicRequest, GetAllTopicConfigRequest
from pymq.protocol.headers.naming import (
    GetBrokerClusterInfoRequest,
    GetRouteInfoRequest,
    PutKvConfigRequest,
    QueryDataVersionRequest,
    RegisterBrokerRequest,
    UnregisterBrokerRequest,
)
from pymq.system_disk import SystemDisk
from pymq.transport.dispatch import Answer, Request, merge, row
from pymq.transport.pool import Pool
from pymq.transport.server import Server
from tests.broker.asking import send
from tests.broker.conftest import StartBroker


@pytest.fixture
def make_name_server(tmp_path: Path) -> Callable[[int], NameServer]:
    """Makes name servers on 127.0.0.1, each with a KV file of its own; 0 picks a port."""
    numbers = itertools.count()

    def make(port: int = 0) -> NameServer:
        config = NamesrvConfig(
            listen_port=port,
            bind_address="127.0.0.1",
            kv_config_path=str(tmp_path / f"kv-{next(numbers)}.json"),
        )
        return NameServer(config, clock=SystemClock(), disk=SystemDisk(), network=SystemNetwork())

    return make


async def route(pool: Pool, address: str, topic: str) -> TopicRouteData | None:
    """The route of a topic, or None."""
    try:
        reply = await pool.call(address, GetRouteInfoRequest(topic, True))
    except ResponseError:
        return None
    return TopicRouteData.decode(reply.body)


async def brokers(pool: Pool, address: str) -> list[str]:
    """The broker names that a name server knows."""
    reply = await pool.call(address, GetBrokerClusterInfoRequest())
    return list(ClusterInfo.decode(reply.body).broker_addr_table)


async def eventually(check: Callable[[], Awaitable[object]], within_s: float = 30.0) -> None:
    """Wait until an async check holds."""
    async with asyncio.timeout(within_s):
        while not await check():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_created_topic_has_its_route_at_every_name_server_when_the_answer_comes(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as one, make_name_server(0) as two:
        broker = await start_broker(namesrv_addr=f"{one.address};{two.address}")
        await pool.call(broker.address, CreateTopicRequest("made", 3, 2, 6))
        for server in (one, two):
            found = await route(pool, server.address, "made")
            assert found is not None
            assert found.broker_datas[0].broker_addrs == {0: broker.address}
            assert (found.queue_datas[0].read_queue_nums, found.queue_datas[0].write_queue_nums) == (3, 2)


async def test_topics_made_by_sends_are_routed_at_once(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as server:
        broker = await start_broker(namesrv_addr=server.address)
        for i in range(3):
            await send(pool, broker.address, f"fresh-{i}", b"x")
            await eventually(partial(route, pool, server.address, f"fresh-{i}"), 0.5)


async def test_many_topics_made_together_are_all_routed(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as server:
        broker = await start_broker(namesrv_addr=server.address)
        made = [f"fresh-{i}" for i in range(50)]
        await asyncio.gather(*(send(pool, broker.address, topic, b"x") for topic in made))
        for topic in made:
            await eventually(partial(route, pool, server.address, topic), 0.5)


async def test_topics_created_and_made_by_sends_in_the_same_turn_are_all_routed(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as server:
        broker = await start_broker(namesrv_addr=server.address)
        for i in range(10):
            await asyncio.gather(
                pool.call(broker.address, CreateTopicRequest(f"made-{i}", 2, 2, 6)),
                send(pool, broker.address, f"sent-{i}", b"x"),
            )
            assert await route(pool, server.address, f"made-{i}"), "it was answered that it exists"
            await eventually(partial(route, pool, server.address, f"sent-{i}"), 0.5)


async def test_the_start_does_not_wait_for_each_name_server_that_gives_no_answer(
    start_broker: StartBroker,
    pool: Pool,
    make_name_server: Callable[[int], NameServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pymq.broker.registration.START_WAIT_S", 0.2)
    deaf = [SystemNetwork().listen("127.0.0.1", 0) for _ in range(2)]
    try:
        async with make_name_server(0) as server:
            addresses = [f"127.0.0.1:{listener.port}" for listener in deaf]
            async with asyncio.timeout(10):
                broker = await start_broker(namesrv_addr=";".join([*addresses, server.address]))
            assert await brokers(pool, server.address) == ["broker-a"]
            async with asyncio.timeout(10):
                await pool.call(broker.address, CreateTopicRequest("made", 2, 2, 6))
            assert await route(pool, server.address, "made")
            late = [record.message for record in caplog.records if "no answer yet" in record.message]
            assert [address in line for address, line in zip(addresses, late, strict=True)] == [True, True]
            async with asyncio.timeout(10):
                await broker.__aexit__(None, None, None)
    finally:
        for listener in deaf:
            listener.close()


class Nonsense(Header):
    """An answer to QUERY_DATA_VERSION that cannot be read."""

    changed: str


async def test_a_name_server_that_answers_nonsense_is_registered_with_all_the_same(
    start_broker: StartBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymq.broker.registration.SHORTEST_PERIOD_S", 0.05)
    registered = 0

    def register(_: Request[RegisterBrokerRequest]) -> Answer:
        nonlocal registered
        registered += 1
        return Answer()

    def query(_: Request[QueryDataVersionRequest]) -> Answer:
        return Answer(header=Nonsense("perhaps"))

    table = merge(
        [
            row(RegisterBrokerRequest, register),
            row(QueryDataVersionRequest, query),
            row(UnregisterBrokerRequest, lambda _: Answer()),
        ]
    )
    server = Server(SystemNetwork())
    try:
        port = await server.listen("127.0.0.1", 0, table)
        broker = await start_broker(
            namesrv_addr=f"127.0.0.1:{port}", force_register=False, register_name_server_period=50
        )

        async def registered_again() -> bool:
            return registered >= 3

        await eventually(registered_again)
        await broker.__aexit__(None, None, None)
    finally:
        await server.close()


async def test_a_stopped_broker_is_gone_at_once(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as server:
        broker = await start_broker(namesrv_addr=server.address)
        assert await brokers(pool, server.address) == ["broker-a"]
        await broker.__aexit__(None, None, None)
        assert await brokers(pool, server.address) == []


async def test_the_broker_serves_without_a_name_server_and_registers_when_one_comes_back(
    start_broker: StartBroker,
    pool: Pool,
    make_name_server: Callable[[int], NameServer],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pymq.broker")
    async with make_name_server(0) as stays:
        async with make_name_server(0) as goes:
            port = goes.port
            broker = await start_broker(namesrv_addr=f"{stays.address};{goes.address}")
        await asyncio.sleep(1.2)
        await send(pool, broker.address, "orders", b"x")
        await eventually(lambda: route(pool, stays.address, "orders"))
        async with make_name_server(port) as back:
            await eventually(lambda: route(pool, back.address, "orders"), 20)
            lost = [record for record in caplog.records if "trying again" in record.message]
            assert len(lost) == 1  # told once, not every second


async def topic_table(pool: Pool, broker: Broker) -> TopicConfigSerializeWrapper:
    """All topics of a broker."""
    reply = await pool.call(broker.address, GetAllTopicConfigRequest())
    return TopicConfigSerializeWrapper.decode(reply.body)


async def test_topics_are_ordered_that_any_name_server_lists_without_end_of_registering(
    start_broker: StartBroker, pool: Pool, make_name_server: Callable[[int], NameServer]
) -> None:
    async with make_name_server(0) as one, make_name_server(0) as two:
        await pool.call(one.address, PutKvConfigRequest("ORDER_TOPIC_CONFIG", "a", "broker-a:2"))
        await pool.call(two.address, PutKvConfigRequest("ORDER_TOPIC_CONFIG", "b", "broker-a:2"))
        first = await start_broker()
        for topic in ("a", "b", "plain"):
            await pool.call(first.address, CreateTopicRequest(topic, 2, 2, 6))
        await first.__aexit__(None, None, None)
        broker = await start_broker(namesrv_addr=f"{one.address};{two.address}")
        await pool.call(broker.address, CreateTopicRequest("late", 2, 2, 6))
        before = await topic_table(pool, broker)
        ordered = {name for name, topic in before.topic_config_table.items() if topic.order}
        assert ordered == {"a", "b"}
        await asyncio.sleep(0.2)
        assert (await topic_table(pool, broker)).data_version == before.data_version
        assert await route(pool, one.address, "late")


def test_three_free_ports_are_taken_together() -> None:
    ports = take_ports(SystemNetwork(), "127.0.0.1", 0)
    try:
        assert (ports.vip.port, ports.ha.port) == (ports.main.port - 2, ports.main.port + 1)
    finally:
        ports.close()


@pytest.mark.parametrize(
    ("offset", "words"), [(0, "(listenPort)"), (-2, "the VIP channel"), (1, "replication")]
)
def test_a_taken_port_is_named_with_its_purpose(offset: int, words: str) -> None:
    network = SystemNetwork()
    free = take_ports(network, "127.0.0.1", 0)
    port = free.main.port
    free.close()
    taken = network.listen("127.0.0.1", port + offset)
    try:
        with pytest.raises(PortInUse) as refused:
            take_ports(network, "127.0.0.1", port)
        assert refused.value.port == port + offset
        assert words in str(refused.value)
        assert "the port is in use" in str(refused.value)
    finally:
        taken.close()


async def test_a_second_broker_on_the_same_store_is_refused(start_broker: StartBroker) -> None:
    await start_broker()
    with pytest.raises(StoreLocked, match="is in use"):
        await start_broker()
