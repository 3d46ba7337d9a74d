"""The three ports of a broker: listenPort, the VIP channel 2 below it, replication 1 above (wire.md §1.5)."""

from __future__ import annotations

import msgspec

from pymq.errors import PortInUse
from pymq.network import Listener, Network

VIP_OFFSET = -2
HA_OFFSET = 1

_ATTEMPTS = 64


class Ports(msgspec.Struct, frozen=True):
    """The ports, taken: nobody else gets them until they are closed."""

    main: Listener
    vip: Listener
    ha: Listener

    def close(self) -> None:
        """Give the ports back."""
        for listener in (self.main, self.vip, self.ha):
            listener.close()


def take_ports(network: Network, host: str, listen_port: int) -> Ports:
    """Take `listen_port` and its two neighbours; 0 picks one whose neighbours are free as well.

    Raises PortInUse, which says which of the three it is.
    """
    if listen_port:
        return _take(network, host, listen_port)
    for _ in range(_ATTEMPTS):
        candidate = network.listen(host, 0)
        port = candidate.port
        candidate.close()
        if not 3 <= port <= 65_534:
            continue
        try:
            return _take(network, host, port)
        except PortInUse:
            continue
    raise PortInUse(host, 0, f"no three free ports were found in {_ATTEMPTS} attempts; set listenPort")


def _take(network: Network, host: str, listen_port: int) -> Ports:
    taken: list[Listener] = []
    wanted = (
        (listen_port, "listenPort"),
        (listen_port + VIP_OFFSET, f"the VIP channel, 2 below listenPort={listen_port}"),
        (listen_port + HA_OFFSET, f"replication, 1 above listenPort={listen_port}"),
    )
    for port, purpose in wanted:
        try:
            taken.append(network.listen(host, port))
        except PortInUse as error:
            for listener in taken:
                listener.close()
            raise PortInUse(
                host, port, f"{error.reason} ({purpose}); stop what uses it, or choose another listenPort"
            ) from None
    return Ports(*taken)
