"""Frames: a length, a header word, a header, a body (wire.md §1). Bytes in, whole frames out."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from pymq.errors import FrameTooLarge, ProtocolError

FRAME_MAX_LENGTH = 16 * 1024 * 1024
"""Largest total frame size in bytes, the length field included (wire.md §1)."""

FRAME_HEAD = Struct(">II")
"""length of what follows (4), header serialisation type in the top byte and header length below (4)."""

_LENGTH = Struct(">I")


class FrameReader:
    """Cuts a byte stream into frames.

    Feed what arrived; iterate over what is whole. A frame is `(serialisation type, header, body)`; header
    and body are copies, free to keep. The iteration may be broken off and taken up again: what was not
    given yet stays.
    """

    __slots__ = ("_at", "_buffer", "_chunks", "_have", "_limit", "_need")

    def __init__(self, limit: int = FRAME_MAX_LENGTH) -> None:
        self._limit = limit
        self._buffer = b""
        self._at = 0
        # A frame larger than one read is gathered here, and joined once when it is whole.
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 0

    @property
    def pending(self) -> int:
        """Bytes held back because their frame is not whole yet or was not asked for yet."""
        return len(self._buffer) - self._at + self._have

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._at == len(self._buffer) and not self._have:
            self._buffer = data
            self._at = 0
            return
        self._chunks.append(data)
        self._have += len(data)

    def __iter__(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Give the frames that are whole.

        Raises FrameTooLarge past the limit and ProtocolError when a length contradicts the format: the
        stream cannot be read on after either.
        """
        self._gather()
        buffer = self._buffer
        end = len(buffer)
        at = self._at
        while end - at >= 8:
            length, word = FRAME_HEAD.unpack_from(buffer, at)
            stop = at + 4 + length
            body_at = at + 8 + (word & 0xFFFFFF)
            if body_at > stop or length + 4 > self._limit:
                self._refuse(length, word & 0xFFFFFF)
            if stop > end:
                self._need = stop - end
                return
            self._at = stop
            yield word >> 24, buffer[at + 8 : body_at], buffer[body_at:stop]
            at = stop
        if end - at >= 4:
            # A bad length is refused as soon as its four bytes are there, without waiting for more.
            length = _LENGTH.unpack_from(buffer, at)[0]
            if length < 4 or length + 4 > self._limit:
                self._refuse(length, 0)

    def _gather(self) -> None:
        """Join what was fed since with what was left, unless the frame under way is known to need more."""
        if self._have and self._have >= self._need:
            self._buffer = b"".join((self._buffer[self._at :], *self._chunks))
            self._at = 0
            self._chunks.clear()
            self._have = 0
            self._need = 0

    def _refuse(self, length: int, header_length: int) -> None:
        if length >= 4 and length + 4 > self._limit:
            raise FrameTooLarge(length + 4, self._limit)
        raise ProtocolError(f"a header of {header_length} bytes in a frame of {length}")


def frame(serialisation: int, header: bytes, body: bytes = b"") -> bytes:
    """One frame. `serialisation` is the header's type byte (wire.md §1).

    Raises ProtocolError when the header does not fit into 24 bits of length.
    """
    size = len(header)
    if size > 0xFFFFFF:
        raise ProtocolError(f"header of {size} bytes does not fit into a frame")
    return FRAME_HEAD.pack(4 + size + len(body), serialisation << 24 | size) + header + body


def frame_head(serialisation: int, header: bytes, body_length: int) -> bytes:
    """A frame without its body, for bodies that are written as slices of their own."""
    size = len(header)
    return FRAME_HEAD.pack(4 + size + body_length, serialisation << 24 | size) + header
