"""A consumer group whose members join, leave, die and are cut off, while its broker restarts; all at random.

One seed replays the same deeds, though not their timing: the members run in real time. For many seeds:

    python -m tests.integration.group_scene 1 2 3
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pymq
from pymq.broker import queue_locks
from pymq.broker.app import Broker
from pymq.broker.broker_config import BrokerConfig
from pymq.client import Settings
from pymq.client.delivery import Order
from pymq.client.received import process_all
from pymq.clock import SystemClock
from pymq.namesrv.app import NameServer
from pymq.namesrv.namesrv_config import NamesrvConfig
from pymq.network import SystemNetwork
from pymq.protocol.bodies import PERM_READ, PERM_WRITE
from pymq.protocol.headers.administration import CreateTopicRequest
from pymq.system_disk import SystemDisk
from pymq.transport.pool import Pool
from tests.integration.auditor import TOPIC, Auditor
from tests.integration.cuttable_network import HOST, CuttableNetwork

GROUP, QUEUES, KEYS = "auditors", 6, 12

LOCK_EXPIRY_S = 3.0
"""Instead of 60 s; the members' trust in their locks is shortened alike."""

QUICK = Settings(
    commit_s=0.2,
    close_timeout_s=1.0,
    pull_retry_s=0.1,
    local_retry_s=0.2,
    lock_renewal_s=1.0,
    lock_valid_s=1.5,
    lock_retry_s=0.3,
)
"""The rebalance period stays at 20 s: who does not hear at once that members have changed is found out."""


class Member:
    """One consumer, which handles each message for a few milliseconds and fails now and then.

    Every other member takes messages in batches, of which all are handled again when one fails.
    """

    def __init__(
        self, name: str, namesrv: str, auditor: Auditor, chance: random.Random, order: Order
    ) -> None:
        self.name = name
        self.is_cut = False
        self._network = CuttableNetwork()
        self._auditor = auditor
        self._chance = chance
        self._order: Order = order
        self._takes_batches = chance.random() < 0.5
        self._client = pymq.Client(namesrv, settings=QUICK, network=self._network)
        self._consumer: pymq.Consumer | None = None
        self._life = asyncio.create_task(self._live())

    @property
    def queues(self) -> list[pymq.MessageQueue]:
        """What it owns."""
        return [] if self._consumer is None else self._consumer.queues()

    @property
    def client_id(self) -> str:
        """Its name to the broker."""
        return self._client.client_id

    async def _live(self) -> None:
        async with self._client as mq:
            consumer = mq.consumer(GROUP, TOPIC, order=self._order, start="first", suspend=0.02)
            async with consumer:
                self._consumer = consumer
                try:
                    await self._consume(consumer)
                finally:
                    self._consumer = None

    async def _consume(self, consumer: pymq.Consumer) -> None:
        workers = [asyncio.create_task(self._work(consumer)) for _ in range(QUEUES)]
        try:
            await asyncio.wait(workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)

    async def _work(self, consumer: pymq.Consumer) -> None:
        while True:
            try:
                messages = await consumer.receive_batch(4 if self._takes_batches else 1)
            except pymq.ClientClosed:
                return
            async with process_all(messages):
                for message in messages:
                    await self._handle(message)

    async def _handle(self, message: pymq.ReceivedMessage) -> None:
        self._auditor.begin(self.name, message)
        is_done = False
        try:
            await asyncio.sleep(self._chance.choice((0.0, 0.001, 0.005, 0.02)))
            # Where order matters a failure lets the queue wait; elsewhere the message would come in 10 s.
            if self._order == "ordered" and self._chance.random() < 0.02:
                raise pymq.RetryLater("now and then")
            is_done = True
        finally:
            self._auditor.end(self.name, message, is_done=is_done)

    def cut(self) -> None:
        """Lose all connections, and live on."""
        self.is_cut = True
        self._network.cut()

    async def die(self) -> None:
        """End without a word."""
        self.cut()
        await self.leave()

    async def leave(self) -> None:
        """End."""
        self._life.cancel()
        await asyncio.wait([self._life])
        if not self._life.cancelled() and (error := self._life.exception()) is not None:
            raise error


