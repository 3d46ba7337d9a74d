"""Packed hosts, and the two kinds of message id: 32 (v4) or 56 (v6) upper-case hex digits (wire.md §6.2)."""

from __future__ import annotations

import ipaddress
from struct import Struct

from pymq.clock import Clock
from pymq.errors import PymqError

_PORT = Struct(">i")
_OFFSET = Struct(">q")
_UNIQUE = Struct(">Hi")
"""pid (2), a number of the producing process that Apache takes from its class loader (4)."""


class MessageIdError(PymqError):
    """A text that is no message id."""


def pack_host(ip: str, port: int) -> bytes:
    """Pack an address as a record holds it: 4 or 16 address bytes and the port as int32 (8 or 20 bytes).

    `::1` and `::ffff:a.b.c.d` become v4, since 4.3.2 clients cannot read a record with v6 hosts.
    A zone (`fe80::1%eth0`) is dropped. ValueError when `ip` is no address.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_loopback:
            address = ipaddress.IPv4Address("127.0.0.1")
        elif address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    return address.packed + _PORT.pack(port)


def unpack_host(host: bytes) -> tuple[str, int]:
    """The address text and port of a packed host (8 or 20 bytes). ValueError for another length."""
    if len(host) == 8:
        return f"{host[0]}.{host[1]}.{host[2]}.{host[3]}", _PORT.unpack_from(host, 4)[0]
    if len(host) == 20:
        return str(ipaddress.IPv6Address(host[:16])), _PORT.unpack_from(host, 16)[0]
    raise ValueError(f"a packed host has 8 or 20 bytes, not {len(host)}")


def format_host(host: bytes) -> str:
    """`ip:port` of a packed host, `[ip]:port` for v6."""
    ip, port = unpack_host(host)
    return f"[{ip}]:{port}" if len(host) == 20 else f"{ip}:{port}"


def encode_offset_msg_id(store_host: bytes, physical_offset: int) -> str:
    """The broker's message id: the packed store host and the physical offset in hex."""
    return (store_host + _OFFSET.pack(physical_offset)).hex().upper()


def decode_offset_msg_id(msg_id: str) -> tuple[bytes, int]:
    """The packed store host (8 or 20 bytes) and the physical offset in a broker's message id.

    MessageIdError when the text is not 32 or 56 hex digits. A client's UNIQ_KEY has the same shape and
    gives nonsense here; only the broker it names can tell.
    """
    try:
        raw = bytes.fromhex(msg_id)
    except ValueError:
        raw = b""
    if len(raw) not in (16, 28) or len(msg_id) != 2 * len(raw):
        raise MessageIdError(f"{msg_id!r} is no message id: 32 or 56 hex digits were expected")
    return raw[:-8], _OFFSET.unpack_from(raw, len(raw) - 8)[0]


class UniqueKeys:
    """Makes UNIQ_KEY ids: address, process id, a number drawn once, ms since the month began, a counter."""

    def __init__(self, clock: Clock, ip: str) -> None:
        """`ip` is this machine's address, v4 or v6: it only serves to make ids differ between machines."""
        self._clock = clock
        self._address = ipaddress.ip_address(ip).packed
        self._counter = clock.random.getrandbits(16)
        self._number = clock.random.getrandbits(31)
        self._pid = -1
        self._prefix = ""
        self._month_start_ms = 0
        self._next_month_ms = 0

    def next(self) -> str:
        """A new id, unique up to 65,536 per millisecond."""
        now = self._clock.now_ms()
        if not self._month_start_ms <= now < self._next_month_ms:
            self._enter_month(now)
        if self._pid != self._clock.pid:
            self._pid = self._clock.pid
            self._prefix = (self._address + _UNIQUE.pack(self._pid & 0xFFFF, self._number)).hex().upper()
        self._counter = counter = (self._counter + 1) & 0xFFFF
        return f"{self._prefix}{now - self._month_start_ms:08X}{counter:04X}"

    def _enter_month(self, now_ms: int) -> None:
        """Find the bounds of the local month, by the zone's offset on *those* days, not today's."""
        first = self._clock.local_time(now_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        starts = []
        for midnight in (first, following):
            guess_ms = int(midnight.timestamp() * 1000)
            there = self._clock.local_time(guess_ms).utcoffset()
            here = midnight.utcoffset()
            if there is not None and here is not None:
                guess_ms += int((here - there).total_seconds() * 1000)
            starts.append(guess_ms)
        # The clock may stand before a start that was moved by a change of the offset; an id needs a time ≥ 0.
        self._month_start_ms, self._next_month_ms = min(starts[0], now_ms), max(starts[1], now_ms + 1)
