"""What a running cluster says of itself: asked of its name servers and brokers, as any tool would."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pymq.errors import PymqError
from pymq.java_properties import parse_properties
from pymq.protocol.bodies.ha_status import HaStatus
from pymq.protocol.bodies.route import ClusterInfo
from pymq.protocol.bodies.tables import KVTable
from pymq.protocol.headers.administration import (
    GetBrokerConfigRequest,
    GetBrokerHaStatusRequest,
    GetBrokerRuntimeInfoRequest,
)
from pymq.protocol.headers.naming import GetBrokerClusterInfoRequest
from pymq.transport.pool import Pool

ASK_TIMEOUT_S = 2.0
SLAVE = "SLAVE"


@dataclass(frozen=True)
class MemberState:
    """What is shown of a name server or broker.

    Attributes:
        name: of its process.
        role: `name server`, or brokerRole as the broker has it now; the last known one when it is away.
        address: `host:port`.
        answers: whether it does.
        registered: how many name servers have this broker's address; None for a name server.
        log_end: commitLogMaxOffset, bytes from the log's birth; None when it is not known.
        behind: bytes of its master's log that a slave lacks; None for others, and when one is away.
        is_copying: whether a slave is connected to its master's log; None for others.
    """

    name: str
    role: str
    address: str
    answers: bool = False
    registered: int | None = None
    log_end: int | None = None
    behind: int | None = None
    is_copying: bool | None = None


@dataclass(frozen=True)
class Member:
    """A name server or broker to ask.

    `address`: as clients are told it; `asked_at`: as it is reached here.
    """

    name: str
    role: str
    address: str
    asked_at: str
    broker_name: str = ""


class ClusterState:
    """Asks the members of a cluster."""

    def __init__(self, name_servers: Sequence[Member], brokers: Sequence[Member], pool: Pool) -> None:
        self._name_servers = name_servers
        self._brokers = brokers
        self._pool = pool
        self._roles = {broker.name: broker.role for broker in brokers}
        self._replication: dict[str, HaStatus] = {}
        """Of the brokers that have answered now."""

    async def look(self) -> list[MemberState]:
        """The state of all, name servers first. Slaves are asked before masters: none seems to be ahead."""
        slaves = [broker for broker in self._brokers if self._roles[broker.name] == SLAVE]
        masters = [broker for broker in self._brokers if broker not in slaves]
        self._replication.clear()
        tables = await asyncio.gather(*(self._table(each.asked_at) for each in self._name_servers))
        states = await asyncio.gather(*(self._broker(each) for each in slaves))
        states += await asyncio.gather(*(self._broker(each) for each in masters))
        by_name = {state.name: state for state in states}
        found = [
            MemberState(each.name, each.role, each.address, answers=table is not None)
            for each, table in zip(self._name_servers, tables, strict=True)
        ]
        for broker in self._brokers:
            state = replace(by_name[broker.name], registered=sum(_has(table, broker) for table in tables))
            found.append(replace(state, behind=self._behind(broker, by_name)))
        return found

    async def _table(self, address: str) -> ClusterInfo | None:
        try:
            reply = await self._pool.call(address, GetBrokerClusterInfoRequest(), timeout_s=ASK_TIMEOUT_S)
            return ClusterInfo.decode(reply.body)
        except PymqError:
            return None

    async def _broker(self, broker: Member) -> MemberState:
        state = MemberState(broker.name, self._roles[broker.name], broker.address)
        try:
            settings, figures, replication = await asyncio.gather(
                self._pool.call(broker.asked_at, GetBrokerConfigRequest(), timeout_s=ASK_TIMEOUT_S),
                self._pool.call(broker.asked_at, GetBrokerRuntimeInfoRequest(), timeout_s=ASK_TIMEOUT_S),
                self._pool.call(broker.asked_at, GetBrokerHaStatusRequest(), timeout_s=ASK_TIMEOUT_S),
            )
            self._replication[broker.name] = status = HaStatus.decode(replication.body)
            texts = {entry.key: entry.value for entry in parse_properties(settings.body.decode())}
            log_end = int(KVTable.decode(figures.body).table["commitLogMaxOffset"])
        except (PymqError, KeyError, ValueError):
            return state
        self._roles[broker.name] = role = texts.get("brokerRole", state.role)
        is_copying = status.ha_client_runtime_info.activated if role == SLAVE else None
        return replace(state, role=role, answers=True, log_end=log_end, is_copying=is_copying)

    def _behind(self, broker: Member, states: dict[str, MemberState]) -> int | None:
        """The master says how far its only slave is. Of several, the ends of the logs are compared.

        They were asked for one after the other, so what came between counts too.
        """
        own = states[broker.name]
        if own.role != SLAVE or own.log_end is None:
            return None
        named = [each.name for each in self._brokers if each.broker_name == broker.broker_name]
        masters = [name for name in named if states[name].role != SLAVE]
        if not masters or (end := states[masters[0]].log_end) is None:
            return None
        slaves = self._replication[masters[0]].ha_connection_info
        if own.is_copying and len(slaves) == 1 and len(named) - len(masters) == 1:
            return slaves[0].diff
        return max(0, end - own.log_end)


def _has(table: ClusterInfo | None, broker: Member) -> bool:
    data = table.broker_addr_table.get(broker.broker_name) if table else None
    return data is not None and broker.address in data.broker_addrs.values()
