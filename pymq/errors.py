"""The error tree: each class says whose fault it is. Everything pymq raises on purpose is a `PymqError`."""

from __future__ import annotations


class PymqError(Exception):
    """Base of every error that pymq raises on purpose."""


class ConfigError(PymqError):
    """A configuration that cannot be used. The text names file, line, key and what was expected."""


class ProtocolError(PymqError):
    """The peer broke the wire format: the connection is closed, no answer is owed (wire.md §2)."""


class FrameTooLarge(ProtocolError):
    """A frame announces more bytes than the limit allows.

    Attributes:
        size: the announced total size in bytes, the length field included.
        limit: the largest total size accepted, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"frame of {size} bytes is over the limit of {limit}")
        self.size = size
        self.limit = limit


class HeaderError(PymqError):
    """A header field is missing or of the wrong type. The text names the field."""


class BodyError(PymqError):
    """A body cannot be read: the request is refused, the connection stays (wire.md §2). It says where."""


class ResponseError(PymqError):
    """The peer answered with a code that is not success: an honest no.

    Attributes:
        code: the response code (wire.md §3).
        remark: the peer's explanation, may be empty.
        address: who answered, `host:port`, empty when it is this process.
    """

    def __init__(self, code: int, remark: str = "", address: str = "") -> None:
        super().__init__(
            f"{address + ' ' if address else ''}answered code {int(code)}: {remark or 'no remark'}"
        )
        self.code = int(code)
        self.remark = remark
        self.address = address


class TransportError(PymqError):
    """No answer came. `address` is the peer, `host:port`."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__(text)
        self.address = address


class ConnectFailed(TransportError):
    """The peer could not be reached."""


class ConnectionLost(TransportError):
    """The connection ended before the answer came. The peer may or may not have acted."""


class CallTimeout(TransportError):
    """The peer did not answer in time. It may or may not have acted."""


class PortInUse(PymqError):
    """A listening port is taken.

    Attributes:
        host: the address that was to be bound.
        port: the port that is taken.
        reason: what stands in the way.
    """

    def __init__(self, host: str, port: int, reason: str) -> None:
        super().__init__(f"cannot listen on {host}:{port}: {reason}")
        self.host = host
        self.port = port
        self.reason = reason


class StoreError(PymqError):
    """Our own disk or store cannot do what was asked."""


class StoreLocked(StoreError):
    """Another process holds the store folder."""


class StoreFull(StoreError):
    """No room is left on the disk; passes when there is room again."""


class StoreBroken(StoreError):
    """A disk error after which writes are refused until a restart."""


class StoreCorrupt(StoreError):
    """Bytes in the store contradict their format."""


class MessageIllegal(StoreError):
    """A message that the store may not take: too long a body, topic or property text (wire code 13)."""
