"""Whether a broker keeps the time of a message: one that does not know of it would deliver at once.

Each answer of a broker tells its version; Apache's have timers from 5.0 on. pymq's broker calls itself 4.9.4,
and is known by msgpack, which nobody else agrees to. A connection that has not told yet is asked by a
heartbeat before the first timed message.
"""

from __future__ import annotations

from pymq.client.failures import TimersMissing
from pymq.client.heartbeats import Heartbeats
from pymq.errors import ResponseError
from pymq.transport.connection import Connection

VERSION_5_0_0 = 413
VERSION_5_3_2 = 477
"""From this version on a cancellation names topic and message, before only the message."""
_KNOWN = "broker version"
_NAMES = {401: "4.9.4", 277: "4.3.2"}


class TimerSupport:
    """Knows what brokers can do, by their connections."""

    def __init__(self, heartbeats: Heartbeats) -> None:
        self._heartbeats = heartbeats

    async def check(self, connection: Connection, timeout_s: float) -> None:
        """Raise TimersMissing if the broker would deliver a timed message at once. And TransportError."""
        if not await self.has_timers(connection, timeout_s):
            version = await self._version(connection, timeout_s)
            name = _NAMES.get(version, f"number {version}")
            raise TimersMissing(connection.address, version, name)

    async def has_timers(self, connection: Connection, timeout_s: float) -> bool:
        """Whether the broker keeps times, and not delay levels only. Raises TransportError, ResponseError."""
        if connection.speaks_msgpack:
            return True
        version = await self._version(connection, timeout_s)
        return version >= VERSION_5_0_0 or connection.speaks_msgpack

    async def cancelled_key(
        self, connection: Connection, topic: str, unique_key: str, timeout_s: float
    ) -> str:
        """How the broker wants a message named that is not to be delivered. Raises as `check`."""
        await self.check(connection, timeout_s)
        if connection.speaks_msgpack or await self._version(connection, timeout_s) >= VERSION_5_3_2:
            return f"{topic}+{unique_key}"
        return unique_key

    async def _version(self, connection: Connection, timeout_s: float) -> int:
        version: int | None = connection.attributes.get(_KNOWN)
        if version is None:
            command = await self._heartbeats.greet(connection, timeout_s)
            if command.code:
                raise ResponseError(command.code, command.remark or "", connection.address)
            version = connection.attributes[_KNOWN] = command.version
        return version
