"""The bits of a message's sysFlag and of a pull request's sysFlag (wire.md §6.1, §4.3)."""

from __future__ import annotations

from typing import Final

COMPRESSED: Final = 0x1
"""The stored body is compressed; `COMPRESSION_MASK` says how."""
MULTI_TAGS: Final = 0x2

TRANSACTION_MASK: Final = 0xC
TRANSACTION_NONE: Final = 0x0
TRANSACTION_PREPARED: Final = 0x4
TRANSACTION_COMMIT: Final = 0x8
TRANSACTION_ROLLBACK: Final = 0xC

BORN_HOST_V6: Final = 0x10
STORE_HOST_V6: Final = 0x20
HOST_MASK: Final = BORN_HOST_V6 | STORE_HOST_V6
"""Set by the broker that stores the record, never taken from a client: they decide the record's layout."""

NEED_UNWRAP: Final = 0x40
INNER_BATCH: Final = 0x80

COMPRESSION_MASK: Final = 0x700
COMPRESSION_LZ4: Final = 0x100
COMPRESSION_ZSTD: Final = 0x200
COMPRESSION_ZLIB: Final = 0x300
"""Kind 0 means zlib as well: clients before 4.9.4 set no kind."""


class PullFlag:
    """Bits of a pull request's sysFlag."""

    COMMIT_OFFSET: Final = 0x1
    SUSPEND: Final = 0x2
    SUBSCRIPTION: Final = 0x4
    CLASS_FILTER: Final = 0x8
    LITE_PULL: Final = 0x10


def has_queue_unit(sys_flag: int) -> bool:
    """Whether a record gets a consume-queue unit: not if prepared or rolled back (store.md §3)."""
    return not sys_flag & TRANSACTION_PREPARED


def with_host_bits(sys_flag: int, born_host: bytes, store_host: bytes) -> int:
    """Replace the host bits of `sys_flag` by what the packed hosts (8 bytes v4, 20 bytes v6) demand."""
    flag = sys_flag & ~HOST_MASK
    if len(born_host) == 20:
        flag |= BORN_HOST_V6
    if len(store_host) == 20:
        flag |= STORE_HOST_V6
    return flag
