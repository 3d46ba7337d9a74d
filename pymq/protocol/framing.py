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

    __slots__ = ("_at", "_buffer", "_limit", "_need", "_tail")

    def __init__(self, limit: int = FRAME_MAX_LENGTH) -> None:
        self._limit = limit
        self._buffer = b""
        self._at = 0
        # The reads that follow a frame cut short gather here, and are joined to it once, when it is whole:
        # a frame of 16 MiB is not copied anew with every read, nor does it cost an object for each.
        self._tail = bytearray()
        self._need = 0

    @property
    def pending(self) -> int:
        """Bytes held back because their frame is not whole yet or was not asked for yet."""
        return len(self._buffer) - self._at + len(self._tail)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._at == len(self._buffer) and not self._tail:
            self._buffer = data
            self._at = 0
        else:
            self._tail += data

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
        if at == end and self._buffer is buffer:
            self._buffer = b""  # a connection that rests holds no bytes
            self._at = 0
        elif end - at >= 4:
            # A bad length is refused as soon as its four bytes are there, without waiting for more.
            length = _LENGTH.unpack_from(buffer, at)[0]
            if length < 4 or length + 4 > self._limit:
                self._refuse(length, 0)

    def _gather(self) -> None:
        """Join what was fed since with what was left, unless the frame under way is known to need more."""
        tail = self._tail
        if tail and len(tail) >= self._need:
            self._buffer = self._buffer[self._at :] + tail
            self._at = 0
            self._tail = bytearray()
            self._need = 0

    def _refuse(self, length: int, header_length: int) -> None:
        if length >= 4 and length + 4 > self._limit:
            raise FrameTooLarge(length + 4, self._limit)
        raise ProtocolError(f"a header of {header_length} bytes in a frame of {length}")


def frame(serialisation: int, header: bytes, body: bytes = b"") -> bytes:
    """One frame. `serialisation` is the header's type byte (wire.md §1).

    Raises ProtocolError when the header does not fit into 24 bits of length.
    """
    return frame_head(serialisation, header, len(body)) + body


def frame_head(serialisation: int, header: bytes, body_length: int) -> bytes:
    """A frame without its body, for bodies that are written as slices of their own.

    Raises ProtocolError when the header does not fit into 24 bits of length.
    """
    size = len(header)
    if size > 0xFFFFFF:
        raise ProtocolError(f"header of {size} bytes does not fit into a frame")
    return FRAME_HEAD.pack(4 + size + body_length, serialisation << 24 | size) + header
