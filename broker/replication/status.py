"""How replication stands, for tools (code 907, GET_BROKER_HA_STATUS of RocketMQ 5; wire.md §4.5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pymq.broker.replication.master import ReplicationMaster, SlaveLink
from pymq.broker.replication.slave import ReplicationSlave
from pymq.clock import Clock
from pymq.protocol.bodies.ha_status import HaClient, HaConnection, HaStatus
from pymq.protocol.codes import RequestCode
from pymq.protocol.headers.administration import GetBrokerHaStatusRequest
from pymq.transport.dispatch import Answer, Request, Row, row

SAMPLE_S = 1.0
"""How often `sample` is to be called."""


class Log(Protocol):
    """A commit log, as far as it counts here."""

    @property
    def commit_log_max_offset(self) -> int:
        """Physical offset behind the last record."""
        ...


class MasterStatus:
    """What a master tells of its slaves."""

    def __init__(self, log: Log, master: ReplicationMaster) -> None:
        self._log = log
        self._master = master
        self._sent: dict[SlaveLink, int] = {}
        self._rates: dict[SlaveLink, int] = {}

    def sample(self) -> None:
        """Note how much was sent within the last second."""
        sent = {link: link.sent for link in self._master.slaves}
        self._rates = {link: end - self._sent.get(link, end) for link, end in sent.items()}
        self._sent = sent

    def status(self) -> HaStatus:
        """How it is now."""
        end = self._log.commit_log_max_offset
        slaves = [
            HaConnection(
                addr=link.peer,
                slave_ack_offset=link.reported,
                diff=end - link.reported,
                in_sync=self._master.is_near(link),
                transferred_byte_in_second=self._rates.get(link, 0),
                transfer_from_where=link.sent,
            )
            for link in self._master.slaves
        ]
        near = sum(slave.in_sync for slave in slaves)
        return HaStatus(True, end, near, ha_connection_info=slaves)


class SlaveStatus:
    """What a slave tells of its copying."""

    def __init__(self, log: Log, slave: ReplicationSlave, clock: Clock) -> None:
        self._log = log
        self._slave = slave
        self._clock = clock
        self._end = log.commit_log_max_offset
        self._rate = 0

    def sample(self) -> None:
        """Note how much has come within the last second."""
        end = self._log.commit_log_max_offset
        self._rate, self._end = end - self._end, end

    def status(self) -> HaStatus:
        """How it is now."""
        heard, reported = self._slave.last_times
        client = HaClient(
            master_addr=self._slave.master_ha_address,
            transferred_byte_in_second=self._rate,
            max_offset=self._log.commit_log_max_offset,
            last_read_timestamp=self._ms(heard),
            last_write_timestamp=self._ms(reported),
            activated=self._slave.is_connected,
        )
        return HaStatus(ha_client_runtime_info=client)

    def _ms(self, moment_s: float | None) -> int:
        """A moment of the monotonic clock in ms since 1970; 0 for none."""
        if moment_s is None:
            return 0
        return self._clock.now_ms() - round((self._clock.monotonic() - moment_s) * 1000)


class StatusProcessor:
    """Serves the code."""

    def __init__(self, half: MasterStatus | SlaveStatus) -> None:
        self._half = half

    @property
    def table(self) -> Iterable[tuple[RequestCode, Row]]:
        """The code served here."""
        return [row(GetBrokerHaStatusRequest, self.ask)]

    def ask(self, request: Request[GetBrokerHaStatusRequest]) -> Answer:
        """How replication stands."""
        return Answer(body=self._half.status().encode())
