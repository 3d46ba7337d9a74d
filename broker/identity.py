"""By what a broker is known to others, and why."""

from __future__ import annotations

import ipaddress
import logging

import msgspec

from pymq.broker.broker_config import BrokerConfig
from pymq.broker.ports import Ports
from pymq.network import Network, split_address

log = logging.getLogger("pymq.broker")


class Identity(msgspec.Struct, frozen=True):
    """By what a broker is known. Addresses are `host:port`."""

    cluster: str
    name: str
    id: int
    address: str
    ha_address: str


def identity_of(config: BrokerConfig, ports: Ports, network: Network) -> Identity:
    """By what this broker is registered, and a log line that says why its address is what it is."""
    if config.broker_ip1:
        host, reason = config.broker_ip1, "set by brokerIP1"
    elif config.bind_address not in ("", "0.0.0.0", "::"):
        host, reason = config.bind_address, "the address that it is bound to; brokerIP1 is not set"
    else:
        host, reason = network.own_address(), "the first of this machine's; brokerIP1 is not set"
    identity = Identity(
        config.broker_cluster_name,
        config.broker_name,
        config.broker_id,
        f"{host}:{ports.main.port}",
        f"{config.broker_ip2 or host}:{ports.ha.port}",
    )
    log.info(
        "broker %s of cluster %s, id %d, tells clients its address %s (%s)",
        identity.name,
        identity.cluster,
        identity.id,
        identity.address,
        reason,
    )
    if _is_loopback(host):
        for address in config.namesrv_addresses:
            if not _is_loopback(split_address(address)[0]):
                log.warning(
                    "a loopback address is registered with name server %s: clients on other machines "
                    "will not reach this broker; set brokerIP1",
                    address,
                )
    return identity


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