class Scene:
    """A name server, a broker, producers, and the group."""

    def __init__(self, folder: Path, seed: int, order: Order) -> None:
        self.auditor = Auditor(is_ordered=order == "ordered")
        self.deeds: Counter[str] = Counter()
        self._folder = folder
        self._chance = random.Random(seed)
        self._order: Order = order
        self._outside = {"clock": SystemClock(), "disk": SystemDisk(), "network": SystemNetwork()}
        self._namesrv = ""
        self._broker: Broker | None = None
        self._port = 0
        self._members: list[Member] = []
        self._cut_off: list[Member] = []
        self._names = 0
        self._ending: set[asyncio.Task[None]] = set()
        self._producing = True

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The servers, producers and the look at who owns what, as long as the context lasts."""
        config = NamesrvConfig(
            bind_address=HOST, listen_port=0, kv_config_path=str(self._folder / "kvConfig.json")
        )
        async with contextlib.AsyncExitStack() as stack:
            names = await stack.enter_async_context(NameServer(config, **self._outside))  # type: ignore[arg-type]
            self._namesrv = f"{HOST}:{names.port}"
            await self._start_broker()
            stack.push_async_callback(self._stop_broker)
            await self._make_topic()
            stack.push_async_callback(self._end_all)
            watching = asyncio.create_task(self._watch())
            stack.callback(watching.cancel)
            yield

    async def _start_broker(self) -> None:
        config = BrokerConfig(
            broker_name="broker-a",
            listen_port=self._port,
            bind_address=HOST,
            namesrv_addr=self._namesrv,
            store_path_root_dir=str(self._folder / "store"),
            mapped_file_size_commit_log=1 << 22,
            disk_min_free_bytes=1,
        )
        broker = Broker(config, **self._outside)  # type: ignore[arg-type]
        self._broker = await broker.__aenter__()
        self._port = broker.port

    async def _stop_broker(self) -> None:
        broker, self._broker = self._broker, None
        if broker is not None:
            await broker.__aexit__(None, None, None)

    async def _make_topic(self) -> None:
        pool = Pool(SystemNetwork(), {})
        header = CreateTopicRequest(
            topic=TOPIC,
            default_topic="TBW102",
            read_queue_nums=QUEUES,
            write_queue_nums=QUEUES,
            perm=PERM_READ | PERM_WRITE,
            topic_filter_type="SINGLE_TAG",
        )
        await pool.call(f"{HOST}:{self._port}", header)
        await pool.close()

    async def _end_all(self) -> None:
        await asyncio.gather(*[member.leave() for member in (*self._members, *self._cut_off)])
        await asyncio.gather(*self._ending)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            shares = [member.queues for member in self._members if not member.is_cut]
            self.auditor.owned(shares, loop.time())
            await asyncio.sleep(0.01)

    def stop_producing(self) -> None:
        """Let `produce` come to its end."""
        self._producing = False

    # -- deeds --------------------------------------------------------------------------------------

    async def settled(self) -> float:
        """Wait until the members share all queues evenly, each owned once; gives the seconds that it took."""
        loop = asyncio.get_running_loop()
        began, most = loop.time(), -(-QUEUES // max(1, len(self._members)))
        async with asyncio.timeout(90):
            while True:
                shares = [[q for q in member.queues if q.topic == TOPIC] for member in self._members]
                owned = [queue for share in shares for queue in share]
                if len(owned) == len(set(owned)) == QUEUES and max(map(len, shares)) <= most:
                    return loop.time() - began
                await asyncio.sleep(0.005)

    async def produce(self, pause_s: float = 0.03) -> None:
        """Send messages of every key, each key's one after the other, until told to stop."""
        async with pymq.Client(self._namesrv) as mq:
            keys = [self._produce_key(mq, f"key-{number}", pause_s) for number in range(KEYS)]
            await asyncio.gather(*keys)

    async def _produce_key(self, mq: pymq.Client, key: str, pause_s: float) -> None:
        number = 0
        while self._producing:
            try:
                sent = await mq.send(TOPIC, f"{key}:{number}", shard_by=key, timeout=2)
            except pymq.PymqError:  # while the broker restarts; perhaps stored: sent again, it is a repeat
                await asyncio.sleep(0.1)
                continue
            self.auditor.sent(key, sent.queue)
            number += 1
            await asyncio.sleep(pause_s)

    async def join(self) -> None:
        """A member joins."""
        self._names += 1
        name = f"member-{self._names}"
        chance = random.Random(self._chance.random())
        self._members.append(Member(name, self._namesrv, self.auditor, chance, self._order))

    async def leave(self) -> None:
        """A member leaves."""
        self._later(self._pick().leave())

    async def die(self) -> None:
        """A member dies."""
        self._later(self._pick().die())

    async def cut(self) -> None:
        """A member is cut off and does not know it."""
        member = self._pick()
        self._cut_off.append(member)
        member.cut()

    async def restart(self) -> None:
        """The broker restarts."""
        await self._stop_broker()
        await asyncio.sleep(self._chance.random() * 0.3)
        await self._start_broker()

    def _pick(self) -> Member:
        return self._members.pop(self._chance.randrange(len(self._members)))

    def _later(self, ending: Coroutine[Any, Any, None]) -> None:
        self._ending.add(asyncio.create_task(ending))

    async def play(self, deeds: int) -> None:
        """Do this many things in a random order, with a few hundred milliseconds between them."""
        await self.join()
        producing = asyncio.create_task(self.produce())
        kinds = [self.join] * 4 + [self.leave] * 2 + [self.die, self.cut] + [self.restart]
        for _ in range(deeds):
            await asyncio.sleep(self._chance.uniform(0.1, 0.5))
            deed = self._chance.choice(kinds)
            if deed in (self.leave, self.die, self.cut) and not self._members:
                deed = self.join
            if deed == self.join and len(self._members) >= QUEUES:
                deed = self.leave
            self.deeds[deed.__name__] += 1
            await deed()
        if not self._members:
            await self.join()
        self.stop_producing()
        await producing

    async def finish(self, patience_s: float) -> None:
        """Wait until everything that was sent is handled, or nothing was for `patience_s`."""
        loop = asyncio.get_running_loop()
        left, until = self.auditor.left, loop.time() + patience_s
        while left and loop.time() < until:
            await asyncio.sleep(0.05)
            if self.auditor.left < left:
                left, until = self.auditor.left, loop.time() + patience_s


