"""How replication stands: what RocketMQ 5's `mqadmin haStatus` shows (code 907, HARuntimeInfo)."""

from __future__ import annotations

from msgspec import field

from pymq.protocol.bodies.body import Body, Int, Long


class HaConnection(Body):
    """A slave that a master sends to."""

    addr: str = ""
    """`host:port` of its end of the connection."""
    slave_ack_offset: Long = 0
    """The end of the slave's log, by its last report."""
    diff: Long = 0
    """Bytes of the master's log that the slave has not reported."""
    in_sync: bool = False
    """Whether it lags by less than haSlaveFallbehindMax."""
    transferred_byte_in_second: Long = 0
    transfer_from_where: Long = 0
    """Physical offset behind what was sent to it."""


class HaClient(Body):
    """What a slave knows of its own half. Times in ms since 1970."""

    master_addr: str = ""
    """`host:port` of the master's replication port; empty while it is not known."""
    transferred_byte_in_second: Long = 0
    max_offset: Long = 0
    """The end of the slave's log."""
    last_read_timestamp: Long = 0
    """When it last heard of the master; 0: not yet."""
    last_write_timestamp: Long = 0
    """When it last reported; 0: not yet."""
    master_flush_offset: Long = 0
    activated: bool = False
    """Whether it is connected to the master (Apache's plain slaves never say so)."""


class HaStatus(Body):
    """A broker's half of replication: a master tells of its slaves, a slave of itself."""

    master: bool = False
    master_commit_log_max_offset: Long = 0
    in_sync_slave_nums: Int = 0
    ha_connection_info: list[HaConnection] = field(default_factory=list)
    ha_client_runtime_info: HaClient = field(default_factory=HaClient)
