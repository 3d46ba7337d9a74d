"""A bare uvloop echo of the load's frames: what the loop and the sockets cost alone.

Each frame is answered by the bytes of an accepted send with the frame's own opaque; nothing is parsed
beyond that and nothing is kept. Run as `python -m bench.echo PORT`.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import cast

import uvloop

_LENGTHS = struct.Struct(">ii")
_OPAQUE = b'"opaque":'
_BEFORE = (
    b'{"code":0,"extFields":{"queueId":"0","TRACE_ON":"true","MSG_REGION":"DefaultRegion",'
    b'"msgId":"7F00000100002A9F0000000000000000","queueOffset":"1000"},"flag":1,"language":"JAVA","opaque":'
)
_BEHIND = b',"serializeTypeCurrentRPC":"JSON","version":401}'
_FIXED = len(_BEFORE) + len(_BEHIND)


class Echo(asyncio.Protocol):
    """One connection. All answers to the frames of one read go out in one write."""

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Answer the whole frames, keep the rest."""
        if self._rest:
            data = self._rest + data
        at, size = 0, len(data)
        answers: list[bytes] = []
        while size - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > size:
                break
            found = data.index(_OPAQUE, at, end) + len(_OPAQUE)
            opaque = data[found : data.index(b",", found, end)]
            length = _FIXED + len(opaque)
            answers += (_LENGTHS.pack(length + 4, length), _BEFORE, opaque, _BEHIND)
            at = end
        self._rest = data[at:]
        self._transport.write(b"".join(answers))


async def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