@contextlib.contextmanager
def short_locks() -> Iterator[None]:
    """Let brokers in this process forget locks sooner."""
    trusted_s = QUICK.lock_valid_s
    with mock.patch.multiple(queue_locks, LOCK_EXPIRY_S=LOCK_EXPIRY_S, TRUSTED_S=trusted_s):
        yield


async def audit(folder: Path, seed: int, order: Order, deeds: int) -> Scene:
    """Play one scene to its end and give it, for its auditor to be asked."""
    scene = Scene(folder, seed, order)
    with short_locks():
        async with scene.running():
            await scene.play(deeds)
            await scene.finish(patience_s=LOCK_EXPIRY_S + 27)
    return scene


def _main(seeds: list[str], say: Callable[..., object] = print) -> int:
    logging.disable(logging.WARNING)
    wrong = 0
    for seed in map(int, seeds):
        orders: tuple[Order, ...] = ("ordered", "concurrent")
        for order in orders:
            with tempfile.TemporaryDirectory() as folder:
                scene = asyncio.run(audit(Path(folder), seed, order, deeds=40))
            faults = scene.auditor.verdict()
            wrong += bool(faults)
            auditor = scene.auditor
            say(
                f"seed {seed} {order}: {auditor.count} messages, {auditor.repeats} repeats, longest overlap "
                f"{auditor.longest_overlap_s:.2f} s, {dict(scene.deeds)}: {faults[:5] or 'sound'}",
                flush=True,
            )
    return wrong


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
