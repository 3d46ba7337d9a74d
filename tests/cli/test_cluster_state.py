"""What the members of a cluster answer, put together."""

from __future__ import annotations

from typing import cast

from pymq.cli.cluster_state import ClusterState, Member, MemberState
from pymq.errors import ConnectFailed
from pymq.protocol.bodies.ha_status import HaClient, HaConnection, HaStatus
from pymq.protocol.bodies.route import BrokerData, ClusterInfo
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.codes import RequestCode
from pymq.protocol.command import Command
from pymq.protocol.header import Header
from pymq.transport.pool import Pool, Reply

NAMES = [Member("namesrv-1", "name server", "n:1", "n:1"), Member("namesrv-2", "name server", "n:2", "n:2")]
MASTER = Member("a-0", "SYNC_MASTER", "192.0.2.1:10", "127.0.0.1:10", "a")
COPY = Member("a-1", "SLAVE", "192.0.2.1:20", "127.0.0.1:20", "a")


class FakePool:
    """Answers for `brokers` that are up (role, log end), and for name servers by what is `known` there."""

    def __init__(self) -> None:
        self.brokers = {"127.0.0.1:10": ("SYNC_MASTER", 5_000), "127.0.0.1:20": ("SLAVE", 4_900)}
        self.known: dict[str, dict[int, str]] = {
            "n:1": {0: MASTER.address, 1: COPY.address},
            "n:2": {0: MASTER.address},
        }
        self.is_copying = True
        self.slaves = [HaConnection("192.0.2.1:4711", slave_ack_offset=4_993, diff=7)]

    async def call(self, address: str, header: Header, *, timeout_s: float) -> Reply:
        """As Pool.call."""
        if address in self.known and header.code == RequestCode.GET_BROKER_CLUSTER_INFO:
            body = ClusterInfo({"a": BrokerData("DefaultCluster", "a", self.known[address])}).encode()
        elif address in self.brokers:
            role, log_end = self.brokers[address]
            body = f"brokerRole={role}\n".encode()
            if header.code == RequestCode.GET_BROKER_RUNTIME_INFO:
                body = KVTable({"commitLogMaxOffset": str(log_end)}).encode()
            elif header.code == RequestCode.GET_BROKER_HA_STATUS:
                copying = HaClient(activated=self.is_copying)
                of_master = HaStatus(True, log_end, ha_connection_info=self.slaves)
                body = (HaStatus(ha_client_runtime_info=copying) if role == "SLAVE" else of_master).encode()
        else:
            raise ConnectFailed(address, f"cannot connect to {address}")
        return Reply(Command(0, body=body), address)


async def looked_at(pool: FakePool) -> dict[str, MemberState]:
    """The states by name."""
    state = ClusterState(NAMES, [MASTER, COPY], cast(Pool, pool))
    return {each.name: each for each in await state.look()}


async def test_each_broker_is_counted_where_its_address_is_known_and_a_slave_is_held_against_its_master() -> (
    None
):
    states = await looked_at(FakePool())
    assert states["a-0"] == MemberState("a-0", "SYNC_MASTER", MASTER.address, True, 2, 5_000)
    assert states["a-1"] == MemberState("a-1", "SLAVE", COPY.address, True, 1, 4_900, 7, is_copying=True)
    assert states["namesrv-1"] == MemberState("namesrv-1", "name server", "n:1", True)


async def test_of_several_slaves_and_of_one_that_does_not_copy_the_ends_of_the_logs_are_compared() -> None:
    pool = FakePool()
    pool.slaves *= 2
    assert (await looked_at(pool))["a-1"].behind == 100
    pool.slaves.clear()
    pool.is_copying = False
    state = (await looked_at(pool))["a-1"]
    assert (state.behind, state.is_copying) == (100, False)


async def test_a_slave_without_a_master_is_behind_nobody_knows_how_much() -> None:
    pool = FakePool()
    del pool.brokers["127.0.0.1:10"], pool.known["n:2"]
    states = await looked_at(pool)
    assert states["a-0"] == MemberState("a-0", "SYNC_MASTER", MASTER.address, False, 1)
    assert states["a-1"].behind is None
    assert states["a-1"].log_end == 4_900
    assert not states["namesrv-2"].answers


async def test_a_promoted_slave_is_shown_as_what_it_is_now() -> None:
    pool = FakePool()
    del pool.brokers["127.0.0.1:10"]
    pool.brokers["127.0.0.1:20"] = ("ASYNC_MASTER", 4_900)
    assert (await looked_at(pool))["a-1"].role == "ASYNC_MASTER"
