"""A whole name server on a port of 127.0.0.1, asked over TCP."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pymq.clock import SystemClock
from pymq.errors import ConfigError, PortInUse, ResponseError
from pymq.namesrv import app
from pymq.namesrv.app import NameServer
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.network import SystemNetwork
from pymq.protocol.bodies import (
    ClusterInfo,
    DataVersion,
    KVTable,
    RegisterBrokerBody,
    TopicConfig,
    TopicConfigSerializeWrapper,
    TopicList,
    TopicRouteData,
    body_crc32,
)
from pymq.protocol.header import Header
from pymq.protocol.headers import naming
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool, Reply
from tests.sim import SimClock


class Asker:
    """Asks one name server, over one connection."""

    def __init__(self, address: str) -> None:
        self.closed = asyncio.Event()
        self.pool = Pool(SystemNetwork(), {}, on_close=lambda _: self.closed.set())
        self.address = address

    async def ask(self, header: Header, body: bytes = b"") -> Reply:
        return await self.pool.call(self.address, header, body)

    async def refusal(self, header: Header, body: bytes = b"") -> tuple[int, str]:
        with pytest.raises(ResponseError) as refused:
            await self.ask(header, body)
        return refused.value.code, refused.value.remark

    async def register(
        self, name: str = "a", broker_id: int = 0, *topics: TopicConfig, compressed: bool = False
    ) -> Reply:
        table = {topic.topic_name: topic for topic in topics or (TopicConfig("T"),)}
        wrapper = TopicConfigSerializeWrapper(DataVersion(1, 0), table)
        body = RegisterBrokerBody(wrapper).encode(compressed=compressed)
        return await self.ask(registration(name, broker_id, compressed, body_crc32(body)), body)

    async def topics(self, header: Header) -> list[str]:
        return TopicList.decode((await self.ask(header)).body).topic_list

    async def route(self, topic: str = "T") -> TopicRouteData:
        return TopicRouteData.decode((await self.ask(naming.GetRouteInfoRequest(topic))).body)


def registration(
    name: str, broker_id: int, compressed: bool = False, crc: int = 0
) -> naming.RegisterBrokerRequest:
    address = f"{name}:{broker_id}"
    return naming.RegisterBrokerRequest(name, address, "c", f"ha-{address}", broker_id, compressed, crc)


@asynccontextmanager
async def name_server(folder: Path, clock: SimClock | None = None) -> AsyncIterator[tuple[NameServer, Asker]]:
    config = NamesrvConfig(
        listen_port=0,
        bind_address="127.0.0.1",
        kv_config_path=str(folder / "namesrv" / "kvConfig.json"),
        config_store_path=str(folder / "namesrv.properties"),
    )
    async with NameServer(
        config, clock=clock or SystemClock(), disk=SystemDisk(), network=SystemNetwork()
    ) as server:
        asker = Asker(server.address)
        try:
            yield server, asker
        finally:
            await asker.pool.close()


@pytest.fixture
async def asker(tmp_path: Path) -> AsyncIterator[Asker]:
    async with name_server(tmp_path) as (_, found):
        yield found


# -- brokers and routes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_client_finds_what_a_broker_registered(asker: Asker, compressed: bool) -> None:
    await asker.register("a", 0, TopicConfig("T", 8, 4), compressed=compressed)
    reply = await asker.register("a", 1)
    assert reply.read(naming.RegisterBrokerResponse) == naming.RegisterBrokerResponse("ha-a:0", "a:0")
    route = await asker.route()
    assert route.broker_datas[0].broker_addrs == {0: "a:0", 1: "a:1"}
    assert (route.queue_datas[0].read_queue_nums, route.queue_datas[0].write_queue_nums) == (8, 4)
    info = ClusterInfo.decode((await asker.ask(naming.GetBrokerClusterInfoRequest())).body)
    assert info.cluster_addr_table == {"c": ["a"]}


@pytest.mark.parametrize(
    ("version", "more", "addresses"),
    [
        (277, "", '{0:"a:0",1:"a:1"}'),
        (317, "", '{0:"a:0",1:"a:1"}'),
        (401, "", '{"0":"a:0","1":"a:1"}'),
        (277, ',"acceptStandardJsonOnly":"true"', '{"0":"a:0","1":"a:1"}'),
    ],
)
async def test_a_route_is_written_as_the_asker_s_version_reads_it(
    asker: Asker, version: int, more: str, addresses: str
) -> None:
    await asker.register("a", 0)
    await asker.register("a", 1)
    header = f'{{"code":105,"extFields":{{"topic":"T"{more}}},"flag":0,"opaque":7,"version":{version}}}'
    answer, body = await exchange(asker.address, header)
    assert answer["code"] == 0
    assert f'"brokerAddrs":{addresses}' in body


async def test_an_unknown_topic_has_no_route(asker: Asker) -> None:
    text = "No topic route info in name server for the topic: "
    assert await asker.refusal(naming.GetRouteInfoRequest("T")) == (17, text + "T")
    assert await asker.refusal(naming.GetRouteInfoRequest()) == (17, text + "null")


async def test_a_damaged_registration_is_refused_and_the_connection_stays(asker: Asker) -> None:
    assert await asker.refusal(registration("a", 0, crc=1), b"{}") == (1, "crc32 not match")
    code, remark = await asker.refusal(registration("a", 0), b"not json")
    assert (code, "expected a value at character 0" in remark) == (1, True)
    connection = asker.pool.connected(asker.address)
    await asker.register()
    assert asker.pool.connected(asker.address) is connection


async def test_a_broker_is_forgotten_when_it_leaves_or_its_connection_ends(
    asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pymq.namesrv")
    broker = Asker(asker.address)
    for _ in range(3):
        await broker.register("a", 0)
        await broker.register("b", 0)
    await broker.ask(naming.UnregisterBrokerRequest("a", "a:0", "c", 0))
    assert [data.broker_name for data in (await asker.route()).broker_datas] == ["b"]
    await broker.pool.close()
    assert (await asker.refusal(naming.GetRouteInfoRequest("T")))[0] == 17
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("broker ")]
    assert [line.split(" (cluster c) ")[0] for line in lines] == [
        "broker a:0 at a:0", "broker b:0 at b:0", "broker a:0 at a:0", "broker b:0 at b:0",
    ]  # fmt: skip
    assert [line.split()[6].rstrip(":") for line in lines] == [
        "registered", "registered", "unregistered", "forgotten",
    ]  # fmt: skip


async def test_a_silent_broker_is_forgotten_and_its_connection_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "EXPIRY_SCAN_S", 0.01)
    clock = SimClock()
    async with name_server(tmp_path, clock) as (server, asker):
        broker = Asker(server.address)
        await broker.register()
        await asker.route()
        clock.advance(120_001)
        async with asyncio.timeout(30):
            await broker.closed.wait()
        assert (await asker.refusal(naming.GetRouteInfoRequest("T")))[0] == 17


async def test_a_broker_asks_for_the_known_data_version(asker: Asker) -> None:
    asked = naming.QueryDataVersionRequest("a", "a:0", "c", 0)
    reply = await asker.ask(asked, DataVersion(1, 0).encode())
    assert (reply.read(naming.QueryDataVersionResponse).changed, reply.body) == (True, b"")
    await asker.register()
    for version, changed in ((DataVersion(1, 0), False), (DataVersion(2, 0), True)):
        reply = await asker.ask(asked, version.encode())
        assert reply.read(naming.QueryDataVersionResponse).changed is changed
        assert DataVersion.decode(reply.body) == DataVersion(1, 0)


async def test_topics_are_listed_in_every_way(asker: Asker) -> None:
    await asker.register("a", 0, TopicConfig("T"), TopicConfig("U1", topic_sys_flag=1))
    await asker.register("b", 0, TopicConfig("U2", topic_sys_flag=2), TopicConfig("U3", topic_sys_flag=3))
    assert await asker.topics(naming.GetAllTopicListRequest()) == ["T", "U1", "U2", "U3"]
    assert await asker.topics(naming.GetTopicsByClusterRequest("c")) == ["T", "U1", "U2", "U3"]
    assert await asker.topics(naming.GetTopicsByClusterRequest("none")) == []
    assert await asker.topics(naming.GetUnitTopicListRequest()) == ["U1", "U3"]
    assert await asker.topics(naming.GetHasUnitSubTopicListRequest()) == ["U2", "U3"]
    assert await asker.topics(naming.GetHasUnitSubUnunitTopicListRequest()) == ["U2"]
    reply = await asker.ask(naming.GetSystemTopicListFromNsRequest())
    assert TopicList.decode(reply.body) == TopicList(["a", "b", "c"], "a:0")


async def test_an_administrator_changes_permissions_and_deletes_topics(asker: Asker) -> None:
    await asker.register("a", 0, TopicConfig("T"), TopicConfig("U"))
    reply = await asker.ask(naming.WipeWritePermRequest("a"))
    assert reply.read(naming.WipeWritePermResponse).wipe_topic_count == 2
    assert (await asker.route()).queue_datas[0].perm == 4
    reply = await asker.ask(naming.AddWritePermRequest("a"))
    assert reply.read(naming.AddWritePermResponse).add_topic_count == 2
    assert (await asker.route()).queue_datas[0].perm == 6
    await asker.ask(naming.DeleteTopicInNamesrvRequest("T", "another cluster"))
    await asker.ask(naming.DeleteTopicInNamesrvRequest("U"))
    assert await asker.topics(naming.GetAllTopicListRequest()) == ["T"]


async def test_an_unknown_request_code_is_answered(asker: Asker) -> None:
    answer, _ = await exchange(asker.address, '{"code":9999,"flag":0,"opaque":3,"version":401}')
    assert (answer["code"], answer["opaque"]) == (3, 3)
    assert answer["remark"] == " request type 9999 not supported"


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    async with name_server(tmp_path) as (server, _):
        config = NamesrvConfig(
            listen_port=server.port, bind_address="127.0.0.1", kv_config_path=str(tmp_path / "other.json")
        )
        second = NameServer(config, clock=SystemClock(), disk=SystemDisk(), network=SystemNetwork())
        with pytest.raises(PortInUse, match=f"127.0.0.1:{server.port}"):
            await second.__aenter__()


# -- KV config ------------------------------------------------------------------------------------------


async def test_kv_config_outlives_a_restart(tmp_path: Path) -> None:
    async with name_server(tmp_path) as (_, asker):
        for key, value in (("k", "v"), ("k2", "värde\n"), ("k3", "x"), ("k", "v1")):
            await asker.ask(naming.PutKvConfigRequest("N", key, value))
        await asker.ask(naming.DeleteKvConfigRequest("N", "k3"))
        await asker.ask(naming.DeleteKvConfigRequest("N", "never there"))
    async with name_server(tmp_path) as (_, asker):
        reply = await asker.ask(naming.GetKvConfigRequest("N", "k"))
        assert reply.read(naming.GetKvConfigResponse).value == "v1"
        reply = await asker.ask(naming.GetKvListByNamespaceRequest("N"))
        assert KVTable.decode(reply.body).table == {"k": "v1", "k2": "värde\n"}
    stored = json.loads((tmp_path / "namesrv" / "kvConfig.json").read_text("utf-8"))
    assert stored == {"configTable": {"N": {"k": "v1", "k2": "värde\n"}}}


async def test_values_set_at_the_same_time_are_all_kept(asker: Asker) -> None:
    await asyncio.gather(*(asker.ask(naming.PutKvConfigRequest("N", f"k{i}", "v")) for i in range(20)))
    reply = await asker.ask(naming.GetKvListByNamespaceRequest("N"))
    assert len(KVTable.decode(reply.body).table) == 20


async def test_an_unknown_value_is_answered_with_what_was_asked(asker: Asker) -> None:
    found = await asker.refusal(naming.GetKvConfigRequest("N"))
    assert found == (22, "No config item, Namespace: N Key: null")
    found = await asker.refusal(naming.GetKvListByNamespaceRequest("N"))
    assert found == (22, "No config item, Namespace: N")


async def test_a_value_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    async with name_server(tmp_path) as (_, asker):
        (tmp_path / "namesrv").write_text("a file where the folder should be")
        code, remark = await asker.refusal(naming.PutKvConfigRequest("N", "k", "v"))
        assert (code, "cannot make the folder" in remark) == (1, True)
        assert (await asker.refusal(naming.GetKvConfigRequest("N", "k")))[0] == 22


async def test_a_broken_kv_file_falls_back_to_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / "namesrv"
    folder.mkdir()
    (folder / "kvConfig.json").write_text('{"configTable":{"N":')
    (folder / "kvConfig.json.bak").write_text('{"configTable":{"N":{"k":"v"}}}')
    async with name_server(tmp_path) as (_, asker):
        reply = await asker.ask(naming.GetKvConfigRequest("N", "k"))
        assert reply.read(naming.GetKvConfigResponse).value == "v"


async def test_a_name_server_does_not_start_over_a_kv_file_that_it_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "namesrv"
    folder.mkdir()
    (folder / "kvConfig.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"kvConfig\.json cannot be read"):
        async with name_server(tmp_path):
            pass


async def test_ordered_topics_are_told_to_brokers_and_when_enabled_to_clients(asker: Asker) -> None:
    await asker.ask(naming.PutKvConfigRequest("ORDER_TOPIC_CONFIG", "T", "a:4"))
    reply = await asker.register()
    assert KVTable.decode(reply.body).table == {"T": "a:4"}
    assert (await asker.route()).order_topic_conf is None
    await asker.ask(naming.UpdateNamesrvConfigRequest(), b"orderMessageEnable=true\n")
    assert (await asker.route()).order_topic_conf == "a:4"


# -- its own configuration ------------------------------------------------------------------------------


async def test_settings_are_changed_and_written_to_the_file(tmp_path: Path) -> None:
    async with name_server(tmp_path) as (_, asker):
        text = b"orderMessageEnable=true\nserverWorkerThreads=9\n"
        await asker.ask(naming.UpdateNamesrvConfigRequest(), text)
        shown = (await asker.ask(naming.GetNamesrvConfigRequest())).body.decode()
    assert "orderMessageEnable=true\n" in shown
    assert (tmp_path / "namesrv.properties").read_text() == shown


@pytest.mark.parametrize(
    ("text", "code", "remark"),
    [
        (b"orderMessageEnabled=true", 1, "unknown key orderMessageEnabled: did you mean orderMessageEnable?"),
        (b"orderMessageEnable=yes", 1, "update:1: orderMessageEnable: expected true or false, got 'yes'"),
        (b"kvConfigPath=/tmp/x", 16, "kvConfigPath can only be set in the conf file, by hand"),
        (b"configStorePath=/tmp/x", 16, "configStorePath can only be set in the conf file, by hand"),
        (b"orderMessageEnable=true\nlistenPort=many", 1, "update:2: listenPort: expected a whole number"),
        (b"\xff", 1, "utf-8"),
    ],
)
async def test_settings_that_cannot_be_used_change_nothing(
    asker: Asker, tmp_path: Path, text: bytes, code: int, remark: str
) -> None:
    before = (await asker.ask(naming.GetNamesrvConfigRequest())).body
    found = await asker.refusal(naming.UpdateNamesrvConfigRequest(), text)
    assert (found[0], remark in found[1]) == (code, True), found
    assert (await asker.ask(naming.GetNamesrvConfigRequest())).body == before
    assert not (tmp_path / "namesrv.properties").exists()


async def exchange(address: str, header: str) -> tuple[dict[str, object], str]:
    """Send one request with a JSON header; give the answer's header and body."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((4 + len(header)).to_bytes(4, "big") + len(header).to_bytes(4, "big") + header.encode())
    async with asyncio.timeout(30):
        frame = await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
    writer.close()
    size = int.from_bytes(frame[1:4], "big")
    return json.loads(frame[4 : 4 + size]), frame[4 + size :].decode()
