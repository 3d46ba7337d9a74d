"""A real broker, killed again and again under concurrent senders.

In the end all that it acknowledged is there, each message at its place, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymq
from pymq.client.settings import Settings
from pymq.network import SystemNetwork
from pymq.protocol.headers.messaging import GetMaxOffsetRequest, OffsetResponse
from pymq.transport.pool import Pool
from tests.broker.asking import bounds, pull, records, send

PLAIN, BATCH, DELAYED = "plain", "batch", "delayed"
_START_SECONDS = 60.0
_IN_FLIGHT = 200
"""Messages that each sender lets be under way."""


@dataclass
class Sent:
    """The messages of all senders, by their bodies; each is sent once, without a second attempt."""

    attempted: set[bytes] = field(default_factory=set)
    place: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)
    """Body of an acknowledged message → topic, queue id, queue offset."""

    def body(self, luck: random.Random, name: str) -> bytes:
        """A new body: a name that no other has, and what follows from it."""
        start = f"{name}-{len(self.attempted)}.".encode()
        largest = 40_000 if name == PLAIN else 4000  # those over 4096 are compressed
        body = (start * 5000)[: luck.choice((20, 200, 1000, 4000, largest))]
        self.attempted.add(body)
        return body

    def acknowledged(self, topic: str, body: bytes, result: pymq.SendResult) -> None:
        """The broker has confirmed this one."""
        self.place[body] = (topic, result.queue.queue_id, result.queue_offset)


class KillLoop:
    """One store through many rounds: start, load, kill -9."""

    def __init__(self, folder: Path, seed: int, *, flush: str, delays: bool) -> None:
        """`flush`: flushDiskType; `delays`: send delayed messages, too."""
        self.luck = random.Random(seed)
        self.sent = Sent()
        self._folder = folder
        self._delays = delays
        self._conf = folder / "broker.conf"
        settings = {
            "flushDiskType": flush,
            "mappedFileSizeCommitLog": 256 * 1024,
            "maxMessageSize": 100_000,
            "mappedFileSizeConsumeQueue": 4000,
            "maxHashSlotNum": 1000,
            "maxIndexNum": 4000,
            "flushConsumeQueueThoroughInterval": self.luck.choice((300, 60_000)),
            "flushDelayOffsetInterval": self.luck.choice((200, 10_000)),
            "messageDelayLevel": "1s 2s",
            "autoCreateTopicEnable": "true",
        }
        self._conf.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self._process: subprocess.Popen[bytes] | None = None
        self._namesrv = self._broker = ""
        self._starts = 0

    # -- the process

    async def start(self, *, patience_s: float = _START_SECONDS) -> bool:
        """Start it; False when it is killed before it was ready, since `patience_s` were over."""
        self._starts += 1
        log = self._folder / f"log-{self._starts}"
        self._process = self._spawn(log)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            ready = re.search(r"is ready: name server (\S+), broker (\S+),", log.read_text())
            if ready:
                self._namesrv, self._broker = ready[1], ready[2]
                return True
            assert self._process.poll() is None, f"it did not start: {log.read_text()[-3000:]}"
            await asyncio.sleep(0.02)
        assert patience_s < _START_SECONDS, f"it did not start: {log.read_text()[-3000:]}"
        self.kill()
        return False

    def _spawn(self, log: Path) -> subprocess.Popen[bytes]:
        """The process; its output goes to a file, for a pipe that nobody reads would stop it."""
        options = {
            "--data": self._folder / "data",
            "--port": 0,
            "--namesrv-port": 0,
            "-c": self._conf,
            "--pid-file": self._folder / f"pid-{self._starts}",
        }
        words = [str(word) for option in options.items() for word in option]
        with log.open("w") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "pymq", "standalone", *words], stdout=output, stderr=subprocess.STDOUT
            )

    def kill(self) -> None:
        """Kill -9, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """A clean end."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(timeout=120) == 0

    def check_logs(self) -> None:
        """No process met an error that it did not know."""
        for number in range(1, self._starts + 1):
            assert "Traceback" not in (self._folder / f"log-{number}").read_text(), f"log-{number}"

    # -- a round

    async def round(self) -> None:
        """Start, send, and end at a random moment; now and then already while it starts."""
        while self.luck.random() < 0.2 and not await self.start(patience_s=self.luck.uniform(0.1, 0.6)):
            pass
        if self._process is None or self._process.poll() is not None:
            await self.start()
        before = len(self.sent.place)
        settings = Settings(send_retries=0, in_flight_messages=_IN_FLIGHT)
        async with (
            pymq.Client(self._namesrv, settings=settings, producer_group="P1") as first,
            pymq.Client(self._namesrv, settings=settings, producer_group="P2") as second,
        ):
            senders = [self._send_plain(first), self._send_plain(second), self._send_batches(second)]
            if self._delays:
                senders.append(self._send_delayed())
            tasks = [asyncio.ensure_future(_until_it_fails(sender)) for sender in senders]
            await self._some_acknowledged(before + 20)
            await asyncio.sleep(self.luck.uniform(0, 0.5))
            if self.luck.random() < 0.1:
                self.stop()
            else:
                self.kill()
            await asyncio.wait(tasks, timeout=10)
            for task in tasks:
                task.cancel()

    async def _some_acknowledged(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(self.sent.place) < count:
            assert time.monotonic() < deadline, "nothing is acknowledged"
            await asyncio.sleep(0.01)

    async def _send_plain(self, mq: pymq.Client) -> None:
        """Many at once, until the connection is lost."""
        failed: list[BaseException] = []

        def settled(sending: asyncio.Future[pymq.SendResult], body: bytes) -> None:
            error = None if sending.cancelled() else sending.exception()
            if error is not None:
                failed.append(error)
            elif not sending.cancelled():
                self.sent.acknowledged(PLAIN, body, sending.result())

        while not failed:
            with contextlib.suppress(pymq.BufferFull):
                body = self.sent.body(self.luck, PLAIN)
                sending = mq.send_nowait(PLAIN, pymq.Message(body, tags="a", keys=["k"]), timeout=2)
                sending.add_done_callback(lambda done, body=body: settled(done, body))  # type: ignore[misc]
            if self.luck.random() < 0.2:
                await asyncio.sleep(0.002)

    async def _send_batches(self, mq: pymq.Client) -> None:
        while True:
            bodies = [self.sent.body(self.luck, BATCH) for _ in range(self.luck.randrange(1, 20))]
            results = await mq.send_batch(BATCH, [pymq.Message(body) for body in bodies], timeout=2)
            for body, result in zip(bodies, results, strict=True):
                self.sent.acknowledged(BATCH, body, result)

    async def _send_delayed(self) -> None:
        pool = Pool(SystemNetwork(), {})
        try:
            while True:
                body = self.sent.body(self.luck, DELAYED)
                properties = f"DELAY\x01{self.luck.choice('12')}\x02UNIQ_KEY\x01{len(self.sent.attempted)}"
                await send(pool, self._broker, DELAYED, body, properties=properties)
                self.sent.place[body] = (DELAYED, -1, -1)
                await asyncio.sleep(0.005)
        finally:
            await pool.close()

    # -- looking

    async def verify(self) -> str:
        """Start, pull everything, and compare; leaves it running. Gives a line of figures."""
        if self._process is None or self._process.poll() is not None:
            await self.start()
        pool = Pool(SystemNetwork(), {})
        try:
            stored = await self._pull_topics(pool, (PLAIN, BATCH))
            for body, place in self.sent.place.items():
                if place[0] != DELAYED:
                    found = stored.get(body)
                    assert found == place, f"{body[:20]!r} was acknowledged at {place}, is at {found}"
            count = sum(place[0] != DELAYED for place in self.sent.place.values())
            line = f"{count} acknowledged, {len(stored)} found"
            if self._delays:
                line += f", delayed: {await self._verify_delayed(pool)}"
            return line
        finally:
            await pool.close()

    async def _pull_topics(self, pool: Pool, topics: tuple[str, ...]) -> dict[bytes, tuple[str, int, int]]:
        """Body → place of every message there is; each is one that was sent, and is there once."""
        found: dict[bytes, tuple[str, int, int]] = {}
        keys = [(topic, queue_id) for topic in topics for queue_id in range(4)]
        queues = await asyncio.gather(*(self._pull_queue(pool, *key) for key in keys))
        for (topic, queue_id), bodies in zip(keys, queues, strict=True):
            for number, body in enumerate(bodies):
                assert body in self.sent.attempted, f"nobody sent {body[:20]!r}"
                assert body not in found, f"{body[:20]!r} is there twice"
                found[body] = (topic, queue_id, number)
        return found

    async def _pull_queue(self, pool: Pool, topic: str, queue_id: int) -> list[bytes]:
        """The bodies of a queue, numbered from 0 without a gap."""
        header = GetMaxOffsetRequest(topic=topic, queue_id=queue_id)
        end = (await pool.call(self._broker, header)).read(OffsetResponse).offset
        bodies: list[bytes] = []
        while len(bodies) < end:
            reply = await pull(pool, self._broker, topic, queue_id=queue_id, offset=len(bodies))
            for record in records(reply):
                assert (record.queue_offset, record.queue_id) == (len(bodies), queue_id)
                bodies.append(record.read_body())
            assert bounds(reply).next_begin_offset == len(bodies)
        return bodies

    async def _verify_delayed(self, pool: Pool) -> str:
        """Each that was acknowledged arrives, and few of them more than once."""
        wanted = {body for body, place in self.sent.place.items() if place[0] == DELAYED}
        counts: Counter[bytes] = Counter()
        deadline = time.monotonic() + 180
        while True:
            counts.clear()
            for queue_id in range(4):
                counts.update(await self._pull_queue(pool, DELAYED, queue_id))
            if wanted <= counts.keys():
                break
            assert time.monotonic() < deadline, (
                f"{len(wanted - counts.keys())} of {len(wanted)} did not arrive"
            )
            await asyncio.sleep(0.2)
        assert counts.keys() <= self.sent.attempted, "nobody sent some of them"
        repeated = sum(counts.values()) - len(counts)
        return f"{len(wanted)} acknowledged, {len(counts)} arrived, {repeated} of them again"


async def _until_it_fails(sender: Awaitable[Any]) -> None:
    with contextlib.suppress(pymq.PymqError):
        await sender


async def kill_loop(folder: Path, seed: int, rounds: int, *, flush: str, delays: bool = True) -> str:
    """So many rounds on one store, looked at now and then and in the end. Gives a line of figures."""
    loop = KillLoop(folder, seed, flush=flush, delays=delays)
    try:
        for number in range(1, rounds + 1):
            await loop.round()
            loop.check_logs()
            if number % 5 == 0 and number < rounds:
                await loop.verify()
                loop.kill()
        line = await loop.verify()
        loop.stop()
        loop.check_logs()
        topics = {place[0] for place in loop.sent.place.values()}
        assert topics >= {PLAIN, BATCH, DELAYED} - ({DELAYED} if not delays else set()), "all senders sent"
        return line
    finally:
        loop.kill()
