"""Whatever is thrown at the real programs ends in an error answer or a closed connection, and they go on."""

from __future__ import annotations

import asyncio
import random
import struct

import pytest

from pymq.network import SystemNetwork
from pymq.protocol.framing import FRAME_MAX_LENGTH
from pymq.protocol.headers.administration import GetBrokerRuntimeInfoRequest
from pymq.protocol.headers.naming import GetBrokerClusterInfoRequest
from pymq.protocol.sysflags import PullFlag
from pymq.transport.pool import Pool
from tests.broker.asking import pull, pull_header, records, send
from tests.integration.conftest import Standalone
from tests.protocol.recorded import MalformedCase, malformed_cases
from tests.transport.peers import ask

CASES = [case for case in malformed_cases() if case.server == "4.9.4"]

SILENT_AT_APACHE_ANSWERED_HERE = {"unknown code json": 3, "unknown code binary": 3, "empty json {}": 3}
"""wire.md §2: a new server should answer 3."""


async def exchange(port: int, data: bytes, wait_s: float, more_s: float = 0.15) -> tuple[bytes, bool]:
    """Send bytes; gives what comes back, and whether the connection was closed.

    The first of it, or the end, is waited for `wait_s`; what comes after that `more_s`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    try:
        writer.write(data)
        while True:
            chunk = await asyncio.wait_for(reader.read(65536), more_s if got else wait_s)
            if not chunk:
                return got, True
            got += chunk
    except (TimeoutError, ConnectionResetError) as error:
        return got, isinstance(error, ConnectionResetError)
    finally:
        writer.close()


async def both_serve(standalone: Standalone) -> None:
    """Name server and broker still answer."""
    pool = Pool(SystemNetwork(), {})
    await pool.call(standalone.namesrv, GetBrokerClusterInfoRequest())
    await pool.call(standalone.broker, GetBrokerRuntimeInfoRequest())
    await pool.close()


def code_of(frame: bytes) -> int:
    """The code in an answer, in either header form."""
    if frame[4] == 1:
        return int(struct.unpack_from(">h", frame, 8)[0])
    text = frame[8 : 8 + int.from_bytes(frame[5:8], "big")].decode()
    return int(text.partition('"code":')[2].partition(",")[0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.role}: {case.case}")
async def test_broken_requests_end_as_with_apache(standalone: Standalone, case: MalformedCase) -> None:
    port = standalone.port(case.role) - (2 if "vip" in case.case else 0)
    expected = SILENT_AT_APACHE_ANSWERED_HERE.get(case.case)
    is_silent = case.outcome == "silent" and expected is None
    got, closed = await exchange(port, bytes.fromhex(case.sent), 0.15 if is_silent else 60)
    if case.outcome == "closed":
        assert (got, closed) == (b"", True)
    elif expected is not None:
        assert code_of(got) == expected
        assert not closed
    elif case.outcome == "silent":
        assert (got, closed) == (b"", False)
    else:
        assert not closed
        theirs = code_of(bytes.fromhex(case.reply))
        # What only the recorded broker held is not there: a message, keys, an index.
        accepted = {theirs} | (
            {1, 3, 22} if case.case.startswith(("view message", "query message")) else set()
        )
        assert code_of(got) in accepted
    await both_serve(standalone)


@pytest.mark.parametrize("seed", range(20))
async def test_random_bytes_hurt_nobody(standalone: Standalone, seed: int) -> None:
    rng = random.Random(seed)
    noise = rng.randbytes(rng.randrange(1, 5000))
    framed = struct.pack(">I", len(noise)) + noise
    header = rng.randbytes(rng.randrange(0, 300))
    plausible = struct.pack(">II", 4 + len(header), rng.choice([0, 1, 100]) << 24 | len(header)) + header
    for role in ("namesrv", "broker"):
        for data in (noise, framed, plausible, ask(opaque=1)[: rng.randrange(1, 40)]):
            await exchange(standalone.port(role), data, 0.02, 0.02)
    await both_serve(standalone)


async def test_memory_stays_where_it_was(standalone: Standalone) -> None:
    pool = Pool(SystemNetwork(), {})
    address = standalone.broker
    for _ in range(40):
        await send(pool, address, "large", b"x" * 200_000)
    await pull(pool, address, "large")
    before = standalone.anonymous_mib

    # Peers that ask for megabytes and read nothing.
    request = pull_frame()
    deaf = []
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", standalone.port("broker"))
        writer.write(request * 2000)
        deaf.append(writer)
    # Peers that announce the largest frame there is, and send a little of it.
    for _ in range(10):
        _, writer = await asyncio.open_connection("127.0.0.1", standalone.port("broker"))
        writer.write(struct.pack(">II", FRAME_MAX_LENGTH - 4, 100) + b"x" * 100_000)
        deaf.append(writer)
    await asyncio.sleep(1)
    await both_serve(standalone)
    grown = standalone.anonymous_mib - before
    for writer in deaf:
        writer.transport.abort()
    await pool.close()
    assert grown < 60, f"grew by {grown:.0f} MiB; all that was asked for is over 4 GiB"


def pull_frame() -> bytes:
    """A pull of 32 messages as a frame."""
    from pymq.protocol.command import encode

    header = pull_header("large")
    return encode(int(header.code), 0, 5, header)


async def test_unknown_topics_and_queues_are_answered_and_later_requests_served(
    standalone: Standalone,
) -> None:
    pool = Pool(SystemNetwork(), {})
    for fields in ({"topic": "nowhere"}, {"topic": "BenchmarkTest", "queue_id": 5000}):
        reply = await pool.connection(standalone.broker)
        command = await reply.call(pull_header(**fields))
        assert command.code in (1, 17)
    await send(pool, standalone.broker, "fine", b"x")
    got = await pull(pool, standalone.broker, "fine", sys_flag=PullFlag.SUBSCRIPTION)
    assert [record.body for record in records(got)] == [b"x"]
    await pool.close()
