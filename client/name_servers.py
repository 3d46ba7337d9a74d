"""The name servers: any of them can answer, so one is kept until it fails."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from pymq.client.failures import NameServersUnreachable
from pymq.errors import ConfigError, ConnectionLost, PymqError, TransportError
from pymq.network import split_address
from pymq.protocol.header import Header
from pymq.transport.pool import SUCCESS, Pool, Reply

log = logging.getLogger("pymq.client.name_servers")


def parse_addresses(addresses: str | Sequence[str]) -> list[str]:
    """`a:9876;b:9876` or a list of such. Raises ConfigError."""
    texts = addresses.split(";") if isinstance(addresses, str) else list(addresses)
    found = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not found:
        raise ConfigError("no name server address: expected host:port, several separated by ;")
    for address in found:
        try:
            split_address(address)
        except ValueError as error:
            raise ConfigError(f"name server address {error}") from None
    return found


class NameServers:
    """Asks one name server, and the next when it gives no answer (wire.md §1.5)."""

    def __init__(self, pool: Pool, addresses: Sequence[str], first: int, timeout_s: float) -> None:
        """`first` is the index of the one to begin with; `timeout_s` holds for each one asked."""
        self.addresses = tuple(addresses)
        self._pool = pool
        self._chosen = first % len(addresses)
        self._timeout_s = timeout_s

    async def call(self, header: Header, *, accept: Collection[int] = SUCCESS) -> Reply:
        """Ask. Raises ResponseError for an answer whose code is not in `accept`, NameServersUnreachable."""
        failures: dict[str, PymqError] = {}
        for _ in range(len(self.addresses) + 1):
            address = self.addresses[self._chosen]
            # Once more only where a connection that had stood too long was lost.
            if address in failures and not isinstance(failures[address], ConnectionLost):
                break
            try:
                return await self._pool.call(address, header, timeout_s=self._timeout_s, accept=accept)
            except TransportError as error:
                failures[address] = error
                self._pool.drop(address)
                self._move_on_from(address)
        raise NameServersUnreachable(failures)

    def _move_on_from(self, address: str) -> None:
        if len(self.addresses) > 1 and self.addresses[self._chosen] == address:
            self._chosen = (self._chosen + 1) % len(self.addresses)
            log.info("name server %s gave no answer; going on with %s", address, self.addresses[self._chosen])
