"""The least that a send can cost in Python on this machine: a yardstick beside the echo.

Header as an untyped dict, record and queue unit packed into two mappings of their own, an answer; no topics,
no checks, no flush, no reading. Its figures say how fast the interpreter is here, so that a broker's can be
compared from one machine to another. Run as `python -m bench.naive PORT FOLDER`.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import cast

import msgspec
import uvloop

_LENGTHS = struct.Struct(">II")
_RECORD = struct.Struct(">iIIiiqqiq8sq8siqI")
_UNIT = struct.Struct(">qiq")
_LOG_BYTES = 1 << 30
_QUEUE_BYTES = 6_000_000
_HOST = b"\x7f\0\0\1\0\0\0\1"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _mapping(path: Path, size: int) -> mmap.mmap:
    with path.open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return mmap.mmap(file.fileno(), size)


class Store:
    """One log and one queue, written round and round."""

    def __init__(self, folder: Path) -> None:
        self.log = _mapping(folder / "log", _LOG_BYTES)
        self.queue = _mapping(folder / "queue", _QUEUE_BYTES)
        self.position = 0
        self.units = 0
        self.next_offsets: dict[tuple[str, str], int] = {}


class Naive(asyncio.Protocol):
    """One connection. All answers to the sends of one read go out in one write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        """Store and answer the whole frames, keep the rest."""
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        answers: list[bytes] = []
        while size - at >= 8:
            length, word = _LENGTHS.unpack_from(data, at)
            end = at + 4 + length
            if end > size:
                break
            body_at = at + 8 + (word & 0xFFFFFF)
            header = _answer(self._store, _decode(data[at + 8 : body_at]), data[body_at:end])
            answers.append(_LENGTHS.pack(4 + len(header), len(header)) + header)
            at = end
        self._rest = data[at:]
        self._transport.write(b"".join(answers))


def _answer(store: Store, command: dict[str, object], body: bytes) -> bytes:
    fields = cast(dict[str, str], command["extFields"])
    topic, properties = fields["b"].encode(), fields["i"].encode()
    size = _RECORD.size + len(body) + 1 + len(topic) + 2 + len(properties)
    if store.position + size > _LOG_BYTES:
        store.position = 0
    position, queue_id, now = store.position, int(fields["e"]), int(time.time() * 1000)
    queue = (fields["b"], fields["e"])
    queue_offset = store.next_offsets.get(queue, 0)
    head = _RECORD.pack(
        size, 0xDAA320A7, zlib.crc32(body) & 0x7FFFFFFF, queue_id, int(fields["h"]), queue_offset, position,
        int(fields["f"]), int(fields["g"]), _HOST, now, _HOST, int(fields["j"]), 0, len(body),
    )  # fmt: skip
    record = (head, body, bytes((len(topic),)), topic, len(properties).to_bytes(2, "big"), properties)
    store.log[position : position + size] = b"".join(record)
    _UNIT.pack_into(store.queue, store.units * 20 % _QUEUE_BYTES, position, size, 0)
    store.position += size
    store.units += 1
    store.next_offsets[queue] = queue_offset + 1
    answer = {
        "queueId": fields["e"], "msgId": f"7F00000100002A9F{position:016X}",
        "queueOffset": str(queue_offset), "MSG_REGION": "DefaultRegion", "TRACE_ON": "true",
    }  # fmt: skip
    return _encode(
        {
            "code": 0, "extFields": answer, "flag": 1, "language": "PYTHON", "opaque": command["opaque"],
            "serializeTypeCurrentRPC": "JSON", "version": 401,
        }
    )  # fmt: skip


async def serve(port: int, folder: Path) -> None:
    """Serve on 127.0.0.1 until the process is ended; the two files are made in `folder`."""
    store = Store(folder)
    server = await asyncio.get_running_loop().create_server(lambda: Naive(store), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
