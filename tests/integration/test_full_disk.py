"""The real broker on a full disk: it refuses, serves reads, loses nothing, and goes on when there is room.

The disk is a small tmpfs, which runs out of blocks, or the limit of a file's size (RLIMIT_FSIZE), set while
the broker runs. Which write meets the limit depends on what is sent: large bodies fill the log, many topics
the queues and tables, many keys the index.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import resource
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymq.errors import CallTimeout, ResponseError
from pymq.network import SystemNetwork
from pymq.protocol.codes import ResponseCode
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records, send

pytestmark = pytest.mark.once

MIB = 1 << 20
CONF = """
brokerName=small
mappedFileSizeCommitLog=1048576
mappedFileSizeConsumeQueue=40000
maxMessageSize=65536
diskMinFreeBytes=1
cleanFileForciblyEnable=false
cleanResourceInterval=1000
"""

Key = tuple[str, int, int]
"""Topic, queue id, queue offset."""
Load = Callable[[int], tuple[str, bytes, str]]
"""Number of a message → its topic, body, and properties."""


def large_bodies(number: int) -> tuple[str, bytes, str]:
    """Fill the commit log."""
    return f"large{number % 3}", b"%d " % number + bytes(3000), ""


def many_topics(number: int) -> tuple[str, bytes, str]:
    """Fill queues and tables: each topic takes a page for its queue."""
    return f"topic-of-a-long-name-{number % 400}", b"%d " % number + bytes(500), ""


def many_keys(number: int) -> tuple[str, bytes, str]:
    """Fill the index: each key touches a page of its own."""
    return "keys", b"%d" % number, "KEYS\x01" + " ".join(f"{number}-{i}" for i in range(20))


class Server:
    """A broker as a process of its own, with its data below a folder; its output goes nowhere near it."""

    def __init__(self, data: Path, conf: Path) -> None:
        conf.write_text(CONF)
        command = [sys.executable, "-m", "pymq", "standalone", "--data", str(data), "-c", str(conf)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--namesrv-port", "0", "--pid-file", str(conf.with_suffix(".pid"))],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.address = ""
        threading.Thread(target=self._read, daemon=True).start()

    def when_ready(self) -> Server:
        """Wait until it serves."""
        assert self._ready.wait(120), self.lines
        found = re.search(r"is ready: name server \S+, broker (\S+),", "".join(self.lines))
        assert found is not None, "".join(self.lines)
        self.address = found[1]
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if "is ready" in line:
                self._ready.set()
        self._ready.set()

    def said(self, text: str) -> int:
        """How many lines of its log hold this text."""
        return sum(text in line for line in self.lines)

    async def says_once(self, text: str) -> None:
        """Its log gets one line with this text; what it wrote before an answer may be read after that."""
        async with asyncio.timeout(60):
            while not self.said(text):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert self.said(text) == 1

    def limit_files(self, size: int) -> None:
        """Let no file grow beyond `size` bytes from now on; RLIM_INFINITY lifts the limit."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def end(self, how: str) -> None:
        """Stop it ("stopped") or kill it; it must have lived until now, without a traceback."""
        assert self.process.poll() is None, "".join(self.lines[-30:])
        if how == "stopped":
            self.process.terminate()
        else:
            self.process.kill()
        self.process.wait(timeout=60)
        if how == "stopped":
            assert self.process.returncode == 0
        assert "Traceback" not in "".join(self.lines)


Start = Callable[[Path], Server]


class Story:
    """What was acknowledged, what was refused, and what is there."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.acknowledged: dict[Key, bytes] = {}
        self.refusals: Counter[int] = Counter()
        self.numbers = itertools.count()

    async def send_one(self, pool: Pool, address: str) -> bool:
        """Send the next message; whether it was acknowledged."""
        topic, body, properties = self.load(next(self.numbers))
        try:
            sent = await send(pool, address, topic, body, properties=properties)
        except ResponseError as error:
            self.refusals[error.code] += 1
            await asyncio.sleep(0.002)
            return False
        key = (topic, sent.queue_id, sent.queue_offset)
        assert key not in self.acknowledged, "an offset was given twice"
        self.acknowledged[key] = body
        return True

    async def send_until(self, pool: Pool, address: str, done: Callable[[], bool]) -> None:
        """Let twenty senders send until that is so, for some minutes at the most."""

        async def sender() -> None:
            while not done():
                await self.send_one(pool, address)

        async with asyncio.timeout(200):
            await asyncio.gather(*(sender() for _ in range(20)))

    async def send_until_full(self, pool: Pool, address: str) -> None:
        """Send on until sends have been refused two hundred times; each refusal says 14."""
        enough = self.refusals.total() + 200
        await self.send_until(pool, address, lambda: self.refusals.total() >= enough)
        assert set(self.refusals) == {ResponseCode.SERVICE_NOT_AVAILABLE}

    async def send_on(self, pool: Pool, address: str) -> None:
        """There is room again: hundreds of sends go through."""
        enough = len(self.acknowledged) + 300
        await self.send_until(pool, address, lambda: len(self.acknowledged) >= enough)

    async def check(self, pool: Pool, address: str) -> None:
        """Everything acknowledged is there, at its offset, once; and nothing that was never sent."""
        found: dict[Key, bytes] = {}
        for topic, queue_id in sorted({key[:2] for key in self.acknowledged}):
            offset, end = 0, 1
            while offset < end:
                reply = await pull(pool, address, topic, queue_id=queue_id, offset=offset)
                assert reply.code == ResponseCode.SUCCESS
                for record in records(reply):
                    found[topic, queue_id, record.queue_offset] = record.body
                offset, end = bounds(reply).next_begin_offset, bounds(reply).max_offset
        assert found == self.acknowledged


async def create_a_topic(pool: Pool, address: str) -> None:
    """Success or an honest no: it is on the disk, or it could not be written."""
    header = CreateTopicRequest(f"made{os.urandom(4).hex()}", 4, 4, 6)
    await pool.call(address, header, timeout_s=60, accept=(ResponseCode.SUCCESS, ResponseCode.SYSTEM_ERROR))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a tmpfs of 40 MiB, of which 38 are taken by a file called `ballast`.

    Without it there is room for every page of an index file's slots (20 MB): keys alone never fill it again.
    """
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must be able to mount: {mounted.stderr}")
        pytest.skip(f"mounting a tmpfs is not allowed here: {mounted.stderr.strip()}")
    try:
        (folder / "ballast").write_bytes(bytes(38 * MIB))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with their data below a folder; none of them outlives the test."""
    servers: list[Server] = []

    def start_one(data: Path) -> Server:
        servers.append(Server(data, tmp_path / "broker.conf"))
        return servers[-1].when_ready()

    yield start_one
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.mark.parametrize(
    ("how", "load"),
    [
        ("stopped", large_bodies),
        ("killed", many_topics),
        ("killed", many_keys),
        ("killed while full", large_bodies),
        ("killed while full", many_topics),
    ],
)
async def test_a_full_file_system_refuses_loses_nothing_and_passes(
    small_disk: Path, start: Start, load: Load, how: str
) -> None:
    story = Story(load)
    pool = Pool(SystemNetwork(), {})
    server = start(small_disk / "data")
    await story.send_until_full(pool, server.address)
    await create_a_topic(pool, server.address)
    await story.check(pool, server.address)
    if how == "killed while full":
        server.end("killed")
        server = start(small_disk / "data")
        await story.check(pool, server.address)
    (small_disk / "ballast").unlink()
    await story.send_on(pool, server.address)
    await create_a_topic(pool, server.address)
    server.end(how)
    server = start(small_disk / "data")
    await story.check(pool, server.address)
    await story.send_on(pool, server.address)
    await story.check(pool, server.address)
    server.end("stopped")
    await pool.close()


@pytest.mark.parametrize(
    ("limit", "load"),
    [
        (700_000, large_bodies),
        (700_000, many_keys),
        (20_000, many_topics),
        (20_000, many_keys),
        (500, many_topics),
    ],
)
async def test_a_limit_of_the_file_size_refuses_loses_nothing_and_passes(
    tmp_path: Path, start: Start, load: Load, limit: int
) -> None:
    """Below the size of a log file, of a queue file too, and of most tables."""
    story = Story(load)
    pool = Pool(SystemNetwork(), {})
    server = start(tmp_path / "data")
    await story.send_until(pool, server.address, lambda: len(story.acknowledged) >= 50)
    server.limit_files(limit)
    try:
        async with asyncio.timeout(200):
            await story.send_until_full(pool, server.address)
    except (TimeoutError, CallTimeout):
        pytest.fail(f"{len(story.acknowledged)} acknowledged, refused: {story.refusals}")
    await create_a_topic(pool, server.address)
    await story.check(pool, server.address)
    server.limit_files(resource.RLIM_INFINITY)
    await story.send_on(pool, server.address)
    await create_a_topic(pool, server.address)
    if limit == 500 and load is many_topics:
        await server.says_once("topics.json was not saved")
        await server.says_once("topics.json is saved again")
    server.end("killed")
    server = start(tmp_path / "data")
    await story.check(pool, server.address)
    await story.send_on(pool, server.address)
    server.end("stopped")
    await pool.close()
